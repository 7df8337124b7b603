"""A whole back-test: false alarms on shuffles of the stream, delays at its known changes, rivals in the same table."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from controlplane.backtest import references
from controlplane.backtest.model import score
from controlplane.backtest.references import Rival
from controlplane.backtest.replay import Alarm, Detector, first_alarms, monitor_detector
from controlplane.backtest.stream import Stream, StreamInvalid
from controlplane.loop.monitor import Budget

Progress = Callable[[float, str], None]
OURS = "interlock"
# Unchanged rows within which the row-by-row signal may alarm with the budget's chance, the most sensitive first.
SETTINGS = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
EQUAL = "equal false alarms"
TARGET = 0.95  # of A/A replays that must stay silent


@dataclass(frozen=True, slots=True)
class Change:
    """A change that is known to be in the stream: the first row it shows in."""

    name: str
    row: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How a stream is replayed.

    Attributes:
        train: Rows that the stand-in engine is fitted on.
        reference: Rows after them that windows are compared with.
        horizon: Rows after a change within which it counts as found.
        seeds: A/A replays: shuffles of the whole stream.
    """

    train: int
    reference: int
    window: int
    rate: float
    persistence: int
    horizon: int
    seeds: int
    changes: tuple[Change, ...] = ()

    @property
    def budget(self) -> Budget:
        """The false alarms this plan accepts."""
        return Budget(self.window, self.rate)

    @property
    def before(self) -> int:
        """Rows needed before monitoring can begin."""
        return self.train + self.reference


def backtest(stream: Stream, vectors: Any, plan: Plan, progress: Progress) -> dict[str, Any]:
    """Replay a stream; return settings, A/A results, delays and the rivals' table as JSON values.

    Raises:
        StreamInvalid: The stream or the rows before a change are too few for the plan.
    """
    _check(stream, plan)
    rivals = references.RIVALS if references.is_installed() else references.RIVALS[-1:]
    settled = _shuffles(stream, vectors, plan, rivals, progress)
    found: list[dict[str, Any]] = []
    detectors: list[Detector] = []
    for setting, kind in _two_settings(SETTINGS, plan.budget.rows, settled[OURS], "default budget"):
        found.append(_entry(OURS, "rows", setting, kind, _share(SETTINGS, setting, settled[OURS]), plan))
        detectors.append(_never if setting is None else monitor_detector(plan.budget, plan.persistence, setting))
    for rival in rivals:
        for setting, kind in _two_settings(rival.settings, rival.default, settled[rival.name], "as it comes"):
            share = _share(rival.settings, setting, settled[rival.name])
            found.append(_entry(rival.name, rival.parameter, setting, kind, share, plan))
            detectors.append(_never if setting is None else rival.detector(setting, plan.window))
    for number, change in enumerate(plan.changes):
        progress(0.8 + 0.1 * number / len(plan.changes), f"change {change.name}")
        reference, live = _standing_start(stream, vectors, plan, change)
        for entry, detector in zip(found, detectors, strict=True):
            alarm = detector(reference, live, 1)
            entry["changes"].append(
                {"change": change.name, "delay": alarm.row if alarm else None, "by": alarm.signal if alarm else ""}
            )
    progress(0.9, "the whole stream")
    alarms = whole(stream, vectors, plan, detectors[0])
    progress(1.0, "done")
    return {
        "rows": len(stream),
        "plan": {k: v for k, v in asdict(plan).items() if k != "changes"},
        "changes": [
            {**asdict(c), "time": str(stream.times[c.row]), "rows_watched": _end(stream, plan, c) - c.row}
            for c in plan.changes
        ],
        "columns": {
            "numbers": list(stream.numbers),
            "categories": list(stream.categories),
            "text": stream.texts is not None,
            "ignored": stream.ignored,
        },
        "detectors": found,
        "alarms": [
            {"row": a.row, "time": str(stream.times[min(a.row, len(stream)) - 1]), "by": a.signal} for a in alarms
        ],
        "rivals": "all"
        if len(rivals) > 1
        else "river is not installed (extra 'bench'): ADWIN and Page-Hinkley are absent",
    }


