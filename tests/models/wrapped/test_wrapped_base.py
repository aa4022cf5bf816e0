"""A wrapped model is its features, its output matrix and its bias, comes back whole, and decodes with caches that stay."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from etude.errors import ConfigurationError
from etude.hub import FolderFiles
from etude.models.wrapped.base import (
    LOGITS_BIAS,
    REPLACING,
    Features,
    WrappedModel,
    cache_name,
    call_order,
    copy_cache,
)
from etude.models.wrapped.wrapped_decoder import WrappedDecoder
from etude.models.wrapped.wrapped_seq2seq import WrappedEncoderDecoder
from etude.types import Facts

VOCABULARY, WIDTH, ROWS, LENGTH = 29, 8, 3, 5
FACTS = Facts(VOCABULARY, pad=0, bos=1, eos=2)
IDS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT = {"n_embd": WIDTH, "n_layer": 2, "n_head": 2, "n_positions": 13}
LLAMA = {
    "hidden_size": WIDTH,
    "intermediate_size": 9,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 13,
}
BART = {
    "d_model": WIDTH,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 9,
    "decoder_ffn_dim": 10,
    "max_position_embeddings": 13,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "tied": ("gpt2", GPT),
    "own matrix": ("llama", LLAMA),
    "scaled": ("cohere", {**LLAMA, "logit_scale": 0.4}),
    "trained bias": ("gptj", {**GPT, "rotary_dim": 2, "tie_word_embeddings": False}),
    "bias in a buffer": ("bart", BART),
}
"""Architectures by their output layer."""


def made(kind: str, sizes: dict[str, Any], folder: Path) -> Any:
    """A model of random weights, saved by transformers itself, in evaluation mode."""
    auto = transformers.AutoModelForSeq2SeqLM if "bart" in kind else transformers.AutoModelForCausalLM
    torch.manual_seed(1)
    model = auto.from_config(transformers.AutoConfig.for_model(kind, **IDS, **sizes)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    if hasattr(model, LOGITS_BIAS):
        model.final_logits_bias.normal_()
    model.save_pretrained(folder)
    return model


def wrapped(folder: Path, dropout: float | None = None) -> WrappedModel:
    files = FolderFiles(folder, "theirs")
    both = '"is_encoder_decoder": true' in (folder / "config.json").read_text()
    return WrappedEncoderDecoder(FACTS, files, dropout) if both else WrappedDecoder(FACTS, files, dropout)


def tokens_of(rows: int = ROWS, length: int = LENGTH, seed: int = 1) -> Tensor:
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def inputs(model: Any) -> dict[str, Tensor]:
    """What transformers is given: a text, or a source and a target."""
    source = {"decoder_input_ids": tokens_of(length=LENGTH + 2, seed=2)} if hasattr(model, LOGITS_BIAS) else {}
    return {"input_ids": tokens_of(), **source}


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, WrappedModel]:
    """A model of each kind as transformers has it, and wrapped in evaluation mode."""
    return made(*KINDS[request.param], tmp_path), wrapped(tmp_path).eval()


# Features, matrix and bias


def test_logits_are_products_of_features_and_the_output_matrix(pair: tuple[Any, WrappedModel]) -> None:
    theirs, ours = pair
    with torch.no_grad():
        expected, features = theirs(**inputs(theirs)).logits, ours.model(**inputs(theirs)).logits
        product = features @ ours.output_weight.T + (0 if ours.output_bias is None else ours.output_bias)
    assert ours.output_weight.shape == (VOCABULARY, WIDTH) and features.shape == (*expected.shape[:2], WIDTH)
    torch.testing.assert_close(product, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1


def test_a_bias_trains_if_transformers_trains_it(pair: tuple[Any, WrappedModel]) -> None:
    theirs, ours = pair
    layer, buffer = theirs.get_output_embeddings(), getattr(theirs, LOGITS_BIAS, None)
    names = dict(ours.named_parameters())
    assert ("bias" in names) == (layer.bias is not None)
    if layer.bias is not None or buffer is not None:
        assert ours.output_bias is not None
        assert torch.equal(ours.output_bias, layer.bias if buffer is None else buffer[0])
        assert "bias" in ours.state_dict()
    else:
        assert ours.output_bias is None and "bias" not in ours.state_dict()


def test_what_is_trained_is_what_transformers_trains(pair: tuple[Any, WrappedModel]) -> None:
    theirs, ours = pair
    assert sum(one.numel() for one in ours.parameters()) == sum(one.numel() for one in theirs.parameters())


def test_a_new_model_trains_and_its_dropout_is_the_one_asked_for(tmp_path: Path) -> None:
    made(*KINDS["tied"], tmp_path)
    ours = wrapped(tmp_path, dropout=0.25)
    assert all(module.training for module in ours.modules())
    assert {module.p for module in ours.modules() if isinstance(module, nn.Dropout)} == {0.25}


def test_logits_that_are_no_such_products_are_refused(tmp_path: Path) -> None:
    made("gemma2", {**LLAMA, "head_dim": 4, "final_logit_softcapping": 0.5}, tmp_path)
    line = (
        "the logits of theirs are not the products of states and an output matrix, up to a bias: it cannot be trained with "
        "model=huggingface; set another model.name"
    )
    with pytest.raises(ConfigurationError, match=f"^{re.escape(line)}$"):
        wrapped(tmp_path)


def test_features_pass_and_have_the_type_of_the_layer_without_its_weight() -> None:
    layer, states = Features(torch.ones(VOCABULARY, WIDTH, dtype=torch.bfloat16)), torch.rand(ROWS, LENGTH, WIDTH)
    assert layer(states) is states
    weight = layer.get_buffer("weight")
    assert weight.dtype == torch.bfloat16 and not weight.numel()
    assert not layer.state_dict() and not list(layer.parameters())


# Whole again


def test_a_whole_model_is_the_one_that_was_wrapped(pair: tuple[Any, WrappedModel]) -> None:
    theirs, ours = pair
    whole, expected = ours.whole().eval(), theirs.state_dict()
    assert type(whole) is type(theirs)
    assert whole.state_dict().keys() == expected.keys()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    with torch.no_grad():
        torch.testing.assert_close(whole(**inputs(theirs)).logits, theirs(**inputs(theirs)).logits)


def test_a_whole_model_is_a_copy(pair: tuple[Any, WrappedModel]) -> None:
    theirs, ours = pair
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    whole = ours.whole()
    tied = theirs.get_output_embeddings().weight is theirs.get_input_embeddings().weight
    assert (whole.get_output_embeddings().weight is whole.get_input_embeddings().weight) == tied
    with torch.no_grad():
        for tensor in (*whole.parameters(), *whole.buffers()):
            tensor.zero_()
        features = ours.model(**inputs(theirs)).logits
    assert features.shape[-1] == WIDTH and features.any()
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())


# Stages


def test_stages_have_every_parameter_once_from_the_embeddings_to_the_output(pair: tuple[Any, WrappedModel]) -> None:
    _, ours = pair
    stages = [[id(one) for part in stage for one in part.parameters()] for stage in ours.stages]
    own = [{*stage} for stage in stages]
    layers = [list(ours.model.get_submodule(path)) for path in ours.stacks()]
    assert len(stages) == 1 + sum(len(stack) for stack in layers)
    assert set.union(*own) == {id(one) for one in ours.parameters()}
    shared = {id(ours.matrix)} & own[0]
    for index, stage in enumerate(own):
        assert not any((stage & other) - shared for other in own[index + 1 :])
    assert id(ours.model.get_input_embeddings().weight) in own[0] and id(ours.matrix) in own[-1]
    for stage, layer in zip(own[1:], (layer for stack in layers for layer in stack), strict=True):
        assert {id(one) for one in layer.parameters()} <= stage


def test_norms_belong_to_where_they_are_computed(tmp_path: Path) -> None:
    """There are norms of embeddings in mBART, and another norm behind each of its two stacks."""
    made("mbart", BART, tmp_path)
    ours = wrapped(tmp_path)
    names = {id(one): name for name, one in ours.named_parameters()}
    stages = [{names[id(one)] for part in stage for one in part.parameters()} for stage in ours.stages]
    norms = [
        sorted(name.removeprefix("model.model.") for name in stage if "norm" in name and ".layers." not in name)
        for stage in stages
    ]
    below = [f"{side}.layernorm_embedding.{kind}" for side in ("decoder", "encoder") for kind in ("bias", "weight")]
    behind = [[f"{side}.layer_norm.{kind}" for kind in ("bias", "weight")] for side in ("encoder", "decoder")]
    assert norms == [below, [], behind[0], [], [], behind[1]]


def test_the_last_norm_belongs_to_the_last_layer(tmp_path: Path) -> None:
    made(*KINDS["tied"], tmp_path)
    ours = wrapped(tmp_path)
    norm = ours.get_parameter("model.transformer.ln_f.weight")
    assert [any(one is norm for part in stage for one in part.parameters()) for stage in ours.stages] == [
        False,
        False,
        True,
    ]


# Attention and caches


def test_attention_is_recorded_as_probabilities(tmp_path: Path) -> None:
    made(*KINDS["tied"], tmp_path)
    ours = wrapped(tmp_path).eval()
    implementation = ours.model.config._attn_implementation
    with torch.no_grad(), ours.record_attention() as maps:
        ours.model(input_ids=tokens_of())
    assert ours.model.config._attn_implementation == implementation
    assert list(maps) == ["layers.0.attention", "layers.1.attention"]
    for weights in maps.values():
        assert weights.shape == (ROWS, 2, LENGTH, LENGTH)
        torch.testing.assert_close(weights.sum(3), torch.ones(ROWS, 2, LENGTH))


@pytest.mark.parametrize("kind", ["tied", "own matrix", "trained bias"])
def test_features_with_a_cache_are_those_of_the_whole_text_and_a_copy_stays(tmp_path: Path, kind: str) -> None:
    made(*KINDS[kind], tmp_path)
    ours, tokens = wrapped(tmp_path).eval(), tokens_of(length=7)
    with torch.no_grad():
        whole = ours.model(input_ids=tokens).logits
        first, cache = ours.run_cached(None, input_ids=tokens[:, :4])
        kept = copy_cache(cache)
        second, cache = ours.run_cached(cache, input_ids=tokens[:, 4:])
        assert (cache.get_seq_length(), kept.get_seq_length()) == (7, 4)
        again, _ = ours.run_cached(copy_cache(kept), input_ids=tokens[:, 4:])
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-4, atol=1e-4)
    assert torch.equal(again, second) and kept.get_seq_length() == 4


class InPlace(DynamicLayer):  # type: ignore[misc]
    """A layer's cache whose class may write into its tensors."""


