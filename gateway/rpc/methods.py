"""The one method table that every front serves."""

from gateway.rpc.decide import SERVICE as DECISION_SERVICE
from gateway.rpc.decide import DecisionService
from gateway.rpc.health import SERVICE as HEALTH_SERVICE
from gateway.rpc.health import HealthService, HealthState
from gateway.rpc.oip import SERVICE as INFERENCE_SERVICE
from gateway.rpc.oip import InferenceService
from gateway.rpc.ports import Gateway
from gateway.rpc.reflection import ReflectionService
from gateway.rpc.wire import Method

__all__ = ["Gateway", "build_methods"]


def build_methods(gateway: Gateway, health: HealthState, *, version: str) -> tuple[Method, ...]:
    """List every method served. ``version`` is what OIP's ServerMetadata answers."""
    return (
        *DecisionService(gateway).methods(),
        *InferenceService(gateway, version).methods(),
        *HealthService(health, (DECISION_SERVICE, INFERENCE_SERVICE)).methods(),
        *ReflectionService((DECISION_SERVICE, INFERENCE_SERVICE, HEALTH_SERVICE)).methods(),
    )
