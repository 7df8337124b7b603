"""From a base's verified bytes to a model on its device. Nothing is fetched and nothing is unpickled."""

from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load as read_safetensors
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

from gateway.worker.backend import BackendFailed
from gateway.worker.transformers.attention import NAME
from protos.contract.base import CONFIG, BaseInvalid, BaseStore
from protos.contract.digest import JsonMalformed, parse_json_object

DECODER, ENCODER = "decoder", "encoder"
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.bfloat16}  # fp8: of linear weights only


def pick_device(wanted: str) -> torch.device:
    """Return the device; ``auto`` is a GPU where there is one.

    Raises:
        BackendFailed: CUDA is asked for and not there.
    """
    has_cuda = torch.cuda.is_available()
    if wanted == "cuda" and not has_cuda:
        raise BackendFailed("manifest.engine.device is 'cuda', expected a CUDA device here")
    return torch.device("cuda" if has_cuda and wanted != "cpu" else "cpu")


def pick_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """Return the precision; ``auto`` is bf16 on a GPU and single precision on a CPU."""
    if wanted == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return DTYPES[wanted]


def load_model(bases: BaseStore, digest: str, kind: str, device: torch.device, dtype: torch.dtype) -> tuple[Any, str]:
    """Build a base model from its store; return it and the base's name.

    Raises:
        BackendFailed: Missing, altered or corrupt files, an unknown architecture, or weights that do not fit it.
    """
    try:
        listing = bases.listing(digest)
        config = parse_json_object(bases.read(digest, listing, CONFIG))
        tensors: dict[str, Tensor] = {}
        for name in listing.weights:
            tensors.update(read_safetensors(bases.read(digest, listing, name)))
    except (BaseInvalid, JsonMalformed) as error:
        raise BackendFailed(str(error)) from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise BackendFailed(f"base {digest}: corrupt safetensors: {error}") from error
    return build_model(config, tensors, kind, device, dtype), listing.name


def build_model(
    config: dict[str, Any], tensors: dict[str, Tensor], kind: str, device: torch.device, dtype: torch.dtype
) -> Any:
    """Build a model of a configuration's architecture from its weights, with our attention; raises BackendFailed."""
    model_type = str(config.get("model_type"))
    if model_type not in CONFIG_MAPPING:
        raise BackendFailed(f"config.json: model_type is {model_type!r}, expected one that transformers knows")
    settings = CONFIG_MAPPING[model_type].from_dict(config)
    classes = MODEL_FOR_CAUSAL_LM_MAPPING if kind == DECODER else MODEL_MAPPING
    try:
        architecture: Any = classes[type(settings)]
    except KeyError as error:
        raise BackendFailed(f"config.json: model_type {model_type!r} has no {kind} in transformers") from error
    if kind == ENCODER:
        head = getattr(architecture, "base_model_prefix", "") + "."
        tensors = {name.removeprefix(head): tensor for name, tensor in tensors.items()}
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    level = transformers.utils.logging.get_verbosity()  # type: ignore[no-untyped-call]
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    extra = {"add_pooling_layer": False} if kind == ENCODER and model_type in ("bert", "roberta") else {}
    try:
        model, report = architecture.from_pretrained(
            None,
            config=settings,
            state_dict=tensors,
            dtype=dtype,
            attn_implementation=NAME,
            output_loading_info=True,
            local_files_only=True,
            **extra,
        )
    except (ValueError, RuntimeError) as error:
        raise BackendFailed(f"the base cannot be built: {_short(error)}") from error
    finally:
        transformers.utils.logging.set_verbosity(level)  # type: ignore[no-untyped-call]
    for problem, names in (("lack", report["missing_keys"]), ("misfit", report["mismatched_keys"])):
        if names:
            raise BackendFailed(f"the base's weights {problem} {sorted(map(str, names))[0]}, which {model_type} has")
    model.to(device).eval().requires_grad_(False)
    for name, weights in model.named_parameters():
        if not torch.isfinite(weights).all():
            raise BackendFailed(f"the base's {name} is not finite")
    return model


def last_position(model: nn.Module) -> int:
    """Return how many tokens a model was made for."""
    config: Any = model.config
    return int(getattr(config, "max_position_embeddings", 1 << 20))


def end_tokens(config: Any) -> tuple[int, ...]:
    """Return the tokens that end a text, by a model's configuration."""
    found = getattr(config, "eos_token_id", None)
    if found is None:
        return ()
    return (int(found),) if isinstance(found, int) else tuple(map(int, found))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
