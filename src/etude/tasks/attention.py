"""What a task shows of its model's attention to one text.

Axes: H heads, Q tokens that attend, L tokens attended to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from etude.errors import ConfigurationError
from etude.models.encoder import Encoder
from etude.nn.attention import record_attention
from etude.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class AttentionMap:
    """The weights of one attention.

    Attributes:
        name: Of the attention in the model, such as `decoder.0.cross_attention`.
        rows: Ids of the tokens that attend; across, of those that the decoder predicts there.
        columns: Ids of the tokens attended to.
        weights: Of each head; on the CPU.
        cross: Whether the target attends to the source, and not a text to itself.
    """

    name: str
    rows: Sequence[int]
    columns: Sequence[int]
    weights: Float[Tensor, "H Q L"]
    cross: bool = False


@dataclass(frozen=True)
class Attention:
    """All attention maps of one text.

    Attributes:
        source: Ids that the encoder read, special ones included.
        target: Ids that the decoder read, from bos on; None without a decoder.
        maps: In the order of the layers.
    """

    source: Sequence[int]
    target: Sequence[int] | None
    maps: list[AttentionMap]


@runtime_checkable
class ShowsAttention(Protocol):
    """A task whose model can be looked into."""

    def look_inside(self, text: str, target: str | None, tokenizer: Tokenizer) -> Attention:
        """Return the attention to a text, in the precision of the weights.

        Args:
            text: What the encoder reads.
            target: What the decoder reads; None: what the task makes of the text.
            tokenizer: Of the run.

        Raises:
            ConfigurationError: If a text is empty or too long, or a target has no place.
        """
        ...


def readable(name: str, text: str, tokenizer: Tokenizer, limit: int) -> list[int]:
    """Return the ids of a text that is to be looked at whole.

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


@torch.no_grad()
def encoder_attention(
    model: Encoder, ids: Sequence[int], target: str | None, segments: Sequence[int] | None = None
) -> Attention:
    """Return the self-attention of an encoder.

    Args:
        model: The encoder, in evaluation mode.
        ids: What it reads, special ids included.
        target: Must be None.
        segments: Which text of a pair each id belongs to; None: to the first.

    Raises:
        ConfigurationError: If there is a target.
    """
    if target is not None:
        raise ConfigurationError(f"the target {target!r} has no place in an encoder; leave it out (command line)")
    tokens = torch.tensor([ids], device=model.embedding.weight.device)
    with record_attention(model) as maps:
        model(
            tokens,
            torch.ones_like(tokens, dtype=torch.bool),
            None if segments is None else torch.tensor([segments], device=tokens.device),
        )
    return Attention(ids, None, [AttentionMap(name, ids, ids, weights[0].cpu()) for name, weights in maps.items()])
