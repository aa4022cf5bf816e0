"""Causal language models as transformers loads them: ids, logits and continuations."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from etude.commands.export.huggingface_decoder import PROMPTS, HuggingFaceDecoder, causal_lm, same_continuations
from etude.commands.export.proof import MismatchError, ProofTexts
from etude.errors import ConfigurationError
from etude.models.base import TextDecoder
from etude.models.decoder import Decoder
from etude.models.generation.search import Greedy, Sample, Search
from etude.models.layers.feed_forward import FeedForward
from etude.models.layers.positions import Rotary
from etude.models.pretrained.gpt2 import PretrainedGPT2
from etude.optim.schedules import Constant
from etude.tasks.causal_lm import CausalLM
from etude.tokenization.base import SpecialTokens, Tokenizer
from etude.tokenization.trained import Bytes
from etude.types import Facts

KIND = HuggingFaceDecoder()
BYTES = Bytes().build(iter(()))
END = "<|endoftext|>"


def facts_of(tokenizer: Tokenizer) -> Facts:
    return Facts(tokenizer.vocabulary, tokenizer.pad, tokenizer.bos, tokenizer.eos)


def examples_of(model: Decoder, tokenizer: Tokenizer, texts: list[str], decoding: Search) -> ProofTexts:
    schedule: Any = Constant()
    task = CausalLM(facts_of(tokenizer), model, partial(torch.optim.Adam, lr=1e-3), schedule, decoding)
    return ProofTexts(task.eval(), tokenizer, texts, [])


def given(
    tokenizer: Tokenizer, texts: list[str], decoding: Search | None = None, max_length: int = 64, **parts: Any
) -> ProofTexts:
    torch.manual_seed(4)
    model = Decoder(facts_of(tokenizer), 22, 2, 3, 31, 0.1, max_length, **parts)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return examples_of(model, tokenizer, texts, decoding or Sample(temperature=0.7, max_length=12))


@pytest.fixture
def end_of_text(texts: list[str]) -> Tokenizer:
    """GPT-2's kind of tokenizer: one special token, which stands for the beginning, the end and padding."""
    backend = tokenizers.ByteLevelBPETokenizer()
    backend.train_from_iterator(texts, vocab_size=300, special_tokens=[END], show_progress=False)
    return Tokenizer(tokenizers.Tokenizer.from_str(backend.to_str()), SpecialTokens(END, END, END, END, None))


@pytest.mark.parametrize("max_length", [64, 7, 1])
@pytest.mark.parametrize(
    ("activation", "name"),
    [(nn.GELU(), "gelu"), (nn.ReLU(), "relu"), (partial(nn.functional.gelu, approximate="tanh"), "gelu_new")],
)
def test_transformers_computes_the_same(
    tokenizer: Tokenizer, texts: list[str], tmp_path: Path, max_length: int, activation: Any, name: str
) -> None:
    layer = partial(FeedForward, activation=activation)
    examples = given(tokenizer, texts, max_length=max_length, feed_forward_layer=layer)
    KIND.write(examples, tmp_path)
    proof = KIND.prove(examples, tmp_path)
    assert proof["class"] == "GPT2LMHeadModel"
    assert proof["logits"]["largest_difference"] < 1e-4
    assert proof["tokenizer"]["equal"] == proof["logits"]["texts"] == len(texts)
    assert proof["greedy"] == {"texts": PROMPTS, "equal": PROMPTS, "ties": 0}
    assert json.loads((tmp_path / "config.json").read_text())["activation_function"] == name
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize("kind", ["bytes", "end_of_text"])
def test_each_kind_of_tokenizer_gives_the_same_ids(
    kind: str, end_of_text: Tokenizer, texts: list[str], tmp_path: Path
) -> None:
    own = {"bytes": BYTES, "end_of_text": end_of_text}[kind]
    examples = given(own, [*texts, "", "ü & ß", END])
    KIND.write(examples, tmp_path)
    assert KIND.prove(examples, tmp_path)["tokenizer"]["equal"] == len(texts) + 3


def test_transformers_continues_a_text_as_predict_does(tokenizer: Tokenizer, texts: list[str], tmp_path: Path) -> None:
    examples = given(tokenizer, texts, Greedy(max_length=12))
    KIND.write(examples, tmp_path)
    theirs, reader = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    found = causal_lm(examples).continuations(tokenizer.encode(texts))
    expected = tokenizer.decode([first.tokens for (first,) in found])
    for text, whole in zip(texts, expected, strict=True):
        given_ids = reader(text, return_tensors="pt")
        assert reader.batch_decode(theirs.generate(**given_ids), skip_special_tokens=True)[0].strip() == whole
    added = [prediction.text for prediction in causal_lm(examples).predictions(texts, tokenizer)]
    assert len(set(added)) > 5  # not one answer to all


