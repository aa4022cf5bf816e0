"""Encoder-decoders of any architecture in transformers, run by its own code.

Axes: B rows, S source length, T target length, N real tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.cache_utils import EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from etude.errors import ConfigurationError
from etude.models.base import EncoderDecoder
from etude.models.layers.flop_counts import Flops
from etude.models.layers.positions import check_length
from etude.models.wrapped.base import WrappedModel, copy_cache
from etude.models.wrapped.files import first_module_list
from etude.models.wrapped.flops import dummy_texts, measured_flops
from etude.types import Facts


@dataclass(frozen=True)
class WrappedMemory:
    """The encoded source.

    Attributes:
        states: The encoder's last hidden states.
        mask: True at real source tokens.
    """

    states: Float[Tensor, "B S D"]
    mask: Bool[Tensor, "B S"]

    def select(self, rows: Int[Tensor, " R"]) -> WrappedMemory:
        """Return the memory of the given rows, in that order."""
        return WrappedMemory(self.states.index_select(0, rows), self.mask.index_select(0, rows))


@dataclass(frozen=True)
class WrappedCache:
    """Cache between steps of decoding. It is immutable: every step returns a new cache.

    Attributes:
        memory: Encoded source of each row.
        sentences: Index of the source sentence that each row translates.
        past: The key-value caches of transformers, for target and source; None before the first step.
        length: Number of target positions so far.
    """

    memory: WrappedMemory
    sentences: Int[Tensor, " B"]
    past: Any
    length: int

    def select(self, rows: Int[Tensor, " R"]) -> WrappedCache:
        """Return the cache of the given rows, in that order; rows may be repeated or left out."""
        sentences = self.sentences.index_select(0, rows)
        # Beams mostly change places within their sentence, whose keys and values can then stay.
        same, memory, past = torch.equal(sentences, self.sentences), self.memory, copy_caches(self.past)
        if not same:
            memory = memory.select(rows)
        if past is not None:
            past.self_attention_cache.reorder_cache(rows)
            if not same:
                past.cross_attention_cache.reorder_cache(rows)
        return WrappedCache(memory, sentences, past, self.length)


class WrappedEncoderDecoder(WrappedModel, EncoderDecoder):
    """An encoder-decoder as transformers computes it. Arguments, attributes and errors are those of `WrappedModel`.

    A target begins with the decoder's start token in config.json, which must be the tokenizer's bos. Linear layers see
    padding.
    """

    AUTO: ClassVar[str] = "AutoModelForSeq2SeqLM"
    SPECIAL_IDS: ClassVar[Mapping[str, str]] = {
        "pad": "pad_token_id",
        "bos": "decoder_start_token_id",
        "eos": "eos_token_id",
    }

    @classmethod
    def check_kind(cls, config: Any, name: str) -> None:
        """Refuse a model that is not an encoder-decoder."""
        if not config.is_encoder_decoder:
            raise ConfigurationError(
                f"{name} has model_type = {config.model_type!r}, which is not an encoder with a decoder; set another model.name"
            )

    @torch.no_grad()
    def probe(self, facts: Facts, name: str) -> Float[Tensor, "1 2 V"]:
        """Return the model's outputs for a source and a target of two tokens each."""
        source, target = (
            torch.tensor([[first, facts.eos]], device=self.model.device) for first in (facts.eos, facts.bos)
        )
        mask = torch.ones_like(source)
        outputs: Tensor = self.model(
            input_ids=source,
            attention_mask=mask,
            decoder_input_ids=target,
            decoder_attention_mask=mask,
            use_cache=False,
        ).logits
        return outputs

    def stacks(self) -> list[str]:
        """Return the names of the encoder's list of layers and of the decoder's."""
        names = {id(module): name for name, module in self.model.named_modules()}
        sides: tuple[nn.Module, nn.Module] = (self.model.get_encoder(), self.model.get_decoder())
        return [f"{names[id(side)]}.{first_module_list(side)}" for side in sides]

    def hidden(
        self,
        src: Int[Tensor, "B S"],
        tgt: Int[Tensor, "B T"],
        src_mask: Bool[Tensor, "B S"],
        tgt_mask: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "N D"]:
        """Return the features at the N real target positions. See `EncoderDecoder.hidden`."""
        for mask in (src_mask, tgt_mask):
            check_length(mask.cumsum(1)[mask] - 1, self.max_length)
        features: Tensor = self.model(
            input_ids=src,
            attention_mask=src_mask.long(),
            decoder_input_ids=tgt,
            decoder_attention_mask=tgt_mask.long(),
            use_cache=False,
        ).logits
        return features[tgt_mask]

    def encode(self, src: Int[Tensor, "B S"], src_mask: Bool[Tensor, "B S"]) -> WrappedMemory:
        """Encode the source into what the decoder attends to. See `EncoderDecoder.encode`."""
        check_length(src_mask.cumsum(1)[src_mask] - 1, self.max_length)
        states = self.model.get_encoder()(input_ids=src, attention_mask=src_mask.long()).last_hidden_state
        return WrappedMemory(states, src_mask)

    def training_flops(self, lengths: Int[np.ndarray, "N 2"]) -> Flops | None:
        """Count training by `measured_flops`."""

        def run(pairs: Int[np.ndarray, "B 2"]) -> Float[Tensor, "N D"]:
            (src, src_mask), (tgt, tgt_mask) = (dummy_texts(side, self.matrix) for side in pairs.T)
            return self.hidden(src, tgt, src_mask, tgt_mask)

        return measured_flops(self.model, run, lengths, self.max_length)

    def start(self, memory: WrappedMemory) -> WrappedCache:
        """Return an empty cache with one row for each source sentence."""
        sentences = torch.arange(len(memory.mask), device=memory.mask.device)
        return WrappedCache(memory, sentences, None, length=0)

    def step(self, tokens: Int[Tensor, " B"], cache: WrappedCache) -> tuple[Float[Tensor, "B V"], WrappedCache]:
        """Decode one position further. See `EncoderDecoder.step`."""
        check_length(torch.tensor([cache.length]), self.max_length)
        features, past = self.run_cached(
            copy_caches(cache.past),
            encoder_outputs=BaseModelOutput(last_hidden_state=cache.memory.states),
            attention_mask=cache.memory.mask.long(),
            decoder_input_ids=tokens[:, None],
        )
        return self.logits(features[:, -1]), WrappedCache(cache.memory, cache.sentences, past, cache.length + 1)


def copy_caches(cache: Any) -> Any:
    """Return an independent copy of the caches of self- and cross-attention; that of None is None."""
    if cache is None:
        return None
    return EncoderDecoderCache(copy_cache(cache.self_attention_cache), copy_cache(cache.cross_attention_cache))
