"""Which Python every server is measured on: ``python -m perf.interpreter FOLDER`` makes an environment of it.

A build without profile-guided optimisation, such as pyenv's default, takes half as long again for the same work as a
distribution's or an image's of the same version. Whoever deploys has one of these, so what is measured has it too.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

SYSTEM = "/usr/bin:/usr/local/bin"
NAME = f"python{sys.version_info.major}.{sys.version_info.minor}"
TURNS = 7
# Calls, attributes, small objects and packing, as a request path has them; prints seconds of processor time.
WORK = """
import struct, time

class Thing:
    __slots__ = ("a", "b")

    def __init__(self, a, b):
        self.a = a
        self.b = b

    def sum(self, more):
        return self.a + self.b + more

def work():
    kept, head = {}, struct.Struct(">IHB")
    for i in range(100_000):
        thing = kept[i & 255] = Thing(i, 2)
        thing.sum(3)
        head.unpack_from(b"".join((head.pack(i, 1, 2), b"abc")))

began = time.process_time()
work()
print(time.process_time() - began)
"""


def candidates() -> list[str]:
    """List this one and the system's of the same version, whose extension modules are the same."""
    base = getattr(sys, "_base_executable", sys.executable)  # outside of any environment
    found = [base, shutil.which(NAME, path=SYSTEM)]
    return list(dict.fromkeys(str(Path(path).resolve()) for path in found if path))


def spent_s(interpreter: str) -> float:
    """Return the processor time that an interpreter takes for the same work."""
    done = subprocess.run([interpreter, "-I", "-c", WORK], capture_output=True, text=True, check=True)
    return float(done.stdout)


def quickest(interpreters: Iterable[str], turns: int = TURNS) -> str:
    """Return the one that takes least beside the first, median of turns: a processor's pace may double meanwhile."""
    names = list(interpreters)
    if len(names) == 1:
        return names[0]
    taken = [[spent_s(name) for name in names] for _ in range(turns)]
    beside = {name: statistics.median(turn[i] / turn[0] for turn in taken) for i, name in enumerate(names)}
    return min(names, key=beside.__getitem__)


def make(folder: Path, interpreter: str) -> Path:
    """Make an environment that has this one's packages; returns its python."""
    subprocess.run([interpreter, "-m", "venv", "--clear", "--without-pip", str(folder)], check=True)
    packages = [path for path in sys.path if path.endswith("site-packages")]
    (folder / "lib" / NAME / "site-packages" / "interlock.pth").write_text("\n".join(packages) + "\n")
    return folder / "bin" / "python"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser("python -m perf.interpreter", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the environment goes")
    print(make(parser.parse_args().folder, quickest(candidates())).resolve())


if __name__ == "__main__":
    main()
