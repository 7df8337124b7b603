"""Boosted trees over a task's fields: what the classical control learns where fields act together.

A tree's leaf adds to one label's logit. Training fits and checks with this arithmetic, and the worker answers with
it. The file is JSON: nothing in it is ever run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from protos.contract.features import ANALYSERS, check_sum, read_fields, read_number
from protos.contract.fields import FieldInvalid, Reader
from protos.contract.task import TaskSpec

VERSION = 1
MOST_NODES = 2_000_000
MOST_DEPTH = 64
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Column:
    """What trees ask about: a field's number, or, with ``value``, whether the field is that category (1 or 0)."""

    field: str
    value: str | None = None

    def read(self, text: str, most: int) -> float:
        """Return a field's text as this column; NaN where a number is missing."""
        if self.value is None:
            return read_number(text)
        return float(self.value in ANALYSERS["whole"](text, most))


@dataclass(frozen=True, slots=True)
class Trees:
    """A model over a task's rendered texts.

    Nodes of all trees lie one after the other. A leaf is its own child on both sides, so that every tree can be walked
    for as many steps as the deepest one needs.

    Attributes:
        roots: First node of each tree; ``labels`` the label that its leaves add to. Shape [trees].
        column, threshold, left, right, missing_left, value: Of each node, shape [nodes]. A number goes left where it
            is at most the threshold, and where it is missing as ``missing_left`` says.
        typical: A usual case, shape [columns]: the median of a number, the most frequent category.
    """

    names: tuple[str, ...]
    columns: tuple[Column, ...]
    typical: Floats
    intercept: Floats  # [labels]
    roots: Ints
    labels: Ints
    column: Ints
    threshold: Floats
    left: Ints
    right: Ints
    missing_left: NDArray[np.bool_]
    value: Floats
    depth: int
    most: int
    score_index: int

    @classmethod
    def from_json(cls, task: TaskSpec, value: Any, where: str) -> Self:
        """Read and check a model: every walk ends, and at a finite leaf. Raises FieldInvalid."""
        read = Reader(value, where)
        read.integer("version", VERSION, VERSION)
        names = tuple(field.name for field in task.fields)
        columns = tuple(_column(item, names, f"{where}.columns[{i}]") for i, item in enumerate(read.items("columns")))
        intercept = _floats(read.items("intercept"), f"{where}.intercept", len(task.labels))
        usual = read.items("typical")
        typical = _floats([0.0 if v is None else v for v in usual], f"{where}.typical")
        typical[[v is None for v in usual]] = np.nan
        nodes: dict[str, list[Any]] = {key: read.items(key) for key in _NODE}
        count = len(nodes["column"])
        roots = _ints(read.items("roots"), f"{where}.roots", 0, count - 1)
        labels = _ints(read.items("labels"), f"{where}.labels", 0, len(task.labels) - 1)
        read.done()
        if typical.shape != (len(columns),) or not columns or len(roots) != len(labels):
            raise FieldInvalid(
                f"{where} has {len(columns)} columns, expected as many typical values, and a label a tree"
            )
        if not 0 < count <= MOST_NODES or any(len(part) != count for part in nodes.values()):
            raise FieldInvalid(f"{where} has {count} nodes, expected 1 to {MOST_NODES} with all of {', '.join(_NODE)}")
        leaves = _floats(nodes["value"], f"{where}.value")
        check_sum(where, intercept, leaves)
        left, right = (_ints(nodes[key], f"{where}.{key}", 0, count - 1) for key in ("left", "right"))
        return cls(
            names=names,
            columns=columns,
            typical=typical,
            intercept=intercept,
            roots=roots,
            labels=labels,
            column=_ints(nodes["column"], f"{where}.column", 0, len(columns) - 1),
            threshold=_floats(nodes["threshold"], f"{where}.threshold"),
            left=left,
            right=right,
            missing_left=_ints(nodes["missing_left"], f"{where}.missing_left", 0, 1).astype(np.bool_),
            value=leaves,
            depth=_depth(left, right, where),
            most=task.max_tokens,
            score_index=task.score_index,
        )

    def rows(self, texts: Sequence[str]) -> Floats:
        """Read texts as columns, shape [texts, columns]."""
        parsed = [read_fields(text, self.names) for text in texts]
        return np.array([[c.read(values.get(c.field, ""), self.most) for c in self.columns] for values in parsed])

    def scores(self, rows: Floats) -> Floats:
        """Walk every tree, shape [rows, columns] to logits [rows, labels]."""
        node = np.broadcast_to(self.roots, (len(rows), len(self.roots))).copy()
        at = np.arange(len(rows))[:, None]
        for _ in range(self.depth):
            found = rows[at, self.column[node]]
            goes_left = np.where(np.isnan(found), self.missing_left[node], found <= self.threshold[node])
            node = np.where(goes_left, self.left[node], self.right[node])
        logits = np.tile(self.intercept, (len(rows), 1))
        leaves = self.value[node]
        for label in range(len(self.intercept)):
            logits[:, label] += leaves[:, self.labels == label].sum(1)
        return logits

    def logits(self, texts: Sequence[str]) -> Floats:
        """Score texts, shape [texts, labels]."""
        return np.concatenate([self.scores(self.rows(texts[i : i + 256])) for i in range(0, len(texts), 256)])

    def without(self, row: Floats) -> Floats:
        """Return a row once a field, that field's columns made typical, shape [fields, columns]."""
        fields = self.fields
        changed = np.repeat(row[None, :], len(fields), axis=0)
        for i, name in enumerate(fields):
            mine = [j for j, column in enumerate(self.columns) if column.field == name]
            changed[i, mine] = self.typical[mine]
        return changed

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that some column reads, in the task's order."""
        read = {column.field for column in self.columns}
        return tuple(name for name in self.names if name in read)

    def reasons(self, logits: Floats, changed: Floats, most: int) -> tuple[tuple[str, float], ...]:
        """Name the fields that speak for the score label, the strongest first.

        Args:
            logits: Of a row, shape [labels]; ``changed`` those of its ``without``, shape [fields, labels].
        Returns:
            The field, and by how much the log odds of the score label against the mean of the others fall when the
            field alone is made typical.
        """
        lost = self._odds(logits[None, :])[0] - self._odds(changed)
        order = [int(i) for i in np.argsort(-lost, kind="stable")[:most]]
        return tuple((self.fields[i], float(lost[i])) for i in order if lost[i] > 0)

    def _odds(self, logits: Floats) -> Floats:
        ours = logits[:, self.score_index]
        return np.asarray(ours - (logits.sum(1) - ours) / (logits.shape[1] - 1))


