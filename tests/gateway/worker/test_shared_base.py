"""A real worker process with a decoder: primary and candidate as adapters on one base, scores and text by frames."""

from collections.abc import Iterator
from pathlib import Path

import pytest

for needed in ("torch", "transformers", "peft", "safetensors", "tokenizers", "llguidance"):
    pytest.importorskip(needed)

from protos import engine_pb2  # noqa: E402
from protos.contract.base import BaseStore  # noqa: E402
from protos.decide_pb2 import Input  # noqa: E402
from tests.gateway.worker import tiny_models  # noqa: E402
from tests.gateway.worker.test_worker import MINUTE_US, Peer, Running, job  # noqa: E402


class Shared(Running):
    """A worker, a base in its store, and bundles of two adapters on it."""

    def __init__(self, root: Path) -> None:
        model = tiny_models.write_base(root / "model", "qwen3")
        digest = BaseStore(root / "bundles" / "bases").add("tiny", root / "model")
        super().__init__(root, "--max-adapters", "2")
        self.bundles = []
        for seed in (1, 2, 3):
            files, _ = tiny_models.adapter(model, "tiny", seed)
            manifest = self.store.add(
                task=tiny_models.DECODER_TASK,
                engine={"backend": "transformers", "head": "full", "generate": {"regex": "[a-z]{4000}"}},
                contents=files,
                base={"name": "tiny", "digest": digest},
                lineage={},
            )
            self.bundles.append(manifest.digest)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    running = Shared(tmp_path_factory.mktemp("worker"))
    yield running
    assert running.stop() == 0


def test_primary_and_candidate_are_answered_in_one_batch_each_by_its_own_adapter(shared: Shared) -> None:
    peer = Peer(shared.path)
    assert "transformers" in peer.hello.backends
    primary, candidate, _ = shared.bundles
    for digest in (primary, candidate):
        loaded = peer.load(digest)
        assert (loaded.ok, loaded.can_generate) == (True, True), loaded.error
    alone = [peer.ask(job(i, digest, "lemons tonight")) for i, digest in enumerate((primary, candidate), 1)]
    assert all(0 < result.vocabulary_mass < 1 for result in alone)
    live, canary = job(3, primary, "lemons tonight"), job(4, candidate, "lemons tonight")
    canary.job.priority = engine_pb2.PRIORITY_CANARY
    peer.send(live, canary)
    together = [peer.read().result for _ in range(2)]
    assert [(r.id, r.batch_size, r.bundle_digest) for r in together] == [(3, 2, primary), (4, 2, candidate)]
    for one, both in zip(alone, together, strict=True):
        assert list(both.probabilities) == pytest.approx(list(one.probabilities), abs=1e-4)
    assert abs(together[0].probabilities[0] - together[1].probabilities[0]) > 1e-3
    peer.send(engine_pb2.Frame(unload=engine_pb2.Unload(bundle_digest=candidate)))
    assert peer.ask(job(5, primary)).status == engine_pb2.RESULT_STATUS_OK
    assert peer.ask(job(6, candidate)).status == engine_pb2.RESULT_STATUS_UNKNOWN_BUNDLE


def test_a_constrained_text_streams_and_stops_between_two_tokens(shared: Shared) -> None:
    peer = Peer(shared.path)
    peer.load(shared.bundles[0])

    def ask(id: int, max_tokens: int) -> None:
        request = engine_pb2.GenerateJob(
            id=id,
            bundle_digest=shared.bundles[0],
            remaining_us=MINUTE_US,
            input=Input(text="x"),
            max_tokens=max_tokens,
        )
        peer.send(engine_pb2.Frame(generate=request))

    ask(1, 5)
    chunks = [peer.read().chunk for _ in range(6)]
    text = "".join(chunk.text for chunk in chunks)
    assert chunks[-1].last and chunks[-1].tokens == 5
    assert text.isalpha() and text.islower()
    ask(2, 4000)
    peer.read()
    peer.send(engine_pb2.Frame(cancel=engine_pb2.Cancel(id=2)))
    chunk = peer.read().chunk
    while not chunk.last:
        chunk = peer.read().chunk
    assert chunk.status == engine_pb2.RESULT_STATUS_CANCELLED
    assert chunk.tokens < 40


def test_a_preload_makes_room_for_what_a_plan_needs_and_takes_none(shared: Shared) -> None:
    peer = Peer(shared.path)
    needed, ready, next_needed = shared.bundles

    def load(bundle: str, *, preload: bool = False) -> engine_pb2.Frame:
        peer.send(engine_pb2.Frame(load=engine_pb2.Load(id=9, bundle_digest=bundle, preload=preload)))
        return peer.read()

    def resident() -> dict[str, bool]:
        peer.send(engine_pb2.Frame(stats_request=engine_pb2.StatsRequest()))
        stats = peer.read().stats
        (base,) = stats.bases
        assert (base.name, base.adapters, base.max_adapters, base.bundles) == ("tiny", 2, 2, len(stats.bundles))
        assert base.bytes > base.extra_bytes > 0
        return {bundle.bundle_digest: bundle.preload for bundle in stats.bundles}

    assert load(needed).loaded.ok
    assert load(ready, preload=True).loaded.ok
    assert resident() == {needed: False, ready: True}
    refused = load(next_needed, preload=True).loaded
    assert (refused.ok, "2 adapters are in use on this base" in refused.error) == (False, True)
    gone = load(next_needed)
    assert (gone.unloaded.bundle_digest, next_needed in gone.unloaded.reason) == (ready, True)
    assert peer.read().loaded.ok
    assert resident() == {needed: False, next_needed: False}
    assert peer.ask(job(21, next_needed)).status == peer.ask(job(22, needed)).status == engine_pb2.RESULT_STATUS_OK
    full = load(ready).loaded  # what plans need leaves for nothing
    assert (full.ok, "the most allowed" in full.error) == (False, True)
    assert resident() == {needed: False, next_needed: False}
