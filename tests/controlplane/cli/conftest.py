"""Services for the command line to call, where its environment says they are."""

from collections.abc import Iterator

import pytest

from controlplane.cli import rollout, specialist
from protos import control_pb2_grpc, decide_pb2_grpc
from tests.controlplane.cli.fake import FakeControl, FakeGateway, served


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeControl]:
    fake = FakeControl()
    for module in (rollout, specialist):
        monkeypatch.setattr(module, "POLL_S", 0.0)
    with served(control_pb2_grpc.add_ControlServiceServicer_to_server, fake) as address:
        monkeypatch.setenv("INTERLOCK_CONTROL", address)
        yield fake


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGateway]:
    fake = FakeGateway()
    with served(decide_pb2_grpc.add_DecisionServiceServicer_to_server, fake) as address:
        monkeypatch.setenv("INTERLOCK_GATEWAY", address)
        yield fake
