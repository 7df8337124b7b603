"""Flipped labels among real ones: how many such days are found, and how many honest ones flagged.

``python -m perf.poison`` takes days of texts from published sets (``--data``), in their own order, flips a fifth of one
day's labels at a time, and asks the check that datasets are built behind. Writes ``perf/results/poison.json``.
"""

import argparse
import gzip
import json
import platform
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from controlplane.datasets.poison import suspicious
from controlplane.packs.example import Example
from perf.results import commit

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "perf" / "results" / "poison.json"
SETS = {
    "tweets": ("brand-safety-hate-davidson", "text", "label", ""),
    "headlines": ("brand-safety-topics-huffpost", "headline", "topic_merged", "time_rank"),
    "messages": ("fraud-sms-spam", "text", "label", ""),
}
SIZES = (200, 400)
DAYS = 6
FLIPPED = 0.2


def rows_of(data: Path, folder: str, text: str, label: str, order: str) -> list[Example]:
    """Read the train part of a set, in the order of time where it has one."""
    with gzip.open(data / folder / "train.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    if order:
        rows.sort(key=lambda row: row[order])
    return [Example(row[text], str(row[label])) for row in rows]


def flip(rows: Sequence[Example], seed: str) -> list[Example]:
    """Give a fifth of the rows another of the labels, at random."""
    draw, labels = random.Random(seed), sorted({row.label for row in rows})  # noqa: S311 - a measurement
    chosen = set(draw.sample(range(len(rows)), round(FLIPPED * len(rows))))
    return [
        replace(row, label=draw.choice([label for label in labels if label != row.label])) if i in chosen else row
        for i, row in enumerate(rows)
    ]


def measure(rows: Sequence[Example], size: int) -> dict[str, Any]:
    """Ask of six days as they are, and of each of them flipped."""
    days = [list(rows[i * size : (i + 1) * size]) for i in range(DAYS)]
    names = [f"day {i}" for i in range(DAYS) for _ in range(size)]
    honest = [one.batch for one in suspicious(sum(days, []), names)]
    found, beside = 0, 0
    for i in range(DAYS):
        changed = [flip(day, f"{size}/{i}") if j == i else day for j, day in enumerate(days)]
        flagged = {one.batch for one in suspicious(sum(changed, []), names)}
        found += f"day {i}" in flagged
        beside += len(flagged - {f"day {i}"})
    return {
        "day": size,
        "flipped_days": DAYS,
        "found": found,
        "honest_days": DAYS,
        "flagged": len(honest),
        "flagged_beside": beside,
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser("python -m perf.poison", description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    made_by = {"commit": commit(), "command": "python -m perf.poison", "machine": platform.machine()}
    found = []
    for name, (folder, *columns) in SETS.items():
        rows = rows_of(chosen.data, folder, *columns)
        for size in SIZES:
            found.append({"set": name, **measure(rows, size)})
            print(found[-1], flush=True)
    counts = ("flipped_days", "found", "honest_days", "flagged", "flagged_beside")
    totals = {key: sum(one[key] for one in found) for key in counts}
    print(totals)
    chosen.out.write_text(json.dumps({**made_by, "flipped_share": FLIPPED, "of": found, **totals}, indent=1) + "\n")


if __name__ == "__main__":
    main()
