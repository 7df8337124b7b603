"""What one foreign protocol has to provide: the contract of ``gateway/engines/remote_*.py``.

An adapter speaks its protocol and nothing else. ``gateway/engines/remote.py`` does for all of them
what does not depend on it: deadlines, health, limits, calibration and the check of what comes back.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.domain.capabilities import Capabilities, Constraint, Health
from protos.contract.probe import Probe
from protos.contract.task import TaskSpec


class EngineProblem(Exception):
    """Why an engine did not answer.

    EngineProblem
    ├── Unreachable     nothing was started: another replica may answer
    │   └── Forgotten   the server is there, and has not what the bundle was loaded with
    ├── Busy            the engine has no room
    ├── OutOfTime       the deadline passed in the engine
    ├── InputRefused    this input cannot be answered, by anybody of this kind
    └── Broken          the engine failed, or its answer breaks its contract
    """


class Unreachable(EngineProblem):
    """No connection, or the server says it is not there."""


class Forgotten(Unreachable):
    """The server has no model or adapter of that name; it had when the bundle was loaded."""


class Busy(EngineProblem):
    """The server refuses more work for now."""


class OutOfTime(EngineProblem):
    """The server gave up when the deadline passed."""


class InputRefused(EngineProblem):
    """The server finds this request wrong, such as a prompt that is too long."""


class Broken(EngineProblem):
    """The server failed, or what it answered is not an answer."""


@dataclass(frozen=True, slots=True)
class Served:
    """A bundle as an adapter sees it.

    Attributes:
        settings: The manifest's ``engine`` table.
        answers: What the model writes for each label, in label order; empty where labels are not tokens.
        answer_ids: The one token of each answer.
        encode: Text to token ids by the bundle's own tokenizer; None where the engine reads text.
        decode: The way back.
        probes: Recorded texts it must still answer alike before it may serve.
        vocabulary: How many tokens there are; 0 where the engine reads text.
    """

    digest: str
    task: TaskSpec
    settings: Mapping[str, Any]
    answers: tuple[str, ...] = ()
    answer_ids: tuple[int, ...] = ()
    encode: Callable[[str], Sequence[int]] | None = None
    decode: Callable[[Sequence[int]], str] | None = None
    probes: tuple[Probe, ...] = ()
    vocabulary: int = 0


@dataclass(frozen=True, slots=True)
class ScoreJob:
    """One text to score, tokenised where the bundle has a tokenizer."""

    id: str
    served: Served
    text: str
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerateJob:
    """One text to go on from."""

    id: str
    served: Served
    text: str
    max_tokens: int
    token_ids: tuple[int, ...] = ()
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class LabelScores:
    """What an engine says of one text.

    Attributes:
        values: One a label, in label order: log-probabilities, or logits where ``is_logits``.
        is_bounded: Some label was outside the engine's best few; its value is the highest it can have.
        vocabulary_mass: What the labels hold of the next token's probability; None where unknown.
        prompt_tokens, queue_us, engine_us: As far as the server tells; 0 where it does not.
        batch_size: Texts in the request that asked.
    """

    values: tuple[float, ...]
    is_logits: bool = False
    is_bounded: bool = False
    vocabulary_mass: float | None = None
    is_truncated: bool = False
    prompt_tokens: int = 0
    queue_us: int = 0
    engine_us: int = 0
    batch_size: int = 1


@dataclass(frozen=True, slots=True)
class Piece:
    """Some generated text and how many tokens there are so far."""

    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Identity:
    """What a server calls a bundle's model and itself, as far as it tells: its own word, checked by nobody."""

    model: str = ""
    model_version: str = ""
    server: str = ""
    server_version: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a remote engine is and how to get in.

    Attributes:
        address: ``host:port`` for gRPC, a URL for HTTP.
        token: Sent as a bearer token; empty: none.
        ca: PEM of the authority that signed the server's certificate; None: plaintext for gRPC.
        connections: Connections kept open; calls spread over them.
    """

    address: str
    token: str = ""
    ca: bytes | None = None
    connections: int = 1


class RemoteEngine(Protocol):
    """One server reached by one protocol."""

    async def health(self) -> Health:
        """Ask the server; never raises for a server that is away."""

    async def load(self, served: Served) -> Capabilities:
        """Check that the server can answer for a bundle, and have it load what it can.

        Raises:
            BundleRefused: The bundle's settings, the server's model or its labels do not fit.
            EngineProblem: The server could not be asked.
        """

    async def missing(self, bundles: Collection[str]) -> Mapping[str, str]:
        """Say which of these loaded bundles the server cannot answer for any more, and why, as far as it tells."""

    async def identify(self, served: Served) -> Identity:
        """Ask the server what it calls a loaded bundle's model and itself. Raises EngineProblem."""

    async def unload(self, served: Served) -> None:
        """Have the server forget what ``load`` made it keep."""

    async def score(self, job: ScoreJob, timeout_s: float) -> LabelScores:
        """Score one text; cancelling the coroutine aborts it in the server. Raises EngineProblem."""

    def generate(self, job: GenerateJob, timeout_s: float) -> AsyncIterator[Piece]:
        """Stream text; closing the iterator aborts it in the server. Raises EngineProblem."""

    async def close(self) -> None:
        """Close every connection."""
