"""Tiny random models of real architectures, and adapters for them, made where a test runs."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from protos.contract.task import TaskSpec
from tests.tasks import TASK

PROMPT = "<|turn|>Is this page fit for an advertisement?\nPage: {text}\nAnswer:"
DECODER_TASK: TaskSpec = replace(TASK, template=PROMPT, max_tokens=48)
TEXTS = (
    "fresh lemons tonight, 5 per head",
    "the page is safe",
    "knock twice",
    "an advertisement for a page of news that goes on and on about nothing",
    "9",
)


def tokenizer(bos: bool = False) -> Tokenizer:
    """Byte-level BPE in which " safe" and " unsafe" are tokens and " sensitive" is several."""
    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    corpus = ["safe unsafe safe unsafe", "a safe page, an unsafe page", "Is this page fit for an advertisement?"]
    corpus += ["Page: fresh news tonight\nAnswer: safe", "Page: a page\nAnswer: unsafe", *TEXTS]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>", "<|turn|>", "<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    built.train_from_iterator(corpus * 3, trainer)
    if bos:
        built.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    return built


SMALL: dict[str, Any] = {
    "vocab_size": 416,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "initializer_range": 0.3,  # so that answers differ; the default says almost the same to everything
}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 8}


def qwen3(**changes: Any) -> Any:
    """Normalised queries and keys, tied embeddings."""
    return Qwen3ForCausalLM(Qwen3Config(**{**GROUPED, "tie_word_embeddings": True, **changes}))


def llama(**changes: Any) -> Any:
    """The plain decoder, its output head apart."""
    return LlamaForCausalLM(LlamaConfig(**{**GROUPED, "tie_word_embeddings": False, **changes}))


def gemma3(**changes: Any) -> Any:
    """Sliding windows of 6 tokens in two layers of three, capped logits."""
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    settings = {**GROUPED, "sliding_window": 6, "layer_types": kinds, "final_logit_softcapping": 20.0, **changes}
    return Gemma3ForCausalLM(Gemma3TextConfig(**settings))


def bert(**changes: Any) -> Any:
    """An encoder."""
    return BertModel(BertConfig(**{**SMALL, **changes}), add_pooling_layer=False)


DECODERS: dict[str, Callable[..., Any]] = {"qwen3": qwen3, "llama": llama, "gemma3": gemma3}
MAKERS = {**DECODERS, "bert": bert}


def write_base(folder: Path, name: str, seed: int = 0, **changes: Any) -> Any:
    """Write a model's directory as Hugging Face does, with changes to its configuration; return the model."""
    torch.manual_seed(seed)
    model = MAKERS[name](**changes).eval()
    with torch.no_grad():  # norms start at one (Gemma: zero), where mistakes would not show
        for key, parameter in model.named_parameters():
            if "norm" in key.lower():
                parameter.add_(0.2 * torch.randn_like(parameter))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    tokenizer(bos=name != "qwen3").save(str(folder / "tokenizer.json"))
    kept, seen = {}, set()
    for key, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            kept[key] = tensor.contiguous()
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return model


def adapter(model: Any, base: str, seed: int, rank: int = 4, **changes: Any) -> tuple[dict[str, bytes], Any]:
    """Return PEFT's two files with random weights, and the library's own model with the adapter on."""
    import copy

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=8, target_modules="all-linear", bias="none", **changes)
    tuned: Any = get_peft_model(copy.deepcopy(model), config)
    with torch.no_grad():
        for key, parameter in tuned.named_parameters():
            if "lora_" in key:
                parameter.copy_(0.3 * torch.randn_like(parameter))
    state = {key: value.contiguous() for key, value in get_peft_model_state_dict(tuned).items()}
    given = tuned.peft_config["default"].to_dict()
    given = json.loads(json.dumps(given, default=lambda v: sorted(v) if isinstance(v, set) else str(v)))
    given["base_model_name_or_path"] = base
    files = {
        "adapter/adapter_model.safetensors": save(state),
        "adapter/adapter_config.json": json.dumps(given).encode(),
    }
    return files, tuned.eval()
