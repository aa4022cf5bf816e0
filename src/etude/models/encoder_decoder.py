"""What a task asks of a model from sequence to sequence: an encoder, and a decoder that attends to it.

Axes: B rows, S source length, T target length, N real tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from etude.decoding.hypothesis import Cache


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
    def start(self, memory: Any) -> Cache:
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
