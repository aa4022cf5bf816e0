"""What a task asks of an encoder, its pooler, and the head that guesses hidden tokens from its states.

Axes: B texts, L positions, N real tokens, M those of them whose states are asked for, D model width, E width of the
embeddings, V vocabulary, O outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from etude.models.generation.hypothesis import SearchCache
from etude.models.layers.feed_forward import Activation
from etude.models.layers.unpad import Unpadding

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
        return self.hidden(tokens, mask, segments, at=Unpadding.from_mask(mask).starts)

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


class TextDecoder(nn.Module, ABC):
    """A model from the tokens of texts to logits of the token after each.

    Attributes:
        max_length: The most tokens that are read at once.
    """

    max_length: int

    @property
    @abstractmethod
    def stages(self) -> list[tuple[nn.Module, ...]]:
        """Its parts from the input to the output: embeddings, then layer after layer."""

    @property
    @abstractmethod
    def output_weight(self) -> Float[Tensor, "V D"]:
        """The matrix from states to logits."""

    @property
    @abstractmethod
    def output_bias(self) -> Float[Tensor, " V"] | None:
        """What is added to the logits; None: nothing."""

    @abstractmethod
    def forward(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], documents: Int[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B L V"]:
        """Return logits of the token after each token; zeros at padding.

        Args:
            tokens: Ids.
            mask: True at real tokens; padding stands at the end of a row.
            documents: The document that each cell belongs to, where a row has several: any number, equal for the cells of
                a document, which follow each other. No document sees another.

        Raises:
            TooLongError: If a text has more than `max_length` real tokens.
        """

    @abstractmethod
    def hidden(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], documents: Int[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "N D"]:
        """Return the last states at the N real tokens, in the order of `tokens[mask]`.

        Takes and raises what `forward` does.
        """

    @abstractmethod
    def start(self, rows: int) -> SearchCache:
        """Return the past before the first step: nothing was read."""

    @abstractmethod
    def step(self, tokens: Int[Tensor, " B"], past: Any) -> tuple[Float[Tensor, "B V"], Any]:
        """Decode one position further.

        There is no last position: where all `max_length` are taken, the older half of the tokens is forgotten, and the
        others are read again from position 0 on.

        Args:
            tokens: The last token of each row, bos at first.
            past: What the step before returned, or `start`. It is not changed.

        Returns:
            Logits of the next token, and the past for the next step.
        """


class EncoderDecoder(nn.Module, ABC):
    """A model from the tokens of a source and of a target so far to logits of the target's next token.

    Attributes:
        max_length: The most tokens of a source or target.
    """

    max_length: int

    @property
    @abstractmethod
    def stages(self) -> list[tuple[nn.Module, ...]]:
        """Its parts from the input to the output: embeddings, the encoder's layers, then the decoder's."""

    @property
    @abstractmethod
    def output_weight(self) -> Float[Tensor, "V D"]:
        """The matrix from states to logits."""

    @property
    @abstractmethod
    def output_bias(self) -> Float[Tensor, " V"] | None:
        """What is added to the logits; None: nothing."""

    @abstractmethod
    def forward(
        self,
        src: Int[Tensor, "B S"],
        tgt: Int[Tensor, "B T"],
        src_mask: Bool[Tensor, "B S"],
        tgt_mask: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "B T V"]:
        """Return logits of the token after each target token; zeros at padding.

        Args:
            src: Source ids.
            tgt: Decoder inputs: bos, then the target.
            src_mask: True at real source tokens.
            tgt_mask: True at real decoder inputs.

        Raises:
            TooLongError: If a row has more than `max_length` real tokens.
        """

    @abstractmethod
    def hidden(
        self,
        src: Int[Tensor, "B S"],
        tgt: Int[Tensor, "B T"],
        src_mask: Bool[Tensor, "B S"],
        tgt_mask: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "N D"]:
        """Return the decoder's last states at the N real target positions, in the order of `tgt[tgt_mask]`.

        Takes and raises what `forward` does.
        """

    @abstractmethod
    def encode(self, src: Int[Tensor, "B S"], src_mask: Bool[Tensor, "B S"]) -> Any:
        """Return what the decoder attends to of the source.

        Args:
            src: Source ids.
            src_mask: True at real source tokens.

        Raises:
            TooLongError: If a row has more than `max_length` real tokens.
        """

    @abstractmethod
    def start(self, memory: Any) -> SearchCache:
        """Return the cache before the first step: one row for each source sentence of what `encode` returned."""

    @abstractmethod
    def step(self, tokens: Int[Tensor, " B"], cache: Any) -> tuple[Float[Tensor, "B V"], Any]:
        """Decode one position further.

        Args:
            tokens: The last token of each row, bos at first.
            cache: What the step before returned, or `start`. It is not changed.

        Returns:
            Logits of the next token, and the cache for the next step.

        Raises:
            TooLongError: If that is more than `max_length` positions.
        """
