"""A converted bundle answers as the one it came from, or is not written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for needed in ("torch", "transformers", "peft", "openvino", "nncf", "llguidance"):
    pytest.importorskip(needed)

from typer.testing import CliRunner  # noqa: E402

from controlplane.cli.app import app  # noqa: E402
from controlplane.packs.example import Example  # noqa: E402
from controlplane.training import convert, ir  # noqa: E402
from controlplane.training.dataset import dataset_digest, write_dataset  # noqa: E402
from gateway.worker.backend import Host  # noqa: E402
from gateway.worker.engine import Engine, open_engine  # noqa: E402
from protos.contract.base import BaseStore  # noqa: E402
from protos.contract.bundle import BundleStore  # noqa: E402
from protos.contract.head import Head  # noqa: E402
from protos.contract.probe import Probe, probes_json, read_probes  # noqa: E402
from tests.gateway.worker import tiny_models  # noqa: E402

WORDS = ("lemons", "news", "a page", "knock twice", "safe", "tonight", "5 per head", "advertisement", "goes on")


class Made:
    """A tiny decoder with an adapter, in a store, and texts labelled as it answers them."""

    def __init__(self, root: Path) -> None:
        model = tiny_models.write_base(root / "model", "gemma3")
        self.store = BundleStore(root / "bundles")
        bases = BaseStore(self.store.root / "bases")
        digest = bases.add("tiny", root / "model")
        files, _ = tiny_models.adapter(model, "tiny", 1)
        engine = {"backend": "transformers", "kind": "decoder"}
        base = {"name": "tiny", "digest": digest}
        lineage = {"author": "trainer"}
        self.digest = self.store.add(
            task=tiny_models.DECODER_TASK, engine=engine, contents=files, base=base, lineage=lineage
        ).digest
        self.host = Host(bases=bases)
        texts = [f"{a} {b}" for a in WORDS for b in WORDS]
        found = self.answers(self.digest, texts)
        sure = np.argsort(-np.abs(found[:, 0] - 0.5))[:40]
        labels = tiny_models.DECODER_TASK.labels
        self.dev = [Example(texts[i], labels[int(found[i].argmax())], "") for i in sure]
        # As training leaves it: with a head, and probes that were answered with the head.
        head = Head(temperature=2.0)
        rendered = tiny_models.DECODER_TASK.template.format(text=self.dev[0].text)
        told = head.probabilities(np.log(found[sure[:1]]))[0]
        files |= {"head.json": head.to_bytes(), "probes.json": probes_json([Probe(rendered, tuple(told), 0.01)])}
        self.digest = self.store.add(
            task=tiny_models.DECODER_TASK, engine=engine, contents=files, base=base, lineage=lineage
        ).digest
        self.file = root / "dev.jsonl"
        write_dataset(self.file, self.dev)

    def engine(self, digest: str) -> Engine:
        return open_engine(self.store.load(digest), self.host)

    def answers(self, digest: str, texts: list[str]) -> np.ndarray:
        engine = self.engine(digest)
        rendered = [engine.task.template.format(text=text) for text in texts]
        return engine.probabilities([engine.backend.prepare(text) for text in rendered])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("convert"))


def command(made: Made, digest: str, *options: str) -> Any:
    line = ["engine", "convert", digest, "--bundles", str(made.store.root), "--dev", str(made.file), "--as", "ann"]
    return CliRunner().invoke(app, [*line, "--json", *options])


@pytest.fixture(scope="module")
def compared(made: Made) -> Any:
    done = command(made, made.digest)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def converted(compared: Any) -> str:
    return str(compared["bundle"])


def test_a_decoder_becomes_an_openvino_bundle_that_answers_alike(made: Made, converted: str) -> None:
    manifest = made.store.manifest(converted)
    assert (manifest.backend, manifest.author, manifest.lineage["parent"]) == ("openvino", "ann", made.digest)
    engine = made.engine(converted)
    assert len(read_probes(made.store.load(converted).contents, engine.task)) == 4  # its own, with its own head
    assert engine.head.fit["data"] == dataset_digest(made.dev)
    texts = [example.text for example in made.dev] + ["lemons " * 60]
    found, expected = made.answers(converted, texts), made.answers(made.digest, texts)
    np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))


def test_a_conversion_is_compared_with_the_bundle_it_came_from(compared: Any) -> None:
    assert 0 < compared["most_difference"] < 1e-3  # another engine's arithmetic
    assert compared["accuracy_before"] == compared["accuracy"] == 1.0


def test_a_decoder_that_is_asked_to_writes_the_text_that_it_wrote_before(made: Made) -> None:
    done = command(made, made.digest, "--text")
    assert done.exit_code == 0, done.output
    found = str(json.loads(done.stdout)["bundle"])
    assert made.store.manifest(found).engine["writes"] == {"end_tokens": [0], "positions": 64}
    engines = [made.engine(made.digest), made.engine(found)]
    for text in WORDS[:3]:
        prompt = engines[0].task.template.format(text=text)
        first, second = ("".join(list(engine.backend.generate(prompt, 6))) for engine in engines)  # type: ignore[attr-defined]
        assert first == second
    done = command(made, found, "--precision", "int8")
    assert (done.exit_code, "int8 text is not compared" in done.output) == (1, True)


def test_eight_bits_that_answer_as_well_are_kept_with_their_comparison(made: Made, converted: str) -> None:
    done = command(made, converted, "--precision", "int8")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    manifest = made.store.manifest(found["bundle"])
    assert manifest.engine["precision"] == "int8"
    assert manifest.engine["accuracy"] == {
        "float": 1.0,
        "int8": found["accuracy"],
        "rows": 40,
        "data": dataset_digest(made.dev),
    }
    assert found["most_difference"] > 0  # it is another graph
    assert made.engine(found["bundle"]).digest == found["bundle"]


def test_eight_bits_that_lose_accuracy_are_refused_and_leave_nothing(
    made: Made, converted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def upside_down(graph: ir.Graph, rows: Any) -> ir.Graph:
        import openvino as ov

        model = ov.Core().read_model(graph.xml, graph.weights)
        negated = ov.opset13.multiply(model.output(0).get_node().input_value(0), np.float32(-1))
        negated.output(0).set_names({"logits"})
        outputs = [negated.output(0), model.output("present").get_node().input_value(0)]
        return ir._saved(ov.Model(outputs, model.get_parameters()), compress=False)

    monkeypatch.setattr(ir, "quantise", upside_down)
    before = made.store.digests()
    with pytest.raises(convert.ConversionFailed, match=r"int8 answers 0.00 % right and the float graph 100.00 %"):
        convert.convert(made.store, converted, made.dev, "int8", "ann", lambda *_: None)
    assert made.store.digests() == before


def test_what_cannot_be_converted_is_refused_with_the_reason(made: Made) -> None:
    done = command(made, made.digest, "--precision", "int3")
    assert (done.exit_code, "--precision is 'int3'" in done.output) == (2, True)
    done = command(made, made.digest, "--as", " ")
    assert (done.exit_code, "--as is ' '" in done.output) == (2, True)
    done = command(made, made.digest, "--bundles", "file:///tmp")
    assert (done.exit_code, "is no folder" in done.output) == (2, True)
    done = command(made, "sha256:" + "0" * 64)
    assert (done.exit_code, "no bundle begins so" in done.output) == (1, True)
