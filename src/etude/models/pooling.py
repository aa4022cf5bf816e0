"""Pooling of an encoder's states at the tokens of a text into one state.

Axes: B texts, L positions, D model width or outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from etude.models.base import TextEncoder

PoolingName = Literal["mean", "first", "pooler"]
"""`pooler` is the state of the first token, transformed by the encoder's pooler, as in BERT."""


class Pooling(ABC):
    """A way to pool an encoder's states; by default it reads all of them.

    Attributes:
        DESCRIPTION: Description for people.
    """

    DESCRIPTION: ClassVar[str]

    @abstractmethod
    def of(self, states: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        """Return the pooled states; the mask is True at real tokens."""

    def encoded(
        self,
        encoder: TextEncoder,
        tokens: Int[Tensor, "B L"],
        mask: Bool[Tensor, "B L"],
        segments: Int[Tensor, "B L"] | None,
    ) -> Float[Tensor, "B D"]:
        """Return the pooled states of texts, given an encoder's inputs."""
        return self.of(encoder(tokens, mask, segments), mask)

    def states_read(self, lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"] | None:
        """Return the number of states read of texts of these lengths; None: only the first of each."""
        return lengths


class Mean(Pooling):
    """The mean of the states of real tokens."""

    DESCRIPTION: ClassVar[str] = "mean over real tokens"

    def of(self, states: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        """Return the means."""
        weights = mask.to(states.dtype)
        return torch.einsum("bld,bl->bd", states, weights) / weights.sum(dim=1, keepdim=True)


class First(Pooling):
    """The state of the token that starts each text, as in BERT; the last layer is computed for that token only."""

    DESCRIPTION: ClassVar[str] = "first token"

    def of(self, states: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        """Return the first states."""
        return states[:, 0]

    def encoded(
        self,
        encoder: TextEncoder,
        tokens: Int[Tensor, "B L"],
        mask: Bool[Tensor, "B L"],
        segments: Int[Tensor, "B L"] | None,
    ) -> Float[Tensor, "B D"]:
        """Return the first states."""
        return encoder.cls_states(tokens, mask, segments)

    def states_read(self, lengths: Int[np.ndarray, " N"]) -> None:
        """Return None."""


POOLINGS: Mapping[PoolingName, Pooling] = {"mean": Mean(), "first": First(), "pooler": First()}