def test_a_copy_shares_the_tensors_that_are_never_written_into() -> None:
    cache = DynamicCache()
    for index in range(2):
        cache.update(torch.ones(ROWS, 2, LENGTH, 4), torch.ones(ROWS, 2, LENGTH, 4), index)
    inner = InPlace()
    inner.update(torch.ones(ROWS, 2, LENGTH, 4), torch.ones(ROWS, 2, LENGTH, 4))
    cache.layers.append(inner)
    copied = copy_cache(cache)
    shared = [
        one.keys.data_ptr() == other.keys.data_ptr() for one, other in zip(cache.layers, copied.layers, strict=True)
    ]
    assert shared == [type(layer) in REPLACING for layer in cache.layers] == [True, True, False]
    copied.reorder_cache(torch.tensor([0]))
    assert [len(layer.keys) for layer in cache.layers] == [ROWS] * 3
    assert [len(layer.keys) for layer in copied.layers] == [1] * 3


def test_no_cache_is_copied_to_none() -> None:
    assert copy_cache(None) is None


class Cached(nn.Module):
    def forward(self, tokens: Tensor, past_key_values: Any = None, cache: Any = None) -> None: ...


class Past(nn.Module):
    def forward(self, tokens: Tensor, past_key_values: Any = None) -> None: ...


