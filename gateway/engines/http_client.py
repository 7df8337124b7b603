"""Connections to one HTTP server: answers read whole or event by event, and what went wrong in our words."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

import aiohttp

from gateway.engines.ports import Broken, Busy, Endpoint, EngineProblem, Forgotten, InputRefused, OutOfTime, Unreachable

MAX_ANSWER_BYTES = 8 << 20
IDLE_S = 4.0  # uvicorn, under vLLM, SGLang and trtllm-serve, closes a connection that was idle for 5
NO_ROOM = '{"object":"error"'  # SGLang's scheduler refuses more; the server itself says nothing when it is not up
NOT_LOADED = "has never been loaded"  # SGLang of an adapter; it was there when its bundle was loaded
_STATUS: Mapping[int, type[EngineProblem]] = {
    400: InputRefused,
    404: Forgotten,
    413: InputRefused,
    422: InputRefused,
    408: OutOfTime,
    504: OutOfTime,
    429: Busy,
    502: Unreachable,
    503: Unreachable,
}


class HttpClient:
    """One HTTP server."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._url = endpoint.address.rstrip("/")
        self._token = endpoint.token
        self._connections = endpoint.connections
        self._ca = endpoint.ca
        self._session: aiohttp.ClientSession | None = None

    async def call(self, method: str, path: str, body: Any, timeout_s: float) -> bytes:
        """Ask once, and read the whole answer. Raises EngineProblem."""
        with _translating(timeout_s):
            timeout = aiohttp.ClientTimeout(total=timeout_s)
            async with self._open().request(method, self._url + path, json=body, timeout=timeout) as response:
                await _check_status(response, path)
                return await _read(response, path)

    async def events(self, path: str, body: Any, timeout_s: float) -> AsyncGenerator[bytes]:
        """Ask once, and give each event's data; leaving early closes the connection. Raises EngineProblem."""
        with _translating(timeout_s):
            timeout = aiohttp.ClientTimeout(total=timeout_s)
            async with self._open().post(self._url + path, json=body, timeout=timeout) as response:
                await _check_status(response, path)
                async for line in response.content:
                    if not line.startswith(b"data:"):
                        continue
                    data = line[5:].strip()
                    if data == b"[DONE]":
                        return
                    yield data

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        """Make the session on the loop that serves the calls."""
        if self._session is None:
            verify: Any = True
            if self._ca is not None:
                import ssl

                verify = ssl.create_default_context(cadata=self._ca.decode())
            headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
            connector = aiohttp.TCPConnector(limit=max(self._connections, 2), ssl=verify, keepalive_timeout=IDLE_S)
            self._session = aiohttp.ClientSession(connector=connector, headers=headers)
        return self._session


async def _read(response: aiohttp.ClientResponse, path: str) -> bytes:
    """Read a whole answer, in however many pieces it comes; raises Broken for one over the limit."""
    data = bytearray()
    async for piece in response.content.iter_any():
        data += piece
        if len(data) > MAX_ANSWER_BYTES:
            raise Broken(f"{path} answers more than {MAX_ANSWER_BYTES:,} bytes")
    return bytes(data)


async def _check_status(response: aiohttp.ClientResponse, path: str) -> None:
    if response.status < 300:
        return
    detail = " ".join((await response.content.read(2000)).decode(errors="replace").split())[:160]
    kind = _STATUS.get(response.status, Broken)
    if response.status == 503 and detail.startswith(NO_ROOM):
        kind = Busy
    elif response.status == 400 and NOT_LOADED in detail:
        kind = Forgotten
    raise kind(f"{path} answers {response.status}: {detail or 'nothing'}")


@contextlib.contextmanager
def _translating(timeout_s: float) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:  # asyncio's and aiohttp's
        raise OutOfTime(f"no answer within {timeout_s:.3g} s") from error
    except (aiohttp.ClientConnectionError, asyncio.IncompleteReadError, OSError) as error:
        raise Unreachable(str(error) or type(error).__name__) from error
    except aiohttp.ClientError as error:
        raise Broken(str(error) or type(error).__name__) from error
