"""CPU time of processes and what they started: on a machine that others use, more telling than the clock."""

import os
from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(roots: Iterable[int]) -> float | None:
    """Return user and system time of the living processes and their living descendants; None without ``/proc``."""
    parents: dict[int, int] = {}
    spent: dict[int, int] = {}
    for entry in _PROC.glob("[0-9]*/stat"):
        try:
            # The name in brackets may hold anything; what follows is numbers. See proc(5).
            fields = entry.read_text("utf-8", "replace").rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        pid = int(entry.parent.name)
        parents[pid], spent[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    if not spent:
        return None
    wanted = set(roots)
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in wanted} - wanted
        wanted |= more
        grown = bool(more)
    return sum(spent.get(pid, 0) for pid in wanted) / _TICKS
