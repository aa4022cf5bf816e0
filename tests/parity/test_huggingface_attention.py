"""What wrapped models are seen to attend to: as etude's own models of the same weights do, and nothing changes by looking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.hub import open_pretrained
from etude.models.base import EncoderDecoder, TextDecoder
from etude.models.pretrained.auto import AutoPretrained
from etude.models.wrapped.huggingface import HuggingFace
from etude.models.wrapped.wrapped_encoder import WrappedEncoder
from etude.tasks.attention_maps import UnseenError, own_attention, recorded
from etude.types import Facts
from tests.parity import test_huggingface_decoders as decoders
from tests.parity import test_huggingface_encoders as encoders
from tests.parity import test_huggingface_wrapped_seq2seq as both

IDS = [2, 5, 9, 4, 11]


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_an_encoder_attends_as_the_native_one(tmp_path: Path, kind: str) -> None:
    encoders.made(kind, tmp_path)
    shown = [own_attention(encoders.load(how, kind, tmp_path), IDS) for how in ("wrapped", "native")]
    assert [one.name for one in shown[0].maps] == [one.name for one in shown[1].maps]
    for wrapped, native in zip(shown[0].maps, shown[1].maps, strict=True):
        torch.testing.assert_close(wrapped.weights, native.weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", encoders.WRAPPED)
def test_looking_changes_nothing(tmp_path: Path, kind: str) -> None:
    encoders.made(kind, tmp_path)
    encoder = WrappedEncoder(encoders.facts_of(kind), open_pretrained(str(tmp_path))).eval()
    ids = torch.tensor([IDS])
    before = encoder(ids, ids > 0)
    shown = own_attention(encoder, IDS)
    assert [one.name for one in shown.maps] == ["layers.0.attention", "layers.1.attention"]
    for one in shown.maps:
        torch.testing.assert_close(one.weights.sum(dim=2), torch.ones(2, len(IDS)))
    assert torch.equal(encoder(ids, ids > 0), before)


def recorded_maps(model: nn.Module, *given: Tensor) -> dict[str, Tensor]:
    with torch.no_grad(), recorded(model) as maps:
        model(*given)
    return maps


@pytest.mark.parametrize("kind", ["llama", "mistral", "bloom"])
def test_a_decoder_looks_back_only(tmp_path: Path, kind: str) -> None:
    decoders.made(kind, tmp_path)
    maps = recorded_maps(decoders.loaded(tmp_path), decoders.TOKENS, decoders.MASK)
    assert list(maps) == ["layers.0.attention", "layers.1.attention"]
    for weights in maps.values():
        assert weights.shape == (3, 2, 7, 7)
        whole = weights[0]  # the others end in padding
        assert whole.triu(1).count_nonzero() == 0
        assert whole.tril(-3).count_nonzero() == (0 if kind == "mistral" else 2 * 10)
        torch.testing.assert_close(whole.sum(dim=2), torch.ones(2, 7))


def seq2seq_maps(model: nn.Module, facts: Facts) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    source, target = (torch.randint(3, both.VOCABULARY, (2, length), generator=generator) for length in (7, 5))
    target[:, 0] = facts.bos
    source_mask = torch.arange(7) < torch.tensor([[7], [4]])
    source = source.masked_fill(~source_mask, facts.pad)
    return recorded_maps(model.eval(), source, target, source_mask, torch.ones_like(target, dtype=torch.bool))


def test_an_encoder_decoder_attends_as_the_native_one(tmp_path: Path) -> None:
    both.made("marian", tmp_path)
    facts = both.facts_of("marian")
    native = seq2seq_maps(AutoPretrained(str(tmp_path)).build(facts, EncoderDecoder), facts)
    wrapped = seq2seq_maps(HuggingFace(str(tmp_path)).build(facts, EncoderDecoder), facts)
    assert set(wrapped) == set(native)
    for name, weights in native.items():
        # What stands at padding attends to something, of which nobody reads.
        rows = [slice(0, 7), slice(0, 4)] if name.startswith("encoder.") else [slice(0, 5)] * 2
        for text, real in enumerate(rows):
            torch.testing.assert_close(wrapped[name][text, :, real], weights[text, :, real], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["t5", "m2m_100"])
def test_both_sides_are_seen(tmp_path: Path, kind: str) -> None:
    both.made(kind, tmp_path)
    maps = seq2seq_maps(HuggingFace(str(tmp_path)).build(both.facts_of(kind), EncoderDecoder), both.facts_of(kind))
    shapes = {"encoder.{}.": (7, 7), "decoder.{}.self_": (5, 5), "decoder.{}.cross_": (5, 7)}
    expected = {f"{name.format(layer)}attention": shape for name, shape in shapes.items() for layer in (0, 1)}
    assert {name: tuple(weights.shape[2:]) for name, weights in maps.items()} == expected
    assert maps["decoder.0.cross_attention"][1, :, :, 4:].count_nonzero() == 0


def test_a_model_without_attention_is_named(tmp_path: Path) -> None:
    decoders.made("mamba", tmp_path)
    model: Any = HuggingFace(str(tmp_path)).build(decoders.FACTS, TextDecoder).eval()
    with pytest.raises(UnseenError, match="MambaForCausalLM has no attention between all tokens"):
        own_attention(model, IDS)
