"""A bundle's LoRA adapter, checked for what TensorRT-LLM would take silently and wrongly, and given to it as files."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize

from gateway.worker.backend import BackendFailed
from gateway.worker.peft import CONFIG, WEIGHTS, check_config
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
_FLOATS = {"F32": "<f4", "F16": "<f2"}


def check_adapter(contents: Mapping[str, bytes], base_names: tuple[str, ...], hidden: int, max_rank: int) -> bool:
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
    targets = _targets(config)
    for name, tensor in tensors:
        _check_tensor(name, tensor, targets, rank, hidden)
    for target in sorted(targets):
        if not any(f".{target}." in name for name, _ in tensors):
            raise BackendFailed(f"{CONFIG} targets {target!r}, which {WEIGHTS} has no weights for")
    return True


def _targets(config: Mapping[str, Any]) -> set[str]:
    found = config.get("target_modules")
    if not isinstance(found, list) or not found:
        raise BackendFailed(f"{CONFIG}: target_modules is {found!r}, expected a list of modules")
    targets = {str(target).rpartition(".")[2] for target in found}
    ignored = sorted(targets - set(MODULES))
    if ignored:
        raise BackendFailed(f"{CONFIG} targets {ignored[0]!r}, expected some of {', '.join(MODULES)}: it is ignored")
    if targets & TOGETHER and not targets >= TOGETHER:
        raise BackendFailed(f"{CONFIG} targets {sorted(targets & TOGETHER)}, expected q_proj, k_proj, v_proj together")
    return targets


def _check_tensor(name: str, tensor: Mapping[str, Any], targets: set[str], rank: int, hidden: int) -> None:
    if not any(f".{target}." in name for target in targets):
        raise BackendFailed(f"{WEIGHTS} holds {name}, expected only target_modules' weights")
    shape = list(tensor["shape"])
    if len(shape) != 2 or rank not in shape:
        raise BackendFailed(f"{WEIGHTS}: {name} has shape {shape}, expected rank {rank} in it")
    reads_hidden = "lora_A" in name and any(f".{t}." in name for t in ("q_proj", "k_proj", "v_proj", "gate_proj"))
    if reads_hidden and shape[1] != hidden:
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
