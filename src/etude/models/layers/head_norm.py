"""Norm of the queries and keys of attention (Henry et al. 2020; Dehghani et al. 2023, section 2).

Axes: N real tokens, P parts, such as queries and keys, H heads, K head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

EPS = 1e-6
"""Added to the mean of squares, as in later models with this norm (Qwen3, Gemma 3)."""


class HeadNorm(nn.Module):
    """RMS norm (Zhang and Sennrich 2019) of each head's vectors: x / √(mean x² + ε) ⊙ g, in single precision or better.

    Scores of normalised queries and keys are at most √K times the largest gains, however large the hidden states grow.
    Each part has a gain g of its own, which all heads share. The gains are one vector, since matrices decay and vectors do
    not.

    Args:
        head_width: K.
        parts: P.
    """

    def __init__(self, head_width: int, parts: int = 1) -> None:
        super().__init__()
        self.head_width = head_width
        self.weight = nn.Parameter(torch.ones(parts * head_width))

    def forward(self, x: Float[Tensor, "N P H K"]) -> Float[Tensor, "N P H K"]:
        """Return the normalised vectors, in the type of `x`."""
        precise = x.to(torch.promote_types(x.dtype, torch.float32))
        gains = self.weight.view(-1, 1, self.head_width)
        return (F.rms_norm(precise, (self.head_width,), eps=EPS) * gains).to(x.dtype)
