"""Run detectors over a stream as a deployment would: a reference first, then windows, until the first alarm."""

from collections.abc import Callable
from dataclasses import dataclass

from controlplane.domain.drift import DriftVerdict, Measurement, judge
from controlplane.loop.frame import Frame
from controlplane.loop.monitor import SUDDEN, Budget, Monitor


@dataclass(frozen=True, slots=True)
class Alarm:
    """The first alarm of a replay: rows after the reference, and what raised it."""

    row: int
    signal: str


Detector = Callable[[Frame, Frame, int], Alarm | None]  # reference, rows after it, seed


def monitor_detector(budget: Budget, persistence: int) -> Detector:
    """Return the detection that runs in a deployment."""

    def run(reference: Frame, live: Frame, seed: int) -> Alarm | None:
        monitor = Monitor.learn(reference, budget, seed)
        past: dict[str, list[Measurement]] = {}
        for number, window in enumerate(live.windows(budget.window)):
            found = monitor.read(window, seed + number)
            if found.sudden_row is not None:
                return Alarm(number * budget.window + found.sudden_row + 1, f"{SUDDEN}: {found.sudden_column}")
            for reading in found.signals:
                if reading.signal == SUDDEN:
                    continue
                history = past.setdefault(reading.signal, [])
                history.append(reading.measurement)
                if judge(history[-persistence:], persistence, 1) is DriftVerdict.DRIFT:
                    return Alarm((number + 1) * budget.window, reading.signal)
        return None

    return run
