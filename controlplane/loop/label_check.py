"""A source's day of labels that its texts do not speak for is held back from training until a person releases it.

The check is ``controlplane.datasets.poison``'s, of one day against the days before it. Sources with few labels are
judged together, or many names would be a way past it; and a day is judged again once a quarter more was said of it,
labels that were said before the other way round included, whatever was found of it or released until then.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import structlog

from controlplane.datasets.poison import LEAST, stands_out, unlearned
from controlplane.loop.deployment import LOOP, Deployment
from controlplane.store import label_batches
from controlplane.store.label_batches import OTHERS
from controlplane.store.store import Unit

log = structlog.get_logger()

MOST = 1_000  # rows a side
GROWN = 1.25  # times as many labels as were judged: then a batch is judged again
CLEAR, FLAGGED, RELEASED = "clear", "flagged", "released"
newest = label_batches.newest


def check(deployment: Deployment, *, grown: float = GROWN) -> None:
    """Judge every source's day of labels that has grown so much since it was last judged; 1: at all."""
    for specialist in deployment.packs:
        with deployment.store.reading() as unit:
            rows = label_batches.labelled(unit, specialist, 4 * MOST)
            judged = {(b.source, b.day): b for b in label_batches.newest(unit, specialist)}
        batches = _batches(rows)
        for key in sorted(batches, key=lambda k: k[1]):
            batch, past = batches[key], judged.get(key)
            said = sum(sum(row.said.values()) for row in batch)
            enough = GROWN if past is not None and past.state == RELEASED else grown
            has_grown = past is None or past.labels < said >= enough * past.labels
            # Of more labels than are looked at the number stays the same, and every one of them is new.
            has_grown = has_grown or past is not None and min(row.received_ms for row in batch) > past.at_ms
            if len(batch) < LEAST or not has_grown:
                continue
            with deployment.store.reading() as unit:
                trusted = label_batches.labelled(unit, specialist, MOST, before=key[1])
            if len(trusted) >= LEAST:
                _judge(deployment, specialist, key, trusted, batch[:: -(-len(batch) // MOST)], said)


def _batches(rows: Sequence[Any]) -> dict[tuple[str, str], list[Any]]:
    """Return labels by source and day, of sources with few of them together."""
    of: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for row in rows:
        of[row.source, _day(row.received_ms)].append(row)
    found: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for (source, day), batch in of.items():
        found[source if len(batch) >= LEAST else OTHERS, day] += batch
    return found


def _judge(
    deployment: Deployment, specialist: str, key: tuple[str, str], trusted: list[Any], batch: list[Any], labels: int
) -> None:
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


def release(unit: Unit, specialist: str, source: str, day: str, person: str, reason: str) -> bool:
    """Let a flagged batch be trained on after all, because a person says so; False where there is none."""
    if not label_batches.set_state(unit, specialist, source, day, FLAGGED, RELEASED):
        return False
    unit.record(person, "labels.released", {"specialist": specialist, "source": source, "day": day, "reason": reason})
    return True


def _day(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()
