"""Residual connections around a sublayer, with dropout, and a norm before the sublayer or after the sum.

Axes: N real tokens, M tokens whose states are needed, D model width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import partial

from jaxtyping import Float, Int
from torch import Tensor, nn

from etude.errors import ConfigurationError
from etude.models.layers.dropout import Dropout

Sublayer = Callable[[Tensor], Tensor]
"""Maps unpadded states [N, D] to those of all tokens, or of the tokens that are needed."""

Norm = Callable[[int], nn.Module]
"""Makes a norm of states of the given width: `nn.LayerNorm`, `nn.RMSNorm` (Zhang and Sennrich 2019)."""


class Residual(nn.Module, ABC):
    """Adds a sublayer's output to its input.

    Args:
        width: D.
        dropout: Dropout rate of the sublayer's output.
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
            x: States of all tokens.
            sublayer: Applied to all of them, normalised or not.
            at: Indices of the tokens whose states the sublayer returns; None: all.
        """

    @abstractmethod
    def final_norm(self) -> nn.Module:
        """Return a new module for the end of a stack of such connections."""


class PreNorm(Residual):
    """x + Dropout(Sublayer(Norm(x))): trains without a warm-up (Xiong et al. 2020)."""

    def forward(
        self, x: Float[Tensor, "N D"], sublayer: Sublayer, at: Int[Tensor, " M"] | None = None
    ) -> Float[Tensor, "M D"]:
        """Return the sum, unnormalised."""
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


def start_at_zero(layers: Iterable[nn.Module]) -> None:
    """Set the last linear layer of every sublayer to zero, so that each layer starts as the identity.

    It is the first rule of Fixup (Zhang et al. 2019, section 3). The last layer of a sublayer is the one that is registered
    last, and its output is the sublayer's.

    Args:
        layers: Modules whose children are sublayers and their residual connections.

    Raises:
        ConfigurationError: If a residual connection normalises its sum, or a sublayer has no linear layer.
    """
    for layer in layers:
        for name, part in layer.named_children():
            if isinstance(part, PostNorm):
                raise ConfigurationError(
                    "model.zero_residual = true needs layers that start as the identity, and PostNorm normalises their "
                    "sums; write model/residual=pre_norm or model.zero_residual=false"
                )
            if isinstance(part, Residual):
                continue
            linear = [module for module in part.modules() if isinstance(module, nn.Linear)]
            if not linear:
                raise ConfigurationError(
                    f"model.zero_residual = true needs a linear layer at the end of each sublayer, and {name} "
                    f"({type(part).__name__}) has none; write model.zero_residual=false"
                )
            for parameter in linear[-1].parameters():
                nn.init.zeros_(parameter)


def _at(x: Float[Tensor, "N D"], at: Int[Tensor, " M"] | None) -> Float[Tensor, "M D"]:
    return x if at is None else x.index_select(0, at)
