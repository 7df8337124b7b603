"""The caller's side: one deadline over all attempts, retries only where nothing was done, and a default of its own."""

import asyncio
import enum
import random
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc
import grpc.aio

from protos import decide_pb2, decide_pb2_grpc

PUSHBACK = "grpc-retry-pushback-ms"  # gRPC A6: the server says when to come again, or not at all
FIRST_WAIT_S, MOST_WAIT_S = 0.005, 0.05
LEAST_LEFT_S = 0.001  # less than this is no attempt
OPTIONS = (
    # Retrying is decided here, where the time left is known.
    ("grpc.enable_retries", 0),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


class Source(enum.Enum):
    """Who decided."""

    ENGINE = "engine"
    FALLBACK = "fallback"  # the gateway, by the specialist's rule
    DEFAULT = "default"  # this client, because no answer came in time


@dataclass(frozen=True, slots=True)
class Default:
    """What to do when the gateway gives no answer: a no-bid, a referral, a hold."""

    decision: str
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided, by whom, and how to find it again.

    Attributes:
        answer: The gateway's whole answer; None for a default.
        attempts: Calls made.
        problem: For a default, the last status and its words.
    """

    decision: str
    score: float
    source: Source
    decision_id: str
    answer: decide_pb2.DecideResponse | None
    attempts: int
    problem: str = ""


class RetryBudget:
    """Keeps retries from adding to what is wrong: none while most calls of late have failed.

    The throttle of gRPC A6: ten tokens, one less for every failure that could be retried, a tenth more for every
    answer; retries only with more than half of them left. One for all calls of a client.
    """

    MOST, PER_ANSWER = 10.0, 0.1

    def __init__(self) -> None:
        self._tokens = self.MOST

    def answered(self) -> None:
        """A call was answered."""
        self._tokens = min(self._tokens + self.PER_ANSWER, self.MOST)

    def failed(self) -> bool:
        """A call failed in a way that could be retried; returns whether it may be."""
        self._tokens = max(self._tokens - 1.0, 0.0)
        return self._tokens > self.MOST / 2


class CallRefused(Exception):
    """The gateway says that this request is wrong, so that repeating it is useless."""

    def __init__(self, status: grpc.StatusCode, message: str) -> None:
        super().__init__(f"{status.name}: {message}")
        self.status = status


# The request, not the moment, is at fault.
_MISTAKES = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
)


class Client:
    """One gateway; use from one event loop, as an async context manager. Calls share a connection."""

    def __init__(
        self, address: str, *, max_attempts: int = 3, credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        if max_attempts < 1:
            raise ValueError(f"max_attempts is {max_attempts}, expected 1 or more")
        self._max_attempts = max_attempts
        self._retries = RetryBudget()
        self._channel = (
            grpc.aio.insecure_channel(address, options=OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, options=OPTIONS)
        )
        self._stub = decide_pb2_grpc.DecisionServiceStub(self._channel)  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def decide(
        self,
        specialist: str,
        text: str = "",
        *,
        budget_s: float,
        default: Default,
        routing_key: str = "",
        decision_id: str = "",
        fields: Mapping[str, decide_pb2.Value] | None = None,
    ) -> Decision:
        """Decide within ``budget_s``, whatever happens.

        Retried are UNAVAILABLE and RESOURCE_EXHAUSTED with a pushback time: statuses that say nothing was decided;
        not when that time is over only after the budget, nor while most calls fail. Every attempt carries the same
        decision id, so that outcomes join whichever answered.

        Args:
            routing_key: Equal keys meet the same arm; empty takes the decision id.
        Raises:
            CallRefused: The request is wrong.
        """
        name = decision_id or secrets.token_hex(16)
        request = decide_pb2.DecideRequest(
            specialist=specialist,
            input=decide_pb2.Input(text=text, fields=fields or {}),
            routing_key=routing_key,
            decision_id=name,
        )
        ends = time.monotonic() + budget_s
        attempts, wait_s, problem = 0, FIRST_WAIT_S, "no time for an attempt"
        while attempts < self._max_attempts and (left_s := ends - time.monotonic()) > LEAST_LEFT_S:
            attempts += 1
            request.budget_us = min(int(left_s * 1e6), 2**32 - 1)
            try:
                answer = await self._stub.Decide(request, timeout=left_s)
            except grpc.aio.AioRpcError as error:
                if error.code() in _MISTAKES:
                    raise CallRefused(error.code(), error.details() or "") from error
                problem = f"{error.code().name}: {error.details()}"
                pause_s = _pause_s(error, wait_s)
                if pause_s is None or not self._retries.failed() or time.monotonic() + pause_s >= ends:
                    break
                await asyncio.sleep(pause_s)
                wait_s = min(2 * wait_s, MOST_WAIT_S)
                continue
            self._retries.answered()
            source = Source.FALLBACK if answer.fallback.used else Source.ENGINE
            return Decision(answer.decision, answer.score, source, name, answer, attempts)
        return Decision(default.decision, default.score, Source.DEFAULT, name, None, attempts, problem)

    async def report(
        self, specialist: str, decision_id: str, label: str, *, source: str, timeout_s: float = 1.0
    ) -> bool:
        """Report what really happened; False when it was not recorded and may be sent again."""
        request = decide_pb2.ReportOutcomeRequest(
            specialist=specialist, decision_id=decision_id, label=label, source=source
        )
        try:
            answer = await self._stub.ReportOutcome(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() in _MISTAKES:
                raise CallRefused(error.code(), error.details() or "") from error
            return False
        return bool(answer.recorded)


def _pause_s(error: grpc.aio.AioRpcError, wait_s: float) -> float | None:
    """Return how long to wait before another attempt, or None when there should be none."""
    pushback = dict(error.trailing_metadata() or ()).get(PUSHBACK)
    if pushback is not None:
        # A negative or unreadable time means: do not come again (gRPC A6).
        return int(pushback) / 1000 if str(pushback).isdigit() else None
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return wait_s * random.uniform(0.5, 1.5)  # noqa: S311 - spreads callers out
    return None
