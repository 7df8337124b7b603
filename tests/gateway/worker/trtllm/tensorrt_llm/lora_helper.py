"""LoRA settings."""

from tensorrt_llm import record

LoraConfig = record("tensorrt_llm.lora_helper.LoraConfig")
