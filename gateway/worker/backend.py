"""What runs a model: what a backend is, and which there are."""

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from protos import decide_pb2, engine_pb2
from protos.contract.base import BaseStore
from protos.contract.bundle import Bundle

if TYPE_CHECKING:
    from gateway.worker.transformers.residency import Residency

Logits = Sequence[Sequence[float] | NDArray[np.float32]] | NDArray[np.float32]


class BackendFailed(Exception):
    """A model could not be loaded, or gave an answer that breaks its contract."""


class ConstraintInvalid(BackendFailed):
    """What a text is to be held to is no constraint, or takes more work than one may: the asker's mistake."""


class BackendGone(BackendFailed):
    """The engine under a backend is dead: no bundle on it will be answered again until it is loaded anew."""


class NoRoom(BackendFailed):
    """Every place for an adapter on a base is in use. ``base`` begins the group of every bundle on it."""

    def __init__(self, problem: str, base: str) -> None:
        super().__init__(problem)
        self.base = base


@dataclass(frozen=True, slots=True)
class Residents:
    """A base on the device and what is on it; bytes of its own weights, and of adapters and prefixes."""

    name: str
    bundles: int
    bytes: int
    extra_bytes: int
    adapters: int
    adapters_in_use: int
    max_adapters: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """A text ready for the device. ``data`` is the backend's own."""

    tokens: int
    truncated: bool
    data: Any


@dataclass(frozen=True, slots=True)
class Scores:
    """What a model says of a batch.

    Attributes:
        logits: One row each, shape [labels of its task]; only differences within a row count.
        vocabulary_mass: Share of the next token's probability that the labels hold, one a row;
            empty where the model has no vocabulary or not all of it was computed.
        reasons: (field, its part of the score label's log odds) a row, the strongest first; empty
            where the model cannot take its answers apart.
        bounded: Whether some label of a row was outside the model's best few, and has its bound; empty for no.
        problems: Why a row has no answer, empty text for none; all empty where none failed alone.
    """

    logits: Logits
    vocabulary_mass: Sequence[float] = ()
    reasons: Sequence[tuple[tuple[str, float], ...]] = ()
    bounded: Sequence[bool] = ()
    problems: Sequence[str] = ()


class Backend(Protocol):
    """One loaded model. ``prepare`` runs on the event loop, the rest on the device's thread."""

    @property
    def resident_bytes(self) -> int:
        """Memory the model holds, roughly."""

    def prepare(self, text: str) -> Prepared:
        """Turn text into tokens, at most the task's ``max_tokens``."""

    def score(self, batch: Sequence[Prepared]) -> Scores:
        """Score every row."""

    def warm(self) -> None:
        """Run once, so that the first caller does not pay for it."""

    def close(self) -> None:
        """Free the model."""


@runtime_checkable
class Generates(Protocol):
    """A backend that can also write text."""

    def generate(self, text: str, max_tokens: int) -> Iterator[str]:
        """Yield text piece by piece, one token each."""


@runtime_checkable
class SharesBase(Protocol):
    """A backend whose batches may hold rows that other bundles on the same base prepared."""

    @property
    def group(self) -> str:
        """Name of the loaded base; equal for bundles that can run together."""


@runtime_checkable
class Constrains(Protocol):
    """A backend that can hold what it writes to a constraint of the request's own."""

    def generate_within(self, text: str, max_tokens: int, constraint: decide_pb2.Constraint) -> Iterator[str]:
        """Yield text piece by piece; all of it together keeps the constraint unless ``max_tokens`` ends it."""


@runtime_checkable
class Describes(Protocol):
    """A backend that can do more than score, or scores less than exactly, and says so."""

    def capabilities(self) -> engine_pb2.Capabilities:
        """Say what; a field left empty means what the bundle's manifest or a plain scorer means."""


@runtime_checkable
class Instant(Protocol):
    """A backend that may cost nothing; ``score`` then runs on the event loop."""

    @property
    def is_instant(self) -> bool:
        """Whether it never waits and computes next to nothing."""


@dataclass(frozen=True, slots=True)
class Host:
    """What a worker lends its backends.

    Attributes:
        threads: CPU threads one inference may use.
        bases: Where base models are, for bundles that refer to one.
        max_rank: Highest rank of a LoRA adapter.
        max_adapters: Most adapters on one base.
    """

    threads: int = 1
    bases: BaseStore = field(default_factory=lambda: BaseStore(Path("bases")))
    max_rank: int = 64
    max_adapters: int = 8
    _residency: "list[Residency]" = field(default_factory=list)

    @property
    def residency(self) -> "Residency":
        """The bases and adapters that bundles share."""
        if not self._residency:
            from gateway.worker.transformers.residency import Residency

            self._residency.append(Residency(self.max_adapters))
        return self._residency[0]

    def residents(self) -> list[Residents]:
        """Describe the bases that bundles share; none are where nothing needed one."""
        return self._residency[0].residents() if self._residency else []


def _openvino(bundle: Bundle, host: Host) -> Backend:
    if bundle.manifest.engine.get("writes"):
        from gateway.worker.openvino_writer import OpenVinoWriter

        return OpenVinoWriter(bundle, host.threads)
    from gateway.worker.openvino import OpenVinoBackend

    return OpenVinoBackend(bundle, host.threads)


def _simulator(bundle: Bundle, host: Host) -> Backend:
    from gateway.worker.simulator import SimulatorBackend

    return SimulatorBackend(bundle)


def _transformers(bundle: Bundle, host: Host) -> Backend:
    from gateway.worker.transformers.backend import open_backend

    return open_backend(bundle, host)


def _additive(bundle: Bundle, host: Host) -> Backend:
    from gateway.worker.classical import AdditiveBackend

    return AdditiveBackend(bundle)


def _trees(bundle: Bundle, host: Host) -> Backend:
    from gateway.worker.classical import TreesBackend

    return TreesBackend(bundle)


def _tensorrt_llm(bundle: Bundle, host: Host) -> Backend:
    from gateway.worker.tensorrt_llm.backend import open_backend

    return open_backend(bundle, host)


# Imported when first used: a worker that serves one backend needs no other's libraries.
BACKENDS: Mapping[str, Callable[[Bundle, Host], Backend]] = {
    "additive": _additive,
    "openvino": _openvino,
    "simulator": _simulator,
    "tensorrt_llm": _tensorrt_llm,
    "transformers": _transformers,
    "trees": _trees,
}
NEEDS: Mapping[str, tuple[str, ...]] = {
    "additive": (),
    "openvino": ("openvino", "tokenizers"),
    "simulator": (),
    "tensorrt_llm": ("tensorrt_llm", "tokenizers", "safetensors"),
    "transformers": ("torch", "transformers", "tokenizers", "safetensors", "llguidance"),
    "trees": (),
}


def installed_backends() -> list[str]:
    """Name the backends whose libraries are here."""
    return [name for name in BACKENDS if all(importlib.util.find_spec(library) for library in NEEDS[name])]
