"""A server elsewhere for tests of the control plane: any OIP model that reads the label off its text."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protos import oip_pb2_grpc
from protos.contract.servers import RemoteSettings, servers_in
from protos.contract.task import TaskSpec
from tests.gateway.engines.fake_grpc import serve
from tests.gateway.engines.fake_model import MODEL, FakeModel, Refused
from tests.gateway.engines.fake_oip import FakeOip

TOKEN = "a-token-nobody-may-read"  # noqa: S105
ENGINE = {"backend": "oip", "preset": "generic", "model": MODEL}


@dataclass
class KnowsAll(FakeModel):
    """Answers a text that it knows with its label, and others with the first one; refuses one that is too long."""

    labels: tuple[str, ...] = ()
    known: dict[str, str] = field(default_factory=dict)
    longest: int = 10**6
    too_long: type[Exception] = Refused

    async def begin(self, id: str, text: str) -> None:
        await super().begin(id, text)
        if len(text) > self.longest:
            raise self.too_long(f"the text has {len(text)} characters, expected at most {self.longest}")

    @property
    def label_ids(self) -> list[int]:
        return list(range(len(self.labels)))

    def label_probabilities(self, text: str) -> list[float]:
        rest = 0.04 / (len(self.labels) - 1)
        return [0.96 if label == self.known.get(text, self.labels[0]) else rest for label in self.labels]


@dataclass
class Elsewhere:
    """The server, the model behind it, and how a settings file declares it, as values and as text."""

    servicer: FakeOip
    model: KnowsAll
    declared: tuple[RemoteSettings, ...]
    settings: str


@contextmanager
def elsewhere(root: Path, task: TaskSpec, known: dict[str, str]) -> Iterator[Elsewhere]:
    """Run one on a thread of its own; its token lies in ``root``."""
    model = KnowsAll(labels=task.labels, known=known)
    servicer, loop = FakeOip(model, "generic"), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    server, port = run(serve(oip_pb2_grpc.add_GRPCInferenceServiceServicer_to_server, servicer))
    token = root / "engine.token"
    token.touch(0o600)
    token.write_text(TOKEN)
    table = {"name": "far", "kind": "oip", "address": f"127.0.0.1:{port}", "models": [MODEL], "credentials": token.name}
    settings = "\n[[gateway.engines]]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in table.items())
    try:
        yield Elsewhere(servicer, model, servers_in({"gateway": {"engines": [table]}}, root), settings)
    finally:
        run(server.stop(0))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
