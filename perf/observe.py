"""How many captured records a second one core observes, and in how much memory: ``python -m perf.observe``.

Writes segments as gateways do, repeats them, and lets the control plane's own step read them into a real SQLite file,
with sketches, outcomes and pruning. CPU time, not wall time: others may run beside. Writes
``perf/results/observe.json``.
"""

import argparse
import gc
import json
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from controlplane.loop.deployment import Deployment
from controlplane.loop.observe import observe
from controlplane.store import samples as sample_rows
from controlplane.store import sketches
from perf.results import commit
from protos import capture_pb2, decide_pb2
from protos.contract.segment import SegmentWriter
from tests.controlplane.loop.fixture import NAME, ZERO, world

RESULT = Path(__file__).parent / "results" / "observe.json"
SEGMENT = 20_000  # records a segment, about 8 MB, a gateway's default
OUTCOMES = 0.1  # outcomes for each sample
MEASURED = 500_000  # records between two looks at memory
APART_MS = 20_000  # between two segments: a thousand records a second
WRITTEN = 25  # segments that are written, and read again in turn under new names: half a million records


def write_segment(folder: Path, number: int, now_ms: int) -> int:
    """Write one segment of samples with outcomes among them; return how many records."""
    writer = SegmentWriter(folder / f"{number:015d}-bench-{number:06d}.seg")
    records = []
    for i in range(SEGMENT):
        key = f"{number:06d}-{i:06d}"
        score = (i * 7919 % 1000) / 1000
        answer = decide_pb2.DecideResponse(
            decision_id=key,
            arm=decide_pb2.ARM_PRIMARY,
            bundle_digest=ZERO,
            plan_generation=1,
            label="safe" if score < 0.7 else "unsafe",
            decision="allow" if score < 0.7 else "block",
            score=score,
        )
        for label, p in (("safe", 1 - score), ("sensitive", 0.0), ("unsafe", score)):
            answer.probabilities.add(label=label, probability=p)
        sample = capture_pb2.Sample(
            decision_id=key,
            specialist=NAME,
            routing_key_hash=f"{i * 31 % 5000:016x}",
            input=decide_pb2.Input(
                text=f"page {i} about the weather, the harvest and last night's match in town {number}"
            ),
            input_digest=ZERO,
            answer=answer,
            at_unix_ms=now_ms + i // 20,
            inclusion_bp=100,
            inclusion=0.01,
            drawn_for="rate",
            salt="r-0",
            in_time=True,
        )
        records.append(capture_pb2.CaptureRecord(sample=sample))
        if i % int(1 / OUTCOMES) == 0:
            said = capture_pb2.Outcome(
                decision_id=key,
                specialist=NAME,
                label=answer.label,
                observed_at_unix_ms=now_ms,
                received_at_unix_ms=now_ms,
                source="bench",
            )
            records.append(capture_pb2.CaptureRecord(outcome=said))
    writer.append(records)
    writer.close()
    return len(records)


def peak_mb() -> float:
    """Return the largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_mb() -> float:
    """Return the resident size of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def sizes(deployment: Deployment) -> dict[str, float]:
    """Return what the store has grown to."""
    database = Path(deployment.settings.database.removeprefix("sqlite:///"))
    with deployment.store.reading() as unit:
        rows = sketches.newest(unit, NAME, 1000)
        samples, outcomes = sample_rows.count(unit, NAME)
    return {
        "database_mb": round(database.stat().st_size / 2**20, 1) if database.exists() else 0.0,
        "samples_kept": samples,
        "outcomes_kept": outcomes,
        "sketch_windows": len(rows),
        "sketch_kb_per_million": round(
            sum(len(r.body) for r in rows) / 1024 / max(sum(r.rows for r in rows), 1) * 1e6, 2
        ),
    }


def run(records: int, folder: Path) -> Iterator[dict[str, object]]:
    """Observe so many records, and say now and then what was measured so far."""
    found = world(folder, keep_samples=50_000)
    found.deployment.settings.capture_dir.mkdir(parents=True, exist_ok=True)
    done, cpu, number = 0, 0.0, 0
    memory: list[dict[str, float]] = []
    made, size = folder / "made", 0
    for i in range(min(WRITTEN, -(-records // SEGMENT))):
        size = write_segment(made, i, found.clock.now_ms + i * APART_MS)
    originals = sorted(made.iterdir())
    gc.collect()
    gc.freeze()  # as the control plane does once it has started
    while done < records:
        found.clock.now_ms += APART_MS
        name = f"{number:015d}-bench-{number:06d}.seg"
        shutil.copy(originals[number % len(originals)], found.deployment.settings.capture_dir / name)
        number += 1
        started = time.process_time()
        kept = observe(found.deployment)
        cpu += time.process_time() - started
        assert kept == size, (kept, size)
        done += kept
        if done >= records or done // MEASURED > (done - kept) // MEASURED:
            memory.append({"records": done, "resident_mb": round(resident_mb(), 1), "peak_mb": round(peak_mb(), 1)})
            print(f"{done:,} records, {done / cpu:,.0f} a second of CPU, {memory[-1]}", flush=True)
            yield {
                "records": done,
                "records_per_cpu_s": round(done / cpu),
                "us_per_record": round(1e6 * cpu / done, 1),
                "memory": memory,
                **sizes(found.deployment),
            }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser("python -m perf.observe", description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    about = {
        "commit": commit(),
        "command": f"python -m perf.observe --records {chosen.records}",
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
    }
    folder = Path(tempfile.mkdtemp(prefix="interlock-observe-"))
    try:
        for found in run(chosen.records, folder):  # written each time: a run may be stopped
            chosen.out.write_text(json.dumps({**about, **found}, indent=1) + "\n")
    finally:
        shutil.rmtree(folder)
    print(json.dumps({k: v for k, v in found.items() if k != "memory"}, indent=1))


if __name__ == "__main__":
    main()
