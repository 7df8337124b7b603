"""Drift detection on real streams: false alarms, delays, and three others beside it: ``python -m perf.drift``.

Writes ``perf/results/drift.json`` and a picture beside it. Needs the data folder (``--data``) and, for
the text stream, the base model of the extra ``train``; embeddings are kept in ``var/``.
"""

import argparse
import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from controlplane.backtest.run import Change, Plan, backtest
from controlplane.backtest.stream import Stream, read_stream
from controlplane.loop.embedding import CHILD, BaseEncoder
from perf.results import commit

RESULT = Path(__file__).parent / "results" / "drift.json"
LEAK = ("requests_tracking", "requests", "trackers", "companies", "hosts", "tracked", "cookies", "bad_qs")
LEAK += ("has_blocking",)


@dataclass(frozen=True, slots=True)
class Case:
    """One stream: how to read it, how to replay it, where it is known to change (as its data's README says)."""

    name: str
    folder: str
    kind: str
    label: str
    time: str
    ignore: tuple[str, ...]
    plan: Plan
    changes: tuple[tuple[str, str], ...]  # name, first value of the time column
    text: str = ""

    def read(self, data: Path) -> Stream:
        """Read both parts as one stream."""
        paths = [data / self.folder / f"{part}.{self.kind}.gz" for part in ("train", "dev")]
        return read_stream(paths, label=self.label, time=self.time, text=self.text, ignore=self.ignore)


def plan(train: int, reference: int, window: int, horizon: int) -> Plan:
    """Fill in the default budget."""
    return Plan(train, reference, window, 0.01, 2, horizon, 0)


CASES = (
    Case(
        "electricity",
        "drift-electricity",
        "csv",
        "label",
        "t",
        ("date", "t"),
        plan(1000, 1000, 250, 5000),
        (("Victorian market opens", "17424"),),
    ),
    Case(
        "weather",
        "drift-weather",
        "csv",
        "rain",
        "t",
        ("t",),
        plan(1000, 1000, 250, 5000),
        (("seasons and long-term drift", "2000"),),
    ),
    Case(
        "SBA loans",
        "credit-sba-loans",
        "csv",
        "default",
        "approval_date",
        ("id", "hindsight_recession", "paper_split", "Term", "disbursement_date"),
        plan(200, 300, 75, 400),
        (
            ("fiscal 2003: 17 % default", "2002-10-01"),
            ("fiscal 2005: 30 %", "2004-10-01"),
            ("fiscal 2006: 49 %", "2005-10-01"),
        ),
    ),
    Case(
        "ad load",
        "mfa-adload-whotracksme",
        "csv",
        "ad_heavy",
        "month",
        ("site", *LEAK),
        plan(1000, 1000, 250, 1500),
        (("measurement change", "2017-11"), ("site list grows", "2018-04"), ("GDPR", "2018-05")),
    ),
    Case(
        "HuffPost",
        "brand-safety-topics-huffpost",
        "jsonl",
        "topic_merged",
        "time_rank",
        ("id", "topic", "risk_hint"),
        plan(2000, 1000, 250, 3000),
        (),
        "headline",
    ),
)


def huffpost_changes(data: Path) -> tuple[Change, ...]:
    """Return where WELLNESS ends and POLITICS begins, as rows in the order of time."""
    case = CASES[-1]
    paths = [data / case.folder / f"{part}.jsonl.gz" for part in ("train", "dev")]
    stream = read_stream(
        paths, label="topic", time="time_rank", text="headline", ignore=("id", "topic_merged", "risk_hint")
    )
    return (
        Change("WELLNESS ends", int(np.flatnonzero(stream.labels == "WELLNESS")[-1]) + 1),
        Change("POLITICS begins", int(np.flatnonzero(stream.labels == "POLITICS")[0])),
    )


def embedded(stream: Stream, cache: Path) -> Any:
    """Embed a stream's texts once."""
    if stream.texts is None:
        return None
    if not cache.exists():
        encoder = BaseEncoder((*CHILD, "--foreground"))
        found = encoder.embed([str(text) for text in stream.texts])
        encoder.close()
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.save(cache, found)
    return np.load(cache)


def run(case: Case, data: Path, seeds: int) -> dict[str, Any]:
    """Back-test one stream."""
    stream = case.read(data)
    changes = (
        huffpost_changes(data)
        if case.name == "HuffPost"
        else tuple(Change(name, int(sum(_before(t, first) for t in stream.times))) for name, first in case.changes)
    )
    plan = Plan(
        case.plan.train,
        case.plan.reference,
        case.plan.window,
        case.plan.rate,
        case.plan.persistence,
        case.plan.horizon,
        seeds,
        changes,
    )
    started, said = time.monotonic(), [0.0]

    def progress(share: float, message: str) -> None:
        if time.monotonic() - said[0] > 10:
            said[0] = time.monotonic()
            print(f"{case.name}: {share:4.0%} {message}", flush=True)

    found = backtest(stream, embedded(stream, Path("var/drift") / f"{case.folder}.npy"), plan, progress)
    return {"stream": case.name, "seconds": round(time.monotonic() - started, 1), **found}


def _before(time_value: str, first: str) -> bool:
    return float(time_value) < float(first) if first.isdigit() else str(time_value) < first


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser("python -m perf.drift", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=20, help="A/A shuffles of each stream")
    parser.add_argument("--only", default="", help="one stream, by name")
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    made_by = {"commit": commit(), "command": f"python -m perf.drift --seeds {chosen.seeds}"}
    machine = made_by | {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
    results = []
    for case in CASES:
        if chosen.only in ("", case.name):
            results.append(run(case, chosen.data, chosen.seeds))
            chosen.out.write_text(json.dumps({**machine, "seeds": chosen.seeds, "streams": results}, indent=1))
    for result in results:
        print(result["stream"], f"{result['seconds']} s")
        for entry in result["detectors"]:
            delays = [(c["delay"], c["by"]) for c in entry["changes"]]
            print(f"  {entry['detector']:30} {entry['kind']:20} {entry['setting']} {entry['silent_share']} {delays}")
        print("  alarms", len(result["alarms"]), [(a["row"], a["by"]) for a in result["alarms"]][:8])


if __name__ == "__main__":
    main()
