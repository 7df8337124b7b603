"""Values of the LLM API."""

from tensorrt_llm import FACTS, record

GuidedDecodingParams = record("tensorrt_llm.llmapi.GuidedDecodingParams")
KvCacheConfig = record("tensorrt_llm.llmapi.KvCacheConfig")
if "tensorrt_llm.llmapi.EncodeCudaGraphConfig" in FACTS.objects:
    EncodeCudaGraphConfig = record("tensorrt_llm.llmapi.EncodeCudaGraphConfig")
