"""One bundle made ready to answer: its model asked, its logits checked and calibrated."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gateway.worker.backend import (
    BACKENDS,
    Backend,
    BackendFailed,
    Describes,
    Generates,
    Host,
    Instant,
    Logits,
    Prepared,
    SharesBase,
)
from protos import engine_pb2
from protos.contract.base import BaseInvalid
from protos.contract.bundle import Bundle
from protos.contract.engines import check_adapter_is_read, label_logprobs_of
from protos.contract.fields import FieldInvalid
from protos.contract.head import HEAD, Head
from protos.contract.probe import ProbeFailed, check_probes, read_probes
from protos.contract.statements import read_statements
from protos.contract.task import InputInvalid, TaskSpec

FEW_ROWS = 16  # up to which plain numbers cost less than arrays


@dataclass(frozen=True, slots=True)
class Answer:
    """One row's answer: calibrated probabilities, shape [labels], or why there is none."""

    probabilities: Sequence[float]
    vocabulary_mass: float | None = None
    logprobs: Sequence[float] = ()
    problem: str = ""
    is_bounded: bool = False
    reasons: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Engine:
    """A bundle made ready: its task, its calibration and its model.

    Attributes:
        kind: The backend's name.
        can_generate: Whether the backend writes text.
        group: What its batches may be shared by; empty when nothing else can join them.
        is_instant: Whether a batch costs less than handing it to another thread would.
        score_index: Place of the task's score among its labels.
        statements: What a notice says of a field that is a reason, by field.
    """

    digest: str
    task: TaskSpec
    head: Head
    backend: Backend
    label_logprobs: str = "exact"
    kind: str = ""
    statements: Mapping[str, str] = field(default_factory=dict)
    can_generate: bool = field(init=False)
    group: str = field(init=False)
    is_instant: bool = field(init=False)
    score_index: int = field(init=False)

    def __post_init__(self) -> None:
        backend = self.backend  # asked once: asking what an object can do costs more than many a job
        object.__setattr__(self, "can_generate", isinstance(backend, Generates))
        object.__setattr__(self, "group", backend.group if isinstance(backend, SharesBase) else "")
        object.__setattr__(self, "is_instant", isinstance(backend, Instant) and backend.is_instant)
        object.__setattr__(self, "score_index", self.task.score_index)

    @property
    def capabilities(self) -> engine_pb2.Capabilities:
        """What gateways are told of this bundle's engine."""
        said = self.backend.capabilities() if isinstance(self.backend, Describes) else engine_pb2.Capabilities()
        if not said.label_logprobs:
            said.label_logprobs = self.label_logprobs
        return said

    def probabilities(self, batch: Sequence[Prepared]) -> NDArray[np.float64]:
        """Score a batch and calibrate, shape [rows, labels].

        Raises:
            BackendFailed: The model's answer has the wrong shape or is not finite.
        """
        answers = answer([self] * len(batch), batch)
        for one in answers:
            if one.problem:
                raise BackendFailed(one.problem)
        return np.stack([one.probabilities for one in answers])


def answer(engines: Sequence[Engine], batch: Sequence[Prepared]) -> list[Answer]:
    """Score rows that run together, each for its own engine, and calibrate them.

    A row whose logits are not finite is a problem of that row alone: a broken candidate beside
    its primary on one base must not take the primary's answers along.

    Raises:
        BackendFailed: The model's answer has the wrong shape.
    """
    scores = engines[0].backend.score(batch)
    masses, problems = scores.vocabulary_mass, scores.problems
    if len(scores.logits) != len(batch) or len(masses) not in (0, len(batch)):
        raise BackendFailed(f"logits have {len(scores.logits)} rows, expected {len(batch)}")
    calibrate = _one_by_one if len(batch) <= FEW_ROWS else _together
    answers = []
    for i, row in enumerate(calibrate(engines, scores.logits)):
        problem = problems[i] if len(problems) else ""
        if problem or row is None:
            answers.append(Answer((), problem=problem or "logits are not finite"))
            continue
        reasons = scores.reasons[i] if len(scores.reasons) else ()
        mass = float(masses[i]) if len(masses) else None
        logprobs = () if engines[0].is_instant else _logprobs(scores.logits[i], mass)
        is_bounded = bool(len(scores.bounded)) and scores.bounded[i]
        answers.append(Answer(row, mass, logprobs, is_bounded=is_bounded, reasons=reasons))
    return answers


