"""Envoy's configuration: one listener that faces strangers, and one cluster, which is this process."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.rpc.introduced import NAMES
from gateway.rpc.local import LOCAL, LOCAL_CALLS
from gateway.rpc.status import BUSY
from gateway.rpc.tls import Tls
from gateway.rpc.wire import ARRIVED

ACTIVE = "http.grpc.downstream_rq_active"
REFUSED = "cluster.gateway.upstream_rq_pending_overflow"  # for want of room
MODULE = "type.googleapis.com/envoy.extensions"
MAX_MESSAGE_OVERHEAD = 64 * 1024
STREAM_WINDOW = 64 * 1024
CONNECTION_WINDOW = 1024 * 1024
ANSWERS_WINDOW = 64 * 1024 * 1024  # between us and Envoy, for all streams together
MOST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Listen:
    """Where and how to listen. Limits follow Envoy's advice for edges that face strangers.

    ``is_tcp``: Envoy ends TLS and passes connections on, not calls; ``http2_limits.STRANGER`` holds there.
    """

    address: str
    max_message_bytes: int
    tls: Tls | None = None
    max_streams: int = 128
    max_calls: int = 128
    max_connections: int = 2_000
    max_header_kb: int = 16
    idle_s: int = 300
    max_age_s: int = 300
    max_heap_bytes: int = 1 << 30
    is_tcp: bool = False


def bootstrap(listen: Listen, admin: Path, served: Path, tls: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write Envoy's configuration: one listener, and one cluster, which is us on the socket ``served``.

    Args:
        tls: The listener's transport socket.
    """
    return {
        # Envoy asks for these names where secrets are followed; nobody reads them.
        "node": {"id": "gateway", "cluster": "interlock"},
        # Counting what nobody reads is a thirtieth of what Envoy spends on a call.
        "stats_config": {"stats_matcher": {"inclusion_list": {"patterns": [{"exact": ACTIVE}, {"exact": REFUSED}]}}},
        "admin": {"address": {"pipe": {"path": str(admin), "mode": 0o600}}},
        "overload_manager": _overload(listen),
        # A connection whose streams are mostly reset at once is closed (CVE-2023-44487).
        "layered_runtime": {
            "layers": [
                {
                    "name": "limits",
                    "static_layer": {
                        "overload.premature_reset_total_stream_count": 500,
                        "overload.premature_reset_min_stream_lifetime_seconds": 1,
                    },
                }
            ]
        },
        "static_resources": {"listeners": [_listener(listen, tls)], "clusters": [_cluster(listen, served)]},
    }


def _listener(listen: Listen, tls: dict[str, Any] | None) -> dict[str, Any]:
    host, _, port = listen.address.rpartition(":")
    filters = _passing(listen) if listen.is_tcp else _manager(listen)
    chain: dict[str, Any] = {"filters": [{"name": "gateway", "typed_config": filters}]}
    if tls is not None:
        chain["transport_socket"] = tls
        chain["transport_socket_connect_timeout"] = "5s"
    return {
        "name": "gateway",
        "address": {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}},
        # Two gateways on one port by mistake would each get a random share of the calls.
        "enable_reuse_port": False,
        # What one message needs, or Envoy answers for us before the message is whole.
        "per_connection_buffer_limit_bytes": listen.max_message_bytes + MAX_MESSAGE_OVERHEAD,
        "filter_chains": [chain],
    }


def _passing(listen: Listen) -> dict[str, Any]:
    """Pass connections on, and say whose each is where callers had to show who they are."""
    asks = listen.tls is not None and listen.tls.client_ca is not None
    said = ("%DOWNSTREAM_PEER_URI_SAN%", "%DOWNSTREAM_PEER_DNS_SAN%", "%DOWNSTREAM_PEER_SUBJECT%")
    return {
        "@type": f"{MODULE}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "gateway",
        "cluster": "gateway",
        "idle_timeout": f"{listen.idle_s}s",
        "upstream_connect_mode": "ON_DOWNSTREAM_TLS_HANDSHAKE",  # before it nobody is known; without TLS at once
        "max_early_data_bytes": listen.max_message_bytes,
        "proxy_protocol_tlvs": [
            {"type": kind, "format_string": {"text_format_source": {"inline_string": what}}}
            for kind, what in zip(NAMES, said, strict=True)
            if asks
        ],
    }


