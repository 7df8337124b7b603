"""Linear modules in eight-bit floating point (e4m3): weights once, activations as they come, a scale a row each.

Halves what a pass reads of the weights, and runs on the tensor cores of Hopper, Ada and later. The format and its
largest number: Micikevicius et al. 2022 (arXiv:2209.05433).
"""

import torch
from torch import Tensor, nn

from gateway.worker.backend import BackendFailed

TYPE = torch.float8_e4m3fn
LARGEST = 448.0
ALIGNED = 16  # both sizes of a product must be multiples of it
LEAST_CAPABILITY = (8, 9)


def check_device(device: torch.device) -> None:
    """Refuse a GPU without eight-bit tensor cores; raises BackendFailed."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        raise BackendFailed(f"{torch.cuda.get_device_name(device)} has no fp8, expected compute capability 8.9 or more")


class Fp8Linear(nn.Module):
    """A linear module whose weights and inputs are rounded to fp8; the result is in the input's own type."""

    weight: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        weight, scale = _rounded(linear.weight)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply, shapes [..., inputs] to [..., outputs]."""
        flat, scale = _rounded(x.flatten(0, -2))
        y = torch._scaled_mm(
            flat, self.weight.t(), scale_a=scale, scale_b=self.scale.t(), bias=self.bias, out_dtype=x.dtype
        )
        return y.view(*x.shape[:-1], self.out_features)


def fits(linear: nn.Module) -> bool:
    """Say whether a linear module's sizes can be multiplied in fp8."""
    return isinstance(linear, nn.Linear) and not (linear.in_features % ALIGNED or linear.out_features % ALIGNED)


def _rounded(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return values in fp8 and each row's scale, shape [rows, 1]."""
    scale = values.detach().abs().amax(1, keepdim=True).float().clamp(min=1e-12) / LARGEST
    return (values.detach() / scale.to(values.dtype)).clamp(-LARGEST, LARGEST).to(TYPE), scale
