"""What answers for bundles in an evaluation: a worker started for it, or the servers elsewhere a bundle belongs to."""

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from google.protobuf.json_format import MessageToDict

from controlplane.evals.engine import WORKER, Engine, EngineFailed, Scores
from protos import decide_pb2, engine_pb2
from protos.contract.bundle import BundleInvalid, BundleStore, Manifest
from protos.contract.probe import PROBES
from protos.contract.servers import NotDeclared, RemoteSettings, servers_of
from protos.contract.task import TaskSpec

RELAY = (sys.executable, "-m", "gateway.relay")


class Engines:
    """A worker and a relay to declared servers, each started for the first bundle that needs it; ended together."""

    def __init__(
        self,
        bundles: Path,
        declared: Sequence[RemoteSettings] = (),
        command: Sequence[str] = WORKER,
        relay: Sequence[str] = RELAY,
    ) -> None:
        self._bundles = bundles
        self._store = BundleStore(bundles)
        self._declared = declared
        self._commands = {False: command, True: relay}
        self._started: dict[bool, Engine] = {}  # by whether it is the relay
        self._loaded: dict[str, Engine] = {}
        self._servers: dict[str, list[engine_pb2.Server]] = {}

    def __enter__(self) -> Self:
        self._open = contextlib.ExitStack()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def load(self, digest: str) -> None:
        """Have what a bundle belongs to load it; raises EngineFailed with its reason."""
        engine = self._engine(digest)
        self._servers[digest] = engine.load(digest)
        self._loaded[digest] = engine

    def score(
        self,
        digest: str,
        inputs: Sequence[str | decide_pb2.Input],
        window: int | None = None,
        progress: Callable[[int], None] = lambda done: None,
        task: TaskSpec | None = None,
        is_hostile: bool = False,
    ) -> Scores:
        """Score as ``Engine.score`` does, with a bundle that was loaded; raises EngineFailed."""
        return self._loaded[digest].score(digest, inputs, window, progress, task, is_hostile)

    def elsewhere_of(self, digests: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """Return what ``elsewhere`` says of models, by name; those that a worker answered for are left out."""
        return {model: about for model, digest in digests.items() if (about := self.elsewhere(digest)) is not None}

    def elsewhere(self, digest: str) -> dict[str, Any] | None:
        """Say which servers elsewhere answered for a bundle, and whose its weights are; None where a worker did.

        Raises:
            EngineFailed: A server went, or calls its model or itself something else by now.
        """
        engine = self._loaded[digest]
        if engine is not self._started.get(True):
            return None
        now, before = engine.load(digest), self._servers[digest]
        if now != before:
            raise EngineFailed(f"bundle {digest}: servers were {_shown(before)}, and are {_shown(now)} by now")
        manifest = self._store.manifest(digest)
        about: dict[str, Any] = {"backend": manifest.backend, "servers": _shown(now), "weights": _weights(manifest)}
        if preset := manifest.engine.get("preset"):
            about["preset"] = preset
        return about

    def _is_elsewhere(self, digest: str) -> bool:
        try:
            return bool(servers_of(self._store.manifest(digest), self._declared))
        except NotDeclared as error:
            raise EngineFailed(str(error)) from error
        except BundleInvalid:  # the worker knows best what is wrong with it
            return False

    def _engine(self, digest: str) -> Engine:
        is_elsewhere = self._is_elsewhere(digest)
        if is_elsewhere not in self._started:
            command = list(self._commands[is_elsewhere])
            if is_elsewhere:
                scratch = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="interlock-eval-")))
                tables = scratch / "engines.json"
                tables.write_text(json.dumps([one.to_json() for one in self._declared]))
                command += ["--engines", str(tables)]
            self._started[is_elsewhere] = self._open.enter_context(Engine(self._bundles, command))
        return self._started[is_elsewhere]


def _shown(servers: Sequence[engine_pb2.Server]) -> list[dict[str, str]]:
    return [MessageToDict(one, preserving_proto_field_name=True) for one in servers]


def _weights(manifest: Manifest) -> str:
    """Say in a sentence what the bundle's digest vouches for, and what not."""
    held = "no recorded answers hold the server to them"
    if PROBES in manifest.files:
        held = "only its recorded answers, which had to come back alike, hold the server to them"
    return (
        f"The weights are the server's: nobody here hashed them, the bundle's digest does not cover them, and {held}."
    )
