"""Run detectors over a stream as a deployment would: a reference first, then windows, until the first alarm."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from controlplane.detectors.shiryaev_roberts import limit
from controlplane.domain.drift import DriftVerdict, Measurement, judge
from controlplane.loop.frame import Frame
from controlplane.loop.monitor import SUDDEN, Budget, Monitor, WindowReading


@dataclass(frozen=True, slots=True)
class Alarm:
    """The first alarm of a replay: rows after the reference, and what raised it."""

    row: int
    signal: str


Detector = Callable[[Frame, Frame, int], Alarm | None]  # reference, rows after it, seed


def monitor_detector(budget: Budget, persistence: int, rows: float) -> Detector:
    """Return the detection that runs in a deployment, at one setting of ``first_alarms``."""

    def run(reference: Frame, live: Frame, seed: int) -> Alarm | None:
        return first_alarms(budget, persistence, (rows,), reference, live, seed)[0]

    return run


def first_alarms(
    budget: Budget, persistence: int, settings: Sequence[float], reference: Frame, live: Frame, seed: int
) -> list[Alarm | None]:
    """Replay once and return each setting's first alarm.

    Args:
        settings: Unchanged rows within which the row-by-row signal may alarm with the budget's chance.
    """
    monitor = Monitor.learn(reference, budget, seed)
    past: dict[str, list[Measurement]] = {}
    found: dict[float, Alarm] = {}
    for number, window in enumerate(live.windows(budget.window)):
        reading = monitor.read(window, seed + number)
        for rows in settings:
            row = reading.followed.first_over(limit(1, budget.sudden, rows))
            if row is not None and rows not in found:
                at = number * budget.window + row + 1
                found[rows] = Alarm(at, f"{SUDDEN}: {reading.followed.leading(row)}")
        signal = _persistent(reading, past, persistence)
        if signal is not None:
            found = {rows: Alarm((number + 1) * budget.window, signal) for rows in settings} | found
        if len(found) == len(settings):
            break
    return [found.get(rows) for rows in settings]


def _persistent(reading: WindowReading, past: dict[str, list[Measurement]], persistence: int) -> str | None:
    """Add a window's signals to those of the past; return the first that drifts."""
    for signal in reading.signals:
        if signal.signal == SUDDEN:
            continue
        history = past.setdefault(signal.signal, [])
        history.append(signal.measurement)
        if judge(history[-persistence:], persistence, 1) is DriftVerdict.DRIFT:
            return signal.signal
    return None
