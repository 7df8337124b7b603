"""Children that end with the process that started them, however that one ends: a kill leaves nobody to clean up."""

import os
import sys
from collections.abc import Sequence

_START = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


def ending_with_us(command: Sequence[str]) -> list[str]:
    """Return the command line that runs a program so; start it from a thread that lives as long as it should."""
    return [sys.executable, "-S", "-c", _START, str(os.getpid()), *command]
