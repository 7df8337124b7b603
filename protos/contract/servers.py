"""Servers elsewhere as a settings file declares them: the gateway has them answer, the control plane evaluates there.

Both read the tables ``[[gateway.engines]]`` of their own settings file, and must send a bundle to the same servers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from protos.contract.bundle import Manifest
from protos.contract.engines import REMOTE_KINDS
from protos.contract.fields import FieldInvalid, Reader

TAKE_BATCHES = ("oip", "openai-http")  # kinds whose protocol takes several texts a request


class NotDeclared(Exception):
    """A bundle belongs on a server elsewhere, and none that is declared here holds it."""


@dataclass(frozen=True, slots=True)
class RemoteSettings:
    """One server.

    Attributes:
        name: In logs, metrics and evidence; each once.
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
        if is_url and "@" in urlsplit(settings.address).netloc:
            raise FieldInvalid(
                f"{where}.address has a user or password in it, expected a token in the file credentials"
            )
        if is_url != (settings.kind == "openai-http"):
            expected = "an http or https URL" if settings.kind == "openai-http" else "HOST:PORT"
            raise FieldInvalid(f"{where}.address is {settings.address!r}, expected {expected}")
        if settings.max_batch > 1 and settings.kind not in TAKE_BATCHES:
            raise FieldInvalid(f"{where}.max_batch is {settings.max_batch}, expected 1: {settings.kind} takes one text")
        return settings

    def to_json(self) -> dict[str, Any]:
        """Return the table that ``from_json`` reads, what is not set left out; of the token only the file's path."""
        table = {name: value for name, value in asdict(self).items() if value is not None}
        return {**table, "models": list(self.models)} | {
            name: str(table[name].absolute()) for name in ("credentials", "ca") if name in table
        }


def read_servers(tables: Sequence[Any], root: Path) -> tuple[RemoteSettings, ...]:
    """Read ``[[gateway.engines]]``; paths are relative to ``root``. Raises FieldInvalid."""
    found = tuple(RemoteSettings.from_json(one, f"gateway.engines[{i}]", root) for i, one in enumerate(tables))
    names = [one.name for one in found]
    if len(set(names)) != len(names):
        raise FieldInvalid(f"gateway.engines names {names}, expected each name once")
    return found


def servers_in(tables: Mapping[str, Any], root: Path) -> tuple[RemoteSettings, ...]:
    """Read the servers of a whole settings file, which may say nothing else of a gateway; raises FieldInvalid."""
    return read_servers(Reader(tables.get("gateway", {}), "gateway").items("engines", []), root)


def belongs(manifest: Manifest, kind: str, models: Sequence[str]) -> bool:
    """Say whether a bundle asks for this protocol and for a model that is there."""
    return manifest.backend == kind and (not models or manifest.engine.get("model", "") in models)


def servers_of(manifest: Manifest, declared: Sequence[RemoteSettings]) -> tuple[RemoteSettings, ...]:
    """Return the servers a bundle belongs to; none where it is for a worker.

    Raises:
        NotDeclared: It is for a server, and none of those declared holds it.
    """
    if manifest.backend not in REMOTE_KINDS:
        return ()
    found = tuple(one for one in declared if belongs(manifest, one.kind, one.models))
    if found:
        return found
    model = manifest.engine.get("model")
    what = f"{manifest.backend!r}" + (f" with model {model!r}" if model else "")
    known = "; ".join(f"{one.name} is {one.kind} for {', '.join(one.models) or 'any model'}" for one in declared)
    raise NotDeclared(
        f"bundle {manifest.digest} is for a server elsewhere, {what}, expected one declared by [[gateway.engines]] in "
        f"the settings that are used here ({known or 'they declare none'})"
    )
