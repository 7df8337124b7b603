"""Additive models: each field adds its share to each label's logit, so an answer can be taken apart exactly.

Numbers go through a step function, texts through weighted terms. Training fits and checks with this
arithmetic, and the worker answers with it.
"""

import bisect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from protos.contract.features import ANALYSERS, check_sum, read_fields, read_number
from protos.contract.fields import FieldInvalid, Reader
from protos.contract.task import TaskSpec

VERSION = 1
Floats = NDArray[np.float64]


def _matrix(value: Sequence[Any], columns: int, where: str) -> Floats:
    try:
        found = np.array(value, dtype=np.float64).reshape(-1, columns)
    except (TypeError, ValueError) as error:
        raise FieldInvalid(f"{where} is not rows of {columns} numbers") from error
    if len(found) != len(value) or not np.isfinite(found).all():
        raise FieldInvalid(f"{where} is not rows of {columns} finite numbers")
    return found


@dataclass(frozen=True, slots=True)
class Steps:
    """A number's share: ``values[i]`` between the i-th and the next of ``edges``, the last row where it is missing."""

    name: str
    edges: list[float]
    values: Floats  # [len(edges) + 2, labels]
    mean: Floats  # [labels], over the training cases

    @classmethod
    def from_json(cls, read: Reader, name: str, labels: int, where: str) -> Self:
        """Read one; raises FieldInvalid."""
        edges = _matrix(read.items("edges"), 1, f"{where}.edges")[:, 0].tolist()
        values = _matrix(read.items("values"), labels, f"{where}.values")
        if edges != sorted(edges) or len(values) != len(edges) + 2:
            raise FieldInvalid(f"{where}.values has {len(values)} rows, expected {len(edges) + 2} for rising edges")
        return cls(name, edges, values, _matrix([read.items("mean")], labels, f"{where}.mean")[0])

    def share(self, text: str, most: int) -> Floats:
        """Return what a value adds, shape [labels]."""
        number = read_number(text)
        if number != number:
            return np.asarray(self.values[-1])
        return np.asarray(self.values[bisect.bisect_right(self.edges, number)])


@dataclass(frozen=True, slots=True)
class Terms:
    """A text's share: log-damped counts times rarity, of length one, times weights (TF-IDF)."""

    name: str
    analyser: str
    places: Mapping[str, int]
    rarity: Floats  # [terms]
    weights: Floats  # [terms, labels]
    mean: Floats  # [labels]

    @classmethod
    def from_json(cls, read: Reader, name: str, labels: int, where: str) -> Self:
        """Read one; raises FieldInvalid."""
        terms = read.texts("terms")
        rarity = _matrix(read.items("rarity"), 1, f"{where}.rarity")[:, 0]
        weights = _matrix(read.items("weights"), labels, f"{where}.weights")
        if not len(terms) == len(rarity) == len(weights):
            raise FieldInvalid(f"{where} has {len(terms)} terms, expected as many of rarity and weights")
        return cls(
            name=name,
            analyser=read.text("analyser", choices=tuple(ANALYSERS)),
            places={term: i for i, term in enumerate(terms)},
            rarity=rarity,
            weights=weights,
            mean=_matrix([read.items("mean")], labels, f"{where}.mean")[0],
        )

    def share(self, text: str, most: int) -> Floats:
        """Return what a text adds, shape [labels]."""
        counts = Counter(self.places[term] for term in ANALYSERS[self.analyser](text, most) if term in self.places)
        if not counts:
            return np.zeros(self.weights.shape[1])
        places = np.fromiter(counts, dtype=np.int64)
        values = (1 + np.log(np.fromiter(counts.values(), dtype=np.float64))) * self.rarity[places]
        return np.asarray(values @ self.weights[places] / np.linalg.norm(values))


@dataclass(frozen=True, slots=True)
class Additive:
    """A model over a task's rendered texts."""

    names: tuple[str, ...]  # all of the task's fields: an unread one must not be taken for a part of another
    parts: tuple[Steps | Terms, ...]
    intercept: Floats  # [labels]
    most: int  # tokens read of a text
    score_index: int

    @classmethod
    def from_json(cls, task: TaskSpec, value: Any, where: str) -> Self:
        """Read and check a model; raises FieldInvalid."""
        read = Reader(value, where)
        labels = len(task.labels)
        read.integer("version", VERSION, VERSION)
        intercept = _matrix([read.items("intercept")], labels, f"{where}.intercept")[0]
        parts = tuple(_part(v, labels, f"{where}.fields[{i}]") for i, v in enumerate(read.items("fields")))
        read.done()
        names = tuple(field.name for field in task.fields)
        found = [part.name for part in parts]
        if not found or not set(found) <= set(names) or len(set(found)) != len(found):
            raise FieldInvalid(f"{where}.fields names {found!r}, expected some of {', '.join(names)}, each once")
        check_sum(where, intercept, *(part.values if isinstance(part, Steps) else part.weights for part in parts))
        return cls(names, parts, intercept, task.max_tokens, task.score_index)

    def shares(self, text: str) -> Floats:
        """Return what each part adds, shape [parts, labels]."""
        values = read_fields(text, self.names)
        return np.stack([part.share(values.get(part.name, ""), self.most) for part in self.parts])

    def logits(self, texts: Sequence[str]) -> Floats:
        """Score texts, shape [texts, labels]."""
        return np.stack([self.intercept + self.shares(text).sum(0) for text in texts])

    def reasons(self, shares: Floats, most: int) -> tuple[tuple[str, float], ...]:
        """Name the fields that raise the score label above the training cases' mean, the strongest first.

        The value is the field's part of the log odds of the score label against the mean of the others.
        """
        above = shares - np.stack([part.mean for part in self.parts])
        ours = above[:, self.score_index]
        odds = ours - (above.sum(1) - ours) / (above.shape[1] - 1)
        order = [int(i) for i in np.argsort(-odds, kind="stable")[:most]]
        return tuple((self.parts[i].name, float(odds[i])) for i in order if odds[i] > 0)


def _part(value: Any, labels: int, where: str) -> Steps | Terms:
    read = Reader(value, where)
    name, kind = read.text("name"), read.text("kind", choices=("steps", "terms"))
    part: Steps | Terms = (
        Steps.from_json(read, name, labels, where) if kind == "steps" else Terms.from_json(read, name, labels, where)
    )
    read.done()
    return part
