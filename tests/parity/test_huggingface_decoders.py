"""Wrapped decoders against transformers: logits, cached steps, continuations, documents, and files that are not right."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from etude.errors import ConfigurationError
from etude.hub import open_pretrained
from etude.models.base import EncoderDecoder, TextDecoder
from etude.models.decoder import Decoder
from etude.models.generation.search import Beam, Greedy, Search
from etude.models.layers.positions import TooLongError
from etude.models.wrapped.huggingface import HuggingFace
from etude.models.wrapped.wrapped_decoder import WrappedDecoder
from etude.optim.finetune.base import from_the_top
from etude.optim.finetune.lora import LoRA
from etude.optim.finetune.selection import BitFit, TopLayers
from etude.optim.schedules import Constant
from etude.tasks.causal_lm import CausalLM
from etude.tokenization.trained import BPE
from etude.types import IGNORED, CausalLMBatch, Facts

VOCABULARY, WIDTH, LONGEST = 29, 16, 13
FACTS = Facts(VOCABULARY, pad=0, bos=1, eos=2)
MASK = torch.arange(7) < torch.tensor([[7], [4], [2]])
TOKENS = torch.randint(3, VOCABULARY, MASK.shape, generator=torch.Generator().manual_seed(1)).masked_fill(~MASK, 0)

COMMON: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 17,
    "max_position_embeddings": LONGEST,
}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {**COMMON, "num_key_value_heads": 1},
    "qwen2": {**COMMON, "num_key_value_heads": 1, "tie_word_embeddings": True},
    "mistral": {**COMMON, "num_key_value_heads": 2, "sliding_window": 3},
    "gpt_neox": COMMON,
    "phi": COMMON,  # its output layer has a bias
    "opt": {**COMMON, "ffn_dim": 17, "word_embed_proj_dim": 8},
    "bloom": {"hidden_size": WIDTH, "n_layer": 2, "n_head": 2, "seq_length": LONGEST},
    "cohere": {**COMMON, "num_key_value_heads": 1, "logit_scale": 2.0},
    "mamba": {"hidden_size": WIDTH, "num_hidden_layers": 2, "state_size": 4, "seq_length": LONGEST},
}
LAYERED = [kind for kind in KINDS if kind != "mamba"]


def made(kind: str, folder: Path, std: float = 0.3, vocabulary: int = VOCABULARY, **changes: Any) -> Any:
    """A model of random weights, saved by transformers itself."""
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.AutoConfig.for_model(
        kind, vocab_size=vocabulary, **ids, **{**KINDS.get(kind, COMMON), **changes}
    )
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if kind != "mamba" or (parameter.dim() > 1 and "A_log" not in name):
            torch.nn.init.normal_(parameter, std=std)
    model.save_pretrained(folder)
    return model


def loaded(folder: Path, **more: Any) -> WrappedDecoder:
    return cast(WrappedDecoder, HuggingFace(str(folder), **more).build(FACTS, TextDecoder).eval())


def task_of(model: TextDecoder, decoding: Search) -> CausalLM:
    schedule: Any = Constant(warmup="1step")
    return CausalLM(FACTS, model, partial(torch.optim.SGD, lr=0.1), schedule, decoding)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    theirs, ours = made(kind, tmp_path), loaded(tmp_path)
    with torch.no_grad():
        expected = theirs(input_ids=TOKENS, attention_mask=MASK.long()).logits
        logits = ours(TOKENS, MASK)
        hidden = ours.hidden(TOKENS, MASK)
    product = hidden @ ours.output_weight.T + (0 if ours.output_bias is None else ours.output_bias)
    torch.testing.assert_close(logits[MASK], expected[MASK], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(product, expected[MASK], rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1 and not logits[~MASK].any()
    assert (ours.output_bias is not None) == (kind == "phi")
    assert ours.max_length == LONGEST and loaded(tmp_path, max_length=5).max_length == 5
    with pytest.raises(TooLongError):
        ours(*(torch.ones(1, LONGEST + 1, dtype=dtype) for dtype in (torch.long, torch.bool)))


@pytest.mark.parametrize("kind", KINDS)
def test_steps_give_what_whole_texts_give_whatever_becomes_of_the_rows(tmp_path: Path, kind: str) -> None:
    made(kind, tmp_path)
    ours, rows = loaded(tmp_path), torch.tensor([2, 0, 0, 1])
    texts = torch.randint(3, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = ours(texts, torch.ones_like(texts, dtype=torch.bool))
        past, found = ours.start(3), []
        for column in texts[:, :5].unbind(1):
            logits, past = ours.step(column, past)
            found.append(logits)
        torch.testing.assert_close(torch.stack(found, 1), expected[:, :5], rtol=1e-4, atol=1e-4)
        first, _ = ours.step(texts[:, 8], past)
        chosen, found = past.select(rows), []
        for column in texts[rows, 5:].unbind(1):
            logits, chosen = ours.step(column, chosen)
            found.append(logits)
        again, _ = ours.step(texts[:, 8], past)
    torch.testing.assert_close(torch.stack(found, 1), expected[rows, 5:], rtol=1e-4, atol=1e-4)
    assert torch.equal(first, again)  # the steps between have changed nothing of it


@pytest.mark.parametrize("kind", ["llama", "opt", "mamba"])
def test_where_positions_end_the_older_half_is_forgotten(tmp_path: Path, kind: str) -> None:
    made(kind, tmp_path)
    ours = loaded(tmp_path, max_length=6)
    texts = torch.randint(3, VOCABULARY, (2, 8), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        past = ours.start(2)
        for column in texts.unbind(1):
            logits, past = ours.step(column, past)
        kept = texts[:, 3:]
        expected = ours(kept, torch.ones_like(kept, dtype=torch.bool))[:, -1]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, 1, 2], [5, 5, 6, 6, -1, -1, -1], [0, 0, -1, -1, -1, -1, -1]])


@pytest.mark.parametrize("kind", KINDS)
def test_documents_of_a_row_do_not_see_each_other(tmp_path: Path, kind: str) -> None:
    made(kind, tmp_path)
    ours = loaded(tmp_path)
    changed = TOKENS.clone()
    changed[0, 1] = 3 + (changed[0, 1] - 2) % (VOCABULARY - 3)
    with torch.no_grad():
        before, after = (ours(tokens, MASK, DOCUMENTS) for tokens in (TOKENS, changed))
        alone = ours(TOKENS[:1, 3:6], torch.ones(1, 3, dtype=torch.bool))
    moved = (before - after).abs().amax(dim=2) > 1e-5
    assert moved[0, 1] and not moved[0, 0] and not moved[0, 3:].any() and not moved[1:].any()
    torch.testing.assert_close(before[:1, 3:6], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "mistral", "opt", "gpt_neox"])
@pytest.mark.parametrize("beams", [1, 3])
def test_continuations_are_those_of_generate(tmp_path: Path, kind: str, beams: int) -> None:
    theirs = made(kind, tmp_path, std=0.6)
    search = Greedy(max_length=7) if beams == 1 else Beam(beams=beams, length_penalty=0.0, max_length=7)
    task = task_of(loaded(tmp_path), search).eval()
    prompts = [[5, 6, 7], [9, 4], [12], [8, 8, 8, 8]]
    ours = [found[0].tokens for found in task.continuations(prompts)]
    for prompt, continued in zip(prompts, ours, strict=True):
        ids = torch.tensor([[1, *prompt]])
        rest = {"length_penalty": 0.0, "early_stopping": "never"} if beams > 1 else {}
        (expected,) = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), num_beams=beams, do_sample=False, max_new_tokens=7, **rest
        ).tolist()
        given = expected[1 + len(prompt) :]
        assert list(continued[len(prompt) :]) == (given[: given.index(2)] if 2 in given else given)
    assert len(set(ours)) == len(prompts)
    alone = [task.continuations([prompt])[0][0] for prompt in prompts]
    assert [found.tokens for found in alone] == ours
    if beams == 1:
        plain = task_of(loaded(tmp_path), Beam(beams=1, max_length=7)).eval()
        assert [found[0].tokens for found in plain.continuations(prompts)] == ours


def batch_of(tokens: Tensor, documents: Tensor | None = None) -> CausalLMBatch:
    labels = tokens.roll(-1, 1).masked_fill(~MASK, IGNORED)
    count = float(MASK.sum())
    return CausalLMBatch(tokens, MASK, labels, documents, count, torch.arange(3), torch.ones(3, dtype=torch.long))


@pytest.mark.parametrize("kind", LAYERED)
def test_stages_have_every_parameter_from_the_embeddings_to_the_output(tmp_path: Path, kind: str) -> None:
    made(kind, tmp_path)
    task = task_of(loaded(tmp_path), Greedy())
    top, below, embeddings = from_the_top(task)
    assert sorted([*top, *below, *embeddings]) == sorted(name for name, _ in task.named_parameters())
    assert all(".1." in name or "norm" in name or "ln_f" in name or name.startswith("model.") for name in top)
    assert all("layers.0." in name or ".h.0." in name for name in below)
    assert not any(".1." in name for name in embeddings)
    final = [name for name in (*top, *embeddings) if name.endswith(("final_layer_norm.weight", "ln_f.weight"))]
    assert all(name in top for name in final)
    tied = task.model.output_weight is cast(WrappedDecoder, task.model).model.get_input_embeddings().weight
    assert ("model.matrix" in embeddings) == tied and ("model.matrix" in top) != tied


@pytest.mark.parametrize(
    ("kind", "finetune", "trained"),
    [
        ("llama", LoRA(2, modules=["q_proj", "v_proj"]), 2 * 2 * 2),
        ("gpt_neox", LoRA(2, modules=["query_key_value"]), 2 * 2),
        ("llama", TopLayers(1), 11),
        ("phi", BitFit(), 2 * 7 + 1 + 1),
    ],
)
def test_what_a_finetuning_names_learns_and_nothing_else(
    tmp_path: Path, kind: str, finetune: Any, trained: int
) -> None:
    made(kind, tmp_path)
    task = task_of(loaded(tmp_path), Greedy()).train()
    torch.manual_seed(1)  # of new parameters
    task.adjust(finetune)
    before = {name: parameter.clone() for name, parameter in task.named_parameters()}
    optimizer = torch.optim.SGD([one for one in task.parameters() if one.requires_grad], lr=1e-2)
    losses = []
    for _ in range(6):
        total, count = task.loss(batch_of(TOKENS))
        losses.append(float(total / count))
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
    moved = {name for name, parameter in task.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == set(task.parameter_schedules) and len(moved) == trained
    assert losses[-1] < losses[0]


def test_a_fused_layer_of_another_library_is_one_layer(tmp_path: Path) -> None:
    made("gpt_neox", tmp_path)
    with pytest.raises(
        ConfigurationError, match="query is not a linear layer of WrappedDecoder; it has query_key_value, "
    ):
        task_of(loaded(tmp_path), Greedy()).adjust(LoRA(2))


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "opt"])
def test_dropout_is_the_one_asked_for_and_that_of_the_seed(tmp_path: Path, kind: str) -> None:
    made(kind, tmp_path)
    plain = loaded(tmp_path, dropout=0.0).train()
    assert torch.equal(plain.hidden(TOKENS, MASK), plain.eval().hidden(TOKENS, MASK))
    ours, draws = loaded(tmp_path, dropout=0.5).train(), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(ours.hidden(TOKENS, MASK))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_layers_are_never_dropped(tmp_path: Path) -> None:
    made("opt", tmp_path, layerdrop=0.9, dropout=0.0)
    ours = loaded(tmp_path)
    assert torch.equal(ours.train().hidden(TOKENS, MASK), ours.eval().hidden(TOKENS, MASK))


def test_rows_of_embeddings_that_no_token_has_are_cut_off(tmp_path: Path) -> None:
    tokenizer = BPE(vocabulary=VOCABULARY).build(iter(["sun moon star"]))
    tokenizer.save(tmp_path)
    assert tokenizer.vocabulary < 48
    theirs = made("llama", tmp_path, vocabulary=48)
    facts = Facts(tokenizer.vocabulary, tokenizer.pad, tokenizer.bos, tokenizer.eos)
    ours = WrappedDecoder(facts, open_pretrained(str(tmp_path))).eval()
    tokens = TOKENS % tokenizer.vocabulary
    with torch.no_grad():
        expected = theirs(input_ids=tokens, attention_mask=MASK.long()).logits[MASK][:, : tokenizer.vocabulary]
        torch.testing.assert_close(ours(tokens, MASK)[MASK], expected, rtol=1e-4, atol=1e-4)
    assert ours.whole().config.vocab_size == tokenizer.vocabulary


def test_a_model_that_reads_what_it_shall_predict_is_refused(tmp_path: Path) -> None:
    made("bert", tmp_path)
    with pytest.raises(ConfigurationError, match="reads the tokens behind the one that it predicts"):
        loaded(tmp_path)


def test_logits_that_are_no_product_are_refused(tmp_path: Path) -> None:
    made("gemma2", tmp_path, num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.5)
    with pytest.raises(ConfigurationError, match="are not the products of states and an output matrix") as caught:
        loaded(tmp_path)
    assert "\n" not in str(caught.value)


def test_wrong_tensors_and_tokenizers_are_named(tmp_path: Path) -> None:
    made("llama", tmp_path)
    with pytest.raises(ConfigurationError, match=r"bos is id 3, that of the weights of .* is 1.*tokenizer=pretrained"):
        WrappedDecoder(Facts(VOCABULARY, 0, 3, 2), open_pretrained(str(tmp_path)))
    with pytest.raises(ConfigurationError, match=r"30 ids, the weights of .* have 29"):
        WrappedDecoder(Facts(VOCABULARY + 1, 0, 1, 2), open_pretrained(str(tmp_path)))
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.strange"] = weights.pop("lm_head.weight")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigurationError, match=r"missing: lm_head.weight; extra: model.strange"):
        loaded(tmp_path)


def test_the_task_decides_as_what_a_model_is_loaded(tmp_path: Path) -> None:
    made("llama", tmp_path)
    with pytest.raises(ConfigurationError, match="the task takes a Decoder, and model=huggingface makes a TextEncoder"):
        HuggingFace(str(tmp_path)).build(FACTS, Decoder)
    with pytest.raises(ConfigurationError, match=r"'llama', which is not an encoder with a decoder"):
        HuggingFace(str(tmp_path)).build(FACTS, EncoderDecoder)
