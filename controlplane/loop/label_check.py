"""Are a day's labels believable? A batch that its own texts do not speak for is held back before training.

Drift brings texts whose labels are new but can be learned; labels flipped at random cannot. So a
classifier is fitted on earlier labels and the batch together, and asked about batch rows it has not seen:
what it gets wrong more often than among earlier rows, nobody could learn.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from controlplane.loop.deployment import LOOP, Deployment
from controlplane.store import label_batches
from controlplane.store.store import Unit

log = structlog.get_logger()

LEAST, MOST = 50, 1_000  # rows a side
FOLDS = 5
CHANCE = 1e-3  # of flagging a batch that is as learnable as earlier ones
MARGIN = 0.05  # share of wrong labels below which a batch is not worth holding back
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
    vectors = deployment.embedder.embed([row.text for row in (*trusted, *batch)])
    expected, found = unlearnable(vectors, [row.label for row in (*trusted, *batch)], len(trusted))
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


def unlearnable(vectors: NDArray[np.float32], labels: Sequence[str], trusted: int) -> tuple[float, float]:
    """Return the shares of trusted and of batch labels that a classifier of all other rows gets wrong.

    Args:
        vectors: Rows as vectors, shape [rows, d]; the first ``trusted`` are earlier ones.
    """
    truth = np.array(labels)
    if len(set(labels)) < 2:
        return 0.0, 0.0
    wrong = np.zeros(len(truth), dtype=bool)
    is_batch = np.arange(len(truth)) >= trusted
    # Folds hold the same share of batch and earlier rows; classes too rare for every fold are left to chance.
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(vectors, is_batch):
        if len(set(truth[train])) < 2:
            continue
        model = LogisticRegression(C=10, max_iter=200).fit(vectors[train], truth[train])
        wrong[test] = model.predict(vectors[test]) != truth[test]
    return float(wrong[~is_batch].mean()), float(wrong[is_batch].mean())


def stands_out(found: float, rows: int, expected: float, trusted: int) -> bool:
    """Say whether a batch is less learnable than chance and a small share of slips allow.

    Source: two-proportion z-test, one-sided.
    """
    pooled = (found * rows + expected * trusted) / (rows + trusted)
    error = math.sqrt(max(pooled * (1 - pooled), 1e-9) * (1 / rows + 1 / trusted))
    return found - expected > MARGIN and math.erfc((found - expected) / error / math.sqrt(2)) / 2 < CHANCE


def release(unit: Unit, specialist: str, source: str, day: str, person: str, reason: str) -> bool:
    """Let a flagged batch be trained on after all, because a person says so; False where there is none."""
    if not label_batches.set_state(unit, specialist, source, day, FLAGGED, RELEASED):
        return False
    unit.record(person, "labels.released", {"specialist": specialist, "source": source, "day": day, "reason": reason})
    return True


def _day(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()
