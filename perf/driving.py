"""Load from a process of its own on the generator's core, while something else happens."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from perf.openloop import Summary
from perf.processes import ROOT, give_way, load_core

Disturbance = Callable[[threading.Event], None]


def drive(address: str, disturb: Disturbance | None = None, **load: Any) -> Summary:
    """Run ``perf.openloop``; ``disturb`` runs beside it and ends when its event is set."""
    options = [f"--{name}={value}" for name, value in load.items() if value is not None]
    argv = [sys.executable, "-m", "perf.openloop", address, f"--core={load_core()}", *options]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    is_over = threading.Event()
    problems: list[BaseException] = []

    def disturbing() -> None:
        give_way()
        try:
            assert disturb is not None
            disturb(is_over)
        except BaseException as error:
            problems.append(error)

    beside = threading.Thread(target=disturbing) if disturb is not None else None
    if beside is not None:
        beside.start()
    said, complaints = process.communicate()
    is_over.set()
    if beside is not None:
        beside.join()
    if process.returncode:
        raise RuntimeError(f"the load generator ended with {process.returncode}: {complaints.strip()[-500:]}")
    if problems:
        raise problems[0]
    return Summary(**json.loads(said))
