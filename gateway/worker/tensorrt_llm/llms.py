"""Loaded LLMs that bundles share, and what their errors mean."""

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.worker.backend import BackendFailed, BackendGone

SHUTTING_DOWN = "shutting down"


@dataclass(slots=True)
class Shared:
    """One LLM, how many bundles use it, and the next adapter's number: 0 means none to the engine."""

    llm: Any
    users: int = 0
    adapters: int = 0
    is_gone: bool = False
    calling: threading.Lock = field(default_factory=threading.Lock)  # encode takes one caller at a time


_LLMS: dict[str, Shared] = {}
_CHANGING = threading.Lock()


def api() -> Any:
    """Import the library; in one process with the worker, which needs no hop between processes then."""
    os.environ.setdefault("TLLM_WORKER_USE_SINGLE_PROCESS", "1")
    os.environ.setdefault("TRTLLM_NO_USAGE_STATS", "1")  # it reports its use elsewhere unless told not to
    import tensorrt_llm

    return tensorrt_llm


def acquire(key: str, make: Callable[[], Any]) -> Shared:
    """Return the LLM of a key, made on first use; raises BackendFailed."""
    with _CHANGING:
        shared = _LLMS.get(key)
        if shared is None or shared.is_gone:
            try:
                shared = Shared(make())
            except (ValueError, TypeError, RuntimeError, OSError) as error:
                raise BackendFailed(f"TensorRT-LLM refuses the model: {short(error)}") from error
            _LLMS[key] = shared
        shared.users += 1
        return shared


def release(key: str, shared: Shared) -> None:
    """Give an LLM back; the last user's going shuts it down."""
    with _CHANGING:
        shared.users -= 1
        if shared.users:
            return
        if _LLMS.get(key) is shared:
            del _LLMS[key]
    if not shared.is_gone:
        shared.llm.shutdown()


def explain(error: BaseException, shared: Shared) -> BackendFailed:
    """Say what an error of the engine means.

    A request's own fault leaves the engine alive. Everything that is not one comes from the engine's
    background, which has shut itself down by then: whoever goes on asking waits for nobody.
    """
    from tensorrt_llm.executor.utils import RequestError

    if isinstance(error, RequestError | ValueError | TypeError) and not isinstance(error, BackendFailed):
        return BackendFailed(f"request refused: {short(error)}")
    shared.is_gone = True
    word = "is shutting down" if SHUTTING_DOWN in str(error) else f"failed for good: {short(error)}"
    return BackendGone(f"TensorRT-LLM {word}")


def options(settings: Mapping[str, Any]) -> str:
    """Name the settings that decide whether two bundles can share an LLM."""
    return ",".join(f"{name}={settings[name]}" for name in sorted(settings))


def is_well(shared: Shared) -> bool:
    """Ask the engine itself whether it goes on; a version that cannot be asked does not say so."""
    asked = getattr(shared.llm, "_check_health", None)
    return asked is not None and bool(asked())


def short(error: BaseException) -> str:
    """Cut what an error says to one short line."""
    return " ".join(str(error).split())[:160] or type(error).__name__
