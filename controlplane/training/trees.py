"""Fit boosted trees to be served: the classical control for tables, where fields act together."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from controlplane.packs.example import Example
from controlplane.training.additive import DECIMALS, LEAST_OF_CATEGORY, even
from controlplane.training.classical import Fitted
from protos.contract.features import ANALYSERS, read_fields
from protos.contract.fields import FieldInvalid
from protos.contract.task import TaskSpec
from protos.contract.trees import Column

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MOST_CATEGORIES = 40  # of a field
# Leaves and rounds from stiff to supple; which one, three parts of the training cases say. Friedman 2001: a small rate
# with more rounds. The stiffer ones see 0.4 of the columns at each split: cross-validated in the train parts of cards,
# Taiwan and German credit, four leaves so had the least log loss of all tried.
_USUAL: Mapping[str, Any] = {"max_iter": 200, "min_samples_leaf": 20, "l2_regularization": 1.0}
SHAPES: tuple[Mapping[str, Any], ...] = (
    {**_USUAL, "max_leaf_nodes": 4, "learning_rate": 0.05, "max_features": 0.4},
    {**_USUAL, "max_leaf_nodes": 8, "learning_rate": 0.05, "max_features": 0.4},
    {**_USUAL, "max_leaf_nodes": 31, "learning_rate": 0.04},
)
MOST_COMPARED = 8000  # cases that shapes are compared on


def fit(
    task: TaskSpec,
    training: Sequence[Example],
    dev: Sequence[Example],
    *,
    seed: int,
    analysers: Mapping[str, str] | None = None,
    weights: Sequence[float] | None = None,
    shapes: Sequence[Mapping[str, Any]] = SHAPES,
) -> Fitted:
    """Fit on rendered texts.

    Args:
        dev: Cases that only the calibration is fitted on; none leaves the model as it is.
        analysers: Text fields are categories and have to be named "whole" here.
        weights: How many real cases each training case stands for.
        shapes: Of which the best is taken.
    Raises:
        FieldInvalid: A text field is no category: trees do not read.
    """
    given = analysers or {}
    for field in task.fields:
        if field.kind == "text" and given.get(field.name) != "whole":
            raise FieldInvalid(f"field {field.name!r} is text, expected numbers and categories (analyser 'whole')")
    columns, rows = _columns(task, training)
    targets = np.array([task.labels.index(example.label) for example in training])
    weight = even(weights, len(training))
    with threadpool_limits(1):  # as in additive.py
        shape = _shape(shapes, rows, targets, weight, seed)
        model = HistGradientBoostingClassifier(early_stopping=False, random_state=seed, **shape)
        model.fit(rows, targets, sample_weight=weight)
    return Fitted("trees", _written(task, model, columns, rows)).calibrated(task, dev)


def _columns(task: TaskSpec, training: Sequence[Example]) -> tuple[list[Column], Floats]:
    """Return the columns of numbers and of frequent categories, and the cases in them, shape [cases, columns]."""
    parsed = [read_fields(example.text, [field.name for field in task.fields]) for example in training]
    columns: list[Column] = []
    for field in task.fields:
        if field.kind != "text":
            columns.append(Column(field.name))
            continue
        values = [next(iter(ANALYSERS["whole"](fields.get(field.name, ""), task.max_tokens)), "") for fields in parsed]
        frequent = Counter(value for value in values if value).most_common(MOST_CATEGORIES)
        columns += [Column(field.name, value) for value, n in frequent if n >= LEAST_OF_CATEGORY]
    rows = [[column.read(fields.get(column.field, ""), task.max_tokens) for column in columns] for fields in parsed]
    return columns, np.array(rows)


def _shape(
    shapes: Sequence[Mapping[str, Any]], rows: Floats, targets: Ints, weight: Floats, seed: int
) -> Mapping[str, Any]:
    """Choose the shape of least log loss over three parts, each judged by the rest's model."""
    drawn = np.random.default_rng(seed).permutation(len(rows))[:MOST_COMPARED]
    rows, targets, weight = rows[drawn], targets[drawn], weight[drawn]
    if len(shapes) == 1 or np.bincount(targets)[np.unique(targets)].min() < 3:
        return shapes[0]
    losses = []
    for shape in shapes:
        total = 0.0
        for rest, part in StratifiedKFold(3, shuffle=True, random_state=seed).split(rows, targets):
            model = HistGradientBoostingClassifier(early_stopping=False, random_state=seed, **shape)
            model.fit(rows[rest], targets[rest], sample_weight=weight[rest])
            told = model.predict_proba(rows[part])[np.arange(len(part)), np.searchsorted(model.classes_, targets[part])]
            total -= float(weight[part] @ np.log(np.maximum(told, 1e-6)))
        losses.append(total)
    return shapes[int(np.argmin(losses))]


def _written(
    task: TaskSpec, model: HistGradientBoostingClassifier, columns: Sequence[Column], rows: Floats
) -> dict[str, Any]:
    """Write a fitted model's trees one after the other; scikit-learn keeps a table of nodes for each."""
    present = [int(label) for label in model.classes_]
    intercept = np.full(len(task.labels), -20.0)  # a label that never occurred is as good as impossible
    baseline = np.ravel(model._baseline_prediction)
    nodes: dict[str, list[Any]] = {key: [] for key in ("column", "threshold", "left", "right", "missing_left", "value")}
    roots, labels = [], []
    told = present[1:] if len(present) == 2 else present  # of two, one is told and the other's logit is 0
    intercept[present] = 0.0
    intercept[told] = baseline
    for trees in model._predictors:
        for label, tree in zip(told, trees, strict=True):
            roots.append(len(nodes["column"]))
            labels.append(label)
            _append(nodes, tree.nodes)
    return {
        "version": 1,
        "columns": [{"field": c.field} if c.value is None else {"field": c.field, "value": c.value} for c in columns],
        "typical": _typical(columns, rows),
        "intercept": np.round(intercept, DECIMALS).tolist(),
        "roots": roots,
        "labels": labels,
        **nodes,
    }


def _append(nodes: dict[str, list[Any]], tree: NDArray[Any]) -> None:
    base = len(nodes["column"])
    for i, node in enumerate(tree):
        is_leaf = bool(node["is_leaf"])
        # Thresholds are written in full: rounded, a case on the edge would go the other way.
        threshold = 0.0 if is_leaf else float(node["num_threshold"])
        nodes["column"].append(0 if is_leaf else int(node["feature_idx"]))
        nodes["threshold"].append(float(np.clip(threshold, -1e300, 1e300)))
        nodes["left"].append(base + (i if is_leaf else int(node["left"])))
        nodes["right"].append(base + (i if is_leaf else int(node["right"])))
        nodes["missing_left"].append(int(node["missing_go_to_left"]))
        nodes["value"].append(round(float(node["value"]), DECIMALS) if is_leaf else 0.0)


def _typical(columns: Sequence[Column], rows: Floats) -> list[float | None]:
    """Return the median of numbers and the most frequent category; None for a number that is always missing."""
    found: list[float | None] = []
    for column, values in zip(columns, rows.T, strict=True):
        if column.value is None:
            present = values[~np.isnan(values)]
            found.append(float(np.median(present)) if len(present) else None)
            continue
        # Values of a field come most frequent first.
        first = next(one for one in columns if one.field == column.field)
        found.append(float(column is first))
    return found