def _manager(listen: Listen) -> dict[str, Any]:
    return {
        "@type": f"{MODULE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "grpc",
        "codec_type": "HTTP2",
        "generate_request_id": False,
        "request_headers_timeout": "10s",
        "stream_idle_timeout": f"{listen.idle_s}s",
        "drain_timeout": "1s",
        "max_request_headers_kb": listen.max_header_kb,
        "common_http_protocol_options": {
            "idle_timeout": f"{listen.idle_s}s",
            "max_connection_duration": f"{listen.max_age_s}s",
            "max_headers_count": 100,
        },
        "http2_protocol_options": {
            "max_concurrent_streams": listen.max_streams,
            "initial_stream_window_size": STREAM_WINDOW,
            "initial_connection_window_size": CONNECTION_WINDOW,
            "override_stream_error_on_invalid_http_message": True,
        },
        # Without a verified certificate nobody may name one: the header is taken off.
        "forward_client_cert_details": "SANITIZE_SET" if listen.tls and listen.tls.client_ca else "SANITIZE",
        "set_current_client_cert_details": {"subject": True, "uri": True, "dns": True},
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "gateway",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"prefix": LOCAL}, "route": {**_ROUTE, "priority": "HIGH"}},
                        {"match": {"prefix": "/"}, "route": _ROUTE},
                    ],
                    # What a call waits for us is time of the caller's; written over whatever the caller says of it.
                    "request_headers_to_add": [_header(ARRIVED.decode(), "%START_TIME(%S%3f)%")],
                }
            ]
        },
        "http_filters": [_ROUTER],
        "local_reply_config": {"mappers": [_REFUSED]},
    }


def _cluster(listen: Listen, served: Path) -> dict[str, Any]:
    how = _with_header() if listen.is_tcp else _as_calls(listen)
    return {
        "name": "gateway",
        "type": "STATIC",
        "connect_timeout": "5s",
        **how,
        "load_assignment": {
            "cluster_name": "gateway",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(served)}}}}]}],
        },
    }


def _with_header() -> dict[str, Any]:
    inner = {
        "name": "envoy.transport_sockets.raw_buffer",
        "typed_config": {"@type": f"{MODULE}.transport_sockets.raw_buffer.v3.RawBuffer"},
    }
    outer = {
        "@type": f"{MODULE}.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
        "config": {"version": "V2", "pass_through_tlvs": {"match_type": "INCLUDE", "tlv_type": list(NAMES)}},
        "transport_socket": inner,
    }
    return {
        "circuit_breakers": {"thresholds": [{"max_connections": MOST, "max_pending_requests": MOST}]},
        "transport_socket": {"name": "envoy.transport_sockets.upstream_proxy_protocol", "typed_config": outer},
    }


def _as_calls(listen: Listen) -> dict[str, Any]:
    return {
        # What is over the limit is refused here, which costs less than a filter that every call goes through.
        "circuit_breakers": {
            "thresholds": [
                {"max_connections": MOST, "max_pending_requests": listen.max_calls, "max_requests": listen.max_calls},
                {
                    "priority": "HIGH",
                    "max_connections": MOST,
                    "max_pending_requests": LOCAL_CALLS,
                    "max_requests": LOCAL_CALLS,
                },
            ]
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{MODULE}.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": "0s"},
                "explicit_http_config": {
                    "http2_protocol_options": {
                        "hpack_table_size": 0,
                        "initial_stream_window_size": STREAM_WINDOW,
                        "initial_connection_window_size": ANSWERS_WINDOW,
                    }
                },
            }
        },
    }


_ROUTE = {"cluster": "gateway", "timeout": "0s"}


def _header(name: str, value: str) -> dict[str, Any]:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


_ROUTER = {
    "name": "envoy.filters.http.router",
    "typed_config": {
        "@type": f"{MODULE}.filters.http.router.v3.Router",
        "suppress_envoy_headers": True,  # nothing of its own may come after the time of arrival
        "dynamic_stats": False,  # looked up by name for every call, to be counted nowhere
    },
}


# Envoy itself would say UNAVAILABLE, which callers repeat at once.
_REFUSED = {
    "filter": {"response_flag_filter": {"flags": ["UO"]}},  # upstream overflow
    "headers_to_add": [
        _header("grpc-status", str(BUSY.code.value[0])),
        *(_header(*pair) for pair in BUSY.trailing),
    ],
}


def _overload(listen: Listen) -> dict[str, Any]:
    def action(name: str, threshold: float) -> dict[str, Any]:
        trigger = {"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": threshold}}
        return {"name": f"envoy.overload_actions.{name}", "triggers": [trigger]}

    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {
                "name": "envoy.resource_monitors.fixed_heap",
                "typed_config": {
                    "@type": f"{MODULE}.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                    "max_heap_size_bytes": listen.max_heap_bytes,
                },
            },
            {
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": f"{MODULE}.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": listen.max_connections,
                },
            },
        ],
        "actions": [
            action("disable_http_keepalive", 0.92),
            action("stop_accepting_requests", 0.95),
            action("stop_accepting_connections", 0.95),
        ],
    }