def whole(stream: Stream, vectors: Any, plan: Plan, detector: Detector) -> list[Alarm]:
    """Replay the stream as it was; after each alarm the engine is refitted and a new reference taken."""
    alarms: list[Alarm] = []
    start = 0
    while start + plan.before + plan.window <= len(stream):
        rows = np.arange(start, len(stream))
        frame = score(stream.take(rows), None if vectors is None else vectors[rows], plan.train)
        alarm = detector(frame[: plan.reference], frame[plan.reference :], start)
        if alarm is None:
            break
        at = start + plan.before + alarm.row
        alarms.append(Alarm(at, alarm.signal))
        start = at - plan.train
    return alarms


def _check(stream: Stream, plan: Plan) -> None:
    if len(stream) < plan.before + 2 * plan.window:
        raise StreamInvalid(
            f"the stream has {len(stream)} rows, expected at least {plan.before + 2 * plan.window}: "
            f"{plan.train} to fit, {plan.reference} as reference and two windows of {plan.window}"
        )
    for change in plan.changes:
        if not plan.before <= change.row <= len(stream) - plan.window:
            raise StreamInvalid(
                f"change {change.name!r} is at row {change.row}, expected {plan.before} to "
                f"{len(stream) - plan.window}: engine and reference come from the rows before it"
            )


def _shuffles(
    stream: Stream, vectors: Any, plan: Plan, rivals: Sequence[Rival], progress: Progress
) -> dict[str, list[int]]:
    """Return for each detector the place of the first silent setting of each A/A replay.

    Less sensitive settings than one that stays silent stay silent too.
    """
    settled: dict[str, list[int]] = {name: [] for name in (OURS, *(rival.name for rival in rivals))}
    for seed in range(plan.seeds):
        silent = sum(at < len(SETTINGS) for at in settled[OURS])
        progress(0.8 * seed / plan.seeds, f"A/A shuffle {seed + 1} of {plan.seeds}, {silent} silent so far")
        rows = np.random.default_rng([seed, 7]).permutation(len(stream))
        frame = score(stream.take(rows), None if vectors is None else vectors[rows], plan.train)
        reference, live = frame[: plan.reference], frame[plan.reference :]
        settled[OURS].append(
            _first_silent(first_alarms(plan.budget, plan.persistence, SETTINGS, reference, live, seed))
        )
        for rival in rivals:
            detectors = (rival.detector(setting, plan.window) for setting in rival.settings)
            settled[rival.name].append(_first_silent(detector(reference, live, seed) for detector in detectors))
    return settled


def _first_silent(alarms: Iterable[Alarm | None]) -> int:
    """Return the place of the first setting without an alarm, or one past the last; asks for no more than it needs."""
    place = 0
    for alarm in alarms:
        if alarm is None:
            break
        place += 1
    return place


def _share(settings: Sequence[float], setting: float | None, settled: Sequence[int]) -> float | None:
    return None if setting is None else sum(at <= settings.index(setting) for at in settled) / len(settled)


def _two_settings(
    settings: Sequence[float], default: float, settled: Sequence[int], kind: str
) -> list[tuple[float | None, str]]:
    """Return a detector's default, and its most sensitive setting that is silent in ``TARGET`` of the replays."""
    equal = next((s for s in settings if (_share(settings, s, settled) or 0) >= TARGET), None)
    return [(default, kind), (equal, EQUAL)]


def _entry(
    name: str, parameter: str, setting: float | None, kind: str, silent: float | None, plan: Plan
) -> dict[str, Any]:
    return {
        "detector": name,
        "kind": kind,
        "parameter": parameter,
        "setting": setting,
        "silent_share": silent,
        "replays": plan.seeds,
        "changes": [],
    }


def _standing_start(stream: Stream, vectors: Any, plan: Plan, change: Change) -> tuple[Any, Any]:
    """Fit and take the reference from the rows just before a change, and watch from its first row on."""
    rows = np.arange(change.row - plan.before, _end(stream, plan, change))
    frame = score(stream.take(rows), None if vectors is None else vectors[rows], plan.train)
    return frame[: plan.reference], frame[plan.reference :]


def _end(stream: Stream, plan: Plan, change: Change) -> int:
    return min(len(stream), change.row + plan.horizon)


def _never(reference: Any, live: Any, seed: int) -> Alarm | None:
    return None
