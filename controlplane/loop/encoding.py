"""How rows become columns of numbers, fixed by a reference: codes of categories, axes of embeddings, common scales."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controlplane.detectors.resampling import Numbers
from controlplane.loop.frame import Frame

SCORE, DECISION = "score", "decision"
OTHER = 40  # categories a column is told apart by; rarer ones count as one
AXES = 8  # principal axes of the embeddings that are followed row by row


@dataclass(frozen=True, slots=True)
class Encoding:
    """How rows become numbers, fixed by the reference."""

    codes: Mapping[str, Mapping[str, int]]
    sorted_numbers: Mapping[str, Numbers]
    centre: NDArray[np.float32] | None
    axes: NDArray[np.float32] | None  # [d, AXES]

    @classmethod
    def of(cls, reference: Frame) -> "Encoding":
        """Fix the columns by a reference."""
        codes = {}
        for name, column in {**reference.categories, DECISION: reference.decision}.items():
            values, counts = np.unique(column, return_counts=True)
            common = values[np.argsort(-counts, kind="stable")][:OTHER]
            codes[name] = {str(value): i + 1 for i, value in enumerate(common)}
        centre = axes = None
        if reference.vectors is not None:
            centre = reference.vectors.mean(axis=0)
            centred = reference.vectors - centre
            axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :AXES].copy()
        return cls(codes, {name: np.sort(v) for name, v in reference.numbers.items()}, centre, axes)

    def coded(self, name: str, column: NDArray[np.str_]) -> NDArray[np.int64]:
        """Return category numbers; 0 is every value the reference did not have or had rarely."""
        known = self.codes[name]
        values, inverse = np.unique(column, return_inverse=True)
        return np.array([known.get(str(value), 0) for value in values], dtype=np.int64)[inverse]

    def joint(self, frame: Frame) -> NDArray[np.float32]:
        """Return rows as vectors: the embeddings, or every field on a common scale, shape [rows, d]."""
        if frame.vectors is not None:
            return frame.vectors
        parts = []
        for name, column in frame.numbers.items():
            known = self.sorted_numbers[name]
            place = np.searchsorted(known, column, side="left") + np.searchsorted(known, column, side="right")
            parts.append((place / (2 * len(known)))[:, None])
        for name, text in frame.categories.items():
            parts.append(np.eye(len(self.codes[name]) + 1)[self.coded(name, text)] / math.sqrt(2))
        return np.concatenate(parts, axis=1).astype(np.float32)

    def followed(self, frame: Frame) -> tuple[tuple[str, ...], Numbers]:
        """Return the columns that are followed row by row, shape [rows, columns]."""
        columns: dict[str, Numbers] = dict(frame.numbers)
        for name in frame.categories:
            columns[name] = self.coded(name, frame.categories[name]).astype(np.float64)
        if frame.vectors is not None and self.centre is not None and self.axes is not None:
            centred = frame.vectors - self.centre
            along = centred @ self.axes
            columns |= {f"text axis {k + 1}": along[:, k].astype(np.float64) for k in range(along.shape[1])}
            rest = np.sqrt(np.maximum((centred**2).sum(1) - (along**2).sum(1), 0))
            columns["text beyond the axes"] = rest.astype(np.float64)
        columns[SCORE] = frame.score
        return tuple(columns), np.stack(list(columns.values()), axis=1)


def halves(reference: Frame) -> tuple[Frame, Frame]:
    """Return the rows that axes of the embeddings are fitted on, and those that later rows are ranked among.

    Rows that axes were fitted on lie closer to them than any to come. Without embeddings nothing is fitted.
    """
    if reference.vectors is None:
        return reference, reference
    half = len(reference) // 2
    return reference[:half], reference[half:]


def columns_followed(reference: Frame, live: Frame) -> list[tuple[str, Numbers, Numbers]]:
    """Return the columns that can be followed row by row, of a reference and of the rows after it."""
    encoding = Encoding.of(reference)
    names, past = encoding.followed(reference)
    _, now = encoding.followed(live)
    return [(name, past[:, j], now[:, j]) for j, name in enumerate(names)]
