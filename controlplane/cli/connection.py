"""The control plane and the gateway as the command line reaches them, and their errors as sentences."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer

from controlplane.cli.output import REFUSED, WRONG_USE, Problem
from controlplane.errors import Unusable
from protos import (
    control_pb2_grpc,
    decide_pb2_grpc,
    governance_pb2_grpc,
    learning_pb2_grpc,
    observe_pb2_grpc,
    traffic_pb2_grpc,
)
from protos.contract.attestation import KeyInvalid
from protos.contract.base import BaseInvalid
from protos.contract.bundle import BundleInvalid
from protos.contract.digest import DigestMalformed, JsonMalformed
from protos.contract.fields import FieldInvalid

TIMEOUT_S = 10.0
ControlOption = Annotated[
    str, typer.Option("--control", envvar="INTERLOCK_CONTROL", help="Address of the control plane.")
]
CONTROL = "127.0.0.1:8600"
GATEWAY = "127.0.0.1:8500"


class Control:
    """The control plane's service; every call has a time limit."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub

    def __getattr__(self, method: str) -> Any:
        return lambda request, timeout=TIMEOUT_S: getattr(self._stub, method)(request, timeout=timeout)


@contextmanager
def control_at(address: str) -> Iterator[Control]:
    """Open the control plane at an address."""
    with _channel(address) as channel:
        yield Control(control_pb2_grpc.ControlServiceStub(channel))  # type: ignore[no-untyped-call]


@contextmanager
def learning_at(address: str) -> Iterator[Control]:
    """Open the control plane's learning service at an address."""
    with _channel(address) as channel:
        yield Control(learning_pb2_grpc.LearningServiceStub(channel))  # type: ignore[no-untyped-call]


@contextmanager
def governance_at(address: str) -> Iterator[Control]:
    """Open the governance service of the control plane at an address."""
    with _channel(address) as channel:
        yield Control(governance_pb2_grpc.GovernanceServiceStub(channel))  # type: ignore[no-untyped-call]


@contextmanager
def observe_at(address: str) -> Iterator[Control]:
    """Open what the control plane has observed, at the same address."""
    with _channel(address) as channel:
        yield Control(observe_pb2_grpc.ObserveServiceStub(channel))  # type: ignore[no-untyped-call]


@contextmanager
def gateway_at(address: str) -> Iterator[Any]:
    """Open the decision service at an address."""
    with _channel(address) as channel:
        yield decide_pb2_grpc.DecisionServiceStub(channel)  # type: ignore[no-untyped-call]


@contextmanager
def local_at(address: str) -> Iterator[Control]:
    """Open what a gateway itself obeys; what goes wrong is a Problem that names the gateway."""
    try:
        with _channel(address) as channel:
            yield Control(traffic_pb2_grpc.LocalServiceStub(channel))  # type: ignore[no-untyped-call]
    except grpc.RpcError as error:
        raise Problem(f"{address}: {error.details()}", error.code().name) from error


@contextmanager
def _channel(address: str) -> Iterator[grpc.Channel]:
    with _opened(address) as channel:
        try:
            yield channel
        except grpc.RpcError as error:
            details = str(error.details())
            if error.code() is grpc.StatusCode.UNAVAILABLE and ("connect" in details.lower() or "resolv" in details):
                raise Problem(f"nothing answers at {address}: {details}", "UNAVAILABLE") from error
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise Problem(f"no answer from {address} in time: {details}", "DEADLINE_EXCEEDED") from error
            raise


def _opened(address: str) -> grpc.Channel:
    """Open a channel with what the environment says of trust: INTERLOCK_CA, INTERLOCK_TOKEN, both optional."""
    ca, token = os.environ.get("INTERLOCK_CA"), os.environ.get("INTERLOCK_TOKEN")
    if ca is None:
        channel = grpc.insecure_channel(address)
    else:
        certificate, key = os.environ.get("INTERLOCK_CERTIFICATE"), os.environ.get("INTERLOCK_KEY")
        channel = grpc.secure_channel(
            address,
            grpc.ssl_channel_credentials(
                Path(ca).read_bytes(),
                private_key=Path(key).read_bytes() if key else None,
                certificate_chain=Path(certificate).read_bytes() if certificate else None,
            ),
        )
    return grpc.intercept_channel(channel, _ShowToken(token)) if token else channel


class _ShowToken(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """Adds the bearer token to every call."""

    def __init__(self, token: str) -> None:
        self._header = ("authorization", f"Bearer {token}")

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Show the token."""
        metadata = [*(client_call_details.metadata or ()), self._header]
        return continuation(_Details(client_call_details, metadata), request)


class _Details(grpc.ClientCallDetails):  # type: ignore[misc]
    def __init__(self, given: Any, metadata: list[tuple[str, str]]) -> None:
        self.method, self.timeout, self.metadata = given.method, given.timeout, metadata
        self.credentials, self.wait_for_ready, self.compression = given.credentials, given.wait_for_ready, None


def as_problem(error: Exception) -> Problem | None:
    """Return what a user is told of an error, or None when it is a bug."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, grpc.RpcError):
        code = error.code()
        is_use = code is grpc.StatusCode.INVALID_ARGUMENT
        return Problem(str(error.details()), code.name, WRONG_USE if is_use else REFUSED)
    if isinstance(error, FieldInvalid | KeyInvalid | JsonMalformed | DigestMalformed | Unusable):
        return Problem(str(error), "INVALID_ARGUMENT", WRONG_USE)
    if isinstance(error, BundleInvalid | BaseInvalid):
        return Problem(str(error), "DATA_LOSS")
    if isinstance(error, ModuleNotFoundError):
        return Problem(f"{error.name} is not installed here; pip install 'interlock[control]'", "UNIMPLEMENTED")
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return Problem(f"{error.filename or 'input'}: {error.strerror or error}", "INVALID_ARGUMENT", WRONG_USE)
    if isinstance(error, OSError):
        return Problem(f"{error.filename or 'input'}: {error.strerror or error}", "FAILED")
    return None
