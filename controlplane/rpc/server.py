"""The control plane's gRPC server."""

from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from controlplane.loop.deployment import Deployment
from controlplane.rpc.access import AccessInterceptor, access_file_refused
from controlplane.rpc.control import ControlService
from controlplane.rpc.governance import GovernanceService
from controlplane.rpc.learning import LearningService
from controlplane.rpc.observe import ObserveService
from controlplane.rpc.traffic import PlanBell, TrafficService
from protos import control_pb2_grpc, governance_pb2_grpc, learning_pb2_grpc, observe_pb2_grpc, traffic_pb2_grpc
from protos.contract.access import AccessFile

GRACE_S = 2.0
MOST_BYTES = 16 << 20  # a ledger page or a plan with its approvals


class ControlServer:
    """Every service on one port."""

    def __init__(self, deployment: Deployment, in_thread: Callable[..., Any], bell: PlanBell) -> None:
        sizes = [("grpc.max_send_message_length", MOST_BYTES), ("grpc.max_receive_message_length", MOST_BYTES)]
        self._settings = settings = deployment.settings
        guards = []
        if settings.access is not None:
            guards = [AccessInterceptor(AccessFile(settings.access, access_file_refused))]
        self._server = grpc.aio.server(options=sizes, interceptors=guards)
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
        settings = self._settings
        if settings.tls_key is None or settings.tls_certificate is None:
            port = self._server.add_insecure_port(address)
        else:
            ca = settings.tls_client_ca
            credentials = grpc.ssl_server_credentials(
                [(settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())],
                root_certificates=None if ca is None else ca.read_bytes(),
                require_client_auth=ca is not None,
            )
            port = self._server.add_secure_port(address, credentials)
        await self._server.start()
        return int(port)

    async def stop(self) -> None:
        """End every call."""
        await self._server.stop(GRACE_S)
