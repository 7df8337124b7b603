"""PEFT's adapter configuration: what every engine here asks of it, each applying the weights in its own way."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from gateway.worker.backend import BackendFailed

CONFIG, WEIGHTS = "adapter/adapter_config.json", "adapter/adapter_model.safetensors"
# Options that change what an adapter computes, and the values that change nothing.
_OPTIONS: Mapping[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "modules_to_save": (None, []),
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "alpha_pattern": ({}, None),
    "rank_pattern": ({}, None),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "lora_bias": (False, None),
}


def check_config(
    config: Mapping[str, Any], base_names: Sequence[str], max_rank: int, *, reads: Collection[str] = ()
) -> tuple[int, float]:
    """Check an adapter's configuration, and return its rank and what B is multiplied by.

    Args:
        base_names: The base's name, and what else it goes by.
        reads: Options that the engine computes as they are.

    Raises:
        BackendFailed: For another base, over the rank limit, or with parts that would be ignored.
    """
    if config.get("peft_type") != "LORA":
        raise BackendFailed(f"{CONFIG}: peft_type is {config.get('peft_type')!r}, expected 'LORA'")
    trained_on = config.get("base_model_name_or_path")
    if trained_on not in base_names:
        raise BackendFailed(
            f"{CONFIG}: base_model_name_or_path is {trained_on!r}, expected {base_names[0]!r} or the base's digest"
        )
    for name, accepted in _OPTIONS.items():
        if name not in reads and config.get(name) not in accepted:
            raise BackendFailed(f"{CONFIG}: {name} is {config[name]!r}, expected {accepted[0]!r}: it would be ignored")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or not 1 <= rank <= max_rank:
        raise BackendFailed(f"{CONFIG}: r is {rank!r}, expected a rank from 1 to {max_rank}")
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise BackendFailed(f"{CONFIG}: lora_alpha is {alpha!r}, expected a number")
    return rank, alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def check_targets(config: Mapping[str, Any], modules: Collection[str]) -> None:
    """Refuse weights of modules that an adapter does not target, and targets without weights, as PEFT names them.

    Args:
        modules: The base's modules that there are weights for.

    Raises:
        BackendFailed: PEFT would have ignored some of the weights, so the adapter was not trained with them.
    """
    targets = config.get("target_modules")
    if targets is None or targets == "all-linear":
        return
    if isinstance(targets, str):
        try:
            is_target = re.compile(targets).fullmatch
        except re.error as error:
            raise BackendFailed(
                f"{CONFIG}: target_modules is {targets!r}, expected a regular expression: {error}"
            ) from error
        unnamed = [module for module in modules if not is_target(module)]
    elif isinstance(targets, list) and all(isinstance(target, str) for target in targets):
        for target in targets:
            if not any(_is_called(module, target) for module in modules):
                raise BackendFailed(f"{CONFIG} targets {target!r}, which {WEIGHTS} has no weights for")
        unnamed = [module for module in modules if not any(_is_called(module, target) for target in targets)]
    else:
        raise BackendFailed(f"{CONFIG}: target_modules is {targets!r}, expected names of modules or a pattern of them")
    if unnamed:
        raise BackendFailed(f"{WEIGHTS} holds {min(unnamed)}, which target_modules {targets!r} does not name")


def _is_called(module: str, target: str) -> bool:
    return module == target or module.endswith("." + target)
