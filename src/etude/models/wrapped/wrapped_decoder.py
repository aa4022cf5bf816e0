"""Decoders of any architecture in transformers, run by its own code.

Axes: B rows, L positions, N real tokens, M documents, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from etude.errors import ConfigurationError
from etude.models.base import TextDecoder
from etude.models.layers.flop_counts import Flops
from etude.models.layers.positions import check_length
from etude.models.wrapped.base import WrappedModel, copy_cache
from etude.models.wrapped.files import first_module_list
from etude.models.wrapped.flops import dummy_texts, measured_flops
from etude.types import Facts


@dataclass(frozen=True)
class WrappedPast:
    """Cache between steps of decoding. It is immutable: every step returns a new cache.

    Attributes:
        tokens: Token ids that were read, from position 0 on.
        cache: The key-value cache of transformers; None before the first step.
    """

    tokens: Int[Tensor, "B L"]
    cache: Any

    def select(self, rows: Int[Tensor, " R"]) -> WrappedPast:
        """Return the cache of the given rows, in that order; rows may be repeated or left out."""
        cache = copy_cache(self.cache)
        if cache is not None:
            cache.reorder_cache(rows)
        return WrappedPast(self.tokens.index_select(0, rows), cache)


class WrappedDecoder(WrappedModel, TextDecoder):
    """A decoder as transformers computes it. Arguments, attributes and errors are those of `WrappedModel`.

    Not every architecture can keep the documents of a row apart, so each document gets a row of its own. Linear layers
    see padding.
    """

    AUTO: ClassVar[str] = "AutoModelForCausalLM"
    SPECIAL_IDS: ClassVar[Mapping[str, str]] = {"bos": "bos_token_id", "eos": "eos_token_id"}

    @classmethod
    def check_kind(cls, config: Any, name: str) -> None:
        """Refuse a model with an encoder."""
        if config.is_encoder_decoder:
            raise ConfigurationError(
                f"{name} has model_type = {config.model_type!r}, which has an encoder and is for task=translation or "
                "summarization; for this task set another model.name"
            )

    @torch.no_grad()
    def probe(self, facts: Facts, name: str) -> Float[Tensor, "2 2 V"]:
        """Return the model's outputs for two texts of two tokens that share the first token.

        Raises:
            ConfigurationError: If the second token changes the output at the first.
        """
        seconds = (facts.eos, (facts.eos + 1) % facts.vocabulary)
        tokens = torch.tensor([[facts.bos, second] for second in seconds], device=self.model.device)
        outputs: Tensor = self.model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits
        if not torch.allclose(outputs[0, 0], outputs[1, 0], rtol=1e-4, atol=1e-4):
            raise ConfigurationError(
                f"{name} reads the tokens behind the one that it predicts, so it is not a causal language model; "
                "set another model.name"
            )
        return outputs

    def stacks(self) -> list[str]:
        """Return the name of the list of layers: the first that is as long as config.json says, or the first of all."""
        return [first_module_list(self.model, self.model.config.num_hidden_layers)]

    def hidden(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], documents: Int[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "N D"]:
        """Return the features at the N real tokens, in the order of `tokens[mask]`. See `TextDecoder.hidden`."""
        if documents is not None:
            tokens, mask = split_documents(tokens, mask, documents, self.pad)
        check_length(mask.cumsum(1)[mask] - 1, self.max_length)
        features: Tensor = self.model(input_ids=tokens, attention_mask=mask.long(), use_cache=False).logits
        return features[mask]

    def training_flops(self, lengths: Int[np.ndarray, "N 1"]) -> Flops | None:
        """Count training by `measured_flops`."""
        return measured_flops(
            self.model, lambda texts: self.hidden(*dummy_texts(texts[:, 0], self.matrix)), lengths, self.max_length
        )

    def start(self, rows: int) -> WrappedPast:
        """Return an empty cache for the given number of rows."""
        return WrappedPast(torch.empty(rows, 0, dtype=torch.long, device=self.matrix.device), None)

    def step(self, tokens: Int[Tensor, " B"], past: WrappedPast) -> tuple[Float[Tensor, "B V"], WrappedPast]:
        """Decode one position further. See `TextDecoder.step`."""
        new, previous, cache = tokens[:, None], past.tokens, copy_cache(past.cache)
        if previous.shape[1] == self.max_length:
            previous, cache = previous[:, previous.shape[1] - self.max_length // 2 :], None
            new = torch.cat([previous, new], dim=1)
        features, cache = self.run_cached(cache, input_ids=new)
        return self.logits(features[:, -1]), WrappedPast(torch.cat([previous, tokens[:, None]], dim=1), cache)


def split_documents(
    tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], documents: Int[Tensor, "B L"], pad: int
) -> tuple[Int[Tensor, "M l"], Bool[Tensor, "M l"]]:
    """Return the tokens and mask with each document in a row of its own; the real tokens keep their order.

    Args:
        tokens: Token ids.
        mask: True at real tokens.
        documents: Document of each cell, as in `TextDecoder.forward`.
        pad: Token id of padding.
    """
    begins = torch.ones_like(mask)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    real, first = tokens[mask], begins[mask].nonzero().squeeze(1)
    sizes = torch.diff(first, append=first.new_tensor([len(real)])).tolist()
    rows = real.split(sizes)
    grid = pad_sequence(list(rows), batch_first=True, padding_value=pad)
    return grid, pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in rows], batch_first=True)
