"""What others would use in our place: ADWIN and Page-Hinkley of river, and a rule on the stability index.

Each watches every column we follow row by row (inputs, score) and the engine's errors, and alarms as soon
as any of them does. ADWIN and Page-Hinkley see the reference too, so that they know what is usual.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from controlplane.backtest.replay import Alarm, Detector
from controlplane.detectors.psi import decile_edges, population_stability_index
from controlplane.detectors.resampling import Numbers
from controlplane.loop.encoding import columns_followed
from controlplane.loop.frame import Frame

ERRORS = "errors"


@dataclass(frozen=True, slots=True)
class Rival:
    """One way to detect drift and how it can be set, most sensitive setting first.

    Attributes:
        default: The setting it comes with, or that convention gives it.
    """

    name: str
    parameter: str
    settings: tuple[float, ...]
    default: float
    watches_errors_only: bool

    def detector(self, setting: float, window: int) -> Detector:
        """Return the detector at one setting."""
        if self.parameter == "index":
            return _psi(setting, window)
        return _sequential(self.parameter, setting, self.watches_errors_only)


_DELTAS = (0.02, 0.002, 2e-4, 1e-5, 1e-6, 1e-8, 1e-10, 1e-13, 1e-16)
_THRESHOLDS = (10.0, 20.0, 35.0, 50.0, 75.0, 100.0, 150.0, 250.0, 400.0, 700.0, 1200.0, 2000.0, 5000.0)
RIVALS = (
    Rival("ADWIN on every column", "delta", _DELTAS, 0.002, False),
    Rival("ADWIN on errors", "delta", _DELTAS, 0.002, True),
    Rival("Page-Hinkley on every column", "threshold", _THRESHOLDS, 50.0, False),
    Rival("Page-Hinkley on errors", "threshold", _THRESHOLDS, 50.0, True),
    Rival("PSI of every column", "index", (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.5), 0.25, False),
)


def is_installed() -> bool:
    """Say whether river is here; it is a library of the benchmarks."""
    try:
        import river  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


def _columns(reference: Frame, live: Frame, errors_only: bool) -> Iterator[tuple[str, Numbers, Numbers]]:
    if not errors_only:
        for name, past, now in columns_followed(reference, live):
            lowest = past[np.isfinite(past)].min(initial=0.0) - 1  # a gap is a value of its own, below all others
            yield name, np.maximum(past, lowest), np.maximum(now, lowest)
    yield ERRORS, 1 - reference.correct, 1 - live.correct


def _sequential(parameter: str, setting: float, errors_only: bool) -> Detector:
    from river import drift

    library: Any = drift

    def make() -> Any:
        if parameter == "delta":
            return library.ADWIN(delta=setting)
        return library.PageHinkley(threshold=setting, min_instances=30)

    def run(reference: Frame, live: Frame, seed: int) -> Alarm | None:
        first: Alarm | None = None
        for name, past, now in _columns(reference, live, errors_only):
            # Their settings mean something on a common scale only: ADWIN's on 0..1, Page-Hinkley's in deviations.
            centre, scale = float(past.min()), float(np.ptp(past))
            if parameter != "delta":
                centre, scale = float(past.mean()), float(past.std())
            if name == ERRORS or scale < 1e-9:
                centre, scale = (0.0 if name == ERRORS else centre), 1.0
            detector = make()
            for value in (past - centre) / scale:
                detector.update(float(value))
            last = len(now) if first is None else first.row - 1
            for row, value in enumerate((now[:last] - centre) / scale, 1):
                detector.update(float(value))
                if detector.drift_detected:
                    first = Alarm(row, name)
                    break
        return first

    return run


def _psi(setting: float, window: int) -> Detector:
    def run(reference: Frame, live: Frame, seed: int) -> Alarm | None:
        binned: list[tuple[str, Any, Any]] = []
        for name, past, now in _columns(reference, live, errors_only=False):
            edges = decile_edges(past)
            binned.append((name, np.searchsorted(edges, past, side="left"), np.searchsorted(edges, now, side="left")))
        for end in range(window, len(live) + 1, window):
            for name, before, after in binned:
                if population_stability_index(before, after[end - window : end]) > setting:
                    return Alarm(end, name)
        return None

    return run
