"""Learning from notices that do not say what would have won.

A win without the minimum bid to win leaves the lower buckets possible, a loss the higher ones. Such a
case is spread over the labels it leaves, in proportion to what the model of the round before thinks of
them, and the model is fitted again: expectation-maximisation for grouped data (Dempster, Laird, Rubin, 1977).

``python -m controlplane.packs.bid_shading.censored NOTICES --bundles DIR --as PERSON`` makes a bundle of a log.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from controlplane.datasets.rows import Case, Columns, DataInvalid, read_cases
from controlplane.packs.bid_shading.buckets import label_of, labels_left
from controlplane.packs.example import Example
from controlplane.training.additive import fit
from controlplane.training.classical import Fitted
from protos.contract.additive import Additive
from protos.contract.bundle import BundleStore
from protos.contract.task import TaskSpec

ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Notice:
    """A rendered auction and the labels that its notice leaves possible: one when the minimum was told."""

    text: str
    possible: tuple[str, ...]


def read_notices(task: TaskSpec, path: Path) -> list[Notice]:
    """Read a bidder's log: the task's fields, and of each bid ``submitted``, ``won`` and ``min_bid_to_win``.

    Amounts are in the unit of ``price``; the last one is empty or 0 where the exchange did not tell it.

    Raises:
        DataInvalid: The file cannot be read, or a row is not of that form.
    """
    columns = Columns(label="won", labels={"1": "true", "0": "false"}, kept=("submitted", "min_bid_to_win"))
    return [_notice(path, case) for case in read_cases(path, task, columns, ("true", "false"))]


def _notice(path: Path, case: Case) -> Notice:
    price = case.given.fields["price"].number
    submitted, needed = (_amount(path, case, column) for column in ("submitted", "min_bid_to_win"))
    if not 0 < submitted <= price:
        raise DataInvalid(
            f"{path} row {case.number}: column 'submitted' is {submitted:g}, expected more than 0 and at most the price"
        )
    if needed:
        return Notice(case.text, (label_of(needed / price),))
    return Notice(case.text, labels_left(submitted / price, is_won=case.label == "true"))


def _amount(path: Path, case: Case, column: str) -> float:
    said = case.kept[column]
    try:
        found = float(said or 0)
    except (TypeError, ValueError):
        found = math.nan
    if not (math.isfinite(found) and found >= 0):
        raise DataInvalid(f"{path} row {case.number}: column {column!r} is {said!r}, expected an amount of 0 or more")
    return found


def fit_censored(
    task: TaskSpec, notices: Sequence[Notice], dev: Sequence[Example], *, seed: int, analysers: Mapping[str, str]
) -> Fitted:
    """Fit an additive model on told and untold notices.

    Raises:
        ValueError: A notice leaves no label.
    """
    if empty := [i for i, notice in enumerate(notices) if not notice.possible]:
        raise ValueError(f"notices[{empty[0]}].possible is empty, expected at least one label")
    # Where nothing is known yet, every label left is as likely.
    beliefs = [np.full(len(notice.possible), 1 / len(notice.possible)) for notice in notices]
    for _ in range(ROUNDS):
        fitted = _fit(task, notices, beliefs, dev, seed, analysers)
        logits = Additive.from_json(task, fitted.body, "model").logits([notice.text for notice in notices])
        probabilities = np.exp(logits - logits.max(1, keepdims=True))
        beliefs = [
            row[[task.labels.index(label) for label in notice.possible]]
            for row, notice in zip(probabilities, notices, strict=True)
        ]
        beliefs = [belief / belief.sum() for belief in beliefs]
    return _fit(task, notices, beliefs, dev, seed, analysers)


def _fit(
    task: TaskSpec,
    notices: Sequence[Notice],
    beliefs: Sequence[np.ndarray],
    dev: Sequence[Example],
    seed: int,
    analysers: Mapping[str, str],
) -> Fitted:
    cases, weights = [], []
    for notice, belief in zip(notices, beliefs, strict=True):
        for label, weight in zip(notice.possible, belief.tolist(), strict=True):
            if weight > 1e-3:
                cases.append(Example(notice.text, label))
                weights.append(weight)
    return fit(task, cases, dev, seed=seed, analysers=analysers, weights=weights)


def learn(path: Path, bundles: Path, author: str, *, seed: int) -> dict[str, object]:
    """Make a bundle of a bidder's log.

    It is not calibrated afterwards: exchanges tell the minimum to losers rather than to winners, so that those who were
    told are no sample of all.
    """
    from controlplane.packs.bid_shading.pack import load

    pack = load()
    notices = read_notices(pack.task, path)
    fitted = fit_censored(pack.task, notices, (), seed=seed, analysers=pack.analysers)
    digest = fitted.export(pack.task, BundleStore(bundles), {"author": author}, pack.statements)
    exact = sum(len(notice.possible) == 1 for notice in notices)
    return {"bundle": digest, "notices": len(notices), "exact": exact, "bounds": len(notices) - exact}


def main() -> None:
    """Say which bundle was made."""
    parser = argparse.ArgumentParser(
        "python -m controlplane.packs.bid_shading.censored", description=read_notices.__doc__
    )
    parser.add_argument("notices", type=Path)
    parser.add_argument("--bundles", type=Path, required=True, help="a deployment's bundles")
    parser.add_argument("--as", dest="author", required=True, help="who makes it; may not approve it")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    try:
        found = learn(chosen.notices, chosen.bundles, chosen.author, seed=chosen.seed)
    except DataInvalid as error:
        parser.error(str(error))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
