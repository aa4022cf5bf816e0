"""Against transformers' encoders of BERT's kind, and against any other: states, heads, files, and files that are not right."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from etude.errors import ConfigurationError, DataError, EtudeError
from etude.hub import open_pretrained
from etude.models.base import EncoderDecoder, TextEncoder
from etude.models.layers.positions import TooLongError
from etude.models.pretrained.auto import AutoPretrained
from etude.models.pretrained.bart import Bart
from etude.models.pretrained.bert import PretrainedBert, PretrainedEncoder, to_bert
from etude.models.pretrained.encoder_families import ENCODER_FAMILIES
from etude.models.wrapped.huggingface import HuggingFace
from etude.models.wrapped.wrapped_encoder import WrappedEncoder
from etude.types import Facts

VOCABULARY, WIDTH = 29, 12
PAD_FIRST, ROBERTA = Facts(VOCABULARY, pad=0, bos=2, eos=3), Facts(VOCABULARY, pad=1, bos=0, eos=2)
MASK = torch.arange(7) < torch.tensor([[7], [4], [2]])

BERT_SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 17,
    "max_position_embeddings": 13,
}
SIZES: dict[str, dict[str, Any]] = {
    "bert": BERT_SIZES,
    "distilbert": {"dim": WIDTH, "n_layers": 2, "n_heads": 2, "hidden_dim": 17, "max_position_embeddings": 13},
    "roberta": BERT_SIZES,
    "xlm-roberta": BERT_SIZES,
    "roberta-prelayernorm": BERT_SIZES,
    "albert": {**BERT_SIZES, "embedding_size": 6},
    "electra": {**BERT_SIZES, "embedding_size": 6},
    "mpnet": BERT_SIZES,
    "deberta-v2": {**BERT_SIZES, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "hidden_act": "gelu"},
}
NATIVE = tuple(ENCODER_FAMILIES)
WRAPPED = ("albert", "electra", "mpnet", "deberta-v2", "roberta")


def facts_of(kind: str) -> Facts:
    return ROBERTA if "roberta" in kind or kind == "mpnet" else PAD_FIRST


def made(kind: str, folder: Path, auto: str = "AutoModelForMaskedLM", **changes: Any) -> Any:
    """A model of random weights, saved by transformers itself."""
    facts = facts_of(kind)
    ids = {f"{name}_token_id": getattr(facts, name) for name in ("pad", "bos", "eos")}
    config = transformers.AutoConfig.for_model(kind, vocab_size=VOCABULARY, **ids, **SIZES[kind], **changes)
    torch.manual_seed(1)
    model = getattr(transformers, auto).from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return model


def tokens_of(facts: Facts) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(4, VOCABULARY, MASK.shape, generator=generator).masked_fill(~MASK, facts.pad)


def load(how: str, kind: str, folder: Path) -> TextEncoder:
    model = AutoPretrained(str(folder)) if how == "native" else HuggingFace(str(folder))
    encoder = model.build(facts_of(kind), TextEncoder)
    assert isinstance(encoder, TextEncoder)
    return encoder.eval()


ALL = [*(("native", kind) for kind in NATIVE), *(("wrapped", kind) for kind in WRAPPED)]


@pytest.mark.parametrize(("how", "kind"), ALL)
def test_states_and_logits_are_those_of_transformers(tmp_path: Path, how: str, kind: str) -> None:
    theirs = made(kind, tmp_path)
    encoder, tokens = load(how, kind, tmp_path), tokens_of(facts_of(kind))
    head = encoder.masked_lm_head().eval()
    encoder.eval()
    with torch.no_grad():
        expected = theirs.base_model(input_ids=tokens, attention_mask=MASK.long()).last_hidden_state
        logits = theirs(input_ids=tokens, attention_mask=MASK.long()).logits
        states = encoder(tokens, MASK)
        guesses = head(encoder.hidden(tokens, MASK)) @ encoder.output_weight.T + head.bias
    torch.testing.assert_close(states[MASK], expected[MASK], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(guesses, logits[MASK], rtol=1e-4, atol=1e-4)
    assert not states[~MASK].any()
    assert encoder.width == WIDTH
    assert encoder.max_length == 13 - (facts_of(kind).pad + 1 if "roberta" in kind or kind == "mpnet" else 0)
    with pytest.raises(TooLongError):
        encoder(*(torch.ones(1, encoder.max_length + 1, dtype=dtype) for dtype in (torch.long, torch.bool)))


@pytest.mark.parametrize(("how", "kind"), ALL)
def test_stages_have_every_parameter(tmp_path: Path, how: str, kind: str) -> None:
    made(kind, tmp_path, "AutoModel")
    encoder = load(how, kind, tmp_path)
    staged = {id(weight) for stage in encoder.stages for module in stage for weight in module.parameters()}
    assert staged == {id(weight) for weight in encoder.parameters()}
    assert len(encoder.stages) == (2 if kind == "albert" else 3)
    first = {id(weight) for module in encoder.stages[0] for weight in module.parameters()}
    assert id(encoder.output_weight) in first


@pytest.mark.parametrize("kind", NATIVE)
def test_there_and_back_again_bit_for_bit(tmp_path: Path, kind: str) -> None:
    theirs = made(kind, tmp_path / "first")
    facts = facts_of(kind)
    encoder = PretrainedBert(str(tmp_path / "first")).build(facts, TextEncoder).eval()
    assert isinstance(encoder, PretrainedEncoder)
    config = json.loads((tmp_path / "first/config.json").read_text())
    config |= {"type_vocab_size": 1} if encoder.family.token_types else {}
    (tmp_path / "second").mkdir()
    (tmp_path / "second/config.json").write_text(json.dumps(config))
    save_file(to_bert(encoder, encoder.family, facts.pad), tmp_path / "second/model.safetensors", {"format": "pt"})
    again = PretrainedBert(str(tmp_path / "second")).build(facts, TextEncoder)
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    peer = transformers.AutoModel.from_pretrained(tmp_path / "second").eval()
    tokens = tokens_of(facts)
    with torch.no_grad():
        pair = [model(input_ids=tokens, attention_mask=MASK.long())[0][MASK] for model in (peer, theirs.base_model)]
    torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-4)


def test_config_json_decides(tmp_path: Path) -> None:
    config = transformers.MarianConfig(
        vocab_size=VOCABULARY, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=9, decoder_ffn_dim=9, max_position_embeddings=12, pad_token_id=0,
    )  # fmt: skip
    transformers.MarianMTModel(config).save_pretrained(tmp_path / "marian")
    made("distilbert", tmp_path / "distilbert")
    made("albert", tmp_path / "albert")
    assert isinstance(AutoPretrained(str(tmp_path / "marian")).build(PAD_FIRST, EncoderDecoder), Bart)
    assert isinstance(AutoPretrained(str(tmp_path / "distilbert")).build(PAD_FIRST, TextEncoder), PretrainedEncoder)
    with pytest.raises(ConfigurationError, match=r"model_type = 'albert'.*set model=huggingface"):
        AutoPretrained(str(tmp_path / "albert")).build(PAD_FIRST, TextEncoder)
    with pytest.raises(ConfigurationError, match=r"'marian', which has a decoder.*another model.name"):
        WrappedEncoder(PAD_FIRST, open_pretrained(str(tmp_path / "marian")))


def test_files_in_several_parts_and_halves_are_read(tmp_path: Path) -> None:
    theirs = made("roberta", tmp_path / "whole")
    theirs.half().save_pretrained(tmp_path / "parts", max_shard_size="4KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    for how in ("native", "wrapped"):
        state = load(how, "roberta", tmp_path / "parts").state_dict()
        assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {torch.float32}
        for name, tensor in load(how, "roberta", tmp_path / "whole").state_dict().items():
            torch.testing.assert_close(state[name], tensor, rtol=1e-3, atol=1e-3)


def test_dropout_is_on_in_training_and_the_one_asked_for(tmp_path: Path) -> None:
    made("albert", tmp_path)
    own, ours = (WrappedEncoder(PAD_FIRST, open_pretrained(str(tmp_path)), dropout) for dropout in (None, 0.5))
    for encoder, probabilities in ((own, {0.0}), (ours, {0.5})):
        assert encoder.training and encoder.model.training
        assert {module.p for module in encoder.modules() if isinstance(module, torch.nn.Dropout)} == probabilities
    tokens = tokens_of(PAD_FIRST)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(ours(tokens, MASK))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def without(weights: dict[str, Tensor], part: str) -> None:
    del weights[next(name for name in sorted(weights) if part in name)]


def with_another(weights: dict[str, Tensor], name: str) -> None:
    weights[name] = torch.zeros(2)


def of_another_shape(weights: dict[str, Tensor], part: str) -> None:
    name = next(name for name in sorted(weights) if part in name)
    weights[name] = torch.cat([weights[name], weights[name]])


BAD = [
    ("distilbert", without, "q_lin.bias", r"missing: .*q_lin.bias; extra: none"),
    ("distilbert", with_another, "distilbert.strange", "missing: none; extra: .*strange"),
    ("distilbert", of_another_shape, "lin1.bias", r"\[34\], which should be \[17\]"),
    ("roberta", without, "position_embeddings", r"missing: .*position_embeddings.weight; extra: none"),
    ("roberta", with_another, "roberta.strange", "missing: none; extra: .*strange"),
    ("roberta", of_another_shape, "intermediate.dense.bias", r"\[34\], which should be \[17\]"),
]


@pytest.mark.parametrize("how", ["native", "wrapped"])
@pytest.mark.parametrize(("kind", "spoil", "part", "words"), BAD)
def test_wrong_tensors_are_named(tmp_path: Path, how: str, kind: str, spoil: Any, part: str, words: str) -> None:
    made(kind, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    spoil(weights, part)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigurationError, match=words) as caught:
        load(how, kind, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["native", "wrapped"])
def test_what_is_left_out_is_said(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    made("roberta", tmp_path, "AutoModelForSequenceClassification")
    with caplog.at_level(logging.INFO, "etude"):
        encoder = load(how, "roberta", tmp_path)
        assert "no part of the encoder: classifier.dense.bias, classifier.dense.weight" in caplog.text
        caplog.clear()
        encoder.masked_lm_head()
    assert "drawn" in caplog.text


@pytest.mark.parametrize("how", ["native", "wrapped"])
@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (Facts(VOCABULARY + 1, 1, 0, 2), "30 ids, the weights of .* have 29.*tokenizer=pretrained tokenizer.name="),
        (Facts(VOCABULARY - 1, 1, 0, 2), "28 ids, the weights of .* have 29.*tokenizer=pretrained tokenizer.name="),
        (Facts(VOCABULARY, 0, 1, 2), "pad is id 0, that of the weights of .* is 1"),
        (Facts(VOCABULARY, 1, 0, 3), "eos is id 3, that of the weights of .* is 2"),
    ],
)
def test_another_tokenizer_is_not_taken(tmp_path: Path, how: str, facts: Facts, words: str) -> None:
    made("roberta", tmp_path, "AutoModel")
    model = AutoPretrained(str(tmp_path)) if how == "native" else HuggingFace(str(tmp_path))
    with pytest.raises(ConfigurationError, match=words):
        model.build(facts, TextEncoder)


@pytest.mark.parametrize("how", ["native", "wrapped"])
def test_pickles_are_never_read(tmp_path: Path, how: str) -> None:
    made("roberta", tmp_path, "AutoModel")
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"pytorch_model.bin, a pickle.*never loaded"):
        load(how, "roberta", tmp_path)


@pytest.mark.parametrize("how", ["native", "wrapped"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "unheard-of"}, "model_type.*'unheard-of'"),
        ({"hidden_size": None}, "hidden_size"),
        ({"auto_map": {"AutoModel": "evil.Model"}, "model_type": "evil"}, "model_type.*'evil'"),
    ],
)
def test_a_config_json_that_is_not_right(tmp_path: Path, how: str, changes: dict[str, Any], words: str) -> None:
    made("roberta", tmp_path, "AutoModel")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(EtudeError, match=words) as caught:
        load(how, "roberta", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_head_with_an_output_matrix_of_its_own_is_refused(tmp_path: Path) -> None:
    made("bert", tmp_path, tie_word_embeddings=False)
    with pytest.raises(ConfigurationError, match=r"cls.predictions.decoder.weight than in the embedding"):
        load("native", "bert", tmp_path).masked_lm_head()
    with pytest.raises(ConfigurationError, match=r"is not an encoder, a head, and its embedding"):
        load("wrapped", "bert", tmp_path).masked_lm_head()
