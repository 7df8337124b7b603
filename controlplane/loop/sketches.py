"""Mergeable summaries of traffic: quantiles, frequent items, distinct callers, embedding moments.

A window of a million requests costs kilobytes, and the sketch of two gateways' windows merged is as
good as that of all their requests together: quantiles within 1.7 % of the rank (KLL, k = 200), distinct
counts within 2.3 % (HLL, 2048 registers), both one standard error; items more frequent than 1 in 50 are never missed.

Source: Apache DataSketches; Karnin, Lang, Liberty (2016) for KLL.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from datasketches import (
    frequent_items_error_type,
    frequent_strings_sketch,
    hll_sketch,
    hll_union,
    kll_floats_sketch,
    tgt_hll_type,
)
from numpy.typing import NDArray

from protos import observe_pb2

KLL_K = 200
HLL_LG = 11
ITEMS_LG = 7  # up to 96 items are counted exactly
LONGEST_ITEM = 80  # characters; an item is a label, not a text
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)


class WindowSketch:
    """One window, open for more rows. Not thread-safe."""

    def __init__(self, saved: observe_pb2.SketchWindow | None = None) -> None:
        saved = saved or observe_pb2.SketchWindow()
        self.rows = int(saved.rows)
        self._quantiles = {n: kll_floats_sketch.deserialize(data) for n, data in saved.quantiles.items()}
        self._frequent = {n: frequent_strings_sketch.deserialize(data) for n, data in saved.frequent.items()}
        self._callers: Any = hll_union(HLL_LG)
        if saved.callers:
            self._callers.update(hll_sketch.deserialize(saved.callers))
        self.moments = observe_pb2.Moments()
        self.moments.CopyFrom(saved.moments)

    def add(
        self,
        rows: int,
        numbers: Mapping[str, Sequence[float]],
        items: Mapping[str, Iterable[str]],
        callers: Iterable[str],
    ) -> None:
        """Take rows, column by column."""
        self.rows += rows
        for name, values in numbers.items():
            column = np.asarray(values, dtype=np.float32)
            self._kll(name).update(column[np.isfinite(column)])
        for name, said in items.items():
            sketch = self._items(name)
            for item, count in Counter(said).items():
                sketch.update(item[:LONGEST_ITEM], count)
        add_caller = self._callers.update
        for caller in callers:
            add_caller(caller)

    def add_vectors(self, embedding: str, vectors: NDArray[np.float32]) -> None:
        """Take embeddings; of another kind than before, they begin anew."""
        self._join_moments(
            observe_pb2.Moments(
                embedding=embedding,
                rows=len(vectors),
                sum=vectors.sum(axis=0, dtype=np.float64),
                squares=(vectors.astype(np.float64) ** 2).sum(axis=0),
            )
        )

    def merge(self, other: "WindowSketch") -> None:
        """Take everything another window has seen."""
        self.rows += other.rows
        for name, sketch in other._quantiles.items():
            self._kll(name).merge(sketch)
        for name, sketch in other._frequent.items():
            self._items(name).merge(sketch)
        self._callers.update(other._callers.get_result(tgt_hll_type.HLL_8))
        self._join_moments(other.moments)

    def to_message(self) -> observe_pb2.SketchWindow:
        """Write the window."""
        return observe_pb2.SketchWindow(
            rows=self.rows,
            quantiles={name: sketch.serialize() for name, sketch in self._quantiles.items()},
            frequent={name: sketch.serialize() for name, sketch in self._frequent.items()},
            callers=self._callers.get_result(tgt_hll_type.HLL_4).serialize_compact(),
            moments=self.moments,
        )

    def callers(self) -> float:
        """Estimate the number of distinct callers."""
        return float(self._callers.get_result(tgt_hll_type.HLL_8).get_estimate())

    def names(self) -> tuple[list[str], list[str]]:
        """Return what quantiles and what shares there are of."""
        return sorted(self._quantiles), sorted(self._frequent)

    def quantiles(self, name: str, shares: Sequence[float] = SHARES) -> list[float]:
        """Return the values below which shares of the rows lie; empty without any value."""
        sketch = self._quantiles.get(name)
        return [] if sketch is None or sketch.is_empty() else [float(v) for v in sketch.get_quantiles(list(shares))]

    def shares(self, name: str) -> dict[str, float]:
        """Return each frequent item's share of the rows."""
        sketch = self._frequent.get(name)
        if sketch is None or sketch.is_empty():
            return {}
        found = sketch.get_frequent_items(frequent_items_error_type.NO_FALSE_NEGATIVES)
        return {item: estimate / sketch.total_weight for item, estimate, _, _ in found}

    def mean_vector(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and standard deviation of the embeddings, per dimension; empty without any."""
        rows = max(1, self.moments.rows)
        mean = np.array(self.moments.sum) / rows
        return mean, np.sqrt(np.maximum(np.array(self.moments.squares) / rows - mean**2, 0))

    def _kll(self, name: str) -> Any:
        return self._quantiles.setdefault(name, kll_floats_sketch(KLL_K))

    def _items(self, name: str) -> Any:
        return self._frequent.setdefault(name, frequent_strings_sketch(ITEMS_LG))

    def _join_moments(self, other: observe_pb2.Moments) -> None:
        mine = self.moments
        if not other.rows:
            return
        if mine.embedding != other.embedding or len(mine.sum) != len(other.sum):
            mine.CopyFrom(other)
            return
        mine.rows += other.rows
        mine.sum[:] = np.array(mine.sum) + np.array(other.sum)
        mine.squares[:] = np.array(mine.squares) + np.array(other.squares)
