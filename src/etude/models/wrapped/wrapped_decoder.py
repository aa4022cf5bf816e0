"""Decoders of any architecture that transformers has: its own code runs, with etude's task around it.

Axes: B texts, L positions, N real tokens, M documents, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from etude.errors import ConfigurationError
from etude.models.base import TextDecoder
from etude.models.layers.flop_counts import Flops
from etude.models.layers.positions import check_length
from etude.models.layers.unpad import Unpadding
from etude.models.wrapped.wrapped_files import first_list
from etude.models.wrapped.wrapped_flops import counted_flops, texts_of
from etude.models.wrapped.wrapped_model import WrappedModel, copied
from etude.types import Facts


@dataclass(frozen=True)
class WrappedPast:
    """What one step of decoding leaves for the next. It is never changed: every step returns a new one.

    Attributes:
        tokens: What was read, from position 0 on.
        cache: What transformers keeps of them; None before the first step.
    """

    tokens: Int[Tensor, "B L"]
    cache: Any

    def select(self, rows: Int[Tensor, " R"]) -> WrappedPast:
        """Return the past of the given rows, in that order; a row may be repeated or left out."""
        cache = copied(self.cache)
        if cache is not None:
            cache.reorder_cache(rows)
        return WrappedPast(self.tokens.index_select(0, rows), cache)


class WrappedDecoder(WrappedModel, TextDecoder):
    """A decoder as transformers computes it. Takes, has and raises what `WrappedModel` does.

    Not every architecture can keep the documents of a row apart, so each document gets a row of its own. Padding takes
    part in linear layers.
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
    def try_out(self, facts: Facts, name: str) -> Float[Tensor, "2 2 V"]:
        """Return what the model makes of two texts of two tokens, of which the first is the same.

        Raises:
            ConfigurationError: If the second token changes what is said at the first.
        """
        others = (facts.eos, (facts.eos + 1) % facts.vocabulary)
        tokens = torch.tensor([[facts.bos, other] for other in others], device=self.model.device)
        found: Tensor = self.model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits
        if not torch.allclose(found[0, 0], found[1, 0], rtol=1e-4, atol=1e-4):
            raise ConfigurationError(
                f"{name} reads the tokens behind the one that it predicts: it is no causal language model; set another model.name"
            )
        return found

    def stacks(self) -> list[str]:
        """Return the name of the list of layers: the first as long as config.json says, or the first at all."""
        return [first_list(self.model, self.model.config.num_hidden_layers)]

    def forward(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], documents: Int[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B L V"]:
        """Return logits of the token after each token; zeros at padding. As `TextDecoder` says."""
        features = self.hidden(tokens, mask, documents)
        return Unpadding.from_mask(mask).pad(F.linear(features, self.output_weight, self.output_bias))

    def hidden(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], documents: Int[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "N D"]:
        """Return the features at the N real tokens, in the order of `tokens[mask]`. As `TextDecoder` says."""
        if documents is not None:
            tokens, mask = own_rows(tokens, mask, documents, self.pad)
        check_length(mask.cumsum(1)[mask] - 1, self.max_length)
        features: Tensor = self.model(input_ids=tokens, attention_mask=mask.long(), use_cache=False).logits
        return features[mask]

    def training_flops(self, lengths: Int[np.ndarray, "N 1"]) -> Flops | None:
        """Count training, as `counted_flops` says."""
        return counted_flops(
            self.model, lambda few: self.hidden(*texts_of(few[:, 0], self.matrix)), lengths, self.max_length
        )

    def start(self, rows: int) -> WrappedPast:
        """Return the past before the first step: nothing was read."""
        return WrappedPast(torch.empty(rows, 0, dtype=torch.long, device=self.matrix.device), None)

    def step(self, tokens: Int[Tensor, " B"], past: WrappedPast) -> tuple[Float[Tensor, "B V"], WrappedPast]:
        """Decode one position further. As `TextDecoder` says."""
        new, seen, cache = tokens[:, None], past.tokens, copied(past.cache)
        if seen.shape[1] == self.max_length:
            seen, cache = seen[:, seen.shape[1] - self.max_length // 2 :], None
            new = torch.cat([seen, new], dim=1)
        features, cache = self.run_cached(cache, input_ids=new)
        logits = F.linear(features[:, -1], self.output_weight, self.output_bias)
        return logits, WrappedPast(torch.cat([seen, tokens[:, None]], dim=1), cache)


def own_rows(
    tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], documents: Int[Tensor, "B L"], pad: int
) -> tuple[Int[Tensor, "M l"], Bool[Tensor, "M l"]]:
    """Return the documents of a grid, each in a row of its own; the real tokens keep their order.

    Args:
        tokens: Ids.
        mask: True at real tokens.
        documents: The document of each cell, as `TextDecoder.forward` says.
        pad: Id of padding.
    """
    begins = torch.ones_like(mask)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    real, first = tokens[mask], begins[mask].nonzero().squeeze(1)
    sizes = torch.diff(first, append=first.new_tensor([len(real)])).tolist()
    rows = real.split(sizes)
    grid = pad_sequence(list(rows), batch_first=True, padding_value=pad)
    return grid, pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in rows], batch_first=True)
