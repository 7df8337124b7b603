"""Children that end with the process that started them, however that one ends: a kill leaves nobody to clean up."""

import os
import signal
import sys
from collections.abc import Sequence

_START = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, int(sys.argv[2]))  # PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[3], sys.argv[3:])
"""


def ending_with_us(command: Sequence[str], by: signal.Signals = signal.SIGKILL) -> list[str]:
    """Return the command line that runs a program so; start it from a thread that lives as long as it should.

    The program asks for its end itself: a function called between fork and exec would make the fork one of all threads'
    locks, in which libraries with threads of their own (gRPC) may wait for ever.
    """
    return [sys.executable, "-S", "-c", _START, str(os.getpid()), str(int(by)), *command]
