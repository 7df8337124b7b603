"""Processes that measuring needs beside it: each a group of its own, and ended when who started it ends."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import IO

# Ends with the process that started it, however that one ends: a cancelled job is killed and cleans up nothing.
_START = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


def start(command: Sequence[str], log: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start a program; what it says goes to ``log``. Call from a thread that lives as long as it should."""
    return subprocess.Popen(
        [sys.executable, "-S", "-c", _START, str(os.getpid()), *command],
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
