"""How every process tells what happens to it: one line an event on standard error."""

import logging
import os
import sys

import structlog


def log_to_stderr() -> None:
    """Send events of level info and above to standard error.

    A traceback tells where, never with what: a frame's variables may hold a caller's text or a key.
    """
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=True),
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty() and not os.environ.get("NO_COLOR"),
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
