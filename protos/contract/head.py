"""A bundle's head: from a model's logits to calibrated probabilities and a decision.

``head.json`` is fitted where a model is trained and applied where it serves; both use this file. Logits are
divided by a temperature (Guo et al. 2017). Then, where the held-out texts were enough to tell that it helps, each
label's probability goes through a logistic curve (Platt 1999) or an isotonic one (Zadrozny, Elkan 2002), one against
the rest, and the results are brought to sum 1. The decision is the one of least expected cost by the task's cost
matrix; offsets move the thresholds that the matrix implies to where held-out texts cost least.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from protos.contract.digest import JsonMalformed, canonical_json, parse_digest, parse_json_object
from protos.contract.fields import FieldInvalid, Reader
from protos.contract.task import TaskSpec

HEAD = "head.json"
SCHEMA = "interlock.head/1"
TEMPERATURES = (0.01, 100.0)
LEAST = 1e-6  # of a probability: no label is ever impossible
MAX_KNOTS = 1000
MAX_OFFSET = 1.0  # costs are in 0..1

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """A non-decreasing piecewise linear map of [0, 1] into itself, constant beyond its first and last knot."""

    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Head:
    """How logits are read.

    Attributes:
        platt: A slope above 0 and an offset a label, applied to the log-odds of its probability; or empty.
        isotonic: A curve a label; or empty. Not both.
        offsets: Added to the expected cost of each decision before the least is chosen; empty for none.
        fit: What it was fitted on and how well it did: ``data`` digest, ``rows``, held-out losses. For people.
    """

    temperature: float = 1.0
    platt: tuple[tuple[float, float], ...] = ()
    isotonic: tuple[Curve, ...] = ()
    offsets: tuple[float, ...] = ()
    fit: Mapping[str, Any] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """``temperature``, ``platt`` or ``isotonic``."""
        return "platt" if self.platt else "isotonic" if self.isotonic else "temperature"

    def to_bytes(self) -> bytes:
        """Write ``head.json``."""
        return canonical_json(
            {
                "schema": SCHEMA,
                "temperature": self.temperature,
                "platt": [list(pair) for pair in self.platt],
                "isotonic": [{"x": list(curve.x), "y": list(curve.y)} for curve in self.isotonic],
                "offsets": list(self.offsets),
                "fit": dict(self.fit),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, task: TaskSpec) -> Self:
        """Read ``head.json`` for a task.

        Raises:
            FieldInvalid: A wrong shape, a curve that is not monotone, a number out of range, or not a head.
        """
        try:
            read = Reader(parse_json_object(data), "head")
        except JsonMalformed as error:
            raise FieldInvalid(f"{HEAD}: {error}") from error
        read.text("schema", choices=(SCHEMA,))
        head = cls(
            temperature=read.number("temperature", *TEMPERATURES),
            platt=tuple(_pair(value, f"head.platt[{i}]") for i, value in enumerate(read.items("platt", []))),
            isotonic=tuple(_curve(value, f"head.isotonic[{i}]") for i, value in enumerate(read.items("isotonic", []))),
            offsets=tuple(
                _number(value, -MAX_OFFSET, MAX_OFFSET, f"head.offsets[{i}]")
                for i, value in enumerate(read.items("offsets", []))
            ),
            fit=read.object("fit", {}),
        )
        read.done()
        if "data" in head.fit:
            parse_digest(str(head.fit["data"]), "head.fit.data")
        if head.platt and head.isotonic:
            raise FieldInvalid("head has platt and isotonic, expected at most one of them")
        for name, found, expected in (
            ("platt", len(head.platt), len(task.labels)),
            ("isotonic", len(head.isotonic), len(task.labels)),
            ("offsets", len(head.offsets), len(task.decisions)),
        ):
            if found not in (0, expected):
                raise FieldInvalid(f"head.{name} has {found} entries, expected none or {expected}")
        return head

    def probabilities(self, logits: NDArray[Any]) -> Floats:
        """Calibrate, shape [rows, labels] both ways; every row sums to 1."""
        scaled = np.asarray(logits, dtype=np.float64) / self.temperature
        powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        raw: Floats = powers / powers.sum(axis=1, keepdims=True)
        if self.platt:
            slopes, offsets = np.array(self.platt).T
            mapped = 1.0 / (1.0 + np.exp(-np.clip(slopes * log_odds(raw) + offsets, -60.0, 60.0)))
        elif self.isotonic:
            mapped = np.stack([np.interp(raw[:, k], curve.x, curve.y) for k, curve in enumerate(self.isotonic)], axis=1)
        else:
            return raw
        mapped = np.maximum(mapped, LEAST)
        return np.asarray(mapped / mapped.sum(axis=1, keepdims=True))

    def row(self, logits: Sequence[float]) -> list[float]:
        """Calibrate one row as ``probabilities`` does: where no curve is to be looked up, without arrays."""
        if self.platt or self.isotonic:
            row: list[float] = self.probabilities(np.array([logits]))[0].tolist()
            return row
        temperature = self.temperature
        scaled: Sequence[float] = logits if temperature == 1.0 else [value / temperature for value in logits]
        highest, exp = max(scaled), math.exp
        powers = [exp(value - highest) for value in scaled]
        total = sum(powers)
        return [power / total for power in powers]

    def decide(self, task: TaskSpec, probabilities: Sequence[float]) -> int:
        """Choose the decision of least expected cost; the earliest listed wins a tie."""
        if not self.offsets:
            return task.decide(probabilities)
        return int(self.decisions(task, np.asarray([probabilities], dtype=np.float64))[0])

    def decisions(self, task: TaskSpec, probabilities: Floats) -> NDArray[np.int64]:
        """Choose for every row, shape [rows, labels] to [rows]."""
        expected = probabilities @ np.asarray(task.cost, dtype=np.float64)
        if self.offsets:
            expected = expected + np.asarray(self.offsets)
        return np.asarray(expected.argmin(axis=1))


def log_odds(probabilities: Floats) -> Floats:
    """Return ln(p / (1 - p)), bounded for certain ones."""
    kept = np.clip(probabilities, LEAST, 1.0 - LEAST)
    return np.asarray(np.log(kept) - np.log1p(-kept))


def _number(value: Any, low: float, high: float, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise FieldInvalid(f"{where} is {value!r}, expected a number from {low:g} to {high:g}")
    return float(value)


def _pair(value: Any, where: str) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise FieldInvalid(f"{where} is {value!r}, expected a slope and an offset")
    slope, offset = _number(value[0], 0.0, 1e6, where), _number(value[1], -1e6, 1e6, where)
    if slope == 0.0:
        raise FieldInvalid(f"{where} has slope 0, expected above 0: it would answer every text alike")
    return slope, offset


def _curve(value: Any, where: str) -> Curve:
    read = Reader(value, where)
    x, y = (tuple(_number(v, 0.0, 1.0, f"{where}.{name}") for v in read.items(name)) for name in "xy")
    read.done()
    if not 2 <= len(x) <= MAX_KNOTS or len(x) != len(y):
        raise FieldInvalid(f"{where} has {len(x)} and {len(y)} knots, expected as many of each, 2 to {MAX_KNOTS}")
    if any(a >= b for a, b in zip(x, x[1:], strict=False)):
        raise FieldInvalid(f"{where}.x does not rise, expected knots in order")
    if any(a > b for a, b in zip(y, y[1:], strict=False)):
        raise FieldInvalid(f"{where}.y falls, expected a monotone curve: a surer model must not be less sure after it")
    if not all(map(math.isfinite, (*x, *y))):
        raise FieldInvalid(f"{where} is not finite")
    return Curve(x, y)
