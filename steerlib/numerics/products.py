"""Products of states and weights on a CPU, in float32 and outside autograd: oneDNN's.

PyTorch asks MKL for them, which on a processor that is not Intel's leaves half of it idle (AVX-512 on AMD: 2.2 times as
slow). oneDNN, which comes with PyTorch, does as well on either.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

LEAST = 1 << 20  # multiplications, below which what a call costs is more than is gained
_THERE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(
    states: Float[Tensor, "... d"], weight: Float[Tensor, "e d"], bias: Float[Tensor, " e"] | None = None
) -> Float[Tensor, "... e"]:
    """``states @ weight.T + bias``, as `torch.nn.functional.linear` has it."""
    parts = [part for part in (states, weight, bias) if part is not None]
    plain = all(part.dtype == torch.float32 and part.device.type == "cpu" for part in parts)
    followed = torch.is_grad_enabled() and any(part.requires_grad for part in parts)
    if not (_THERE and plain) or followed or states.numel() * len(weight) < LEAST:
        return functional.linear(states, weight, bias)
    bias = bias if bias is None else bias.contiguous()  # its strides would not be looked at
    return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")


class Linear(nn.Linear):
    """The same by `product`."""

    def forward(self, states: Float[Tensor, "... d"]) -> Float[Tensor, "... e"]:
        return product(states, self.weight, self.bias)
