"""Linear layers multiplied in fp8: half the memory of bfloat16 and up to twice the speed, on cards that have it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LARGEST = torch.finfo(torch.float8_e4m3fn).max
MULTIPLE = 16
"""Of rows and columns that the product takes."""
CAPABILITY = (8, 9)
"""Compute capability from which NVIDIA's cards multiply fp8: Ada, Hopper and later."""


class Float8Linear(nn.Module):
    """A finished linear layer, its weight in fp8 (e4m3), multiplied so and summed in float32.

    Each row of the weight and each token has a scale of its own, its largest magnitude over fp8's largest, so a large
    value costs the others of its row or token precision, and nobody else's::

        y[t o] = s_x[t] s_w[o] sum_i q(x[t i] / s_x[t]) q(w[o i] / s_w[o]) + bias[o]

    Args:
        linear: with a weight [out in] whose sides are multiples of 16; its bias is kept as it is.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight, scale = rounded(linear.weight.detach())
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = nn.Parameter(scale.T.contiguous(), requires_grad=False)  # [1 out]
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """``[... in]`` -> ``[... out]`` of the same type, bfloat16."""
        tokens, scale = rounded(x.reshape(-1, self.in_features))
        product = torch._scaled_mm(
            tokens,
            self.weight.t(),
            scale_a=scale,
            scale_b=self.scale,
            bias=self.bias,
            out_dtype=x.dtype,
            use_fast_accum=x.is_cuda,
        )
        return product.unflatten(0, x.shape[:-1]) if x.ndim != 2 else product

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


def rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [n d] in fp8, each over its own scale, and the scales, float32 [n 1]."""
    wide = rows.float()
    scale = (wide.abs().amax(dim=1, keepdim=True) / LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
    return (wide / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn), scale


def multiply_in_float8(module: nn.Module) -> None:
    """Replace a module's linear layers by :class:`Float8Linear`, in place, but for those whose sides don't allow it."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            if child.in_features % MULTIPLE == 0 == child.out_features % MULTIPLE:
                setattr(module, name, Float8Linear(child))
        else:
            multiply_in_float8(child)


def multiplies_float8(device: torch.device) -> bool:
    """Whether a device has products of fp8 in its hardware."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= CAPABILITY
