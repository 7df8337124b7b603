"""An encoder in OpenVINO IR, small enough to build here."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gateway.worker.backend import BackendFailed, Host
from gateway.worker.engine import open_engine
from protos.contract.bundle import Bundle, BundleStore
from protos.contract.head import Curve, Head

pytest.importorskip("openvino")
pytest.importorskip("tokenizers")

from tests.gateway.worker.tiny_ir import TOKENIZER, tiny_ir  # noqa: E402
from tests.tasks import TASK  # noqa: E402


def bundle(tmp_path: Path, contents: dict[str, bytes], **settings: object) -> Bundle:
    store = BundleStore(tmp_path / "store")
    engine = {"backend": "openvino", "precision": "f32", **settings}
    return store.load(store.add(task=TASK, engine=engine, contents=contents, base={}, lineage={}).digest)


@pytest.fixture
def contents(tmp_path: Path) -> dict[str, bytes]:
    return {**tiny_ir(tmp_path), "tokenizer.json": TOKENIZER, "head.json": Head(temperature=2.0).to_bytes()}


def test_a_batch_answers_as_each_text_alone(tmp_path: Path, contents: dict[str, bytes]) -> None:
    engine = open_engine(bundle(tmp_path, contents), Host())
    texts = ["good page", "bad", "news news bad page good", "what is this"]
    prepared = [engine.backend.prepare(text) for text in texts]
    together = engine.probabilities(prepared)
    alone = np.concatenate([engine.probabilities([one]) for one in prepared])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert len({tuple(row) for row in together.round(6).tolist()}) == len(texts)


def test_bundles_that_share_a_tokenizer_cut_each_at_its_own_limit(tmp_path: Path, contents: dict[str, bytes]) -> None:
    store = BundleStore(tmp_path / "bundles")
    text = "a " * 40
    found = []
    for limit in (8, 16, 8):
        task = replace(TASK, max_tokens=limit)
        lineage = {"author": "trainer", "turn": str(len(found))}
        made = store.add(task=task, engine={"backend": "openvino"}, contents=contents, base={}, lineage=lineage)
        engine = open_engine(store.load(made.digest), Host())
        prepared = engine.backend.prepare(text)
        found.append((prepared.tokens, prepared.truncated))
    assert found == [(8, True), (16, True), (8, True)]


def test_the_temperature_of_the_head_is_applied(tmp_path: Path, contents: dict[str, bytes]) -> None:
    engine = open_engine(bundle(tmp_path, contents), Host())
    one = [engine.backend.prepare("good page")]
    logits = engine.backend.score(one).logits[0] / 2.0
    np.testing.assert_allclose(engine.probabilities(one)[0], np.exp(logits) / np.exp(logits).sum(), atol=1e-6)


def test_a_long_text_is_cut_and_says_so(tmp_path: Path, contents: dict[str, bytes]) -> None:
    backend = open_engine(bundle(tmp_path, contents), Host()).backend
    long, short = backend.prepare("good " * (TASK.max_tokens + 1)), backend.prepare("good " * TASK.max_tokens)
    assert (long.tokens, long.truncated) == (TASK.max_tokens, True)
    assert (short.tokens, short.truncated) == (TASK.max_tokens, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.xml": b"/etc/hostname"}, "model.xml"),
        ({"model.bin": b"\0"}, "model.xml"),
        ({"tokenizer.json": b"{}"}, "tokenizer.json"),
        ({"head.json": b'{"schema":"interlock.head/1","temperature":0}'}, "temperature"),
        ({"head.json": Head(platt=((1.0, 0.0),)).to_bytes()}, "head.platt has 1 entries, expected none or 2"),
        ({"head.json": Head(isotonic=(Curve((0.0, 1.0), (1.0, 0.0)),) * 2).to_bytes()}, "y falls"),
    ],
)
def test_a_model_that_cannot_run_is_refused(
    tmp_path: Path, contents: dict[str, bytes], change: dict[str, bytes], message: str
) -> None:
    with pytest.raises(BackendFailed, match=message):
        open_engine(bundle(tmp_path, {**contents, **change}), Host())


def test_a_model_with_other_inputs_is_refused(tmp_path: Path, contents: dict[str, bytes]) -> None:
    with pytest.raises(BackendFailed, match="pixels"):
        open_engine(bundle(tmp_path, {**contents, **tiny_ir(tmp_path, ("pixels", "attention_mask"))}), Host())


def test_an_unknown_precision_is_refused(tmp_path: Path, contents: dict[str, bytes]) -> None:
    with pytest.raises(BackendFailed, match="precision"):
        open_engine(bundle(tmp_path, contents, precision="int1"), Host())


COMPARED = {"float": 0.9, "int8": 0.896, "rows": 100, "data": "sha256:" + "0" * 64}


def test_eight_bits_are_served_only_with_the_comparison_that_allows_it(
    tmp_path: Path, contents: dict[str, bytes]
) -> None:
    assert open_engine(bundle(tmp_path, contents, precision="int8", accuracy=COMPARED), Host()).digest
    for accuracy, message in (
        ({}, "accuracy.float is missing"),
        ({**COMPARED, "int8": 0.894}, "falls from 0.9 to 0.894, expected at most 0.5 points less"),
        ({**COMPARED, "data": "somewhere"}, "accuracy.data"),
    ):
        with pytest.raises(BackendFailed, match=message):
            open_engine(bundle(tmp_path, contents, precision="int8", accuracy=accuracy), Host())
