"""Learning from notices that do not say what would have won.

A win without the minimum bid to win leaves the lower buckets possible, a loss the higher ones. Such a
case is spread over the labels it leaves, in proportion to what the model of the round before thinks of
them, and the model is fitted again: expectation-maximisation for grouped data (Dempster, Laird, Rubin, 1977).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from controlplane.packs.example import Example
from controlplane.training.additive import fit
from controlplane.training.classical import Fitted
from protos.contract.additive import Additive
from protos.contract.task import TaskSpec

ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Notice:
    """A rendered auction and the labels that its notice leaves possible: one when the minimum was told."""

    text: str
    possible: tuple[str, ...]


def fit_censored(task: TaskSpec, notices: Sequence[Notice], dev: Sequence[Example], *, seed: int) -> Fitted:
    """Fit an additive model on told and untold notices.

    Raises:
        ValueError: A notice leaves no label.
    """
    if empty := [i for i, notice in enumerate(notices) if not notice.possible]:
        raise ValueError(f"notices[{empty[0]}].possible is empty, expected at least one label")
    # Where nothing is known yet, every label left is as likely.
    beliefs = [np.full(len(notice.possible), 1 / len(notice.possible)) for notice in notices]
    for _ in range(ROUNDS):
        fitted = _fit(task, notices, beliefs, dev, seed)
        logits = Additive.from_json(task, fitted.body, "model").logits([notice.text for notice in notices])
        probabilities = np.exp(logits - logits.max(1, keepdims=True))
        beliefs = [
            row[[task.labels.index(label) for label in notice.possible]]
            for row, notice in zip(probabilities, notices, strict=True)
        ]
        beliefs = [belief / belief.sum() for belief in beliefs]
    return _fit(task, notices, beliefs, dev, seed)


def _fit(
    task: TaskSpec, notices: Sequence[Notice], beliefs: Sequence[np.ndarray], dev: Sequence[Example], seed: int
) -> Fitted:
    cases, weights = [], []
    for notice, belief in zip(notices, beliefs, strict=True):
        for label, weight in zip(notice.possible, belief.tolist(), strict=True):
            if weight > 1e-3:
                cases.append(Example(notice.text, label))
                weights.append(weight)
    return fit(task, cases, dev, seed=seed, analysers=ANALYSERS, weights=weights)


ANALYSERS = dict.fromkeys(("exchange", "format", "country", "site"), "whole")
