"""What callers ask and what they are told, as the request path sees it; ``serving/messages.py`` has the messages."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from protos.contract.given import Given


class Question(NamedTuple):
    """One input to decide. Empty texts and a budget of 0 mean that the caller left the choice to us."""

    specialist: str
    input: Given
    routing_key: str = ""
    decision_id: str = ""
    budget_us: int = 0
    test: bool = False


class Reason(Protocol):
    """A field that speaks for the score label, its part of the log-odds, and what a notice says of it."""

    @property
    def field(self) -> str:
        """Its name."""

    @property
    def log_odds(self) -> float:
        """Above 0."""

    @property
    def statement(self) -> str:
        """In words; empty where the bundle has none."""


class Decision(NamedTuple):
    """The answer to a question.

    Attributes:
        arm: A value of ``interlock.v1.Arm``.
        bucket: The canary draw, 0 to 9999.
        labels: The task's; ``probabilities`` are in their order, and none of a fallback.
        fallback: Why no engine had a part in it, a value of ``interlock.v1.FallbackReason``; 0: one had.
        queue_us, engine_us: The worker's, of an answer that is not ``cached``; ``total_us`` is the gateway's.
    """

    decision_id: str
    arm: int
    bundle_digest: str
    plan_generation: int
    bucket: int
    decision: str
    score: float
    label: str = ""
    labels: tuple[str, ...] = ()
    probabilities: Sequence[float] = ()
    fallback: int = 0
    queue_us: int = 0
    engine_us: int = 0
    total_us: int = 0
    truncated: bool = False
    cached: bool = False
    reasons: Sequence[Reason] = ()
