"""The control plane's gRPC server."""

from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from controlplane.loop.deployment import Deployment
from controlplane.rpc.control import ControlService
from controlplane.rpc.governance import GovernanceService
from controlplane.rpc.learning import LearningService
from controlplane.rpc.observe import ObserveService
from controlplane.rpc.traffic import PlanBell, TrafficService
from protos import control_pb2_grpc, governance_pb2_grpc, learning_pb2_grpc, observe_pb2_grpc, traffic_pb2_grpc

GRACE_S = 2.0
MOST_BYTES = 16 << 20  # a ledger page or a plan with its approvals


class ControlServer:
    """Every service on one port."""

    def __init__(self, deployment: Deployment, in_thread: Callable[..., Any], bell: PlanBell) -> None:
        sizes = [("grpc.max_send_message_length", MOST_BYTES), ("grpc.max_receive_message_length", MOST_BYTES)]
        self._server = grpc.aio.server(options=sizes)
        traffic = TrafficService(deployment, in_thread, bell)
        control = ControlService(deployment, in_thread)
        governance = GovernanceService(deployment, in_thread)
        governance_pb2_grpc.add_GovernanceServiceServicer_to_server(governance, self._server)  # type: ignore[no-untyped-call]
        traffic_pb2_grpc.add_TrafficServiceServicer_to_server(traffic, self._server)  # type: ignore[no-untyped-call]
        control_pb2_grpc.add_ControlServiceServicer_to_server(control, self._server)  # type: ignore[no-untyped-call]
        learning = LearningService(deployment, in_thread)
        learning_pb2_grpc.add_LearningServiceServicer_to_server(learning, self._server)  # type: ignore[no-untyped-call]
        observe = ObserveService(deployment, in_thread)
        observe_pb2_grpc.add_ObserveServiceServicer_to_server(observe, self._server)  # type: ignore[no-untyped-call]

    async def start(self, address: str) -> int:
        """Listen and return the port; raises RuntimeError when the address cannot be had."""
        port = self._server.add_insecure_port(address)
        await self._server.start()
        return int(port)

    async def stop(self) -> None:
        """End every call."""
        await self._server.stop(GRACE_S)
