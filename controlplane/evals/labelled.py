"""What to measure on a labelled file, and what the measured models are called."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from controlplane.datasets.rows import Columns
from controlplane.evals.metrics import Ints
from protos.contract.servers import RemoteSettings

CANDIDATE, RIVAL, CONTROL = "bundle", "rival", "control"
TIMED = 200  # cases sent one at a time for the latency figures
Progress = Callable[[float, str], None]  # share done, what is being done


@dataclass(frozen=True, slots=True)
class LabelledRun:
    """What to measure, on what.

    Attributes:
        bundle: Digest; ``rival`` is another bundle to compare it with, case by case.
        groups: Judge by coarser labels: group to the bundle's labels in it, whose probabilities add up.
        train: A labelled file of the same columns that the classical control is fitted on.
        answers: Recorded answers of other models, by what to call them.
        metrics: Names beyond the usual ones.
        robustness_cases: How many cases are asked again in every way of ``robustness.CHANGES``, 0 for none.
        gateway_cases: How many cases are also asked through a real gateway, 0 for none.
        budget_us: What each caller of the gateway gives; None: the task's own deadline.
        quarantine: Take rows that cannot be used aside instead of refusing the file.
        engines: Servers elsewhere that are declared, for bundles that belong there.
    """

    bundles_dir: Path
    bundle: str
    data: Path
    columns: Columns = field(default_factory=Columns)
    rival: str | None = None
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    train: Path | None = None
    answers: Mapping[str, Path] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    rounds: int = 1000
    confidence: float = 0.95
    seed: int = 0
    robustness_cases: int = 0
    gateway_cases: int = 200
    budget_us: int | None = None
    front: str = "auto"
    quarantine: bool = False
    engines: tuple[RemoteSettings, ...] = ()

    def drawn(self, n: int, most: int) -> Ints:
        """Draw at most so many of ``n`` cases; their places, ascending."""
        return np.sort(np.random.default_rng(self.seed).permutation(n)[:most])
