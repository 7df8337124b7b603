"""Population stability: how far the cases that a bundle is judged on have moved from those it learned from."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlplane.detectors.psi import CONVENTION, decile_edges, population_stability_index
from controlplane.evals.inputs import columns_of
from protos.contract.task import TaskSpec

Floats = NDArray[np.float64]


def stability(
    task: TaskSpec, learned: Sequence[str], learned_scores: Floats, judged: Sequence[str], judged_scores: Floats
) -> dict[str, Any]:
    """Compare rendered texts and their scores, by deciles of what was learned from.

    Returns:
        The index of the score, shape [cases] each, and of every field of a number; a missing value is a bin of its own.
        Above 0.25 is a significant change by convention, which is no test: it ignores how many cases there are.
    """
    before, after = columns_of(task, learned), columns_of(task, judged)
    return {
        "learned_cases": len(learned),
        "convention": CONVENTION,
        "score": _index(learned_scores, judged_scores),
        "fields": {name: _index(np.array(before[name]), np.array(after[name])) for name in before},
    }


def _index(before: Floats, after: Floats) -> float:
    present = before[~np.isnan(before)]
    edges = decile_edges(present) if len(present) else np.empty(0)
    codes = [
        np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values, side="right"))
        for values in (before, after)
    ]
    return round(population_stability_index(codes[0], codes[1]), 4)
