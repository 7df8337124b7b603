"""One contract for every engine: a worker's, and every foreign protocol's, on real sockets."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.domain.capabilities import Constraint
from gateway.serving.ports import BundleRefused, EngineLink, GenerationFailed, WorkerAway
from protos import engine_pb2
from protos.contract.bundle import BundleStore
from protos.contract.engines import label_logprobs_of
from protos.contract.given import Given
from protos.contract.head import Head
from protos.contract.probe import Probe, probes_json
from tests.batteries.engines import CASES, PATIENCE_S, TOKENIZER, Rig, remote, worker
from tests.gateway.engines.fake_model import ANSWER, MODEL
from tests.tasks import TASK

OK = engine_pb2.RESULT_STATUS_OK
MINUTE_US = 60_000_000
every_remote = pytest.mark.parametrize("name", CASES)


def run(name: str, root: Path, story: Callable[[Rig], Awaitable[None]], **options: int) -> None:
    async def main() -> None:
        async with remote(name, root, **options) as rig:
            await story(rig)

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))


async def ask(link: EngineLink, bundle: str, text: str, remaining_us: int = MINUTE_US) -> engine_pb2.Result:
    _, future = link.submit(bundle, Given.of_text(text), remaining_us, engine_pb2.PRIORITY_LIVE)
    return await future


@every_remote
def test_an_engine_says_what_it_can_and_that_is_what_its_bundle_promised(name: str, tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        assert rig.link.health().is_up
        bundle = rig.bundle()
        assert rig.link.capabilities(bundle) is None
        await rig.link.load(bundle)
        await rig.link.load(bundle)  # again is harmless
        found = rig.link.capabilities(bundle)
        assert found is not None
        assert found.label_logprobs == rig.case.exactness == label_logprobs_of(rig.case.engine)
        assert found.can_generate == rig.case.generates == (bundle in rig.link.generators)
        assert found.vocabulary_mass == (rig.case.scale == "vocabulary")
        says = await rig.link.identify(bundle)
        assert says.model == MODEL
        numbers_weights = rig.case.kind in ("oip", "sglang-grpc") or rig.case.engine.get("preset") == "sglang"
        assert says.model_version == ("3" if numbers_weights else "")
        assert says.server_version == "1.2"

    run(name, tmp_path, story)


@every_remote
def test_scores_are_the_models_own_log_probabilities(name: str, tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        bundle = await rig.loaded()
        for text in ("a calm page", "an angry page", "x"):
            result = await ask(rig.link, bundle, text)
            expected = rig.expected(text)
            assert result.status == OK, result.message
            assert result.label_logprobs == pytest.approx(expected, abs=1e-4)
            powers = [math.exp(v) for v in expected]
            assert result.probabilities == pytest.approx([p / sum(powers) for p in powers], abs=1e-4)
            assert result.label == expected.index(max(expected))
            assert result.decision == rig.case.task.decide(result.probabilities)
            assert result.bundle_digest == bundle
            assert result.engine_us > 0
            assert result.bounded == (rig.case.scale == "chosen")
            if rig.case.scale == "vocabulary":
                assert result.vocabulary_mass == pytest.approx(sum(powers), abs=1e-4)
            else:
                assert not result.HasField("vocabulary_mass")

    run(name, tmp_path, story)


@every_remote
def test_many_at_once_each_get_their_own_answer(name: str, tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        bundle = await rig.loaded()
        texts = [f"page {i}" for i in range(40)]
        results = await asyncio.gather(*[ask(rig.link, bundle, text) for text in texts])
        for text, result in zip(texts, results, strict=True):
            assert result.label_logprobs == pytest.approx(rig.expected(text), abs=1e-4)
        assert rig.link.in_flight == 0

    run(name, tmp_path, story)


@every_remote
def test_calibration_and_probes_of_the_bundle_hold(name: str, tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        raw = await ask(rig.link, await rig.loaded(), "a page")
        odds = (raw.label_logprobs[1] - raw.label_logprobs[0]) / 4
        warm = 1 / (1 + math.exp(odds))
        good = Probe("a page", (warm, 1 - warm), 0.001)
        bad = Probe("a page", (1 - warm, warm), 0.001)
        head = {**TOKENIZER, "head.json": Head(temperature=4.0).to_bytes()}
        bundle = rig.bundle({**head, "probes.json": probes_json([good])})
        await rig.link.load(bundle)
        result = await ask(rig.link, bundle, "a page")
        assert result.probabilities == pytest.approx([warm, 1 - warm], abs=1e-4)
        changed = rig.bundle({**head, "probes.json": probes_json([bad])})
        if abs(warm - 0.5) > 0.01:
            with pytest.raises(BundleRefused, match="self-test 0"):
                await rig.link.load(changed)
            assert changed not in rig.link.ready

    run(name, tmp_path, story)


@every_remote
def test_weights_that_change_at_the_server_are_found_by_the_probes_and_answer_nobody(name: str, tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        rows = [list((await ask(rig.link, await rig.loaded(), text)).probabilities) for text in ("a page", "x")]
        probes = [Probe(text, tuple(row), 0.001) for text, row in zip(("a page", "x"), rows, strict=True)]
        bundle = rig.bundle({**TOKENIZER, "probes.json": probes_json(probes)})
        await rig.link.load(bundle)
        await rig.model.until(started=len(rig.model.started) + 4)
        assert bundle in rig.link.ready  # however often its probes are asked
        rig.model.weights = "newer"
        async with asyncio.timeout(PATIENCE_S):
            while bundle in rig.link.ready:
                await asyncio.sleep(0.005)
        with pytest.raises(WorkerAway):
            await ask(rig.link, bundle, "a page")
        rig.model.weights = ""
        await rig.until_ready(bundle)

    run(name, tmp_path, story, probe_interval_s=0.01)


@every_remote
@pytest.mark.parametrize(
    ("mood", "status"),
    [
        ("please fail", engine_pb2.RESULT_STATUS_ENGINE_ERROR),
        ("please nan", engine_pb2.RESULT_STATUS_ENGINE_ERROR),
        ("please be busy", engine_pb2.RESULT_STATUS_OVERLOADED),
    ],
)
def test_what_goes_wrong_in_the_engine_is_never_an_answer(
    name: str, mood: str, status: "engine_pb2.ResultStatus", tmp_path: Path
) -> None:
    async def story(rig: Rig) -> None:
        bundle = await rig.loaded()
        result = await ask(rig.link, bundle, mood)
        assert result.status == status, result.message
        assert result.message
        assert (await ask(rig.link, bundle, "a page")).status == OK

    run(name, tmp_path, story)


@every_remote
def test_cancelling_aborts_the_work_in_the_engine(name: str, tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        bundle = await rig.loaded()
        number, future = rig.link.submit(bundle, Given.of_text("please hang"), MINUTE_US, engine_pb2.PRIORITY_LIVE)
        await rig.model.until(started=1)
        rig.link.cancel(number)
        assert future.cancelled()
        await rig.model.until(aborted=1)
        assert rig.link.in_flight == 0

    run(name, tmp_path, story)


@every_remote
def test_a_deadline_ends_the_wait_and_the_work(name: str, tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        bundle = await rig.loaded()
        result = await ask(rig.link, bundle, "please hang", remaining_us=50_000)
        assert result.status == engine_pb2.RESULT_STATUS_EXPIRED
        if rig.model.started:  # it may have been too late to begin with
            await rig.model.until(aborted=1)

    run(name, tmp_path, story)


@every_remote
def test_more_calls_than_the_engine_may_have_are_refused_at_once(name: str, tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        bundle = await rig.loaded()
        number, _ = rig.link.submit(bundle, Given.of_text("please hang"), MINUTE_US, engine_pb2.PRIORITY_LIVE)
        assert (await ask(rig.link, bundle, "a page")).status == engine_pb2.RESULT_STATUS_OVERLOADED
        rig.link.cancel(number)
        assert (await ask(rig.link, bundle, "a page")).status == OK

    run(name, tmp_path, story, max_in_flight=1)


@every_remote
def test_bad_input_and_prompts_over_the_limit_are_refused(name: str, tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        bundle = await rig.loaded()
        assert (await ask(rig.link, bundle, "")).status == engine_pb2.RESULT_STATUS_BAD_INPUT
        if rig.case.reads_tokens:
            result = await ask(rig.link, bundle, "y" * 300)
            assert result.status == engine_pb2.RESULT_STATUS_BAD_INPUT
            assert "tokens, expected at most 256" in result.message
        assert rig.model.started == []

    run(name, tmp_path, story)


@every_remote
def test_an_engine_that_goes_away_and_comes_back_has_its_bundles_again(name: str, tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        bundle = await rig.loaded()
        assert rig.stop is not None
        await rig.stop()
        result = await ask(rig.link, bundle, "a page") if bundle in rig.link.ready else None
        assert result is None or result.status == engine_pb2.RESULT_STATUS_UNKNOWN_BUNDLE, result.message
        await rig.until_down()
        assert bundle not in rig.link.ready
        assert not rig.link.health().is_up
        assert rig.link.health().reason
        with pytest.raises(WorkerAway):
            rig.link.submit(bundle, Given.of_text("a page"), MINUTE_US, engine_pb2.PRIORITY_LIVE)
        with pytest.raises(WorkerAway):
            await rig.link.load(rig.bundle(task=replace(rig.case.task, description="other")))
        await rig.start()
        await rig.until_ready(bundle)
        assert (await ask(rig.link, bundle, "a page")).status == OK

    run(name, tmp_path, story)


@every_remote
def test_a_server_that_says_it_is_not_ready_gets_no_calls(name: str, tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        bundle = await rig.loaded()
        rig.model.is_up = False
        await rig.until_down()
        assert bundle not in rig.link.ready
        rig.model.is_up = True
        await rig.until_ready(bundle)

    run(name, tmp_path, story)


@every_remote
def test_an_unloaded_bundle_is_not_served_any_more(name: str, tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        bundle = await rig.loaded()
        rig.link.unload(bundle)
        with pytest.raises(WorkerAway):
            rig.link.submit(bundle, Given.of_text("a page"), MINUTE_US, engine_pb2.PRIORITY_LIVE)
        assert rig.link.capabilities(bundle) is None

    run(name, tmp_path, story)


@every_remote
def test_a_bundle_that_does_not_fit_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        refused = {
            "unknown fields: surprise": rig.bundle(surprise=1),
            "'tiny/other'": rig.bundle(model="tiny/other"),
        }
        if rig.case.scale in ("vocabulary", "chosen"):
            refused["names 'maybe'"] = rig.bundle(verbalizers={"maybe": " maybe"})
        if rig.case.scale == "vocabulary":
            refused["is not one token behind the prompt"] = rig.bundle(verbalizers={"safe": " entirely safe"})
            refused["are both"] = rig.bundle(verbalizers={"safe": " unsafe"})
        if rig.case.reads_tokens:
            refused["tokenizer.json:"] = rig.bundle({"tokenizer.json": b"{}"})
        if rig.case.reads_tokens and rig.case.scale == "vocabulary":
            refused["tokenizer.json is missing"] = rig.bundle({})
            refused[r"reads 51\d tokens, expected 1024|prompt of 1024 tokens"] = rig.bundle(
                task=replace(rig.case.task, max_tokens=1024)
            )
        for reason, bundle in refused.items():
            with pytest.raises(BundleRefused, match=reason):
                await rig.link.load(bundle)
            assert bundle not in rig.link.ready
            assert bundle not in rig.link.wanted

    run(name, tmp_path, story)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.generates])
def test_text_is_streamed_and_held_to_what_the_engine_can_keep(name: str, tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        bundle = await rig.loaded()

        async def said(constraint: Constraint | None = None) -> str:
            stream = rig.link.generate(bundle, Given.of_text("a page"), MINUTE_US, 200, constraint)
            chunks = [chunk async for chunk in stream]
            assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
            return "".join(chunk.text for chunk in chunks)

        assert await said() == ANSWER
        found = rig.link.capabilities(bundle)
        assert found is not None
        for kind in found.constraints:
            constraint = (
                Constraint(kind, '{"type":"string"}', ()) if kind != "choice" else Constraint(kind, "", ("up",))
            )
            text = await said(constraint)
            assert text.startswith(" kept ")
            assert ("up" if kind == "choice" else "string") in text
        with pytest.raises(GenerationFailed):
            async for _ in rig.link.generate(bundle, Given.of_text("please fail"), MINUTE_US, 20):
                pass

    run(name, tmp_path, story)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.generates])
def test_a_reader_who_stops_ends_the_generation(name: str, tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        bundle = await rig.loaded()

        async def read() -> None:
            async for _ in rig.link.generate(bundle, Given.of_text("please hang"), MINUTE_US, 20):
                pass

        reading = asyncio.create_task(read())
        await rig.model.until(started=1)
        reading.cancel()
        # SGLang's scheduler is behind another process than the stream: it is told by name besides.
        await rig.model.until(aborted=2 if name == "sglang-grpc" else 1)
        assert set(rig.model.aborted) == set(rig.model.started)

    run(name, tmp_path, story)


def test_a_worker_keeps_the_same_contract(tmp_path: Path) -> None:
    async def story() -> None:
        store = BundleStore(tmp_path / "bundles")

        def bundle(**engine: object) -> str:
            return store.add(
                task=TASK, engine={"backend": "simulator", **engine}, contents={}, base={}, lineage={}
            ).digest

        async with worker(tmp_path) as link:
            quick, slow = bundle(latency_us=100), bundle(latency_us=200_000)
            assert link.health().is_up
            await link.load(quick)
            await link.load(slow)
            found = link.capabilities(quick)
            assert found is not None
            assert (found.label_logprobs, found.can_generate, found.constraints) == ("exact", True, ("choice",))
            result = await ask(link, quick, "label:unsafe page")
            assert (result.status, result.label) == (OK, 1)
            assert [math.exp(v) for v in result.label_logprobs] == pytest.approx(list(result.probabilities), abs=1e-5)
            assert (await ask(link, quick, "")).status == engine_pb2.RESULT_STATUS_BAD_INPUT
            first, running = link.submit(slow, Given.of_text("a"), MINUTE_US, engine_pb2.PRIORITY_LIVE)
            second, waiting = link.submit(slow, Given.of_text("b"), MINUTE_US, engine_pb2.PRIORITY_LIVE)
            link.cancel(second)
            assert waiting.cancelled()
            assert (await running).status == OK
            choice = Constraint("choice", choices=("up high", "down"))
            text = "".join([c.text async for c in link.generate(quick, Given.of_text("a"), MINUTE_US, 20, choice)])
            assert text in choice.choices
            with pytest.raises(BundleRefused, match="accuracy"):
                await link.load(bundle(accuracy=2))
            wrong = store.add(
                task=TASK,
                engine={"backend": "simulator"},
                contents={"probes.json": probes_json([Probe("label:safe page", (0.01, 0.99))])},
                base={},
                lineage={},
            ).digest
            with pytest.raises(BundleRefused, match="self-test 0"):
                await link.load(wrong)
            link.unload(quick)
            assert link.capabilities(quick) is None

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))
