"""The engine contract: what the request path needs of whatever scores and writes, near or far.

A worker on this machine (``gateway/engines/link.py``) and a server elsewhere
(``gateway/engines/remote.py``) keep it alike; ``tests/batteries/test_engines.py`` holds both to it.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from gateway.domain.balance import PeakEwma
from gateway.domain.capabilities import Capabilities, Constraint, Health
from protos import engine_pb2
from protos.contract.bundle import Manifest
from protos.contract.given import Given


class WorkerAway(Exception):
    """No engine is connected that could do this, or it went away while doing it."""


class BundleRefused(Exception):
    """An engine found something wrong with a bundle; the message says what."""


class GenerationFailed(Exception):
    """An engine could not generate, or not go on; the message says why."""


class GenerationRefused(GenerationFailed):
    """What the text was to be held to cannot be kept: asking another engine is useless."""


class Result(Protocol):
    """An engine's answer: ``engine_pb2.Result``, or one that was read as a row (``protos/contract/rows.py``)."""

    @property
    def status(self) -> int:
        """A ``ResultStatus``."""

    @property
    def message(self) -> str:
        """Why it is not OK."""

    @property
    def probabilities(self) -> Sequence[float]:
        """Calibrated, in the task's label order."""

    @property
    def label(self) -> int:
        """Index into the task's labels."""

    @property
    def decision(self) -> int:
        """Index into the task's decisions."""

    @property
    def score(self) -> float:
        """Probability of the score label."""

    @property
    def truncated(self) -> bool | int:
        """Whether the input was longer than the engine reads."""

    @property
    def queue_us(self) -> int:
        """Time it waited."""

    @property
    def engine_us(self) -> int:
        """Time its batch took."""

    @property
    def batch_size(self) -> int:
        """Rows of its batch."""

    @property
    def bundle_digest(self) -> str:
        """The bundle that answered."""

    @property
    def reasons(self) -> Sequence[Any]:
        """Fields and their parts of the log-odds, the strongest first."""


class EngineLink(Protocol):
    """One engine. Bundles asked for once are loaded again whenever the engine comes back."""

    load_of_late: PeakEwma
    ready: set[str]
    generators: set[str]
    wanted: set[str]
    preloads: set[str]
    connected: asyncio.Event

    @property
    def name(self) -> str:
        """How logs and metrics call it."""

    @property
    def in_flight(self) -> int:
        """How many jobs wait for their answer."""

    async def run(self) -> None:
        """Stay connected until cancelled."""

    def serves(self, manifest: Manifest) -> bool:
        """Say whether bundles of this kind, for this model, belong here."""

    def health(self) -> Health:
        """Say whether the engine answers now."""

    def capabilities(self, bundle: str) -> Capabilities | None:
        """Say what the engine does for a bundle; None while it is not loaded."""

    async def load(self, bundle: str) -> None:
        """Verify and warm a bundle; raises WorkerAway or BundleRefused."""

    def want(self, bundle: str) -> None:
        """Load a bundle when the engine is there, without waiting."""

    def preload(self, bundle: str) -> None:
        """Have a bundle ready that no plan needs, as long as it takes no room from one that a plan does."""

    def unload(self, bundle: str) -> None:
        """Forget a bundle that no plan needs."""

    def submit(
        self, bundle: str, given: Given, remaining_us: int, priority: int
    ) -> tuple[int, "asyncio.Future[Result]"]:
        """Start one score and return its number and its answer to come; never blocks. Raises WorkerAway."""

    def cancel(self, number: int) -> None:
        """Abort one score, in the engine too; its answer is not wanted any more."""

    def generate(
        self,
        bundle: str,
        given: Given,
        remaining_us: int,
        max_tokens: int,
        constraint: Constraint | None = None,
    ) -> AsyncIterator[engine_pb2.Chunk]:
        """Stream text; aborts in the engine when the reader stops. Raises WorkerAway or GenerationFailed."""
