"""The control plane's own metrics, each named once."""

from prometheus_client import CollectorRegistry, Counter, start_http_server

registry = CollectorRegistry()
access_refusals = Counter(
    "interlock_control_access_refusals", "Calls refused for who made them", ("reason",), registry=registry
)


def serve(port: int, address: str) -> None:
    """Answer scrapes."""
    start_http_server(port, addr=address, registry=registry)
