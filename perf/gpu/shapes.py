"""Models of true shapes with random weights: what they say means nothing, how long they take does."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from gateway.worker.transformers.attention import NAME

# From the published configurations of Qwen/Qwen3-4B, Qwen/Qwen3-0.6B and google/gemma-3-4b (its text part).
QWEN3_4B = {
    "model_type": "qwen3",
    "vocab_size": 151_936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
    "tie_word_embeddings": True,
}
QWEN3_06B = QWEN3_4B | {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
}
GEMMA3_4B = {
    "model_type": "gemma3_text",
    "vocab_size": 262_208,
    "hidden_size": 2560,
    "intermediate_size": 10_240,
    "num_hidden_layers": 34,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "sliding_window": 1024,
}
TINY = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 1024,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "bos_token_id": 0,
}
SMALL = QWEN3_06B | {"vocab_size": 8192, "num_hidden_layers": 6, "max_position_embeddings": 1024}
SIZES: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "full": {"qwen3-4b": QWEN3_4B, "gemma3-4b": GEMMA3_4B, "qwen3-0.6b": QWEN3_06B},
    "small": {"qwen3-0.6b-6-layers": SMALL},
    "tiny": {
        "tiny-qwen3": TINY | {"model_type": "qwen3", "tie_word_embeddings": True},
        "tiny-gemma3": TINY | {"model_type": "gemma3_text", "sliding_window": 64},
    },
}


def build(shape: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    """Build a model with random weights on a device."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[shape["model_type"]].from_dict(dict(shape))
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=NAME)
    return model.to(device).eval().requires_grad_(False)
