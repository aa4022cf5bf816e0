"""What a task asks of an encoder, its pooler, and the head that guesses hidden tokens from its states.

Axes: B texts, L positions, N real tokens, M those of them whose states are asked for, D model width, E width of the
embeddings, V vocabulary, O outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from etude.nn.feed_forward import Activation
from etude.nn.packing import Layout

OutputKind = Literal["text", "token", "span"]
"""What a last layer says: something of a text by its pooler, of each token, or of a token as an answer's first and last."""


class OutputLayer(NamedTuple):
    """The last layer of a pretrained model.

    Attributes:
        model: Its name.
        weight: From states to outputs.
        bias: Of the outputs.
        names: Of the outputs.
    """

    model: str
    weight: Float[Tensor, "O D"]
    bias: Float[Tensor, " O"]
    names: tuple[str, ...]


class TextEncoder(nn.Module, ABC):
    """A model from the tokens of texts to their states.

    Attributes:
        width: D.
        max_length: The most tokens of a text.
    """

    width: int
    max_length: int

    @property
    @abstractmethod
    def stages(self) -> list[tuple[nn.Module, ...]]:
        """Its parts from the input to the output: embeddings, then layer after layer."""

    @property
    @abstractmethod
    def tells_apart(self) -> bool:
        """Whether it has vectors for the second text of a pair."""

    @property
    @abstractmethod
    def output_weight(self) -> Float[Tensor, "V E"]:
        """The embedding of each id, which is also the matrix from a head's features to logits."""

    @abstractmethod
    def forward(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], segments: Int[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B L D"]:
        """Return the last states; zeros at padding.

        Args:
            tokens: Ids.
            mask: True at real tokens.
            segments: Which text of its pair each token belongs to, from 0; None: to the first.

        Raises:
            TooLongError: If a text has more than `max_length` real tokens.
        """

    @abstractmethod
    def hidden(
        self,
        tokens: Int[Tensor, "B L"],
        mask: Bool[Tensor, "B L"],
        segments: Int[Tensor, "B L"] | None = None,
        at: Int[Tensor, " M"] | None = None,
    ) -> Float[Tensor, "M D"]:
        """Return the last states at real tokens, numbered as in `tokens[mask]`: those `at` the given numbers, or all.

        Takes and raises what `forward` does.
        """

    def first(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], segments: Int[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B D"]:
        """Return the last state of the token that starts each text, as `hidden` does; no text is empty."""
        return self.hidden(tokens, mask, segments, at=Layout.from_mask(mask).starts)

    @abstractmethod
    def masked_lm_head(self) -> MaskedLMHead:
        """Return the head that came with the encoder's weights, or a new one."""

    def pooler(self) -> Pooler:
        """Return the pooler that came with the encoder's weights, or a new one."""
        return Pooler(self.width)

    def output_layer(self, kind: OutputKind) -> OutputLayer | None:
        """Return the last layer that came with the encoder's weights; None: there was none for such outputs."""
        return None


class Pooler(nn.Module):
    """A linear layer and an activation on the state of the first token (Devlin et al. 2019, in the authors' code).

    Args:
        width: D.
        activation: After the linear layer.
    """

    def __init__(self, width: int, activation: Activation = torch.tanh) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.activation = activation

    def forward(self, states: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Return the pooled states."""
        return self.activation(self.dense(states))


class MaskedLMHead(nn.Module, ABC):
    """From states to features, whose products with the embeddings are logits, up to a bias.

    Attributes:
        bias: Added to the logits.
    """

    bias: Float[Tensor, " V"]

    @abstractmethod
    def forward(self, states: Float[Tensor, "N D"]) -> Float[Tensor, "N E"]:
        """Return the features."""


class BertHead(MaskedLMHead):
    """BERT's head: a linear layer, an activation and a norm (Devlin et al. 2019, in the authors' code).

    Args:
        width: D, which is E.
        vocabulary: V.
        activation: After the linear layer.
        eps: Of the norm.
    """

    def __init__(self, width: int, vocabulary: int, activation: Activation = F.gelu, eps: float = 1e-5) -> None:
        super().__init__()
        self.transform = nn.Linear(width, width)
        self.activation = activation
        self.norm = nn.LayerNorm(width, eps=eps)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, states: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """Return the features."""
        features: Tensor = self.norm(self.activation(self.transform(states)))
        return features
