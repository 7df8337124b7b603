"""MLServer, Triton and KServe themselves, through the same adapter as their stand-ins."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from controlplane.evals.engines import Engines
from gateway.engines.remote import RemoteLink
from gateway.serving.ports import BundleRefused
from perf.peers import kserve, label_models, mlserver, triton
from perf.peers.peer import Peer
from perf.request import MODEL
from protos import engine_pb2
from protos.contract.bundle import BundleStore
from protos.contract.given import Given
from protos.contract.servers import read_servers
from protos.decide_pb2 import Input
from tests.batteries.engines import make_engine
from tests.batteries.real_servers import running
from tests.tasks import TASK

START_S = 60.0
MINUTE_US = 60_000_000
OK = engine_pb2.RESULT_STATUS_OK
ERROR = engine_pb2.RESULT_STATUS_ENGINE_ERROR


@pytest.mark.parametrize("max_batch", [1, 16], ids=["one text a request", "gathered"])
@pytest.mark.parametrize("peer", [mlserver.PEER, triton.PEER, kserve.PEER], ids=lambda peer: peer.name)
def test_a_real_server_keeps_the_contract(peer: Peer, max_batch: int, tmp_path: Path) -> None:
    preset = label_models.PRESETS[peer.name]

    async def story(port: int) -> None:
        store = BundleStore(tmp_path / "bundles")

        def bundle(**changes: object) -> str:
            engine = {"backend": "oip", "preset": preset, "model": MODEL, **changes}
            return store.add(task=TASK, engine=engine, contents={}, base={}, lineage={}).digest

        link = RemoteLink(
            make_engine("oip", port, max_batch),
            name=peer.name,
            kind="oip",
            models=(),
            store=store,
            max_in_flight=64,
            health_interval_s=0.1,
        )
        task = asyncio.create_task(link.run())
        try:
            async with asyncio.timeout(START_S):
                await link.connected.wait()
            good = bundle()
            async with asyncio.timeout(START_S):
                while good not in link.ready:  # the server is up before its model is
                    try:
                        await link.load(good)
                    except BundleRefused:
                        await asyncio.sleep(0.1)

            async def ask(text: str) -> engine_pb2.Result:
                return await link.submit(good, Given.of_text(text), MINUTE_US, engine_pb2.PRIORITY_LIVE)[1]

            texts = ["x" * n for n in range(1, 21)]
            results = await asyncio.gather(*map(ask, texts))
            assert {result.batch_size for result in results} == ({1} if max_batch == 1 else {16, 4})
            for text, result in zip(texts, results, strict=True):
                assert result.status == OK, result.message
                first = (len(text) % 10 + 1) / 12
                assert list(result.probabilities) == pytest.approx([first, 1 - first], abs=1e-5)
            for text in ("please fail", "please nan"):
                assert (await ask(text)).status == ERROR
            with pytest.raises(BundleRefused, match="missing"):
                await link.load(bundle(model="missing"))
            if peer is triton.PEER:  # the others' models declare no tensors
                with pytest.raises(BundleRefused, match="has outputs"):
                    await link.load(bundle(output="other"))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    with running(peer, tmp_path / "server", lambda folder: label_models.place(peer, folder)) as server:
        asyncio.run(asyncio.wait_for(story(server.port), 3 * START_S))
        _check_evaluation(peer, tmp_path / "bundles", server.port, max_batch)


def _check_evaluation(peer: Peer, bundles: Path, port: int, max_batch: int) -> None:
    """Hold an evaluation to the same answers, and to the names the server goes by."""
    engine = {"backend": "oip", "preset": label_models.PRESETS[peer.name], "model": MODEL}
    digest = BundleStore(bundles).add(task=TASK, engine=engine, contents={}, base={}, lineage={}).digest
    table = {"name": "far", "kind": "oip", "address": f"127.0.0.1:{port}", "max_batch": max_batch}
    with Engines(bundles, read_servers([table], bundles)) as engines:
        engines.load(digest)
        scores = engines.score(digest, [Input(text="x" * n) for n in range(1, 21)])
        about = engines.elsewhere(digest)
    firsts = [(n % 10 + 1) / 12 for n in range(1, 21)]
    assert scores.probabilities == pytest.approx(np.array([[p, 1 - p] for p in firsts]), abs=1e-5)
    assert about is not None
    (server,) = about["servers"]
    assert (server["engine"], server["model"], server["server"]) == ("far", MODEL, peer.name)
    assert server["server_version"]
