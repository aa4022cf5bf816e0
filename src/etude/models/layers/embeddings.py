"""Embeddings of encoder-decoders, which differ in what source, target and output share.

Axes: N source tokens, M target tokens, D model width, V target vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from etude.errors import ConfigurationError


class Embeddings(nn.Module, ABC):
    """The embedding matrices of an encoder-decoder.

    Attributes:
        ONE_VOCABULARY: Whether an id must mean the same in sources and in targets.
    """

    ONE_VOCABULARY: ClassVar[bool] = False

    @property
    @abstractmethod
    def output_weight(self) -> Float[Tensor, "V D"]:
        """The matrix from hidden states to logits."""

    @abstractmethod
    def source(self, tokens: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """Return the vectors of source tokens."""

    @abstractmethod
    def target(self, tokens: Int[Tensor, " M"]) -> Float[Tensor, "M D"]:
        """Return the vectors of target tokens."""

    def both(self, source: Int[Tensor, " N"], target: Int[Tensor, " M"]) -> Float[Tensor, "N+M D"]:
        """Return the vectors of source tokens, followed by those of target tokens."""
        return torch.cat([self.source(source), self.target(target)])


class SharedEmbeddings(Embeddings, nn.Embedding):
    """One matrix for source, target and output, over one vocabulary (Press and Wolf 2017, section 4)."""

    ONE_VOCABULARY: ClassVar[bool] = True

    def __init__(self, source_vocabulary: int, target_vocabulary: int, width: int) -> None:
        if source_vocabulary != target_vocabulary:
            raise ConfigurationError(
                f"source and target have vocabularies of {source_vocabulary} and {target_vocabulary}, which cannot "
                "share an embedding; try model/embeddings=tied_output"
            )
        super().__init__(target_vocabulary, width)

    @property
    def output_weight(self) -> Float[Tensor, "V D"]:
        """The matrix itself."""
        return self.weight

    def source(self, tokens: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """Look the tokens up."""
        return self(tokens)

    def target(self, tokens: Int[Tensor, " M"]) -> Float[Tensor, "M D"]:
        """Look the tokens up."""
        return self(tokens)

    def both(self, source: Int[Tensor, " N"], target: Int[Tensor, " M"]) -> Float[Tensor, "N+M D"]:
        """Look up both at once, so that the gradient, a matrix of V x D, is written once."""
        return self(torch.cat([source, target]))


class TiedOutputEmbeddings(Embeddings):
    """One matrix for the source, another for target and output (Press and Wolf 2017, section 3)."""

    def __init__(self, source_vocabulary: int, target_vocabulary: int, width: int) -> None:
        super().__init__()
        self.source_vectors = nn.Embedding(source_vocabulary, width)
        self.target_vectors = nn.Embedding(target_vocabulary, width)

    @property
    def output_weight(self) -> Float[Tensor, "V D"]:
        """The target's matrix."""
        return self.target_vectors.weight

    def source(self, tokens: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """Look the tokens up in the source's matrix."""
        return self.source_vectors(tokens)

    def target(self, tokens: Int[Tensor, " M"]) -> Float[Tensor, "M D"]:
        """Look the tokens up in the target's matrix."""
        return self.target_vectors(tokens)


class SeparateEmbeddings(TiedOutputEmbeddings):
    """One matrix each for source, target and output: nothing is tied."""

    def __init__(self, source_vocabulary: int, target_vocabulary: int, width: int) -> None:
        super().__init__(source_vocabulary, target_vocabulary, width)
        self.output_vectors = nn.Embedding(target_vocabulary, width)

    @property
    def output_weight(self) -> Float[Tensor, "V D"]:
        """The output's own matrix."""
        return self.output_vectors.weight
