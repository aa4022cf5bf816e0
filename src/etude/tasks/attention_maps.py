"""Attention maps of a task's model for one text.

Axes: H heads, Q tokens that attend, L tokens attended to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from etude.errors import ConfigurationError
from etude.models.base import TextDecoder, TextEncoder
from etude.models.layers.attention import record_attention
from etude.tokenization.base import Tokenizer


@dataclass(frozen=True)
class AttentionMap:
    """The weights of one attention.

    Attributes:
        name: Name of the attention in the model, such as `decoder.0.cross_attention`.
        rows: Ids of the tokens that attend; in cross-attention, of those that the decoder predicts there.
        columns: Ids of the tokens attended to.
        weights: Weights of each head, on the CPU.
        cross: Whether the target attends to the source, and not a text to itself.
    """

    name: str
    rows: Sequence[int]
    columns: Sequence[int]
    weights: Float[Tensor, "H Q L"]
    cross: bool = False

    @property
    def fields(self) -> tuple[str, str]:
        """Text of the rows and of the columns: `source` or `target`."""
        own = "target" if self.name.startswith("decoder.") else "source"
        return own, "source" if self.cross else own


@dataclass(frozen=True)
class Attention:
    """All attention maps of one text.

    Attributes:
        source: Ids that the encoder read, special ones included.
        target: Ids that the decoder read, from bos on; None without a decoder.
        maps: Maps in the order of the layers.
    """

    source: Sequence[int]
    target: Sequence[int] | None
    maps: list[AttentionMap]


@runtime_checkable
class ShowsAttention(Protocol):
    """A task that returns the attention of its model."""

    def look_inside(self, text: str, target: str | None, tokenizer: Tokenizer) -> Attention:
        """Return the attention to a text, in the precision of the weights.

        Args:
            text: Text that the encoder reads.
            target: Text that the decoder reads; None: the task's own output for the text.
            tokenizer: Tokenizer of the run.

        Raises:
            ConfigurationError: If a text is empty or too long, or there is no decoder to read a target.
        """
        ...


@runtime_checkable
class RecordsAttention(Protocol):
    """A model whose attention another library computes and can record."""

    def record_attention(self) -> AbstractContextManager[dict[str, Float[Tensor, "B H Q L"]]]:
        """Record attention weights, as `etude.models.layers.attention.record_attention` does for etude's own models."""
        ...


class UnseenError(ConfigurationError):
    """A model has no attention maps to show, whatever it reads."""


def recorded(model: nn.Module) -> AbstractContextManager[dict[str, Float[Tensor, "B H Q L"]]]:
    """Record the attention weights of a model while the block runs."""
    return model.record_attention() if isinstance(model, RecordsAttention) else record_attention(model)


def encode_whole(name: str, text: str, tokenizer: Tokenizer, limit: int) -> list[int]:
    """Return the ids of a text that is to be read whole.

    Raises:
        ConfigurationError: If it has none, or more than the limit.
    """
    (ids,) = tokenizer.encode([text])
    if not ids:
        raise ConfigurationError(f"the {name} {text!r} has no tokens; give a sentence (command line)")
    if len(ids) > limit:
        raise ConfigurationError(
            f"the {name} has {len(ids)} tokens, but the model reads {limit} of a text; give a shorter one (command line)"
        )
    return ids


def encoder_attention(
    model: TextEncoder, ids: Sequence[int], target: str | None, segments: Sequence[int] | None = None
) -> Attention:
    """Return the self-attention of an encoder.

    Args:
        model: The encoder, in evaluation mode.
        ids: Ids that it reads, special ones included.
        target: Must be None.
        segments: Token type id of each id: the index of its text in a pair; None: all of the first.

    Raises:
        ConfigurationError: If there is a target.
        UnseenError: If the encoder has no attention between all tokens.
    """
    if target is not None:
        raise ConfigurationError(f"the target {target!r} has no place in an encoder; leave it out (command line)")
    return own_attention(model, ids, segments)


@torch.no_grad()
def own_attention(
    model: TextEncoder | TextDecoder, ids: Sequence[int], segments: Sequence[int] | None = None
) -> Attention:
    """Return the attention of a text to itself.

    Args:
        model: The model, in evaluation mode.
        ids: Ids that it reads, special ones included.
        segments: As in `encoder_attention`; None for a decoder.

    Raises:
        UnseenError: If the model has no attention between all tokens.
    """
    tokens = torch.tensor([ids], device=model.output_weight.device)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    with recorded(model) as maps:
        if segments is None:
            model(tokens, mask)
        else:
            model(tokens, mask, torch.tensor([segments], device=tokens.device))
    require_maps(model, maps)
    return Attention(ids, None, [AttentionMap(name, ids, ids, weights[0].cpu()) for name, weights in maps.items()])


def require_maps(model: nn.Module, maps: Mapping[str, Tensor]) -> None:
    """Refuse a model that recorded nothing.

    Raises:
        UnseenError: If there are no maps.
    """
    if not maps:
        kind = type(getattr(model, "model", model)).__name__
        raise UnseenError(f"{kind} has no attention between all tokens of a text to look at; set another model.name")
