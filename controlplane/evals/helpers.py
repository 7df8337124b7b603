"""Processes that measuring needs beside it: each a group of its own, and ended when who started it ends."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from typing import IO

from protos.contract.children import ending_with_us


def start(command: Sequence[str], log: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start a program; what it says goes to ``log``. Call from a thread that lives as long as it should."""
    return subprocess.Popen(
        ending_with_us(command),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        process_group=0,  # not a session of its own: schedulers share time out between sessions first
    )


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Kill it and what it started, Envoy say: nothing of either is worth keeping."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
