"""A source's day of labels that its texts do not speak for is held back from training until a person releases it.

The check is ``controlplane.datasets.poison``'s, of one day against the days before it.
"""

from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import structlog

from controlplane.datasets.poison import LEAST, stands_out, unlearned
from controlplane.loop.deployment import LOOP, Deployment
from controlplane.store import label_batches
from controlplane.store.store import Unit

log = structlog.get_logger()

MOST = 1_000  # rows a side
CLEAR, FLAGGED, RELEASED = "clear", "flagged", "released"
newest = label_batches.newest


def check(deployment: Deployment) -> None:
    """Judge every source's day of labels that has grown since it was last judged."""
    for specialist in deployment.packs:
        with deployment.store.reading() as unit:
            rows = label_batches.labelled(unit, specialist, 4 * MOST)
            judged = {(b.source, b.day): b for b in label_batches.newest(unit, specialist)}
        batches: dict[tuple[str, str], list[Any]] = defaultdict(list)
        for row in rows:
            batches[row.source, _day(row.received_ms)].append(row)
        for key in sorted(batches, key=lambda k: k[1]):
            batch, past = batches[key], judged.get(key)
            bad = {k for k, b in judged.items() if b.state == FLAGGED}
            trusted = [r for k, found in batches.items() if k[1] < key[1] and k not in bad for r in found][-MOST:]
            has_grown = past is None or len(batch) >= 1.25 * past.labels
            if len(batch) < LEAST or len(trusted) < LEAST or not has_grown or (past and past.state == RELEASED):
                continue
            judged[key] = _judge(deployment, specialist, key, trusted, batch[-MOST:], len(batch))


def _judge(
    deployment: Deployment, specialist: str, key: tuple[str, str], trusted: list[Any], batch: list[Any], labels: int
) -> Any:
    rows = (*trusted, *batch)
    is_batch = [False] * len(trusted) + [True] * len(batch)
    wrong = unlearned([row.text for row in rows], [row.label for row in rows], is_batch)
    expected, found = float(wrong[: len(trusted)].mean()), float(wrong[len(trusted) :].mean())
    is_flagged = stands_out(found, len(batch), expected, len(trusted))
    values: dict[str, Any] = {
        "specialist": specialist,
        "source": key[0],
        "day": key[1],
        "labels": labels,
        "unlearnable": found,
        "expected": expected,
        "state": FLAGGED if is_flagged else CLEAR,
    }
    with deployment.store.writing(deployment.clock()) as unit:
        label_batches.put(unit, values)
        if is_flagged:
            unit.record(LOOP, "labels.flagged", values)
            log.warning("labels_flagged", **values)
    return label_batches.Batch(**values)


def release(unit: Unit, specialist: str, source: str, day: str, person: str, reason: str) -> bool:
    """Let a flagged batch be trained on after all, because a person says so; False where there is none."""
    if not label_batches.set_state(unit, specialist, source, day, FLAGGED, RELEASED):
        return False
    unit.record(person, "labels.released", {"specialist": specialist, "source": source, "day": day, "reason": reason})
    return True


def _day(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()
