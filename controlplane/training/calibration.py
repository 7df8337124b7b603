"""Fit a bundle's head on held-out texts: which calibration, and where decisions change.

Every choice is made by cross-validation, and the simpler one stands unless another is better by more than chance:
within one standard error of the best, the simplest wins (Breiman et al. 1984).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.isotonic import IsotonicRegression

from protos.contract.head import LEAST, MAX_KNOTS, Curve, Head, log_odds
from protos.contract.task import TaskSpec

FOLDS = 5
TEMPERATURES = np.geomspace(0.25, 8.0, 121)
LEAST_ROWS = 20  # below, only a temperature is fitted
LEAST_OF_A_LABEL = {"temperature": 0, "platt": 10, "isotonic": 40}
OFFSETS = np.round(np.arange(-0.2, 0.2001, 0.02), 2)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def fit_head(logits: NDArray[Any], targets: NDArray[Any], task: TaskSpec, data: str) -> Head:
    """Fit on held-out texts.

    Args:
        logits: Shape [texts, labels].
        targets: Label of each text, shape [texts].
        data: Digest of the texts and labels.
    """
    logits, targets = np.asarray(logits, dtype=np.float64), np.asarray(targets, dtype=np.int64)
    folds = _folds(targets)
    counts = np.bincount(targets, minlength=len(task.labels))
    losses: dict[str, Floats] = {}
    held_out: dict[str, Floats] = {}
    for method, fit in METHODS.items():
        is_enough = len(targets) >= LEAST_ROWS and counts.min() >= LEAST_OF_A_LABEL[method]
        if method != "temperature" and not is_enough:
            continue
        found = np.empty_like(logits)
        for fold in range(FOLDS):
            inside, outside = folds != fold, folds == fold
            if outside.any():
                head = fit(logits[inside], targets[inside]) if inside.any() else Head()
                found[outside] = head.probabilities(logits[outside])
        held_out[method] = found
        losses[method] = -np.log(np.maximum(found[np.arange(len(targets)), targets], LEAST))
    best = min(losses, key=lambda name: float(losses[name].mean()))
    chosen = next(
        name for name in METHODS if name in losses and not _is_worse(losses[name], losses[best])
    )  # METHODS begins with the simplest
    offsets = fit_offsets(held_out[chosen], targets, folds, task) if len(targets) >= LEAST_ROWS else ()
    decided = replace(Head(), offsets=offsets).decisions(task, held_out[chosen])
    cost = np.asarray(task.cost)[targets, decided]
    return replace(
        METHODS[chosen](logits, targets),
        offsets=offsets,
        fit={
            "data": data,
            "rows": len(targets),
            "log_loss": {name: round(float(found.mean()), 6) for name, found in losses.items()},
            "cost": round(float(cost.mean()), 6),
        },
    )


def fit_temperature(logits: Floats, targets: Ints) -> Head:
    """Choose the temperature of least log loss; a grid, because it is one bounded number."""
    best, least = 1.0, np.inf
    for temperature in TEMPERATURES:
        head = Head(temperature=round(float(temperature), 6))
        loss = _log_loss(head.probabilities(logits), targets)
        if loss < least:
            best, least = head.temperature, loss
    return Head(temperature=best)


def fit_platt(logits: Floats, targets: Ints) -> Head:
    """Fit a logistic curve a label behind the temperature, on targets smoothed as Platt (1999) does."""
    head = fit_temperature(logits, targets)
    odds = log_odds(head.probabilities(logits))
    pairs = []
    for label in range(logits.shape[1]):
        is_it = targets == label
        high, low = (is_it.sum() + 1) / (is_it.sum() + 2), 1 / ((~is_it).sum() + 2)
        wanted, z = np.where(is_it, high, low), odds[:, label]

        def loss(p: Floats, z: Floats = z, wanted: Floats = wanted) -> float:
            margin = p[0] * z + p[1]
            return float(np.mean(np.logaddexp(0.0, margin) - wanted * margin))

        found = minimize(loss, np.array([1.0, 0.0]), method="L-BFGS-B", bounds=[(0.01, 100.0), (-50.0, 50.0)])
        pairs.append((round(float(found.x[0]), 6), round(float(found.x[1]), 6)))
    return replace(head, platt=tuple(pairs))


def fit_isotonic(logits: Floats, targets: Ints) -> Head:
    """Fit a monotone curve a label behind the temperature."""
    head = fit_temperature(logits, targets)
    raw = head.probabilities(logits)
    curves = []
    for label in range(logits.shape[1]):
        is_it = (targets == label).astype(np.float64)
        least = 1.0 / (len(targets) + 2)  # no text seen is no proof that there is none
        model = IsotonicRegression(y_min=least, y_max=1.0 - least, out_of_bounds="clip").fit(raw[:, label], is_it)
        x, first = np.unique(np.round(model.X_thresholds_, 9), return_index=True)
        y = np.maximum.accumulate(np.round(model.y_thresholds_[first], 9))
        if len(x) < 2:
            x, y = np.array([0.0, 1.0]), np.array([y[0], y[0]])
        at = np.unique(np.linspace(0, len(x) - 1, min(len(x), MAX_KNOTS)).astype(int))
        curves.append(Curve(tuple(x[at].tolist()), tuple(y[at].tolist())))
    return replace(head, isotonic=tuple(curves))


METHODS: dict[str, Callable[[Floats, Ints], Head]] = {
    "temperature": fit_temperature,
    "platt": fit_platt,
    "isotonic": fit_isotonic,
}


def fit_offsets(probabilities: Floats, targets: Ints, folds: Ints, task: TaskSpec) -> tuple[float, ...]:
    """Move decisions' thresholds off those of the cost matrix, where texts held out cost less for it.

    Args:
        probabilities: Of texts held out from their calibration, shape [texts, labels].
    Returns:
        One offset a decision; empty when the matrix's own thresholds are as good.
    """
    plain = _costs(probabilities, targets, (), task)
    moved = np.empty_like(plain)
    for fold in range(FOLDS):
        inside, outside = folds != fold, folds == fold
        if outside.any() and inside.any():
            offsets = _best_offsets(probabilities[inside], targets[inside], task)
            moved[outside] = _costs(probabilities[outside], targets[outside], offsets, task)
        elif outside.any():
            moved[outside] = plain[outside]
    if not _is_worse(plain, moved):
        return ()
    return _best_offsets(probabilities, targets, task)


def _best_offsets(probabilities: Floats, targets: Ints, task: TaskSpec) -> tuple[float, ...]:
    """Search each decision's offset in turn, twice; of equal ones the smallest stands."""
    best = [0.0] * len(task.decisions)
    least = float(_costs(probabilities, targets, tuple(best), task).mean())
    for _ in range(2):
        for decision in range(1, len(best)):  # all of them by the same amount changes nothing
            for offset in sorted(OFFSETS.tolist(), key=abs):
                tried = [*best[:decision], offset, *best[decision + 1 :]]
                cost = float(_costs(probabilities, targets, tuple(tried), task).mean())
                if cost < least - 1e-9:
                    best, least = tried, cost
    return tuple(best)


def _costs(probabilities: Floats, targets: Ints, offsets: tuple[float, ...], task: TaskSpec) -> Floats:
    decided = Head(offsets=offsets).decisions(task, probabilities)
    return np.asarray(np.asarray(task.cost, dtype=np.float64)[targets, decided])


def _is_worse(ours: Floats, theirs: Floats) -> bool:
    """Whether ours is higher than theirs, text by text, by more than one standard error."""
    difference = ours - theirs
    return bool(difference.mean() > difference.std() / np.sqrt(len(difference)) and difference.mean() > 1e-9)


def _folds(targets: Ints) -> Ints:
    """Deal the texts of each label round the folds, in a fixed random order."""
    random = np.random.default_rng(0)
    folds = np.empty(len(targets), dtype=np.int64)
    for label in np.unique(targets):
        places = random.permutation(np.flatnonzero(targets == label))
        folds[places] = np.arange(len(places)) % FOLDS
    return folds


def _log_loss(probabilities: Floats, targets: Ints) -> float:
    return float(-np.log(np.maximum(probabilities[np.arange(len(targets)), targets], LEAST)).mean())
