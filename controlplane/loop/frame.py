"""Rows of traffic as columns, in the order of time: what drift is measured on, live and in a replay."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
PLAIN = ("score", "decision", "confidence", "hit", "correct")


@dataclass(frozen=True, slots=True)
class Frame:
    """One stretch of traffic; every column has one entry a row.

    Attributes:
        numbers: Numeric inputs by name; -inf where a row has none, so that gaps that appear count.
        categories: Categorical inputs by name; "" where a row has none.
        vectors: Embeddings of text inputs, shape [rows, d], or None.
        score: The score given, a probability.
        decision: The decision or label given.
        confidence: Probability of the answer given.
        hit: 1 where what the score predicts came true, 0 where not, NaN where the outcome is unknown.
        correct: 1 where the answer was right, 0 where not, NaN where the outcome is unknown.
    """

    numbers: Mapping[str, Numbers]
    categories: Mapping[str, NDArray[np.str_]]
    vectors: NDArray[np.float32] | None
    score: Numbers
    decision: NDArray[np.str_]
    confidence: Numbers
    hit: Numbers
    correct: Numbers

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> "Frame":
        """Take some rows."""
        return replace(
            self,
            numbers={name: column[rows] for name, column in self.numbers.items()},
            categories={name: column[rows] for name, column in self.categories.items()},
            vectors=None if self.vectors is None else self.vectors[rows],
            **{name: getattr(self, name)[rows] for name in PLAIN},
        )

    def join(self, later: "Frame") -> "Frame":
        """Return these rows and the later ones after them; both have the same columns."""
        vectors = None
        if self.vectors is not None and later.vectors is not None:
            vectors = np.concatenate([self.vectors, later.vectors])
        return Frame(
            numbers={name: np.concatenate([column, later.numbers[name]]) for name, column in self.numbers.items()},
            categories={
                name: np.concatenate([column, later.categories[name]]) for name, column in self.categories.items()
            },
            vectors=vectors,
            **{name: np.concatenate([getattr(self, name), getattr(later, name)]) for name in PLAIN},
        )

    def known(self) -> "Frame":
        """Return the rows whose outcome is known."""
        return self[np.flatnonzero(~np.isnan(self.correct))]

    def windows(self, rows: int) -> Iterator["Frame"]:
        """Cut into whole windows; what is left over at the end is no window."""
        for at in range(0, len(self) - rows + 1, rows):
            yield self[at : at + rows]

    def to_bytes(self) -> bytes:
        """Write every column as a NumPy archive, without objects that would have to be unpickled."""
        columns: dict[str, Any] = {name: getattr(self, name) for name in PLAIN}
        columns |= {f"numbers/{name}": column for name, column in self.numbers.items()}
        columns |= {f"categories/{name}": column for name, column in self.categories.items()}
        if self.vectors is not None:
            columns["vectors"] = self.vectors
        file = io.BytesIO()
        np.savez_compressed(file, **columns)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Frame":
        """Read what ``to_bytes`` wrote."""
        with np.load(io.BytesIO(data), allow_pickle=False) as columns:
            return cls(
                numbers={n.removeprefix("numbers/"): columns[n] for n in columns if n.startswith("numbers/")},
                categories={n.removeprefix("categories/"): columns[n] for n in columns if n.startswith("categories/")},
                vectors=columns.get("vectors"),
                **{name: columns[name] for name in PLAIN},
            )