def _one_by_one(engines: Sequence[Engine], logits: Logits) -> list[list[float] | None]:
    """Calibrate a few rows without arrays, whose making costs more than the rows do; None where one is not finite."""
    found: list[list[float] | None] = []
    for engine, given in zip(engines, logits, strict=True):
        _check_width(given, engine)
        row = given.tolist() if isinstance(given, np.ndarray) else given
        # The sum is finite only where all of them are, and may not be where they are.
        is_finite = math.isfinite(sum(row)) or all(map(math.isfinite, row))
        found.append(engine.head.row(row) if is_finite else None)
    return found


def _together(engines: Sequence[Engine], logits: Logits) -> list[list[float] | None]:
    """Calibrate many rows at once."""
    places: dict[str, list[int]] = {}
    for i, engine in enumerate(engines):
        places.setdefault(engine.digest, []).append(i)
    found: list[list[float] | None] = [None] * len(engines)
    for chosen in places.values():
        engine = engines[chosen[0]]
        for i in chosen:
            _check_width(logits[i], engine)
        rows = np.asarray([logits[i] for i in chosen])
        is_finite = np.isfinite(rows).all(axis=1)
        finite = [i for i, fits in zip(chosen, is_finite, strict=True) if fits]
        for i, row in zip(finite, engine.head.probabilities(rows[is_finite]).tolist() if finite else (), strict=True):
            found[i] = row
    return found


def _check_width(row: Sequence[float] | NDArray[np.float32], engine: Engine) -> None:
    width = len(engine.task.labels)
    if len(row) != width or (isinstance(row, np.ndarray) and row.ndim != 1):
        shape = row.shape if isinstance(row, np.ndarray) else (len(row),)
        raise BackendFailed(f"a row of logits has shape {shape}, expected {(width,)}")


def _logprobs(logits: Sequence[float] | NDArray[np.float32], mass: float | None) -> list[float]:
    """Return the labels' log-probabilities before calibration: among themselves, or in the whole vocabulary."""
    row = np.array(logits, dtype=np.float64)
    row -= row.max()
    row -= np.log(np.exp(row).sum())
    shifted: list[float] = (row if mass is None else row + np.log(max(mass, 1e-30))).tolist()
    return shifted


def open_engine(bundle: Bundle, host: Host) -> Engine:
    """Build, check and warm the engine of a verified bundle.

    Raises:
        BackendFailed: No such backend, settings it does not know, or a model it cannot run.
    """
    name = bundle.manifest.backend
    factory = BACKENDS.get(name)
    if factory is None:
        raise BackendFailed(f"manifest.engine.backend is {name!r}, expected one of {', '.join(BACKENDS)}")
    try:
        check_adapter_is_read(bundle.manifest.engine, bundle.manifest.files)
        given = bundle.contents.get(HEAD)
        head = Head.from_bytes(given, bundle.manifest.task) if given is not None else Head()
        statements = read_statements(bundle.contents, bundle.manifest.task)
        backend = factory(bundle, host)
    except ImportError as error:
        raise BackendFailed(f"backend {name!r} is not installed here: {error}") from error
    except (FieldInvalid, BaseInvalid, ValueError) as error:
        raise BackendFailed(str(error)) from error
    try:
        backend.warm()
    except Exception:
        backend.close()
        raise
    exactness = label_logprobs_of(bundle.manifest.engine)
    engine = Engine(bundle.digest, bundle.manifest.task, head, backend, exactness, name, statements)
    try:
        _self_test(engine, bundle)
    except Exception:
        backend.close()
        raise
    return engine


def _self_test(engine: Engine, bundle: Bundle) -> None:
    """Ask the bundle's recorded probes; raises BackendFailed when an answer has changed."""
    try:
        probes = read_probes(bundle.contents, engine.task)
        found = [engine.probabilities([engine.backend.prepare(probe.text)])[0].tolist() for probe in probes]
        check_probes(probes, found)
    except (FieldInvalid, InputInvalid, ProbeFailed) as error:
        raise BackendFailed(str(error)) from error
