"""The engines' contract over every backend a worker has, with real models: what it says, answers, refuses and stops."""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

for needed in ("torch", "transformers", "peft", "safetensors", "tokenizers", "llguidance", "openvino"):
    pytest.importorskip(needed)

import openvino as ov  # noqa: E402

from gateway.domain.capabilities import Constraint  # noqa: E402
from gateway.engines.link import WorkerLink  # noqa: E402
from gateway.serving.ports import BundleRefused, GenerationFailed, GenerationRefused  # noqa: E402
from gateway.worker.backend import Host  # noqa: E402
from gateway.worker.engine import open_engine  # noqa: E402
from protos import engine_pb2  # noqa: E402
from protos.contract.fields import FieldInvalid  # noqa: E402
from protos.contract.given import Given  # noqa: E402
from protos.contract.head import Head  # noqa: E402
from protos.contract.probe import Probe, probes_json  # noqa: E402
from tests.batteries.faults import REFUSALS, Fault  # noqa: E402
from tests.batteries.workers import NAMES, Engine, Workshop, start, toy_adapter  # noqa: E402

TEXTS = ("good", "bad page", "good news page", "page")
PATIENCE_S = 60.0
MINUTE_US = 60_000_000
OK = engine_pb2.RESULT_STATUS_OK
every_engine = pytest.mark.parametrize("name", NAMES)
# Added-up finite weights are finite, and half precision clips what would overflow.
ALWAYS_FINITE = ("additive", "openvino decoder")


class Bench:
    """The workshop, its worker, and links to it."""

    def __init__(self, workshop: Workshop, socket: str) -> None:
        self.workshop, self.socket = workshop, socket

    def run(self, name: str, story: Callable[[WorkerLink, Engine], Awaitable[None]]) -> None:
        """Tell a story over a link of its own."""

        async def main() -> None:
            link = WorkerLink(self.socket)
            task = asyncio.create_task(link.run())
            try:
                await link.connected.wait()
                await story(link, self.workshop.engines[name])
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        asyncio.run(asyncio.wait_for(main(), PATIENCE_S))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    workshop = Workshop(tmp_path_factory.mktemp("w"))
    process, socket = start(workshop)
    yield Bench(workshop, str(socket))
    process.terminate()
    assert process.wait(PATIENCE_S) == 0


async def ask(link: WorkerLink, bundle: str, text: str, remaining_us: int = MINUTE_US) -> engine_pb2.Result:
    _, future = link.submit(bundle, Given.of_text(text), remaining_us, engine_pb2.PRIORITY_LIVE)
    return await future


async def loaded(link: WorkerLink, engine: Engine) -> str:
    bundle = engine.bundle()
    await link.load(bundle)
    return bundle


@every_engine
def test_an_engine_says_what_it_can(bench: Bench, name: str) -> None:
    async def story(link: WorkerLink, engine: Engine) -> None:
        bundle = await loaded(link, engine)
        await link.load(bundle)  # again is harmless
        assert link.capabilities(bundle) == engine.says
        assert (bundle in link.generators) == engine.says.can_generate

    bench.run(name, story)


@every_engine
def test_scores_are_the_models_own_log_probabilities_alone_and_together(bench: Bench, name: str) -> None:
    async def story(link: WorkerLink, engine: Engine) -> None:
        bundle = await loaded(link, engine)
        alone = [await ask(link, bundle, text) for text in TEXTS]
        together = await asyncio.gather(*[ask(link, bundle, text) for text in TEXTS * 5])
        assert max(result.batch_size for result in together) > 1 or name == "additive"
        for text, result in zip(TEXTS * 6, [*alone, *together], strict=True):
            expected = engine.expected(text)
            assert result.status == OK, result.message
            if name != "additive":  # one that costs nothing tells probabilities only
                assert result.label_logprobs == pytest.approx(expected, abs=engine.tolerance)
            powers = [math.exp(value) for value in expected]
            assert result.probabilities == pytest.approx([p / sum(powers) for p in powers], abs=engine.tolerance)
            assert result.label == expected.index(max(expected))
            assert result.decision == engine.task.decide(list(result.probabilities))
            assert result.HasField("vocabulary_mass") == engine.says.vocabulary_mass
            if engine.says.vocabulary_mass:
                assert result.vocabulary_mass == pytest.approx(sum(powers), abs=engine.tolerance)
            assert (result.bundle_digest, result.truncated) == (bundle, False)
        assert link.in_flight == 0

    bench.run(name, story)


