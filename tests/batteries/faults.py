"""Bundles with something wrong, and with which words each engine refuses them."""

import json
import struct
from collections.abc import Callable

import pytest

for needed in ("torch", "transformers", "peft", "safetensors", "tokenizers", "llguidance", "openvino"):
    pytest.importorskip(needed)

from safetensors.torch import load, save  # noqa: E402

from protos.contract.base import BaseStore  # noqa: E402
from protos.contract.head import Head  # noqa: E402
from tests.batteries.workers import NAMES, Engine, toy_adapter  # noqa: E402
from tests.gateway.worker import tiny_ir  # noqa: E402

Fault = Callable[[Engine], str]


def with_adapter(**config: object) -> Fault:
    """A bundle whose adapter's configuration says something else."""

    def make(engine: Engine) -> str:
        files = dict(engine.adapted or toy_adapter())
        told = json.loads(files["adapter/adapter_config.json"])
        return engine.bundle(files | {"adapter/adapter_config.json": json.dumps({**told, **config}).encode()})

    return make


def with_files(**files: bytes) -> Fault:
    """A bundle with other bytes in some of its files; ``__`` in a name is a slash, ``_dot_`` a dot."""
    named = {name.replace("__", "/").replace("_dot_", "."): data for name, data in files.items()}
    return lambda engine: engine.bundle({**engine.adapted, **named})


def altered(engine: Engine) -> str:
    """A bundle of which a byte changed on the disk."""
    bundle = engine.bundle({"head.json": Head(temperature=3.0).to_bytes()})
    path = engine.store.path(bundle) / "head.json"
    path.write_bytes(path.read_bytes() + b" ")
    return bundle


def altered_base(engine: Engine) -> str:
    """A bundle on a base of which a byte changed on the disk."""
    bases = BaseStore(engine.store.root / "bases")
    digest = bases.add("altered", engine.store.root.parent / engine.base["name"])
    path = bases.path(digest) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    return engine.bundle(base={"name": "altered", "digest": digest})


def not_finite(engine: Engine) -> str:
    """A bundle of which one weight is not a number."""
    files = engine.adapted or engine.contents
    name = next(name for name in files if name.endswith(".safetensors"))
    tensors = load(files[name])
    first = next(iter(tensors))
    tensors[first] = tensors[first] * float("nan")
    return engine.bundle({**files, name: save(tensors)})


def _ir_not_finite(engine: Engine) -> str:
    head = tiny_ir.HEAD.tobytes()
    assert head in engine.contents["model.bin"]
    return engine.bundle({"model.bin": engine.contents["model.bin"].replace(head, b"\xff" * len(head))})


TRUNCATED = struct.pack("<Q", 10**9) + b"{}"
# What is wrong, how it is made, and the reason that each engine gives, or all of one backend.
REFUSALS: dict[str, tuple[Fault, dict[str, str]]] = {
    "adapter for another base": (
        with_adapter(base_model_name_or_path="other"),
        {
            "transformers": "base_model_name_or_path is 'other', expected",
            "tensorrt_llm generate": "base_model_name_or_path is 'other', expected",
            "tensorrt_llm encode": "base_model_name_or_path is 'other', expected",
        },
    ),
    "rank above the limit": (
        with_adapter(r=65),
        {
            "transformers": "r is 65, expected a rank from 1 to 64",
            "tensorrt_llm": "r is 65, expected a rank from 1 to 64",
        },
    ),
    "target modules that are ignored": (
        with_adapter(target_modules=["q_proj", "k_proj", "v_proj", "conv"]),
        {"transformers": "targets '(conv|[qkv]_proj)', which .* has no weights for", "tensorrt_llm": "targets 'conv'"},
    ),
    "labels that are not single tokens": (
        lambda engine: engine.bundle(verbalizers={"safe": " quite safe"}),
        {
            "transformers decoder": "'safe' is not one token behind the prompt",
            "openvino decoder": "'safe' is not one token behind the prompt",
            "tensorrt_llm": "'safe' is not one token behind the prompt",
            "transformers encoder": "verbalizers is set, expected a decoder",
            "openvino encoder": "expected 'decoder' with verbalizers",
            "additive": "unknown fields: verbalizers",
        },
    ),
    "corrupt adapter": (
        with_files(adapter__adapter_model_dot_safetensors=TRUNCATED, adapter__adapter_config_dot_json=b"{}"),
        {"transformers": "adapter_model.safetensors:", "tensorrt_llm": "adapter_model.safetensors:"},
    ),
    "parts of an adapter that are ignored": (
        with_adapter(alpha_pattern={"q_proj": 64}),
        {
            "transformers": "alpha_pattern is {'q_proj': 64}, expected {}",
            "tensorrt_llm": "alpha_pattern is {'q_proj': 64}, expected {}",
        },
    ),
    "no base": (
        lambda engine: engine.bundle(base={}),
        {"transformers": "base is empty, expected", "tensorrt_llm": "base is empty, expected"},
    ),
    "corrupt head of an encoder": (
        with_files(classifier_dot_safetensors=TRUNCATED),
        {"transformers encoder": "classifier.safetensors:"},
    ),
    "corrupt graph": (with_files(model_dot_bin=b"\0"), {"openvino": "model.xml"}),
    "corrupt table": (with_files(additive_dot_json=b"{"), {"additive": "additive.json: not JSON"}),
    "altered on the disk": (altered, dict.fromkeys(NAMES, "head.json hashes to sha256:.*, expected")),
    "base altered on the disk": (
        altered_base,
        {
            "transformers": "model.safetensors hashes to",
            "tensorrt_llm": "model.safetensors hashes to",
        },
    ),
    "weights that are no numbers": (
        not_finite,
        {"transformers": "is not finite", "tensorrt_llm generate": "is not finite"},
    ),
    "a graph whose weights are no numbers": (_ir_not_finite, {"openvino encoder": "logits are not finite"}),
}
