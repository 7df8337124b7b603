"""Probes of a new bundle: a few texts whose answers an engine must still give before it serves."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from protos.contract.head import Head
from protos.contract.probe import Probe, probes_json

PROBED = 4
TOLERANCE = 0.1  # half precision, and curves that are steep somewhere; another model is far beyond it


def record_probes(texts: Sequence[str], logits: NDArray[np.float64], head: Head) -> bytes:
    """Write what the head makes of the first few texts' logits; ``texts`` are rendered, ``logits`` [texts, labels]."""
    rows = head.probabilities(logits[:PROBED]).tolist()
    return probes_json([Probe(text, tuple(row), TOLERANCE) for text, row in zip(texts, rows, strict=False)])
