"""SGLang's own server on a processor without a GPU: runs in SGLang's environment, not in ours.

What is built for a GPU alone stands as a name that its imports find. Processes that it starts import this file too.
"""

import sys
import types
from collections.abc import Callable
from typing import Any

import torch

PICTURES = torch.library.Library("torchvision", "DEF")  # kept: they go with it
PINNED = ("arange", "empty", "tensor", "zeros")  # for faster copies to a device that is not there


def _absent(name: str) -> Callable[..., Any]:
    if name.startswith("__"):
        raise AttributeError(name)

    def absent(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(f"sgl_kernel.{name} is not built for this processor")

    return absent


def _unpinned(make: Callable[..., Any]) -> Callable[..., Any]:
    def made(*args: Any, pin_memory: bool = False, **named: Any) -> Any:
        return make(*args, **named)

    return made


def stand_in() -> None:
    """Let SGLang be imported without its kernels, and use PyTorch's."""
    for name in ("nms", "qnms"):
        PICTURES.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    kernels = types.ModuleType("sgl_kernel")
    kernels.__getattr__ = _absent  # type: ignore[method-assign]
    sys.modules["sgl_kernel"] = kernels
    for name in PINNED:
        setattr(torch, name, _unpinned(getattr(torch, name)))
    torch.Tensor.pin_memory = lambda self, *_: self  # type: ignore[assignment,method-assign]


stand_in()

if __name__ == "__main__":
    from sglang.launch_server import run_server
    from sglang.srt.server_args import prepare_server_args

    run_server(prepare_server_args(sys.argv[1:]))
