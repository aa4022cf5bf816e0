"""What a task asks of a decoder: every token is predicted from those before it.

Axes: B texts, L positions, N real tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from etude.decoding.hypothesis import Cache


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
    def start(self, rows: int) -> Cache:
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
