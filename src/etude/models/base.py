"""The models that tasks train, by interface: text encoders with their heads, text decoders, and encoder-decoders.

Axes: B rows, L positions, S source positions, T target positions, N real tokens, M tokens whose hidden states are needed,
D model width, E embedding width, V vocabulary, O outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from etude.models.generation.hypothesis import SearchCache
from etude.models.layers.feed_forward import Activation
from etude.models.layers.unpad import Unpadding
from etude.models.losses.soft_cap import soft_cap

OutputKind = Literal["text", "token", "span"]
"""What an output layer scores: a whole text, each token, or each token as the first and the last of an answer."""


class OutputLayer(NamedTuple):
    """The output layer of a pretrained model.

    Attributes:
        model: Name of the model.
        weight: Matrix from hidden states to logits.
        bias: Added to the logits.
        names: Names of the outputs.
    """

    model: str
    weight: Float[Tensor, "O D"]
    bias: Float[Tensor, " O"]
    names: tuple[str, ...]

    def rows_for(self, classes: Sequence[str]) -> tuple[Float[Tensor, "O D"], Float[Tensor, " O"]] | None:
        """Return weight and bias with the outputs in the order of some classes; None: its outputs are others."""
        if sorted(self.names) != sorted(classes):
            return None
        order = [self.names.index(name) for name in classes]
        return self.weight[order], self.bias[order]


class Pooler(nn.Module):
    """A linear layer and an activation on the CLS state (Devlin et al. 2019, in the authors' code).

    Args:
        width: D.
        activation: Applied after the linear layer.
    """

    def __init__(self, width: int, activation: Activation = torch.tanh) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.activation = activation

    def forward(self, states: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Return the pooled states."""
        return self.activation(self.dense(states))


class MaskedLMHead(nn.Module, ABC):
    """Maps hidden states to features, whose products with the embeddings are the logits, up to a bias.

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
        activation: Applied after the linear layer.
        eps: The norm's epsilon.
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


class TextEncoder(nn.Module, ABC):
    """A model that maps the tokens of texts to hidden states.

    Attributes:
        width: D.
        max_length: Largest number of tokens in a text.
    """

    width: int
    max_length: int

    @property
    @abstractmethod
    def stages(self) -> list[tuple[nn.Module, ...]]:
        """The model's parts from input to output: embeddings, then layer after layer."""

    @property
    @abstractmethod
    def has_token_types(self) -> bool:
        """Whether token type ids have embeddings, so that the second text of a pair is told apart from the first."""

    @property
    @abstractmethod
    def output_weight(self) -> Float[Tensor, "V E"]:
        """The embedding matrix, which also maps a head's features to logits."""

    @abstractmethod
    def forward(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], segments: Int[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B L D"]:
        """Return the last hidden states; zeros at padding.

        Args:
            tokens: Token ids.
            mask: True at real tokens.
            segments: Token type ids: 0 in the first text of a pair, 1 in the second; None: all are 0.

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
        """Return the last hidden states at real tokens, in the order of `tokens[mask]`.

        Takes and raises what `forward` does.

        Args:
            tokens: As in `forward`.
            mask: As in `forward`.
            segments: As in `forward`.
            at: Indices into `tokens[mask]` of the tokens whose states are needed; None: all.
        """

    def cls_states(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], segments: Int[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B D"]:
        """Return the CLS state of each text: the last hidden state of its first token. No text may be empty."""
        return self.hidden(tokens, mask, segments, at=Unpadding.from_mask(mask).starts)

    @abstractmethod
    def masked_lm_head(self) -> MaskedLMHead:
        """Return the head that came with the encoder's weights, or a new one."""

    def pooler(self) -> Pooler:
        """Return the pooler that came with the encoder's weights, or a new one."""
        return Pooler(self.width)

    def output_layer(self, kind: OutputKind) -> OutputLayer | None:
        """Return the output layer that came with the encoder's weights; None: they have none of that kind."""
        return None


class NextTokenModel(nn.Module, ABC):
    """A model of the next token: a decoder alone, or one that attends to an encoded source.

    Attributes:
        max_length: Largest number of tokens that are read at once: of a text, a source or a target.
        logit_cap: Bound of the logits, by soft-capping; None: they have none.
    """

    max_length: int
    logit_cap: float | None = None

    @property
    @abstractmethod
    def stages(self) -> list[tuple[nn.Module, ...]]:
        """The model's parts from input to output: embeddings, then layer after layer, an encoder's first."""

    @property
    @abstractmethod
    def output_weight(self) -> Float[Tensor, "V D"]:
        """The matrix from hidden states to logits, before a cap."""

    @property
    @abstractmethod
    def output_bias(self) -> Float[Tensor, " V"] | None:
        """The bias of the logits; None: they have none."""

    def logits(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        """Return the logits of hidden states, capped if the model has a cap."""
        return soft_cap(F.linear(hidden, self.output_weight, self.output_bias), self.logit_cap)

    def padded_logits(self, hidden: Float[Tensor, "N D"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B L V"]:
        """Return the logits of the hidden states at the N real tokens of a mask; zeros at padding."""
        return Unpadding.from_mask(mask).pad(self.logits(hidden))


class TextDecoder(NextTokenModel):
    """A model that maps the tokens of texts to logits of the token after each."""

    def forward(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], documents: Int[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B L V"]:
        """Return logits of the token after each token; zeros at padding.

        Args:
            tokens: Token ids.
            mask: True at real tokens; padding stands at the end of a row.
            documents: Document of each cell, where a row holds several: any number that is the same for all cells of a
                document, which are contiguous. No document attends to another.

        Raises:
            TooLongError: If a text has more than `max_length` real tokens.
        """
        return self.padded_logits(self.hidden(tokens, mask, documents), mask)

    @abstractmethod
    def hidden(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], documents: Int[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "N D"]:
        """Return the last hidden states at the N real tokens, in the order of `tokens[mask]`.

        Takes and raises what `forward` does.
        """

    @abstractmethod
    def start(self, rows: int) -> SearchCache:
        """Return an empty key-value cache for the given number of rows."""

    @abstractmethod
    def step(self, tokens: Int[Tensor, " B"], past: Any) -> tuple[Float[Tensor, "B V"], Any]:
        """Decode one position further.

        There is no last position: when all `max_length` are used, the older half of the tokens is forgotten and the
        newer half is read again from position 0 on.

        Args:
            tokens: The last token of each row, bos at first.
            past: The cache that the previous step or `start` returned. It is not changed.

        Returns:
            Logits of the next token, and the cache for the next step.
        """


class EncoderDecoder(NextTokenModel):
    """A model that maps the tokens of a source, and of a target so far, to logits of the target's next token."""

    def forward(
        self,
        src: Int[Tensor, "B S"],
        tgt: Int[Tensor, "B T"],
        src_mask: Bool[Tensor, "B S"],
        tgt_mask: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "B T V"]:
        """Return logits of the token after each target token; zeros at padding.

        Args:
            src: Source token ids.
            tgt: Decoder inputs: bos, then the target.
            src_mask: True at real source tokens.
            tgt_mask: True at real decoder inputs.

        Raises:
            TooLongError: If a row has more than `max_length` real tokens.
        """
        return self.padded_logits(self.hidden(src, tgt, src_mask, tgt_mask), tgt_mask)

    @abstractmethod
    def hidden(
        self,
        src: Int[Tensor, "B S"],
        tgt: Int[Tensor, "B T"],
        src_mask: Bool[Tensor, "B S"],
        tgt_mask: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "N D"]:
        """Return the decoder's last hidden states at the N real target positions, in the order of `tgt[tgt_mask]`.

        Takes and raises what `forward` does.
        """

    @abstractmethod
    def encode(self, src: Int[Tensor, "B S"], src_mask: Bool[Tensor, "B S"]) -> Any:
        """Encode the source into what the decoder attends to.

        Args:
            src: Source token ids.
            src_mask: True at real source tokens.

        Raises:
            TooLongError: If a row has more than `max_length` real tokens.
        """

    @abstractmethod
    def start(self, memory: Any) -> SearchCache:
        """Return an empty cache with one row for each source sentence that `encode` returned."""

    @abstractmethod
    def step(self, tokens: Int[Tensor, " B"], cache: Any) -> tuple[Float[Tensor, "B V"], Any]:
        """Decode one position further.

        Args:
            tokens: The last token of each row, bos at first.
            cache: What the previous step or `start` returned. It is not changed.

        Returns:
            Logits of the next token, and the cache for the next step.

        Raises:
            TooLongError: If that exceeds `max_length` positions.
        """
