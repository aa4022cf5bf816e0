"""What training wrapped models costs is what torch counts when it does so, whatever trains and however long texts are."""

from __future__ import annotations

import logging
import re
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from etude.hub import open_pretrained
from etude.models.base import EncoderDecoder
from etude.models.layers.flop_counts import Flops
from etude.models.model_flops import decoder_flops, encoder_flops, seq2seq_flops
from etude.models.pretrained.auto import AutoPretrained
from etude.models.wrapped.huggingface import HuggingFace
from etude.models.wrapped.wrapped_attention import plain_attention
from etude.models.wrapped.wrapped_encoder import WrappedEncoder
from etude.optim.schedules import Constant
from etude.tasks.masked_lm import MaskedLM
from etude.types import IGNORED, MaskedLMBatch
from tests.parity import test_huggingface_decoders as decoders
from tests.parity import test_huggingface_encoders as encoders
from tests.parity import test_huggingface_wrapped_seq2seq as both

CHOICES = [".", *(pytest.param(names, marks=pytest.mark.slow) for names in ("nothing", r"\.1\.", "bias|norm"))]
"""What trains, by names: all, nothing, the second layer, small parts of all layers."""


def adjusted(model: nn.Module, trained: str) -> None:
    """Let the parameters train that are named."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(re.search(trained, name) is not None)


def by_torch(model: nn.Module, wrapped: Any, *given: torch.Tensor) -> int:
    """What torch counts of the pass there and back of a batch without padding."""
    with plain_attention(wrapped), FlopCounterMode(display=False) as counter:
        outputs = model.eval()(*given)
        if outputs.requires_grad:
            outputs.sum().backward()
    return counter.get_total_flops()


def wrapped_seq2seq(kind: str, folder: Path) -> EncoderDecoder:
    model = HuggingFace(str(folder)).build(both.facts_of(kind), EncoderDecoder)
    assert isinstance(model, EncoderDecoder)
    return model


def counted(flops: Flops | None) -> list[int]:
    assert flops is not None
    return flops.total.tolist()


@pytest.mark.parametrize("kind", ["albert", "electra", "mpnet"])
@pytest.mark.parametrize("trained", CHOICES)
def test_an_encoder(tmp_path: Path, kind: str, trained: str) -> None:
    encoders.made(kind, tmp_path)
    encoder = WrappedEncoder(encoders.facts_of(kind), open_pretrained(str(tmp_path)))
    adjusted(encoder, trained)
    before = {parameter: torch.rand_like(parameter) for parameter in encoder.parameters()}
    for parameter, gradient in before.items():
        parameter.grad = gradient
    state = torch.get_rng_state()
    found = counted(encoder_flops(encoder, np.array([5, 9]), np.array([5, 9])))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is gradient for parameter, gradient in before.items())
    assert encoder.training and encoder.model.training
    for length, flops in zip((5, 9), found, strict=True):
        ids = torch.full((3, length), 7)
        assert 3 * flops == by_torch(encoder, encoder.model, ids, ids > 0)


def test_an_encoder_costs_what_the_native_one_does(tmp_path: Path) -> None:
    encoders.made("bert", tmp_path)
    lengths = np.array([3, 7, 12])
    wrapped, native = (
        encoder_flops(encoders.load(how, "bert", tmp_path), lengths, lengths) for how in ("wrapped", "native")
    )
    assert counted(wrapped) == counted(native)


def test_what_is_made_once_for_a_batch_is_left_out(tmp_path: Path) -> None:
    """DeBERTa's vectors of distances go through a layer of their own, whatever the texts are."""
    encoders.made("deberta-v2", tmp_path)
    encoder = WrappedEncoder(encoders.facts_of("deberta-v2"), open_pretrained(str(tmp_path)))
    (each,) = counted(encoder_flops(encoder, np.array([6]), np.array([6])))
    batches = [
        by_torch(encoder, encoder.model, *(torch.full((texts, 6), 7, dtype=kind) for kind in (torch.long, torch.bool)))
        for texts in (2, 5)
    ]
    assert batches[1] - batches[0] == 3 * each
    assert batches[0] > 2 * each


@pytest.mark.parametrize("kind", ["llama", "bloom", "mamba"])
@pytest.mark.parametrize("trained", CHOICES)
def test_a_decoder(tmp_path: Path, kind: str, trained: str) -> None:
    decoders.made(kind, tmp_path)
    decoder = decoders.loaded(tmp_path)
    adjusted(decoder, trained)
    (found,) = counted(decoder_flops(decoder, np.array([9])))
    ids = torch.full((2, 9), 7)
    assert 2 * found == by_torch(decoder, decoder.model, ids, ids > 0)


@pytest.mark.parametrize("kind", ["t5", "m2m_100"])
def test_an_encoder_decoder(tmp_path: Path, kind: str) -> None:
    both.made(kind, tmp_path)
    model = wrapped_seq2seq(kind, tmp_path)
    source, target = torch.full((2, 9), 7), torch.full((2, 5), 7)
    (found,) = counted(seq2seq_flops(model, np.array([9]), np.array([5])))
    assert 2 * found == by_torch(model, model.get_submodule("model"), source, target, source > 0, target > 0)


def test_an_encoder_decoder_costs_what_the_native_one_does(tmp_path: Path) -> None:
    both.made("marian", tmp_path)
    facts, source, target = both.facts_of("marian"), np.array([4, 9]), np.array([7, 3])
    models = wrapped_seq2seq("marian", tmp_path), AutoPretrained(str(tmp_path)).build(facts, EncoderDecoder)
    assert isinstance(models[1], EncoderDecoder)
    assert counted(seq2seq_flops(models[0], source, target)) == counted(seq2seq_flops(models[1], source, target))


def test_what_is_no_polynomial_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """LED pads a text to windows."""
    both.made("led", tmp_path)
    model = wrapped_seq2seq("led", tmp_path)
    with caplog.at_level(logging.INFO):
        assert seq2seq_flops(model, np.array([9]), np.array([5])) is None
    assert "LEDForConditionalGeneration are not counted" in caplog.messages[-1]


@pytest.mark.parametrize("kind", ["albert", "electra", "mpnet"])
def test_the_head_of_a_masked_language_model(tmp_path: Path, kind: str) -> None:
    encoders.made(kind, tmp_path)
    facts, schedule = encoders.facts_of(kind), cast(Any, Constant())
    task = MaskedLM(
        facts, WrappedEncoder(facts, open_pretrained(str(tmp_path))), partial(torch.optim.SGD, lr=0.1), schedule
    )
    ids, chosen = torch.full((2, 9), 7), torch.arange(9) < 3
    batch = MaskedLMBatch(ids, ids > 0, torch.where(chosen, ids, IGNORED), 6, torch.arange(2))
    with plain_attention(task.model.get_submodule("model")), FlopCounterMode(display=False) as counter:
        task.loss(batch)[0].backward()
    found = task.training_flops(np.array([9, 9]), np.array([3, 3]))
    assert found is not None
    embedding = (
        2 * task.model.output_weight.numel() * 6
    )  # torch's counter does not know the product in place of its gradient
    assert found.sum() == counter.get_total_flops() + embedding
