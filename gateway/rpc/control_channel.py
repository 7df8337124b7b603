"""The way to the control plane: plain on one machine; beyond it with TLS, and a token or certificate."""

from pathlib import Path
from typing import Any

import grpc
import grpc.aio

# A control plane that was away for long is followed again at once: gRPC would wait up to two minutes by itself.
RECONNECT = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]


def control_channel(
    address: str, token: Path | None, ca: Path | None, certificate: Path | None = None, key: Path | None = None
) -> grpc.aio.Channel:
    """Open a channel; files are read anew each time, so that they can be renewed.

    Args:
        certificate: Names this gateway where the control plane asks for certificates; with ``key`` and ``ca``.
    """
    interceptors = [] if token is None else [_Unary(token), _Stream(token)]
    if ca is None:
        return grpc.aio.insecure_channel(address, RECONNECT, interceptors=interceptors)
    credentials = grpc.ssl_channel_credentials(
        ca.read_bytes(),
        private_key=None if key is None else key.read_bytes(),
        certificate_chain=None if certificate is None else certificate.read_bytes(),
    )
    return grpc.aio.secure_channel(address, credentials, RECONNECT, interceptors=interceptors)


class _ShowToken:
    """Adds the bearer token to every call."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _with_token(self, details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        metadata.add("authorization", f"Bearer {self._path.read_text().strip()}")
        return grpc.aio.ClientCallDetails(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
        )


# grpc.aio sorts interceptors by type and takes only the first that fits: one class for each shape of call.
class _Unary(_ShowToken, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._with_token(client_call_details), request)


class _Stream(_ShowToken, grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._with_token(client_call_details), request)
