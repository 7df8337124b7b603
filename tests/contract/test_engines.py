"""What an engine can do for a bundle: answer as exactly as its specialist demands, and read what the bundle holds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from protos.contract.bundle import BundleStore
from protos.contract.engines import EngineInexact, check_adapter_is_read, check_exactness, label_logprobs_of
from protos.contract.fields import FieldInvalid
from tests.tasks import TASK


@pytest.mark.parametrize(
    ("engine", "exactness"),
    [
        ({"backend": "openvino"}, "exact"),
        ({"backend": "tensorrt_llm", "mode": "encode"}, "exact"),
        ({"backend": "tensorrt_llm", "mode": "generate"}, "topk"),
        ({"backend": "tensorrt_llm", "generation_logits": True}, "exact"),
        ({"backend": "oip", "preset": "mlserver"}, "exact"),
        ({"backend": "oip", "preset": "triton-llmapi"}, "topk"),
        ({"backend": "openai-http", "preset": "trtllm-serve"}, "topk"),
        ({"backend": "openai-http", "preset": "trtllm-serve", "method": "embeddings"}, "exact"),
        ({"backend": "openai-http", "preset": "vllm", "method": "classify"}, "exact"),
        ({"backend": "openai-http", "preset": "sglang"}, "exact"),
        ({"backend": "trtllm-grpc"}, "topk"),
        ({"backend": "sglang-grpc"}, "exact"),
    ],
)
def test_how_exact_an_engine_is_follows_from_its_settings(engine: dict[str, Any], exactness: str) -> None:
    assert label_logprobs_of(engine) == exactness


@pytest.mark.parametrize(
    ("engine", "field"),
    [
        ({"backend": "magic"}, "backend is 'magic'"),
        ({}, "backend is None"),
        ({"backend": "oip", "preset": "other"}, "preset is 'other'"),
        ({"backend": "openai-http"}, "preset is ''"),
        ({"backend": "openai-http", "preset": "vllm", "method": "embeddings"}, "method is 'embeddings'"),
        ({"backend": "tensorrt_llm", "mode": "decode"}, "mode is 'decode'"),
    ],
)
def test_an_engine_that_there_is_not_is_refused_naming_the_field(engine: dict[str, Any], field: str) -> None:
    with pytest.raises(FieldInvalid, match=field):
        label_logprobs_of(engine)


@pytest.mark.parametrize(
    ("found", "accepted"),
    [
        ("exact", ("exact", "topk", "none")),
        ("topk", ("topk", "none")),
        ("none", ("none",)),
        ("roughly", ()),
    ],
)
def test_a_specialist_takes_an_engine_at_least_as_exact_as_it_demands(found: str, accepted: tuple[str, ...]) -> None:
    for demanded in ("exact", "topk", "none"):
        task = replace(TASK, label_logprobs=demanded)
        if demanded in accepted:
            check_exactness(task, found, "trtllm-grpc")
        else:
            with pytest.raises(EngineInexact, match=f"gives {found} label probabilities, expected {demanded}"):
                check_exactness(task, found, "trtllm-grpc")


def test_a_bundle_on_an_inexact_engine_is_not_even_built_unless_its_task_accepts_that(tmp_path: Path) -> None:
    store = BundleStore(tmp_path)
    given: dict[str, Any] = {"engine": {"backend": "trtllm-grpc"}, "contents": {}, "base": {}, "lineage": {}}
    with pytest.raises(FieldInvalid, match="trtllm-grpc.* gives topk"):
        store.add(task=TASK, **given)
    assert store.digests() == []
    digest = store.add(task=replace(TASK, label_logprobs="topk"), **given).digest
    assert store.manifest(digest).task.label_logprobs == "topk"


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        ({"backend": "openvino"}, "which openvino does not read, expected weights it is merged with"),
        ({"backend": "additive"}, "which additive does not read"),
        ({"backend": "oip", "preset": "mlserver"}, "which oip does not read, expected an adapter that its server has"),
        ({"backend": "openai-http", "preset": "vllm"}, "which openai-http does not read"),
        ({"backend": "trtllm-grpc"}, "which trtllm-grpc does not read"),
        ({"backend": "sglang-grpc"}, "which sglang-grpc does not read"),
        ({"backend": "openvino", "merged": True}, ""),
        ({"backend": "transformers"}, ""),
        ({"backend": "tensorrt_llm"}, ""),
    ],
)
def test_an_adapter_that_would_change_no_answer_makes_no_bundle(engine: dict[str, Any], says: str) -> None:
    files = ["head.json", "adapter/adapter_model.safetensors"]
    check_adapter_is_read(engine, files[:1])
    if not says:
        check_adapter_is_read(engine, files)
        return
    with pytest.raises(FieldInvalid, match=says):
        check_adapter_is_read(engine, files)
