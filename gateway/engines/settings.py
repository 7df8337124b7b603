"""Remote engines as the gateway's settings declare them, ``[[gateway.engines]]``, and how each is made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

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
    """

    name: str
    kind: str
    address: str
    credentials: Path | None
    ca: Path | None
    models: tuple[str, ...]
    max_in_flight: int
    connections: int

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
        )
        read.done()
        is_url = settings.address.startswith(("http://", "https://"))
        if is_url != (settings.kind == "openai-http"):
            expected = "an http or https URL" if settings.kind == "openai-http" else "HOST:PORT"
            raise FieldInvalid(f"{where}.address is {settings.address!r}, expected {expected}")
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


def _oip(endpoint: Endpoint) -> RemoteEngine:
    from gateway.engines.remote_oip import OipEngine

    return OipEngine(endpoint)


def _openai(endpoint: Endpoint) -> RemoteEngine:
    from gateway.engines.remote_openai import OpenAiEngine

    return OpenAiEngine(endpoint)


def _trtllm(endpoint: Endpoint) -> RemoteEngine:
    from gateway.engines.remote_trtllm import TrtllmEngine

    return TrtllmEngine(endpoint)


def _sglang(endpoint: Endpoint) -> RemoteEngine:
    from gateway.engines.remote_sglang import SglangEngine

    return SglangEngine(endpoint)


# Imported when first used: a gateway needs the libraries of the protocols it speaks, and no other's.
_MAKE: Mapping[str, Callable[[Endpoint], RemoteEngine]] = {
    "oip": _oip,
    "openai-http": _openai,
    "trtllm-grpc": _trtllm,
    "sglang-grpc": _sglang,
}


def remote_links(engines: tuple[RemoteSettings, ...], store: BundleStore) -> list[RemoteLink]:
    """Make a link to every server; nothing is connected before ``run``.

    Raises:
        FieldInvalid: A file cannot be read, or a protocol's library is not installed.
    """
    links = []
    for one in engines:
        try:
            engine = _MAKE[one.kind](one.endpoint())
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
