"""Against Hugging Face's MarianMT, Pegasus and BART: their weights read into native modules, and the logits they give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    PegasusConfig,
    PegasusForConditionalGeneration,
)

from etude.errors import ConfigurationError, DataError
from etude.models.base import EncoderDecoder
from etude.models.pretrained.bart import PretrainedBart
from etude.types import Facts

VOCABULARY = 29
FACTS = Facts(vocabulary=VOCABULARY, pad=0, bos=1, eos=2)
SOURCE_MASK = torch.arange(7) < torch.tensor([[7], [4], [2]])
TARGET_MASK = torch.arange(5) < torch.tensor([[3], [5], [1]])
SOURCE = torch.randint(3, VOCABULARY, SOURCE_MASK.shape, generator=torch.Generator().manual_seed(1)) * SOURCE_MASK
TARGET = torch.randint(3, VOCABULARY, TARGET_MASK.shape, generator=torch.Generator().manual_seed(2)) * TARGET_MASK
CASES = [
    (MarianConfig, MarianMTModel, "swish", True),
    (PegasusConfig, PegasusForConditionalGeneration, "relu", True),
    (BartConfig, BartForConditionalGeneration, "gelu", False),
]


def peer(config_class: Any, model_class: Any, activation: str, scaled: bool, **changes: Any) -> Any:
    config = config_class(
        vocab_size=VOCABULARY,
        d_model=22,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=31,
        decoder_ffn_dim=31,
        max_position_embeddings=11,
        activation_function=activation,
        scale_embedding=scaled,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        forced_eos_token_id=None,
        **changes,
    )
    torch.manual_seed(1)
    model = model_class(config).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    model.final_logits_bias.normal_()
    return model


def logits_of(model: Any) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(
            input_ids=SOURCE,
            attention_mask=SOURCE_MASK.long(),
            decoder_input_ids=TARGET,
            decoder_attention_mask=TARGET_MASK.long(),
        ).logits
    return logits[TARGET_MASK]


@pytest.fixture
def marian(tmp_path: Path) -> Path:
    """A folder with a small MarianMT."""
    peer(*CASES[0]).save_pretrained(tmp_path)
    return tmp_path


def changed(folder: Path, **values: Any) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return str(folder)


@pytest.mark.parametrize(("config", "model", "activation", "scaled"), CASES)
def test_random_weights_give_the_same_logits(
    tmp_path: Path, config: Any, model: Any, activation: str, scaled: bool
) -> None:
    theirs = peer(config, model, activation, scaled)
    theirs.save_pretrained(tmp_path)
    ours = PretrainedBart(str(tmp_path)).build(FACTS, EncoderDecoder).eval()
    expected = logits_of(theirs)
    with torch.no_grad():
        logits = ours(SOURCE, TARGET, SOURCE_MASK, TARGET_MASK)[TARGET_MASK]
        cache = ours.start(ours.encode(SOURCE, SOURCE_MASK))
        stepped = []
        for column in TARGET.unbind(1):
            step, cache = ours.step(column, cache)
            stepped.append(step)
    assert expected.std() > 0.5
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.stack(stepped, 1)[TARGET_MASK], expected, rtol=1e-5, atol=1e-5)


def test_only_what_is_trained_there_has_gradients(marian: Path, tmp_path: Path) -> None:
    ours = PretrainedBart(str(marian)).build(FACTS, EncoderDecoder)
    ours(SOURCE, TARGET, SOURCE_MASK, TARGET_MASK).sum().backward()
    without = {name for name, parameter in ours.named_parameters() if parameter.grad is None}
    assert without == {"positions.embedding.weight", "target_positions.embedding.weight"}


def test_missing_and_extra_tensors_are_named(marian: Path) -> None:
    weights = load_file(marian / "model.safetensors")
    weights["model.encoder.surprise"] = weights.pop("model.decoder.layers.2.fc1.bias")
    save_file(weights, marian / "model.safetensors")
    expected = "missing: model.decoder.layers.2.fc1.bias; extra: model.encoder.surprise$"
    with pytest.raises(ConfigurationError, match=expected):
        PretrainedBart(str(marian)).build(FACTS, EncoderDecoder)


def test_two_matrices_are_not_taken_for_one(marian: Path) -> None:
    weights = load_file(marian / "model.safetensors")
    weights["lm_head.weight"] = weights["model.shared.weight"] + 1
    save_file(weights, marian / "model.safetensors")
    with pytest.raises(ConfigurationError, match=r"other values in lm_head.weight than in model.shared.weight"):
        PretrainedBart(str(marian)).build(FACTS, EncoderDecoder)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "t5"}, "model_type = 't5'; a native translator has one of marian, pegasus, bart"),
        ({"activation_function": "mish"}, "activation_function = 'mish'"),
        ({"decoder_ffn_dim": 32}, "decoder_ffn_dim = 32 and encoder_ffn_dim = 31"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings = false"),
        ({"d_model": None}, "no d_model"),
        ({"vocab_size": 31}, "29 ids.* have 31.*tokenizer=pretrained"),
        ({"encoder_ffn_dim": 37, "decoder_ffn_dim": 37}, r"fc1.weight give \[31, 22\], which should be \[37, 22\]"),
    ],
)
def test_another_architecture_is_refused(marian: Path, values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        PretrainedBart(changed(marian, **values)).build(FACTS, EncoderDecoder)


def test_a_pickle_is_refused(marian: Path) -> None:
    (marian / "model.safetensors").rename(marian / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"pytorch_model.bin, a pickle, .* never loaded"):
        PretrainedBart(str(marian)).build(FACTS, EncoderDecoder)