def test_how_the_run_samples_is_what_generate_does(tokenizer: Tokenizer, texts: list[str], tmp_path: Path) -> None:
    KIND.write(given(tokenizer, texts, Sample(temperature=0.7, top_k=9, max_length=300)), tmp_path)
    said = json.loads((tmp_path / "generation_config.json").read_text())
    assert (said["do_sample"], said["temperature"], said["top_k"]) == (True, 0.7, 9)
    assert said["max_new_tokens"] == 32  # of 64 positions
    assert [said[f"{name}_token_id"] for name in ("pad", "bos", "eos")] == [0, 1, 2]


def test_what_was_exported_is_read_back_bit_for_bit(tokenizer: Tokenizer, texts: list[str], tmp_path: Path) -> None:
    examples = given(tokenizer, texts)
    KIND.write(examples, tmp_path)
    own = causal_lm(examples).model.state_dict()
    again = PretrainedGPT2(str(tmp_path)).build(examples.task.facts, TextDecoder).state_dict()
    assert own.keys() == again.keys()
    for name, tensor in own.items():
        assert torch.equal(again[name], tensor), name
    bare, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(bare).__name__ == "GPT2Model" and not report["missing_keys"] and not report["unexpected_keys"]
    assert torch.equal(bare.wte.weight, own["embedding.weight"])


def test_a_gpt2_is_exported_with_the_tensors_that_it_came_with(
    end_of_text: Tokenizer, texts: list[str], tmp_path: Path
) -> None:
    torch.manual_seed(5)
    sizes = {"n_embd": 22, "n_layer": 2, "n_head": 2, "n_positions": 40}
    config = GPT2Config(vocab_size=end_of_text.vocabulary, bos_token_id=0, eos_token_id=0, **sizes)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    model = PretrainedGPT2(str(tmp_path / "theirs")).build(facts_of(end_of_text), TextDecoder)
    examples = examples_of(model, end_of_text, texts, Greedy(max_length=5))
    KIND.write(examples, tmp_path / "ours")
    assert KIND.prove(examples, tmp_path / "ours")["greedy"]["texts"] == PROMPTS
    theirs, ours = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours"))
    assert theirs.keys() == ours.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def test_a_changed_weight_is_found(tokenizer: Tokenizer, texts: list[str], tmp_path: Path) -> None:
    examples = given(tokenizer, texts)
    KIND.write(examples, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["transformer.h.1.mlp.c_fc.bias"][3] += 0.1
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MismatchError, match=r"logits differ by .*; nothing was exported"):
        KIND.prove(examples, tmp_path)


def test_a_tokenizer_that_ends_texts_is_found(tokenizer: Tokenizer, texts: list[str], tmp_path: Path) -> None:
    examples = given(tokenizer, texts)
    KIND.write(examples, tmp_path)
    path = tmp_path / "tokenizer.json"
    written = json.loads(path.read_text())
    written["post_processor"]["single"].append({"SpecialToken": {"id": "</s>", "type_id": 0}})
    path.write_text(json.dumps(written))
    with pytest.raises(MismatchError, match="AutoTokenizer gives"):
        KIND.prove(examples, tmp_path)


def test_another_continuation_is_found(tokenizer: Tokenizer, texts: list[str], tmp_path: Path) -> None:
    examples = given(tokenizer, texts)
    KIND.write(examples, tmp_path)
    peer = AutoModelForCausalLM.from_pretrained(tmp_path)
    peer.generation_config.suppress_tokens = list(range(5, 40))
    rows = [[tokenizer.bos, *ids] for ids in tokenizer.encode(texts)]
    with pytest.raises(MismatchError, match=r"GPT2LMHeadModel continues text \d+ otherwise"):
        same_continuations(peer, causal_lm(examples), rows)


def test_parts_that_gpt2_has_not_are_refused(tokenizer: Tokenizer, texts: list[str], tmp_path: Path) -> None:
    torch.manual_seed(4)
    model = Decoder(facts_of(tokenizer), 24, 2, 3, 31, 0.1, 64, positions=Rotary, norm=nn.RMSNorm)
    with pytest.raises(
        ConfigurationError, match=r"RMSNorm, Rotary; train with model/positions=learned model/norm=layer"
    ):
        KIND.write(examples_of(model, tokenizer, texts, Greedy()), tmp_path)
    assert not any(tmp_path.iterdir())