@every_engine
def test_calibration_and_probes_of_the_bundle_hold(bench: Bench, name: str) -> None:
    async def story(link: WorkerLink, engine: Engine) -> None:
        first, second = engine.expected("good")
        warm = 1 / (1 + math.exp((second - first) / 4))
        head = {"head.json": Head(temperature=4.0).to_bytes()}
        told = Probe(engine.rendered("good"), (warm, 1 - warm), 0.01)
        bundle = engine.bundle({**head, "probes.json": probes_json([told])})
        await link.load(bundle)
        assert (await ask(link, bundle, "good")).probabilities == pytest.approx([warm, 1 - warm], abs=0.01)
        changed = replace(told, probabilities=(1 - warm, warm))
        with pytest.raises(BundleRefused, match="self-test 0"):
            await link.load(engine.bundle({**head, "probes.json": probes_json([changed])}))

    bench.run(name, story)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ALWAYS_FINITE])
def test_a_text_without_a_finite_answer_fails_alone(bench: Bench, name: str) -> None:
    async def story(link: WorkerLink, engine: Engine) -> None:
        bundle = await loaded(link, engine)
        texts = [*TEXTS, engine.spoiled, *TEXTS]
        results = await asyncio.gather(*[ask(link, bundle, text) for text in texts])
        assert max(result.batch_size for result in results) > 1
        for text, result in zip(texts, results, strict=True):
            if text == engine.spoiled:
                assert result.status == engine_pb2.RESULT_STATUS_ENGINE_ERROR
                assert "finite" in result.message or "nan" in result.message
            else:
                assert result.status == OK, f"{text!r}: {result.message}"
                powers = [math.exp(value) for value in engine.expected(text)]
                assert result.probabilities[0] == pytest.approx(powers[0] / sum(powers), abs=engine.tolerance)

    bench.run(name, story)


@every_engine
def test_what_nobody_waits_for_any_more_is_not_computed(bench: Bench, name: str) -> None:
    async def story(link: WorkerLink, engine: Engine) -> None:
        bundle = await loaded(link, engine)
        number, waiting = link.submit(bundle, Given.of_text("good"), MINUTE_US, engine_pb2.PRIORITY_SHADOW)
        late = ask(link, bundle, "good", remaining_us=0)
        link.cancel(number)
        assert waiting.cancelled()
        assert (await late).status == engine_pb2.RESULT_STATUS_EXPIRED
        assert (await ask(link, bundle, "good")).status == OK
        assert link.in_flight == 0

    bench.run(name, story)


@every_engine
def test_an_unloaded_bundle_is_not_served_any_more(bench: Bench, name: str) -> None:
    async def story(link: WorkerLink, engine: Engine) -> None:
        bundle = engine.bundle(task=replace(engine.task, description="another"))
        await link.load(bundle)
        link.unload(bundle)
        assert link.capabilities(bundle) is None
        assert (await ask(link, bundle, "good")).status == engine_pb2.RESULT_STATUS_UNKNOWN_BUNDLE
        await link.load(bundle)  # and may come back
        assert (await ask(link, bundle, "good")).status == OK

    bench.run(name, story)


@every_engine
def test_a_text_over_the_limit_is_cut_and_says_so_or_is_refused(bench: Bench, name: str) -> None:
    async def story(link: WorkerLink, engine: Engine) -> None:
        long = "good " * (engine.task.max_tokens + 20)
        cut = await ask(link, await loaded(link, engine), long)
        assert (cut.status, cut.truncated) == (OK, True), cut.message
        assert cut.tokens <= engine.task.max_tokens
        if name == "additive":  # counts words, and has nothing that grows with them
            return
        bundle = engine.bundle(overlong="refuse")
        await link.load(bundle)
        refused = await ask(link, bundle, long)
        assert refused.status == engine_pb2.RESULT_STATUS_BAD_INPUT
        assert f"expected at most {engine.task.max_tokens}" in refused.message or "over" in refused.message
        assert (await ask(link, bundle, "good")).status == OK

    bench.run(name, story)


@pytest.mark.parametrize("name", ["openvino decoder", "transformers decoder"])
def test_a_kept_prefix_changes_what_is_computed_and_no_answer(bench: Bench, name: str) -> None:
    async def story(link: WorkerLink, engine: Engine) -> None:
        kept, plain = await loaded(link, engine), engine.bundle(prefix_cache=False)
        await link.load(plain)
        found = link.capabilities(plain)
        assert found is not None and not found.prefix_cache
        for text in (*TEXTS, "good " * 60):
            quick, whole = await ask(link, kept, text), await ask(link, plain, text)
            assert quick.tokens < whole.tokens - 8  # the template's beginning was computed once
            assert quick.truncated == whole.truncated
            assert quick.probabilities == pytest.approx(list(whole.probabilities), abs=2e-3)

    bench.run(name, story)


