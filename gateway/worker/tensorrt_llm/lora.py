"""A bundle's LoRA adapter, checked for what TensorRT-LLM would take silently and wrongly, and given to it as files."""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize

from gateway.worker.backend import BackendFailed
from gateway.worker.peft import CONFIG, WEIGHTS, check_config, check_targets
from protos.contract.digest import JsonMalformed, parse_json_object

# The engine's module names for those of a Hugging Face decoder. Others are skipped there with a warning.
MODULES: Mapping[str, str] = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_dense",
    "gate_proj": "mlp_h_to_4h",
    "up_proj": "mlp_gate",
    "down_proj": "mlp_4h_to_h",
}
TOGETHER = frozenset({"q_proj", "k_proj", "v_proj"})  # a missing one is filled with zeros of the wrong shape under GQA
_TOGETHER = "q_proj, k_proj, v_proj"
_READ_HIDDEN = (*TOGETHER, "gate_proj", "up_proj")
_NAME = re.compile(
    r"base_model\.model\.(?P<module>.+\.layers\.(?P<layer>\d+)\.(?:.+\.)?(?P<target>\w+))\.lora_[AB]\.weight"
)
_FLOATS = {"F32": "<f4", "F16": "<f2"}


def check_adapter(
    contents: Mapping[str, bytes], base_names: tuple[str, ...], hidden: int, layers: int, max_rank: int
) -> bool:
    """Return whether there is an adapter, after checking it.

    Raises:
        BackendFailed: Corrupt, for another base, over the rank limit, not finite, or with parts the engine ignores.
    """
    if CONFIG not in contents and WEIGHTS not in contents:
        return False
    for name in (CONFIG, WEIGHTS):
        if name not in contents:
            raise BackendFailed(f"{name} is missing from the bundle")
    try:
        config = parse_json_object(contents[CONFIG])
        tensors = deserialize(contents[WEIGHTS])  # type: ignore[no-untyped-call]
    except JsonMalformed as error:
        raise BackendFailed(f"{CONFIG}: {error}") from error
    except (SafetensorError, ValueError) as error:
        raise BackendFailed(f"{WEIGHTS}: {error}") from error
    rank, _ = check_config(config, base_names, max_rank, reads=("use_dora",))
    _check_targets(config)
    modules: set[str] = set()
    by_layer: dict[int, set[str]] = {}
    for name, tensor in tensors:
        found = _NAME.fullmatch(name)
        if found is None:
            raise BackendFailed(f"{WEIGHTS} holds {name}, expected lora_A and lora_B of a decoder layer's modules")
        layer, target = int(found["layer"]), found["target"]
        if layer >= layers:
            raise BackendFailed(f"{WEIGHTS} holds {name}, expected one of the {layers} layers that the base has")
        _check_tensor(name, tensor, target, rank, hidden)
        modules.add(found["module"])
        by_layer.setdefault(layer, set()).add(target)
    check_targets(config, modules)
    for layer, has in sorted(by_layer.items()):
        if has & TOGETHER and (lacking := sorted(TOGETHER - has)):
            raise BackendFailed(f"{WEIGHTS}: layer {layer} has no {lacking[0]}, expected {_TOGETHER} together")
    return True


def _check_targets(config: Mapping[str, Any]) -> None:
    """Refuse targets that the engine cannot read, or would skip."""
    found = config.get("target_modules")
    if (
        not isinstance(found, list) or not found
    ):  # the engine goes through a list, and through a pattern letter by letter
        raise BackendFailed(f"{CONFIG}: target_modules is {found!r}, expected a list of modules")
    targets = {str(target).rpartition(".")[2] for target in found}
    ignored = sorted(targets - set(MODULES))
    if ignored:
        raise BackendFailed(f"{CONFIG} targets {ignored[0]!r}, expected some of {', '.join(MODULES)}: it is ignored")
    if targets & TOGETHER and not targets >= TOGETHER:
        raise BackendFailed(f"{CONFIG} targets {sorted(targets & TOGETHER)}, expected {_TOGETHER} together")


def _check_tensor(name: str, tensor: Mapping[str, Any], target: str, rank: int, hidden: int) -> None:
    shape = list(tensor["shape"])
    if len(shape) != 2 or rank not in shape:
        raise BackendFailed(f"{WEIGHTS}: {name} has shape {shape}, expected rank {rank} in it")
    if "lora_A" in name and target in _READ_HIDDEN and shape[1] != hidden:
        raise BackendFailed(f"{WEIGHTS}: {name} has shape {shape}, expected {hidden} inputs as the base has")
    if not _is_finite(tensor["dtype"], bytes(tensor["data"])):
        raise BackendFailed(f"{WEIGHTS}: {name} is not finite")


def _is_finite(dtype: str, data: bytes) -> bool:
    if dtype in _FLOATS:
        return bool(np.isfinite(np.frombuffer(data, _FLOATS[dtype])).all())
    if dtype == "BF16":  # all ones in the exponent
        return not bool(((np.frombuffer(data, "<u2") & 0x7F80) == 0x7F80).any())
    raise BackendFailed(f"{WEIGHTS} holds {dtype}, expected F32, F16 or BF16")


def write_adapter(contents: Mapping[str, bytes]) -> "tempfile.TemporaryDirectory[str]":
    """Write the verified bytes where only this user reads: the engine takes a path, and this one nobody changes."""
    folder = tempfile.TemporaryDirectory(prefix="interlock-adapter-")
    for name in (CONFIG, WEIGHTS):
        (Path(folder.name) / Path(name).name).write_bytes(contents[name])
    return folder