_NODE = ("column", "threshold", "left", "right", "missing_left", "value")


def _column(value: Any, names: Sequence[str], where: str) -> Column:
    read = Reader(value, where)
    column = Column(read.text("field", choices=tuple(names)), read.maybe_text("value"))
    read.done()
    return column


def _floats(value: Sequence[Any], where: str, count: int | None = None) -> Floats:
    try:
        found = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise FieldInvalid(f"{where} is not a list of numbers") from error
    if found.ndim != 1 or not np.isfinite(found).all() or (count is not None and len(found) != count):
        raise FieldInvalid(f"{where} is not a list of {'' if count is None else f'{count} '}finite numbers")
    return found


def _ints(value: Sequence[Any], where: str, low: int, high: int) -> Ints:
    if not all(isinstance(item, int) and low <= item <= high for item in value):
        raise FieldInvalid(f"{where} is not a list of integers from {low} to {high}")
    return np.array(value, dtype=np.int64)


def _depth(left: Ints, right: Ints, where: str) -> int:
    """Return how many steps the longest walk takes; children come after their parents, so that none goes round."""
    own = np.arange(len(left))
    is_leaf = (left == own) & (right == own)
    if not (is_leaf | ((left > own) & (right > own))).all():
        raise FieldInvalid(f"{where} has a node whose children are not behind it, expected trees")
    depth = np.zeros(len(left), dtype=np.int64)
    for i in range(len(left) - 1, -1, -1):
        if not is_leaf[i]:
            depth[i] = 1 + max(depth[left[i]], depth[right[i]])
    found = int(depth.max())
    if found > MOST_DEPTH:
        raise FieldInvalid(f"{where} has a tree {found} deep, expected at most {MOST_DEPTH}")
    return found