def test_prompts_that_begin_otherwise_share_a_batch_with_those_that_go_on_from_the_prefix(bench: Bench) -> None:
    engine = bench.workshop.engines["openvino decoder"]
    opened = [
        open_engine(engine.store.load(bundle), Host())
        for bundle in (engine.bundle(), engine.bundle(prefix_cache=False))
    ]
    kept, plain = ([one.backend.prepare(engine.rendered(text)) for text in TEXTS] for one in opened)
    mixed = opened[0].probabilities([kept[0], plain[1], kept[2], plain[3]])
    np.testing.assert_allclose(mixed, opened[1].probabilities(plain), atol=2e-3)


def test_a_graph_that_reads_a_past_and_does_not_use_it_is_refused(bench: Bench) -> None:
    async def story(link: WorkerLink, engine: Engine) -> None:
        model = ov.Core().read_model(engine.contents["model.xml"], engine.contents["model.bin"])
        ids, mask, past = (model.input(name).get_node() for name in ("input_ids", "attention_mask", "past"))
        op = ov.opset13
        blank = op.multiply(past, np.float32(0))  # as if there had been other tokens
        for target in past.output(0).get_target_inputs():
            if target.get_node() != blank:
                target.replace_source_output(blank.output(0))
        changed = ov.Model([model.output(name) for name in ("logits", "next", "present")], [ids, mask, past])
        ov.save_model(changed, bench.workshop.root / "blank.xml", compress_to_fp16=False)
        files = {f"model.{kind}": (bench.workshop.root / f"blank.{kind}").read_bytes() for kind in ("xml", "bin")}
        with pytest.raises(
            BundleRefused, match=r"a kept prefix changes logits by .*: model.xml does not read its past"
        ):
            await link.load(engine.bundle(files))
        await link.load(engine.bundle(files, prefix_cache=False))

    bench.run("openvino decoder", story)


REFUSED = [
    pytest.param(name, make, reasons[key], id=f"{what}: {name}")
    for what, (make, reasons) in REFUSALS.items()
    for name in NAMES
    for key in (name, name.split()[0])[: 1 if name in reasons else 2]
    if key in reasons
]


@pytest.mark.parametrize(("name", "make", "reason"), REFUSED)
def test_what_would_not_answer_as_it_should_is_refused_when_it_is_loaded(
    bench: Bench, name: str, make: Fault, reason: str
) -> None:
    async def story(link: WorkerLink, engine: Engine) -> None:
        bundle = make(engine)
        with pytest.raises(BundleRefused, match=reason):
            await link.load(bundle)
        assert bundle not in link.ready
        assert (await ask(link, await loaded(link, engine), "good")).status == OK  # and the others go on

    bench.run(name, story)


@pytest.mark.parametrize("name", ["additive", "openvino encoder", "openvino decoder"])
def test_an_adapter_that_the_engine_would_not_read_makes_no_bundle(bench: Bench, name: str) -> None:
    engine = bench.workshop.engines[name]
    with pytest.raises(FieldInvalid, match="adapter/adapter_config.json, which (additive|openvino) does not read"):
        engine.bundle(toy_adapter())
    if name != "additive":
        assert engine.bundle(toy_adapter(), merged=True)  # it is in the graph


@every_engine
def test_text_is_written_or_the_engine_says_that_it_writes_none(bench: Bench, name: str) -> None:
    async def story(link: WorkerLink, engine: Engine) -> None:
        bundle = await loaded(link, engine)

        async def said(constraint: Constraint | None = None, tokens: int = 24) -> str:
            stream = link.generate(bundle, Given.of_text("good"), MINUTE_US, tokens, constraint)
            return "".join([chunk.text async for chunk in stream])

        if not engine.says.can_generate:
            with pytest.raises(GenerationFailed, match="cannot generate"):
                await said()
            return
        assert await said()
        wanted = {
            "regex": Constraint("regex", "(up|down)"),
            "json_schema": Constraint("json_schema", json.dumps({"enum": ["up", "down"]})),
            "choice": Constraint("choice", choices=("up", "down")),
        }
        for kind, constraint in wanted.items():
            if kind not in engine.says.constraints:
                with pytest.raises(GenerationFailed, match=f"constraint is {kind}"):
                    await said(constraint)
            elif name.startswith(("transformers", "openvino")):
                assert (await said(constraint)).strip('"') in ("up", "down")
                refused = Constraint(kind, "([", choices=("x" * 70_000,))
                with pytest.raises(GenerationRefused, match="constraint"):
                    await said(refused)
            else:
                assert (await said(constraint)).startswith(" kept ")
        stream = link.generate(bundle, Given.of_text("good"), MINUTE_US, 24)
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        assert (await ask(link, bundle, "good")).status == OK

    bench.run(name, story)
