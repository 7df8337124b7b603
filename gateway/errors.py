"""What a caller may be told.

GatewayError
├── Malformed             the bytes are not the message the method reads
├── FramingBroken, MessageTooLarge, CompressionUnknown, UnknownMethod    the call itself is not gRPC as agreed
├── PromptRejected        the request breaks the specialist's schema
├── UnknownSpecialist     no such specialist, or no such version of it
├── OverrideRefused       the caller may not name a bundle, or not this one
├── UnknownService        no such service to ask the health of
├── GenerationUnsupported the specialist's engine cannot generate text
├── Overloaded            too many calls in flight
├── NoPlanYet, Draining, EngineUnavailable    nothing was started: try again
├── CallerUnknown         nobody here knows who calls
├── CallerNotAllowed      the caller may not do this
├── RollbackForbidden     an order to roll back that nobody who may has signed
├── NothingToLeave        an order to roll back from a bundle that does not serve here
├── DeadlineTooShort      refused before starting
├── DeadlinePassed        started, but time ran out
├── EngineStreamBroken    text was already sent
└── EngineFailed          the engine failed, or broke its output contract
"""


class GatewayError(Exception):
    """A fact about a call that its caller may know."""

    where: str = ""  # the part of the call it is about, such as "requests[3]"

    def at(self, where: str) -> "GatewayError":
        """Say which part of the call this is about; returns itself, to be raised."""
        self.where = where
        return self

    def __str__(self) -> str:
        message = super().__str__()
        return f"{self.where}: {message}" if self.where else message


class Malformed(GatewayError):
    """The bytes of a request are not the message its method reads."""

    def __init__(self, message_name: str) -> None:
        self.message_name = message_name
        super().__init__(f"malformed request, expected {message_name}")


class FramingBroken(GatewayError):
    """The body of a call is not length-prefixed messages, or not as many as the method reads."""


class MessageTooLarge(GatewayError):
    """A message is larger than this gateway takes; nothing of it was kept."""

    def __init__(self, size: int, most: int) -> None:
        self.size = size
        self.most = most
        super().__init__(f"message of {size} bytes, expected at most {most}")


class CompressionUnknown(GatewayError):
    """A caller compresses in a way that this gateway does not read."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        super().__init__(f"grpc-encoding is {encoding[:40]!r}, expected identity or gzip")


class UnknownMethod(GatewayError):
    """Nobody here serves the path of a call."""

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(f"unknown method {path[:200]!r}")


class PromptRejected(GatewayError):
    """The input breaks the specialist's schema; the reason names field, value and expectation."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class UnknownSpecialist(GatewayError):
    """The plan in force serves no such specialist, or not that version of it."""

    def __init__(self, specialist: str, version: str = "") -> None:
        self.specialist = specialist
        self.version = version
        super().__init__(f"unknown specialist {specialist!r}" + (f" version {version!r}" if version else ""))


class OverrideRefused(GatewayError):
    """A caller named the bundle to answer and may not, or the plan in force does not name it."""


class UnknownService(GatewayError):
    """Nobody here serves the service whose health was asked."""

    def __init__(self, service: str) -> None:
        self.service = service
        super().__init__(f"unknown service {service!r}")


class GenerationUnsupported(GatewayError):
    """The specialist decides, but its engine cannot generate text."""

    def __init__(self, specialist: str) -> None:
        self.specialist = specialist
        super().__init__(f"specialist {specialist!r} cannot generate text")


class Overloaded(GatewayError):
    """Too many calls are in flight. ``retry_after_ms`` of None asks the caller not to retry at all."""

    def __init__(self, specialist: str, retry_after_ms: int | None = None) -> None:
        self.specialist = specialist
        self.retry_after_ms = retry_after_ms
        super().__init__(f"specialist {specialist!r} is overloaded")


class NoPlanYet(GatewayError):
    """The gateway has started but has no plan to serve."""

    def __init__(self) -> None:
        super().__init__("no plan yet")


class Draining(GatewayError):
    """The gateway is stopping and starts nothing new."""

    def __init__(self) -> None:
        super().__init__("the gateway is draining")


class EngineUnavailable(GatewayError):
    """No engine of the specialist is ready; nothing was started."""

    def __init__(self, specialist: str) -> None:
        self.specialist = specialist
        super().__init__(f"no engine is ready for specialist {specialist!r}")


class DeadlineTooShort(GatewayError):
    """The time left cannot fit the work, so it was not started."""

    def __init__(self, budget_us: int, needed_us: int) -> None:
        self.budget_us = budget_us
        self.needed_us = needed_us
        super().__init__(f"budget is {budget_us} us, expected at least {needed_us} us")


class DeadlinePassed(GatewayError):
    """The work was started and did not end in time."""

    def __init__(self, budget_us: int) -> None:
        self.budget_us = budget_us
        super().__init__(f"no answer within {budget_us} us")


class EngineStreamBroken(GatewayError):
    """The engine failed after ``tokens`` tokens were sent; the whole step must start again."""

    def __init__(self, specialist: str, tokens: int) -> None:
        self.specialist = specialist
        self.tokens = tokens
        super().__init__(f"the engine of specialist {specialist!r} failed after {tokens} tokens")


class EngineFailed(GatewayError):
    """The engine failed on this input or broke its output contract. ``detail`` is for logs, not for callers."""

    def __init__(self, specialist: str, detail: str = "") -> None:
        self.specialist = specialist
        self.detail = detail
        super().__init__(f"the engine of specialist {specialist!r} failed")


class RollbackForbidden(GatewayError):
    """Nobody who may has signed this order. ``reason`` is a closed code, as of a refused plan."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(f"{reason}: {message}")


class NothingToLeave(GatewayError):
    """The bundle of a rollback does not serve here, or nothing came before it."""

    def __init__(self, bundle: str) -> None:
        self.bundle = bundle
        super().__init__(f"bundle {bundle!r} is not one that can be left here")


class CallerUnknown(GatewayError):
    """The call shows no token and no certificate of anybody who may call."""

    def __init__(self) -> None:
        super().__init__("expected a token or certificate of a known caller")


class CallerNotAllowed(GatewayError):
    """The caller is known and may not do this; what they asked for may exist or not."""

    def __init__(self) -> None:
        super().__init__("this caller may not do this")
