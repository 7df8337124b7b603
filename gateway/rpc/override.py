"""Testers name the bundle that answers: ``interlock-override: primary``, ``candidate`` or a digest of the plan.

A call without the header goes straight to its handler. One with it is answered by a method table of its own, whose
request path assigns what was named; nothing of it is captured, mirrored, cached or counted where gates read.
"""

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self, cast

from gateway.errors import OverrideRefused
from gateway.rpc.wire import BidiStream, Call, Kind, Method, ServerStream, Unary, closing
from protos.contract.digest import DigestMalformed, digest_bytes, parse_digest
from protos.contract.fields import FieldInvalid, Reader

HEADER = "interlock-override"
TOKEN_HEADER = "authorization"  # noqa: S105 - the name of a header
BEARER = "Bearer "

Table = dict[str, Method]


@dataclass(frozen=True, slots=True)
class Testers:
    """Who may override.

    Attributes:
        identities: Names of verified client certificates, as ``Call.identity`` gives them.
        token_digests: SHA-256 digests of bearer tokens.
    """

    __test__ = False  # not a test, whatever its name looks like

    identities: tuple[str, ...] = ()
    token_digests: tuple[str, ...] = ()

    @classmethod
    def take(cls, read: Reader) -> Self:
        """Take the settings out of the gateway's table; raises FieldInvalid."""
        digests = read.texts("override_token_digests", ())
        for digest in digests:
            try:
                parse_digest(digest, "gateway.override_token_digests")
            except DigestMalformed as error:
                raise FieldInvalid(str(error)) from error
        return cls(read.texts("override_identities", ()), digests)

    def may(self, call: Call) -> bool:
        """Say whether a caller is one of them."""
        if call.identity and call.identity in self.identities:
            return True
        token = call.metadata.get(TOKEN_HEADER, "")
        if not isinstance(token, str) or not token.startswith(BEARER):
            return False
        shown = digest_bytes(token[len(BEARER) :].encode())
        return any(hmac.compare_digest(shown, digest) for digest in self.token_digests)


def with_override(
    methods: Iterable[Method], testers: Testers, build: Callable[[str], Iterable[Method]]
) -> tuple[Method, ...]:
    """Have a method table look for the header.

    Args:
        build: Makes the table of an override, by the header's value.
    """

    def handler_for(call: Call) -> Any:
        wanted = call.metadata[HEADER]
        if not testers.may(call) or not isinstance(wanted, str):
            raise OverrideRefused("this caller may not name a bundle")
        return next(method.handler for method in build(wanted) if method.path == call.path)

    def unary(plain: Unary) -> Unary:
        async def overridden(call: Call, payload: bytes) -> bytes:
            return await cast(Unary, handler_for(call))(call, payload)

        def handle(call: Call, payload: bytes) -> Awaitable[bytes]:
            return overridden(call, payload) if HEADER in call.metadata else plain(call, payload)

        return handle

    def stream(plain: Any) -> Any:
        async def overridden(call: Call, request: Any) -> AsyncIterator[bytes]:
            async with closing(handler_for(call)(call, request)) as answers:
                async for answer in answers:
                    yield answer

        def handle(call: Call, request: Any) -> AsyncIterator[bytes]:
            return overridden(call, request) if HEADER in call.metadata else plain(call, request)

        return handle

    return tuple(
        method
        if method.path.startswith("/grpc.")  # health and reflection know no specialists
        else Method(
            method.path,
            method.kind,
            unary(cast(Unary, method.handler))
            if method.kind is Kind.UNARY
            else cast(ServerStream | BidiStream, stream(method.handler)),
        )
        for method in methods
    )
