"""What a decoder works from: the source as its layers attend to it, and what one step of decoding leaves for the next.

Axes: B rows, G groups of rows, S source length, H heads, K head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from etude.models.layers.key_value_cache import KeyValueCache


@dataclass(frozen=True)
class DecoderMemory:
    """What the decoder's layers attend to of the source: keys and values of every layer, computed once.

    Attributes:
        states: For each source position and layer, its keys and its values.
        mask: True at real source tokens; None where all are.
    """

    states: Float[Tensor, "B S layers 2 H K"]
    mask: Bool[Tensor, "B 1 1 S"] | None

    def layers(self) -> list[tuple[Float[Tensor, "B H S K"], Float[Tensor, "B H S K"]]]:
        """Return the keys and values of each layer: views, taken together so that their gradient is written once."""
        parts = self.states.transpose(1, 4).flatten(2, 3).unbind(2)
        return list(zip(parts[::2], parts[1::2], strict=True))

    def select(self, rows: Int[Tensor, " R"]) -> DecoderMemory:
        """Return the memory of the given rows, in that order."""
        mask = None if self.mask is None else self.mask.index_select(0, rows)
        return DecoderMemory(self.states.index_select(0, rows), mask)


@dataclass(frozen=True)
class DecoderCache:
    """What one step of decoding leaves for the next. It is never changed: every step returns a new one.

    Attributes:
        memory: Of each source sentence.
        sentences: Which sentence each row translates.
        groups: Rows that follow each other and translate one sentence; all groups have the same number of rows.
        row_memory: Of each group. Its rows are the queries of one attention: their memory exists once.
        past: The keys and values of each decoder layer's self-attention so far.
        length: Target positions so far.
    """

    memory: DecoderMemory
    sentences: Int[Tensor, " B"]
    groups: Int[Tensor, " G"]
    row_memory: DecoderMemory
    past: tuple[KeyValueCache, ...]
    length: int

    def select(self, rows: Int[Tensor, " R"]) -> DecoderCache:
        """Return the cache of the given rows, in that order; a row may be repeated or left out."""
        sentences = self.sentences.index_select(0, rows)
        groups = equal_runs(sentences)
        # Beams mostly change places within their sentence, whose memory then stays where it is.
        same = torch.equal(groups, self.groups)
        row_memory = self.row_memory if same else self.memory.select(groups)
        past = tuple(layer.select(rows) for layer in self.past)
        return DecoderCache(self.memory, sentences, groups, row_memory, past, self.length)


def equal_runs(values: Int[Tensor, " B"]) -> Int[Tensor, " G"]:
    """Return the value of each run of equal ones where all runs are equally long; else every value as it is."""
    runs, lengths = torch.unique_consecutive(values, return_counts=True)
    return runs if len(runs) and bool((lengths == lengths[0]).all()) else values