class Forgets(nn.Module):
    def forward(self, tokens: Tensor, **more: Any) -> None: ...


def test_the_argument_of_a_cache_is_found() -> None:
    assert [cache_name(model, "theirs") for model in (Cached(), Past())] == ["cache", "past_key_values"]
    line = "Forgets of theirs keeps no cache of the tokens before: it cannot write texts; set another model.name"
    with pytest.raises(ConfigurationError, match=f"^{re.escape(line)}$"):
        cache_name(Forgets(), "theirs")


# The order of calls


class Crossed(nn.Module):
    """Calls its modules in another order than that of their registration, one of them twice, and one of them never."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Identity()
        self.first = nn.Identity()
        self.never = nn.Identity()

    def forward(self, states: Tensor) -> Tensor:
        return self.first(self.second(self.first(states)))


@pytest.mark.parametrize("fails", [False, True])
def test_modules_are_ranked_by_their_first_call_and_no_hook_stays(fails: bool) -> None:
    model = Crossed()
    try:
        with call_order(model) as order:
            model(torch.ones(1))
            if fails:
                raise KeyError("inside")
    except KeyError:
        assert fails
    assert order == {"": 0, "first": 1, "second": 2}
    model.never(torch.ones(1))
    assert "never" not in order
    assert not any(module._forward_pre_hooks for module in model.modules())
