"""Residual connections around a sublayer, with dropout and a norm in one of two places.

Axes: N real tokens, M those of them whose states are asked for, D model width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

from jaxtyping import Float, Int
from torch import Tensor, nn

from etude.models.layers.dropout import Dropout

Sublayer = Callable[[Tensor], Tensor]
"""Maps packed states [N, D] to packed states, of all tokens or of those that are asked for."""

Norm = Callable[[int], nn.Module]
"""Makes a norm of states of the given width: `nn.LayerNorm`, `nn.RMSNorm` (Zhang and Sennrich 2019)."""


class Residual(nn.Module, ABC):
    """Adds what a sublayer makes of its input to that input.

    Args:
        width: D.
        dropout: On the sublayer's output.
        norm: Makes the norm, given D.
    """

    def __init__(self, width: int, dropout: float, norm: Norm = nn.LayerNorm) -> None:
        super().__init__()
        self._new_norm = partial(norm, width)
        self.norm = self._new_norm()
        self.dropout = Dropout(dropout)

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "N D"], sublayer: Sublayer, at: Int[Tensor, " M"] | None = None
    ) -> Float[Tensor, "M D"]:
        """Return the sum.

        Args:
            x: States.
            sublayer: Reads them all.
            at: The tokens that the sublayer returns states of, by number; None: all.
        """

    @abstractmethod
    def final_norm(self) -> nn.Module:
        """Return a new module for the end of a stack of such layers."""


class PreNorm(Residual):
    """x + Dropout(Sublayer(Norm(x))): trains without a warm-up (Xiong et al. 2020)."""

    def forward(
        self, x: Float[Tensor, "N D"], sublayer: Sublayer, at: Int[Tensor, " M"] | None = None
    ) -> Float[Tensor, "M D"]:
        """Return the sum, which no norm has touched."""
        return _at(x, at) + self.dropout(sublayer(self.norm(x)))

    def final_norm(self) -> nn.Module:
        """Return a norm, since the sum of the layers is not normalised."""
        return self._new_norm()


class PostNorm(Residual):
    """Norm(x + Dropout(Sublayer(x))): the original Transformer (Vaswani et al. 2017, section 3.1) and BERT."""

    def forward(
        self, x: Float[Tensor, "N D"], sublayer: Sublayer, at: Int[Tensor, " M"] | None = None
    ) -> Float[Tensor, "M D"]:
        """Return the normalised sum."""
        return self.norm(_at(x, at) + self.dropout(sublayer(x)))

    def final_norm(self) -> nn.Module:
        """Return the identity, since every layer ends in a norm."""
        return nn.Identity()


def _at(x: Float[Tensor, "N D"], at: Int[Tensor, " M"] | None) -> Float[Tensor, "M D"]:
    return x if at is None else x.index_select(0, at)
