"""How an engine is made for each server that ``[[gateway.engines]]`` declares (``protos/contract/servers.py``)."""

from collections.abc import Callable, Mapping
from pathlib import Path

from gateway.engines.gathering import BatchEngine, Gathering
from gateway.engines.ports import Endpoint, RemoteEngine
from gateway.engines.remote import RemoteLink
from protos.contract.bundle import BundleStore
from protos.contract.fields import FieldInvalid
from protos.contract.servers import RemoteSettings


def endpoint_of(settings: RemoteSettings) -> Endpoint:
    """Read the files that a server's settings name; raises FieldInvalid."""
    token = ""
    if settings.credentials is not None:
        token = _read(settings.credentials, "credentials").decode(errors="replace").strip()
        if not token or any(c.isspace() for c in token):
            raise FieldInvalid(f"{settings.credentials} has no token, expected one word")
        if settings.credentials.stat().st_mode & 0o077:
            raise FieldInvalid(f"{settings.credentials} is readable by others, expected mode 600")
    ca = None if settings.ca is None else _read(settings.ca, "ca")
    return Endpoint(settings.address, token, ca, settings.connections)


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
    endpoint = endpoint_of(settings)
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
