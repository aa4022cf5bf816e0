"""Floating-point operations of training each kind of model, up to its last hidden states.

Axes: N examples, K lengths of an example.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from torch import nn

from etude.models.base import EncoderDecoder, TextDecoder, TextEncoder
from etude.models.decoder import Decoder
from etude.models.encoder import Encoder
from etude.models.layers.flop_counts import Counts, Flops
from etude.models.seq2seq import Seq2Seq


@runtime_checkable
class CountsFlops(Protocol):
    """A model that counts its own operations, since another library computes it.

    A protocol, so that counting a native model does not import that library.
    """

    def training_flops(self, lengths: Int[np.ndarray, "N K"]) -> Flops | None:
        """Count training up to the last hidden states at all tokens; None: the count is unknown.

        Args:
            lengths: Number of real tokens of each text, or of each source and target.
        """
        ...


def _counts_itself(model: nn.Module, *lengths: Counts) -> Flops | None:
    return model.training_flops(np.stack(lengths, axis=1)) if isinstance(model, CountsFlops) else None


def encoder_flops(model: TextEncoder, tokens: Counts, states: Counts | None) -> Flops | None:
    """Count an encoder; None: another library computes it, and its cost is unknown.

    Args:
        model: The encoder.
        tokens: [N] real tokens of each text.
        states: [N] tokens whose last hidden states are needed; None: the first of each text.
    """
    return _stack_flops(model, tokens, states) if isinstance(model, Encoder) else _counts_itself(model, tokens)


def decoder_flops(model: TextDecoder, tokens: Counts) -> Flops | None:
    """Count a decoder and the projection to logits; None: as for `encoder_flops`.

    Args:
        model: The decoder.
        tokens: [N] real tokens of each row, in one document or several.
    """
    flops = _stack_flops(model, tokens, tokens) if isinstance(model, Decoder) else _counts_itself(model, tokens)
    if flops is not None:
        flops.add_product(model.output_weight, tokens)
    return flops


def _stack_flops(model: Encoder | Decoder, tokens: Counts, states: Counts | None) -> Flops:
    flops = Flops(len(tokens))
    embeddings, *below, last = model.stages
    for part in embeddings:
        flops.add_lookup(part)
    for layer in below:
        for part in layer:
            flops.add_module(part, tokens)
    for part in last:
        flops.add_module(
            part, tokens, remaining=np.ones_like(tokens) if states is None else states, first=states is None
        )
    return flops


def seq2seq_flops(model: EncoderDecoder, source: Counts, target: Counts) -> Flops | None:
    """Count encoder, decoder and the projection to logits; None: as for `encoder_flops`.

    Args:
        model: The model.
        source: [N] real tokens of each source.
        target: [N] real tokens of each target.
    """
    flops = (
        _seq2seq_flops(model, source, target) if isinstance(model, Seq2Seq) else _counts_itself(model, source, target)
    )
    if flops is not None:
        flops.add_product(model.output_weight, target)
    return flops


def _seq2seq_flops(model: Seq2Seq, source: Counts, target: Counts) -> Flops:
    flops = Flops(len(source))
    embeddings, *layers = model.stages
    for part in embeddings:
        flops.add_lookup(part)
    embeddings_train = flops.trains
    for layer in layers[: len(model.encoder)]:
        for part in layer:
            flops.add_module(part, source)
    encoder_trains, flops.trains = flops.trains, embeddings_train
    for layer in layers[len(model.encoder) :]:
        for part in layer:
            flops.add_module(part, target, keys=source, keys_train=encoder_trains)
    return flops
