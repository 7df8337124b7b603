"""What a decoder or encoder by PyTorch would not answer as it was trained to is refused when it is loaded."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for needed in ("transformers", "peft", "safetensors", "tokenizers", "llguidance"):
    pytest.importorskip(needed)

from safetensors.torch import load, save  # noqa: E402

from gateway.worker.backend import BackendFailed, Host  # noqa: E402
from gateway.worker.engine import open_engine  # noqa: E402
from gateway.worker.transformers.loading import DECODER, build_model  # noqa: E402
from gateway.worker.transformers.resident import Resident  # noqa: E402
from protos.contract.base import BaseStore  # noqa: E402
from protos.contract.bundle import Bundle, BundleStore, Manifest  # noqa: E402
from protos.contract.digest import digest_bytes  # noqa: E402
from tests.gateway.worker import tiny_models  # noqa: E402
from tests.gateway.worker.bases import A, Base, prepare  # noqa: E402
from tests.gateway.worker.tiny_models import DECODER_TASK  # noqa: E402

close = partial(np.testing.assert_allclose, atol=2e-4)


def _config(files: dict[str, bytes], **changes: Any) -> dict[str, bytes]:
    config = json.loads(files["adapter/adapter_config.json"]) | changes
    return {**files, "adapter/adapter_config.json": json.dumps(config).encode()}


def _weights(files: dict[str, bytes], change: Any) -> dict[str, bytes]:
    tensors = load(files["adapter/adapter_model.safetensors"])
    change(tensors)
    return {**files, "adapter/adapter_model.safetensors": save(tensors)}


def _spoil(tensors: dict[str, Any]) -> None:
    next(iter(tensors.values()))[0, 0] = float("nan")


def _move(tensors: dict[str, Any]) -> None:
    for name in list(tensors):
        tensors[name.replace("mlp.up_proj", "mlp.experts")] = tensors.pop(name)


def _shrink(tensors: dict[str, Any]) -> None:
    for name in [n for n in tensors if "q_proj.lora_A" in n]:
        tensors[name] = tensors[name][:, :16].contiguous()


def _halve(tensors: dict[str, Any]) -> None:
    del tensors[next(name for name in tensors if "lora_B" in name)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: _config(f, base_model_name_or_path="another"), "base_model_name_or_path is 'another', expected"),
        (lambda f: _config(f, r=65), "r is 65, expected a rank from 1 to 64"),
        (lambda f: _config(f, r=3), "expected rank r = 3"),
        (lambda f: _config(f, use_dora=True), "use_dora is True"),
        (lambda f: _config(f, modules_to_save=["lm_head"]), "modules_to_save"),
        (lambda f: _config(f, peft_type="IA3"), "peft_type is 'IA3'"),
        (lambda f: _config(f, target_modules=["q_proj", "conv"]), "targets 'conv', which"),
        (lambda f: _config(f, target_modules=["q_proj"]), "proj, which target_modules .* does not name"),
        (lambda f: _config(f, target_modules=r".*\.q_proj"), "proj, which target_modules .* does not name"),
        (lambda f: _config(f, target_modules="_proj"), "proj, which target_modules .* does not name"),
        (lambda f: _config(f, target_modules="(proj"), "target_modules is '\\(proj', expected a regular expression"),
        (lambda f: _config(f, target_modules=[1]), r"target_modules is \[1\], expected names"),
        (lambda f: {**f, "adapter/adapter_config.json": b"{"}, "adapter_config.json: not JSON"),
        (lambda f: {**f, "adapter/adapter_model.safetensors": b"\x10" + b"\0" * 9}, "adapter_model.safetensors"),
        (lambda f: {k: v for k, v in f.items() if "config" in k}, "adapter_model.safetensors is missing"),
        (lambda f: _weights(f, _spoil), "is not finite"),
        (lambda f: _config(_weights(f, _move), target_modules=None), "experts, which is no linear module"),
        (lambda f: _weights(f, _shrink), "it was trained on another base"),
        (lambda f: _weights(f, _halve), "expected A and B"),
    ],
)
def test_an_adapter_that_would_not_do_what_it_was_trained_to_is_refused(qwen: Base, change: Any, message: str) -> None:
    host = qwen.host()
    with pytest.raises(BackendFailed, match=message):
        open_engine(qwen.bundle(contents=change(qwen.files[A])), host)
    assert host.residency.share("") == 1 and not host.residency._bases  # nothing of it stays


@pytest.mark.parametrize("targets", [r"model\.layers\.\d+\.(self_attn|mlp)\..*_proj", "all-linear", None])
def test_targets_that_all_weights_are_among_change_no_answer(qwen: Base, targets: str | None) -> None:
    host = qwen.host()
    expected = qwen.open(host, A)
    found = open_engine(qwen.bundle(contents=_config(qwen.files[A], target_modules=targets)), host)
    close(*(engine.probabilities([prepare(engine, "news")]) for engine in (found, expected)))


@pytest.mark.parametrize(
    ("engine", "task", "message"),
    [
        ({}, {"labels": ("unsafe", "sensitive")}, "'sensitive' is not one token"),
        ({"verbalizers": {"safe": " unsafe"}}, {}, "labels 'safe' and 'unsafe' are both"),
        ({"verbalizers": {"maybe": " a"}}, {}, "names 'maybe'"),
        ({}, {"max_tokens": 65}, "max_tokens is 65, expected at most the base's 64"),
        ({}, {"max_tokens": 16}, "template takes 15 tokens"),
        ({"head": "half"}, {}, "engine.head is 'half'"),
        ({"surprise": 1}, {}, "unknown fields: surprise"),
        ({"merged": True}, {}, "merged is true, expected"),
        ({"device": "cuda"}, {}, "expected a CUDA device"),
        ({"generate": {"regex": "(", "choice": ["a"]}}, {}, "expected at most one"),
        ({"generate": {"regex": "("}}, {}, "constraint is refused"),
        ({"generate": {"json_schema": {"type": "no such"}}}, {}, "constraint is refused"),
        ({"kind": "encoder"}, {}, "not supported here"),
    ],
)
def test_a_bundle_that_cannot_be_scored_exactly_is_refused(
    qwen: Base, engine: dict[str, Any], task: dict[str, Any], message: str
) -> None:
    if engine.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(BackendFailed, match=message):
        open_engine(qwen.bundle(task=replace(DECODER_TASK, **task), **engine), qwen.host())


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors", "base.json"])
def test_an_altered_base_is_refused(tmp_path: Path, file: str) -> None:
    base = Base(tmp_path, "qwen3")
    path = base.bases.path(base.digest) / file
    path.write_bytes(path.read_bytes() + b" ")
    if file == "base.json":  # the same value in other bytes is the same listing
        path.write_bytes(path.read_bytes().replace(b'"qwen3"', b'"qwen4"'))
    with pytest.raises(BackendFailed, match=file.replace(".", r"\.")):
        base.open(base.host())


def test_a_base_that_is_not_there_is_refused(qwen: Base) -> None:
    bundle = qwen.bundle()
    manifest = Manifest(bundle.manifest.task, bundle.manifest.engine, {}, {"digest": digest_bytes(b"")})
    with pytest.raises(BackendFailed, match=r"base.json cannot be read"):
        open_engine(Bundle(bundle.digest, manifest, {}), qwen.host())


def test_a_base_whose_weights_are_not_numbers_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny_models.write_base(folder, "llama")
    tensors = load((folder / "model.safetensors").read_bytes())
    tensors["model.norm.weight"][0] = float("nan")
    (folder / "model.safetensors").write_bytes(save(tensors, {"format": "pt"}))
    bases = BaseStore(tmp_path / "bases")
    digest = bases.add("llama", folder)
    store = BundleStore(tmp_path / "bundles")
    made = {"task": DECODER_TASK, "engine": {"backend": "transformers"}, "contents": {}, "lineage": {}}
    manifest = store.add(**made, base={"name": "llama", "digest": digest})  # type: ignore[arg-type]
    with pytest.raises(BackendFailed, match="not finite"):
        open_engine(store.load(manifest.digest), Host(bases=bases))
    del tensors["model.norm.weight"]
    (folder / "model.safetensors").write_bytes(save(tensors, {"format": "pt"}))
    manifest = store.add(**made, base={"name": "llama", "digest": bases.add("llama", folder)})  # type: ignore[arg-type]
    with pytest.raises(BackendFailed, match=r"lack model\.norm\.weight"):
        open_engine(store.load(manifest.digest), Host(bases=bases))


def test_attention_that_is_not_computed_as_the_library_does_is_refused(qwen: Base) -> None:
    config, tensors = qwen.model.config.to_dict(), dict(qwen.model.state_dict())
    resident = Resident(build_model(config, tensors, DECODER, torch.device("cpu"), torch.float32), DECODER, "qwen3")
    resident.check()
    original = resident._library
    resident._library = lambda ids: original(ids) + 1.0  # type: ignore[method-assign]
    with pytest.raises(BackendFailed, match="not supported here"):
        resident.check()
