"""Servers elsewhere behind a worker's socket, to measure bundles apart from callers: ``python -m gateway.relay``.

It speaks a worker's frames and answers them from the servers of a file of ``[[gateway.engines]]`` tables, through the
very links a gateway has. A bundle's task may give a caller little time; an evaluation asks here, in its own.
"""

import argparse
import asyncio
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import uvloop

from gateway.engines.pool import Pool
from gateway.engines.remote import RemoteLink
from gateway.engines.settings import remote_links
from gateway.serving.ports import BundleRefused, WorkerAway
from protos import engine_pb2
from protos.contract.bundle import BundleInvalid, BundleStore
from protos.contract.fields import FieldInvalid
from protos.contract.frames import PROTOCOL, FrameDecoder, FrameMalformed, encode
from protos.contract.given import Given
from protos.contract.process_log import log_to_stderr
from protos.contract.servers import RemoteSettings, read_servers

PATIENCE_S = 5.0  # for a server that should be there
SHARE = 4  # live calls keep the other three quarters of what a server's settings let be open


class Relay:
    """What every connection shares: the links, and how long a server that is away is waited for."""

    def __init__(self, declared: tuple[RemoteSettings, ...], store: BundleStore, patience_s: float) -> None:
        self.links = remote_links(declared, store)
        self._kinds = {one.name: one.kind for one in declared}
        self._pool = Pool(self.links, store.manifest)
        self._store = store
        self._patience_s = patience_s
        room = min(one.max_in_flight for one in declared)
        self.hello = engine_pb2.Hello(worker_id="relay", protocol=PROTOCOL, max_queue=max(1, room // SHARE))

    async def answer(self, frame: engine_pb2.Frame) -> engine_pb2.Frame:
        """Answer one frame; raises FrameMalformed."""
        match frame.WhichOneof("body"):
            case "load":
                return engine_pb2.Frame(loaded=await self._load(frame.load))
            case "job":
                return engine_pb2.Frame(result=await self._score(frame.job))
            case kind:
                raise FrameMalformed(f"frame {kind or 'without a body'} is not one a relay answers")

    async def _load(self, request: engine_pb2.Load) -> engine_pb2.Loaded:
        """Load a bundle on every server it belongs to that is there; one that refuses it refuses it for all."""
        digest = request.bundle_digest
        answer = engine_pb2.Loaded(id=request.id, bundle_digest=digest)
        try:
            manifest = self._store.manifest(digest)
        except BundleInvalid as error:
            answer.error = str(error)
            return answer
        links = [link for link in self.links if link.serves(manifest)]
        if not links:
            answer.error = f"bundle {digest} belongs to none of the servers here"
            return answer
        await self._until_one_is_up(links)
        # What stands in the way of one that is away is what it said last; a load there would not even begin.
        outcomes = await asyncio.gather(*[link.load(digest) for link in links], return_exceptions=True)
        if unforeseen := [e for e in outcomes if e is not None and not isinstance(e, WorkerAway | BundleRefused)]:
            raise unforeseen[0]
        ready = [link for link in links if digest in link.ready]
        refused = [str(e) for e in outcomes if isinstance(e, BundleRefused)]
        if refused or not ready:
            answer.error = "; ".join(refused or [str(e) for e in outcomes if e is not None])
            return answer
        answer.ok = True
        for link in ready:
            who = asdict(await link.identify(digest))
            answer.servers.add(engine=link.name, kind=self._kinds[link.name], **who)
        return answer

    async def _until_one_is_up(self, links: list[RemoteLink]) -> None:
        """Give the first of the servers the time to be there."""
        waits = [asyncio.ensure_future(link.connected.wait()) for link in links]
        _, waiting = await asyncio.wait(waits, timeout=self._patience_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waiting:
            wait.cancel()

    async def _score(self, job: engine_pb2.Job) -> engine_pb2.Result:
        answer = engine_pb2.Result()
        try:
            link = self._pool.pick(job.bundle_digest)
            _, future = link.submit(job.bundle_digest, Given.of(job.input), job.remaining_us, job.priority)
        except WorkerAway:
            said = "; ".join(f"{link.name}: {link.health().reason or 'it has not the bundle'}" for link in self.links)
            answer.status, answer.message = engine_pb2.RESULT_STATUS_UNKNOWN_BUNDLE, said
        else:
            found = await future
            assert isinstance(found, engine_pb2.Result)  # as remote links answer
            answer.CopyFrom(found)
        answer.id = job.id
        return answer


async def _converse(relay: Relay, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one peer's frames, each as soon as its answer is there."""

    async def one(frame: engine_pb2.Frame) -> None:
        writer.write(encode(await relay.answer(frame)))

    decoder = FrameDecoder()
    writer.write(encode(engine_pb2.Frame(hello=relay.hello)))
    try:
        async with asyncio.TaskGroup() as group:
            while data := await reader.read(1 << 16):
                for frame in decoder.feed(data):
                    group.create_task(one(frame))
    finally:
        writer.close()


async def serve(socket: Path, declared: tuple[RemoteSettings, ...], store: BundleStore, patience_s: float) -> None:
    """Serve until ended; raises FieldInvalid."""
    relay = Relay(declared, store, patience_s)  # here: channels belong to the loop they are made on
    async with asyncio.TaskGroup() as group:
        for link in relay.links:
            group.create_task(link.run())
        before = os.umask(0o177)
        try:
            server = await asyncio.start_unix_server(lambda r, w: _converse(relay, r, w), socket)
        finally:
            os.umask(before)
        async with server:
            await server.serve_forever()


def main() -> int:
    """Entry point; wrong settings exit with 2 and a sentence."""
    parser = argparse.ArgumentParser("python -m gateway.relay", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--bundles", type=Path, required=True)
    parser.add_argument("--engines", type=Path, required=True, help="JSON list of [[gateway.engines]] tables")
    parser.add_argument("--patience-s", type=float, default=PATIENCE_S, help="for a server that is away")
    chosen = parser.parse_args()
    log_to_stderr()
    try:
        declared = read_servers(json.loads(chosen.engines.read_bytes()), chosen.engines.parent.resolve())
        uvloop.run(serve(chosen.socket, declared, BundleStore(chosen.bundles), chosen.patience_s))
    except (FieldInvalid, OSError) as error:
        print(f"relay: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
