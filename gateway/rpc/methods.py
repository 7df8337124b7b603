"""The one method table that every front serves."""

from collections.abc import Sequence

from gateway.rpc.artf import JSON_SERVICE as RTB_SERVICE
from gateway.rpc.artf import SERVICE as ARTF_SERVICE
from gateway.rpc.artf import ArtfService, Note
from gateway.rpc.decide import SERVICE as DECISION_SERVICE
from gateway.rpc.decide import DecisionService
from gateway.rpc.health import SERVICE as HEALTH_SERVICE
from gateway.rpc.health import HealthService, HealthState
from gateway.rpc.local import SERVICE as LOCAL_SERVICE
from gateway.rpc.local import LocalPlan, LocalService
from gateway.rpc.oip import SERVICE as INFERENCE_SERVICE
from gateway.rpc.oip import InferenceService
from gateway.rpc.ports import Gateway
from gateway.rpc.reflection import ReflectionService
from gateway.rpc.wire import Method
from gateway.rtb.rules import MutationRule

__all__ = ["Gateway", "build_methods"]


def build_methods(
    gateway: Gateway,
    health: HealthState,
    *,
    version: str,
    rules: Sequence[MutationRule] = (),
    network_s: float = 0.0,
    note: Note = lambda specialist, result: None,
    local: LocalPlan | None = None,
    gateway_id: str = "",
) -> tuple[Method, ...]:
    """List every method served. ``version`` is what OIP's ServerMetadata answers.

    The auction's services are served where ``rules`` give them something to say; ``local`` can be rolled back.
    """
    auction = ArtfService(gateway, rules, network_s, note).methods() if rules else ()
    services = (DECISION_SERVICE, INFERENCE_SERVICE, *((ARTF_SERVICE, RTB_SERVICE) if rules else ()))
    at_hand = LocalService(local, gateway_id).methods() if local is not None else ()
    shown = (*services, HEALTH_SERVICE, *((LOCAL_SERVICE,) if local is not None else ()))
    return (
        *DecisionService(gateway).methods(),
        *InferenceService(gateway, version).methods(),
        *auction,
        *HealthService(health, services).methods(),
        *at_hand,
        *ReflectionService(shown).methods(),
    )
