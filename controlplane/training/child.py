"""How a child process talks to its parent: JSON lines out, end of input means stop."""

import argparse
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from protos.contract.digest import JsonMalformed, parse_json_object

FOREGROUND = "--foreground"


class ConfigInvalid(Exception):
    """The child's configuration cannot be used; says which field, its value and what was expected."""


class Child:
    """The child's side of the conversation."""

    def __init__(self) -> None:
        # Libraries print: what they say goes to stderr, so that stdout holds our lines only.
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        threading.Thread(target=self._watch_parent, daemon=True).start()

    def progress(self, fraction: float, message: str) -> None:
        """Tell the parent how far the work is, 0 to 1."""
        self.say({"event": "progress", "fraction": round(fraction, 4), "message": message})

    def say(self, event: dict[str, Any]) -> None:
        """Write one event."""
        self._out.write(json.dumps(event) + "\n")
        self._out.flush()

    @staticmethod
    def _watch_parent() -> None:
        # The parent holds our stdin open for as long as it lives; os._exit because work may be inside C code.
        while os.read(0, 4096):
            pass
        os._exit(3)


def config_from_arguments(program: str) -> Path:
    """Read ``--config FILE``; without ``--foreground`` take only the time that nobody else wants from now on."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="JSON configuration")
    parser.add_argument(FOREGROUND, action="store_true", help="take a full share of the machine")
    chosen = parser.parse_args()
    if not chosen.foreground:
        give_way()
    path: Path = chosen.config
    return path


def run_child(work: Callable[[Any, Child], dict[str, Any]], config: Path) -> int:
    """Run the work and say how it ended; return the exit status."""
    child = Child()
    try:
        try:
            value = parse_json_object(config.read_bytes())
        except (OSError, JsonMalformed) as error:
            raise ConfigInvalid(f"config {config}: {error}") from error
        result = work(value, child)
    except Exception as error:  # the parent is told whatever went wrong; the traceback is for the log
        if not isinstance(error, ConfigInvalid):
            sys.excepthook(type(error), error, error.__traceback__)
        child.say({"event": "failed", "error": f"{type(error).__name__}: {error}"})
        return 1
    child.progress(1.0, "done")
    child.say({"event": "done", "result": result})
    return 0


def give_way() -> None:
    """Take only the time that nobody else wants: callers' requests come first on a shared machine.

    What numeric libraries do is done by one thread: several that are kept waiting wait for each other.
    """
    threadpool_limits(1)
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(19)
