"""Against Hugging Face's GPT-2: weights from and to its files, and the logits they give."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, GPT2Model

from etude.errors import ConfigurationError, DataError
from etude.models.base import TextDecoder
from etude.models.decoder import Decoder
from etude.models.layers.feed_forward import FeedForward, GatedFeedForward, SquaredReLU
from etude.models.layers.positions import Rotary
from etude.models.layers.residual import PostNorm
from etude.models.pretrained.gpt2 import PretrainedGPT2, gpt2_config, to_gpt2
from etude.types import Facts

VOCABULARY, WIDTH, LAYERS, MAX_LENGTH = 29, 22, 3, 11
FACTS = Facts(vocabulary=VOCABULARY, pad=0, bos=1, eos=2)
MASK = torch.arange(7) < torch.tensor([[7], [4], [2]])
TOKENS = torch.randint(3, VOCABULARY, MASK.shape, generator=torch.Generator().manual_seed(1))


def gpt2(kind: Any = GPT2LMHeadModel, **changes: Any) -> Any:
    torch.manual_seed(1)
    sizes = {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2, "n_positions": MAX_LENGTH}
    model = kind(GPT2Config(**{**sizes, "bos_token_id": 1, "eos_token_id": 2, **changes})).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def write(folder: Path, weights: dict[str, Tensor], config: GPT2Config, **changes: Any) -> str:
    save_file({name: tensor.contiguous().clone() for name, tensor in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict() | changes))
    return str(folder)


def logits_of(model: Any) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(input_ids=TOKENS, attention_mask=MASK.long()).logits
    return logits[MASK]


@pytest.mark.parametrize(
    "changes", [{}, {"activation_function": "relu", "n_inner": 31}, {"layer_norm_epsilon": 0.1}, {"n_head": 1}]
)
def test_a_gpt2_of_random_weights_gives_the_same_logits(tmp_path: Path, changes: dict[str, Any]) -> None:
    theirs = gpt2(**changes)
    theirs.save_pretrained(tmp_path)
    ours = PretrainedGPT2(str(tmp_path)).build(FACTS, TextDecoder).eval()
    torch.testing.assert_close(ours(TOKENS, MASK)[MASK], logits_of(theirs), rtol=1e-5, atol=1e-4)
    assert ours.max_length == MAX_LENGTH


def test_names_of_the_bare_model_and_masks_of_old_files_are_read(tmp_path: Path) -> None:
    theirs = gpt2(GPT2Model)
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 11, 11).tril() for layer in range(LAYERS)}
    masks |= {f"h.{layer}.attn.masked_bias": torch.tensor(-1e4) for layer in range(LAYERS)}
    ours = PretrainedGPT2(write(tmp_path, theirs.state_dict() | masks, theirs.config)).build(FACTS, TextDecoder).eval()
    with torch.no_grad():
        states = theirs(input_ids=TOKENS, attention_mask=MASK.long()).last_hidden_state[MASK]
    torch.testing.assert_close(ours.hidden(TOKENS, MASK), states, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "activation", [nn.GELU(), nn.ReLU(), partial(torch.nn.functional.gelu, approximate="tanh"), SquaredReLU()]
)
def test_there_and_back_again(tmp_path: Path, activation: Any) -> None:
    torch.manual_seed(3)
    layer = partial(FeedForward, activation=activation)
    ours = Decoder(FACTS, WIDTH, 2, LAYERS, 31, 0.1, MAX_LENGTH, feed_forward_layer=layer).eval()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    save_file(to_gpt2(ours), tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(gpt2_config(ours, FACTS)))
    theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(theirs, GPT2LMHeadModel)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(ours(TOKENS, MASK)[MASK], logits_of(theirs.eval()), rtol=1e-5, atol=1e-4)
    again = PretrainedGPT2(str(tmp_path)).build(FACTS, TextDecoder).eval()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: weights.pop("transformer.ln_f.bias"), "missing: ln_f.bias; extra: none"),
        (lambda weights: weights.update(more=torch.ones(2)), "missing: none; extra: more"),
        (
            lambda weights: weights.update({"transformer.wpe.weight": torch.ones(7, WIDTH)}),
            r"wpe.weight gives \[7, 22\], which should be \[11, 22\]",
        ),
        (
            lambda weights: weights.update({"lm_head.weight": torch.ones(VOCABULARY, WIDTH)}),
            "other values in lm_head.weight",
        ),
    ],
)
def test_weights_that_are_not_the_configurations_are_refused(tmp_path: Path, change: Any, said: str) -> None:
    theirs = gpt2()
    weights = dict(theirs.state_dict())
    change(weights)
    with pytest.raises(ConfigurationError, match=said):
        PretrainedGPT2(write(tmp_path, weights, theirs.config)).build(FACTS, TextDecoder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "llama"}, "model_type = 'llama'; model=gpt2 reads gpt2"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings = False"),
        ({"activation_function": "selu"}, "activation_function = 'selu'"),
        ({"n_embd": None}, "has no n_embd"),
        ({"vocab_size": 30}, "the tokenizer has 29 ids"),
        ({"eos_token_id": 5}, "the tokenizer's eos is id 2, that of the weights of .* is 5"),
    ],
)
def test_another_architecture_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    theirs = gpt2()
    with pytest.raises(ConfigurationError, match=said):
        PretrainedGPT2(write(tmp_path, theirs.state_dict(), theirs.config, **changes)).build(FACTS, TextDecoder)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(gpt2().config.to_dict()))
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(DataError, match=r"pytorch_model.bin, a pickle"):
        PretrainedGPT2(str(tmp_path)).build(FACTS, TextDecoder)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"positions": Rotary, "feed_forward_layer": GatedFeedForward},
            "has no GatedFeedForward, Rotary; train with model/positions=learned model/feed_forward=gelu$",
        ),
        ({"residual": PostNorm}, "has no PostNorm; train with model/residual=pre_norm$"),
        ({"norm": nn.RMSNorm}, "has no RMSNorm; train with model/norm=layer$"),
        ({"query_key_norm": True}, "has no HeadNorm; train with model.query_key_norm=false$"),
        ({"logit_cap": 3.0}, "has no logit_cap; train with model.logit_cap=null$"),
        (
            {"norm": partial(nn.LayerNorm, bias=False)},
            "not have the same tensors: layers.0.attention_residual.norm.bias, .*norm.bias; train with model/norm=layer",
        ),
        (
            {"feed_forward_layer": partial(FeedForward, activation=torch.nn.functional.silu)},
            "only the activations gelu, relu, gelu_new, relu2 .*; train with model/feed_forward=gelu$",
        ),
    ],
)
def test_what_gpt2_has_not_is_not_written(parts: dict[str, Any], said: str) -> None:
    decoder = Decoder(FACTS, 24, 2, 2, 31, 0.0, MAX_LENGTH, **parts)
    with pytest.raises(ConfigurationError, match=said):
        _ = to_gpt2(decoder), gpt2_config(decoder, FACTS)
