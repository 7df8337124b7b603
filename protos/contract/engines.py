"""What kinds of engine there are, and how exactly each can tell a label's probability.

Both sides ask: a bundle is not built, published or served on an engine that answers less
exactly than its task demands.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from protos.contract.fields import FieldInvalid
from protos.contract.task import LABEL_LOGPROBS, TaskSpec

EXACT, TOPK, NONE = LABEL_LOGPROBS

OIP_PRESETS = ("generic", "mlserver", "ovms", "triton-llmapi")
OPENAI_PRESETS = ("trtllm-serve", "vllm", "sglang")
TENSORRT_LLM_MODES = ("generate", "encode")

# What each server of the openai-http kind can be asked for labels; the first is what a bundle gets that names none.
METHODS_OF: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "trtllm-serve": ("completions", "embeddings"),
        "vllm": ("score", "completions", "classify"),
        "sglang": ("score", "classify", "completions"),
    }
)


class EngineInexact(ValueError):
    """An engine answers a specialist less exactly than its task demands."""


def openai_method(engine: Mapping[str, Any]) -> str:
    """Return how labels are asked for, which a preset decides where the bundle does not; raises FieldInvalid."""
    preset = str(engine.get("preset", ""))
    methods = METHODS_OF.get(preset)
    if methods is None:
        raise FieldInvalid(f"manifest.engine.preset is {preset!r}, expected one of {', '.join(OPENAI_PRESETS)}")
    method = str(engine.get("method", methods[0]))
    if method not in methods:
        raise FieldInvalid(
            f"manifest.engine.method is {method!r}, expected one of {', '.join(methods)} for preset {preset!r}"
        )
    return method


def _of_oip(engine: Mapping[str, Any]) -> str:
    preset = engine.get("preset", "generic")
    if preset not in OIP_PRESETS:
        raise FieldInvalid(f"manifest.engine.preset is {preset!r}, expected one of {', '.join(OIP_PRESETS)}")
    # It returns the text it wrote and that text's own log-probability: the label it chose, and no other.
    return TOPK if preset == "triton-llmapi" else EXACT


def _of_tensorrt_llm(engine: Mapping[str, Any]) -> str:
    mode = engine.get("mode", "generate")
    if mode not in TENSORRT_LLM_MODES:
        raise FieldInvalid(f"manifest.engine.mode is {mode!r}, expected one of {', '.join(TENSORRT_LLM_MODES)}")
    return EXACT if mode == "encode" or engine.get("generation_logits") is True else TOPK


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of engine.

    Attributes:
        is_remote: Answers at an address of its own instead of in a worker of this machine.
        label_logprobs: Says how exact a bundle's engine settings let it be.
        reads_adapters: Applies a bundle's LoRA adapter itself, beside the base.
    """

    is_remote: bool
    label_logprobs: Callable[[Mapping[str, Any]], str]
    reads_adapters: bool = False


def _always(exactness: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda _: exactness


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "additive": Kind(False, _always(EXACT)),
        "trees": Kind(False, _always(EXACT)),
        "openvino": Kind(False, _always(EXACT)),
        "transformers": Kind(False, _always(EXACT), reads_adapters=True),
        "simulator": Kind(False, lambda engine: str(engine.get("label_logprobs", EXACT)), reads_adapters=True),
        "tensorrt_llm": Kind(False, _of_tensorrt_llm, reads_adapters=True),
        "oip": Kind(True, _of_oip),
        "openai-http": Kind(True, lambda e: TOPK if openai_method(e) == "completions" else EXACT),
        "trtllm-grpc": Kind(True, _always(TOPK)),
        "sglang-grpc": Kind(True, _always(EXACT)),
    }
)
REMOTE_KINDS = tuple(name for name, kind in KINDS.items() if kind.is_remote)


def needs_label_tokens(engine: Mapping[str, Any]) -> bool:
    """Say whether a bundle's labels are tokens of a vocabulary, scored at the place after the prompt."""
    backend = engine.get("backend")
    if backend == "openai-http":
        return openai_method(engine) in ("completions", "score")
    return backend in ("trtllm-grpc", "sglang-grpc", "tensorrt_llm")


def check_adapter_is_read(engine: Mapping[str, Any], files: Iterable[str]) -> None:
    """Refuse a bundle whose LoRA adapter would change no answer.

    An engine that reads none may hold the adapter its weights were merged with: it says ``merged``.

    Raises:
        FieldInvalid: Names the file, and what the engine does instead.
    """
    adapter = next((path for path in sorted(files) if path.startswith("adapter/")), None)
    kind = KINDS.get(str(engine.get("backend")))
    if adapter is None or kind is None or kind.reads_adapters or engine.get("merged") is True:
        return
    says = "an adapter that its server has" if kind.is_remote else "weights it is merged with, and engine.merged = true"
    raise FieldInvalid(f"manifest.files has {adapter}, which {engine['backend']} does not read, expected {says}")


def label_logprobs_of(engine: Mapping[str, Any]) -> str:
    """Say how exactly a bundle's engine tells its labels' probabilities.

    Returns:
        ``exact``, ``topk`` (a label outside the engine's best few gets a bound), or ``none``.
    Raises:
        FieldInvalid: No such kind of engine, or a setting that decides this is not one there is.
    """
    name = engine.get("backend")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise FieldInvalid(f"manifest.engine.backend is {name!r}, expected one of {', '.join(KINDS)}")
    return kind.label_logprobs(engine)


def check_exactness(task: TaskSpec, found: str, engine: str) -> None:
    """Refuse an engine that answers less exactly than the task demands.

    Raises:
        EngineInexact: Says what the engine gives, what the task demands, and how to accept less.
    """
    if found not in LABEL_LOGPROBS or LABEL_LOGPROBS.index(found) > LABEL_LOGPROBS.index(task.label_logprobs):
        raise EngineInexact(
            f"engine {engine!r} gives {found} label probabilities, expected {task.label_logprobs}: "
            f"specialist {task.name!r} accepts less only by its task's label_logprobs"
        )
