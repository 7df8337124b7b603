"""Remote engines as the gateway's settings declare them, ``[[gateway.engines]]``, and how each is made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from gateway.engines.gathering import BatchEngine, Gathering
from gateway.engines.ports import Endpoint, RemoteEngine
from gateway.engines.remote import RemoteLink
from protos.contract.bundle import BundleStore
from protos.contract.engines import REMOTE_KINDS
from protos.contract.fields import FieldInvalid, Reader


@dataclass(frozen=True, slots=True)
class RemoteSettings:
    """One server.

    Attributes:
        name: In logs and metrics; each once.
        kind: Its protocol, one of REMOTE_KINDS; bundles whose ``engine.backend`` says the same belong to it.
        address: ``host:port`` for gRPC kinds, a URL for HTTP.
        credentials: File with a bearer token, and nothing else; must not be readable by others.
        ca: PEM of the authority to trust; without it gRPC goes in plaintext.
        models: Bundles for these models belong here; empty: all of the kind.
        max_in_flight: Calls open at once; more are refused here.
        connections: Connections kept open; calls spread over them.
        max_batch: Texts in one request. Above 1, ``connections`` requests are open at once; what waits goes together.
    """

    name: str
    kind: str
    address: str
    credentials: Path | None
    ca: Path | None
    models: tuple[str, ...]
    max_in_flight: int
    connections: int
    max_batch: int

    @classmethod
    def from_json(cls, value: Any, where: str, root: Path) -> Self:
        """Read and check one table; raises FieldInvalid."""
        read = Reader(value, where)

        def maybe_path(name: str) -> Path | None:
            found = read.maybe_text(name)
            return root / found if found else None

        settings = cls(
            name=read.text("name"),
            kind=read.text("kind", choices=REMOTE_KINDS),
            address=read.text("address"),
            credentials=maybe_path("credentials"),
            ca=maybe_path("ca"),
            models=read.texts("models", []),
            max_in_flight=read.integer("max_in_flight", 1, 100_000, 256),
            connections=read.integer("connections", 1, 256, 4),
            max_batch=read.integer("max_batch", 1, 1024, 1),
        )
        read.done()
        is_url = settings.address.startswith(("http://", "https://"))
        if is_url != (settings.kind == "openai-http"):
            expected = "an http or https URL" if settings.kind == "openai-http" else "HOST:PORT"
            raise FieldInvalid(f"{where}.address is {settings.address!r}, expected {expected}")
        if settings.max_batch > 1 and settings.kind not in _TAKE_BATCHES:
            raise FieldInvalid(f"{where}.max_batch is {settings.max_batch}, expected 1: {settings.kind} takes one text")
        return settings

    def endpoint(self) -> Endpoint:
        """Read the files it names; raises FieldInvalid."""
        token = ""
        if self.credentials is not None:
            token = _read(self.credentials, "credentials").decode(errors="replace").strip()
            if not token or any(c.isspace() for c in token):
                raise FieldInvalid(f"{self.credentials} has no token, expected one word")
            if self.credentials.stat().st_mode & 0o077:
                raise FieldInvalid(f"{self.credentials} is readable by others, expected mode 600")
        ca = None if self.ca is None else _read(self.ca, "ca")
        return Endpoint(self.address, token, ca, self.connections)


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FieldInvalid(f"{name} {path} cannot be read: {error.strerror}") from error


def _oip(endpoint: Endpoint) -> BatchEngine:
    from gateway.engines.remote_oip import OipEngine

    return OipEngine(endpoint)


def _openai(endpoint: Endpoint) -> BatchEngine:
    from gateway.engines.remote_openai import OpenAiEngine

    return OpenAiEngine(endpoint)


def _trtllm(endpoint: Endpoint) -> RemoteEngine:
    from gateway.engines.remote_trtllm import TrtllmEngine

    return TrtllmEngine(endpoint)


def _sglang(endpoint: Endpoint) -> RemoteEngine:
    from gateway.engines.remote_sglang import SglangEngine

    return SglangEngine(endpoint)


# Imported when first used: a gateway needs the libraries of the protocols it speaks, and no other's.
_TAKE_BATCHES: Mapping[str, Callable[[Endpoint], BatchEngine]] = {"oip": _oip, "openai-http": _openai}
_MAKE: Mapping[str, Callable[[Endpoint], RemoteEngine]] = {
    **_TAKE_BATCHES,
    "trtllm-grpc": _trtllm,
    "sglang-grpc": _sglang,
}


def make_engine(settings: RemoteSettings) -> RemoteEngine:
    """Make what speaks to a server; raises FieldInvalid for a file that cannot be read."""
    endpoint = settings.endpoint()
    if settings.max_batch == 1:
        return _MAKE[settings.kind](endpoint)
    engine = _TAKE_BATCHES[settings.kind](endpoint)
    return Gathering(engine, max_batch=settings.max_batch, max_requests=settings.connections)


def remote_links(engines: tuple[RemoteSettings, ...], store: BundleStore) -> list[RemoteLink]:
    """Make a link to every server; nothing is connected before ``run``.

    Raises:
        FieldInvalid: A file cannot be read, or a protocol's library is not installed.
    """
    links = []
    for one in engines:
        try:
            engine = make_engine(one)
        except ModuleNotFoundError as error:
            raise FieldInvalid(
                f"engine {one.name!r} of kind {one.kind!r} needs {error.name}; pip install 'interlock[remote]'"
            ) from error
        links.append(
            RemoteLink(
                engine,
                name=one.name,
                kind=one.kind,
                models=one.models,
                store=store,
                max_in_flight=one.max_in_flight,
            )
        )
    return links
