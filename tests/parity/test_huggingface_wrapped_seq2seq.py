"""Wrapped encoder-decoders against transformers: logits, cached steps, translations, and files that are not right."""

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
from etude.models.generation.search import Beam, Greedy, Search
from etude.models.layers.positions import TooLongError
from etude.models.wrapped.huggingface import HuggingFace
from etude.models.wrapped.wrapped_seq2seq import WrappedEncoderDecoder
from etude.optim.finetune.base import from_the_top
from etude.optim.finetune.lora import LoRA
from etude.optim.schedules import Constant
from etude.tasks.translation import Translation
from etude.types import IGNORED, Facts, TranslationBatch

VOCABULARY, WIDTH, LONGEST = 29, 16, 24
SOURCE_MASK = torch.arange(7) < torch.tensor([[7], [4], [2]])
TARGET_MASK = torch.arange(5) < torch.tensor([[3], [5], [1]])

T5: dict[str, Any] = {"d_model": WIDTH, "d_kv": 8, "d_ff": 17, "num_layers": 2, "num_heads": 2, "n_positions": LONGEST}
BART: dict[str, Any] = {
    "d_model": WIDTH,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 17,
    "decoder_ffn_dim": 17,
    "max_position_embeddings": LONGEST,
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("t5", T5),
    "t5 v1.1": ("t5", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("mt5", {**T5, "num_decoder_layers": 2}),
    "m2m_100": ("m2m_100", {**BART, "encoder_layerdrop": 0.5}),
    "mbart": ("mbart", {**BART, "forced_eos_token_id": None}),
    "marian": ("marian", {**BART, "decoder_start_token_id": 0, "forced_eos_token_id": None}),
    "led": (
        "led",
        {**BART, "max_encoder_position_embeddings": 32, "max_decoder_position_embeddings": 24, "attention_window": 4},
    ),
}
T5_IDS = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
BART_IDS = {"pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 1, "decoder_start_token_id": 2}


def facts_of(kind: str) -> Facts:
    if "t5" in kind:
        return Facts(VOCABULARY, pad=0, bos=0, eos=1)
    return Facts(VOCABULARY, pad=0, bos=0 if kind == "marian" else 2, eos=2)


def made(kind: str, folder: Path, std: float = 0.3, **changes: Any) -> Any:
    """A model of random weights, saved by transformers itself."""
    architecture, sizes = KINDS[kind]
    ids = T5_IDS if "t5" in kind else BART_IDS
    config = transformers.AutoConfig.for_model(architecture, vocab_size=VOCABULARY, **{**ids, **sizes, **changes})
    torch.manual_seed(1)
    model = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # Attention to the source outweighs the last token, which would else be repeated for ever.
            across = parameter.dim() > 1 and any(part in name for part in ("encoder_attn.", "EncDecAttention"))
            torch.nn.init.normal_(parameter, std=5 * std if across else std if parameter.dim() > 1 else 0.1)
            if "norm" in name and name.endswith("weight"):
                parameter.data += 1
    if kind == "t5 v1.1":
        model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCABULARY, WIDTH))
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.normal_(std=0.3)
    model.save_pretrained(folder)
    return model


def loaded(kind: str, folder: Path, **more: Any) -> WrappedEncoderDecoder:
    return cast(WrappedEncoderDecoder, HuggingFace(str(folder), **more).build(facts_of(kind), EncoderDecoder).eval())


def pair_of(kind: str) -> tuple[Tensor, Tensor]:
    """Sources and decoder inputs, which begin with bos."""
    facts, generator = facts_of(kind), torch.Generator().manual_seed(1)
    source, target = (
        torch.randint(3, VOCABULARY, mask.shape, generator=generator).masked_fill(~mask, facts.pad)
        for mask in (SOURCE_MASK, TARGET_MASK)
    )
    target[:, 0] = facts.bos
    return source, target


def task_of(kind: str, model: EncoderDecoder, decoding: Search) -> Translation:
    schedule: Any = Constant(warmup="1step")
    return Translation(facts_of(kind), model, partial(torch.optim.SGD, lr=0.1), schedule, decoding, label_smoothing=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    theirs, ours = made(kind, tmp_path), loaded(kind, tmp_path)
    source, target = pair_of(kind)
    given = (source, target, SOURCE_MASK, TARGET_MASK)
    with torch.no_grad():
        expected = theirs(
            input_ids=source,
            attention_mask=SOURCE_MASK.long(),
            decoder_input_ids=target,
            decoder_attention_mask=TARGET_MASK.long(),
        ).logits
        logits, hidden = ours(*given), ours.hidden(*given)
    product = hidden @ ours.output_weight.T + (0 if ours.output_bias is None else ours.output_bias)
    torch.testing.assert_close(logits[TARGET_MASK], expected[TARGET_MASK], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(product, expected[TARGET_MASK], rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.05 and not logits[~TARGET_MASK].any()
    assert (ours.output_bias is not None) == (kind in ("mbart", "marian", "led"))
    assert ours.max_length == LONGEST
    long = torch.ones(1, LONGEST + 1, dtype=torch.bool)
    for masks in ((long, long[:, :2]), (long[:, :2], long)):
        with pytest.raises(TooLongError):
            ours(*(mask.long() for mask in masks), *masks)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_give_what_whole_targets_give_whatever_becomes_of_the_rows(tmp_path: Path, kind: str) -> None:
    made(kind, tmp_path)
    ours, (source, _) = loaded(kind, tmp_path), pair_of(kind)
    targets = torch.randint(3, VOCABULARY, (3, 8), generator=torch.Generator().manual_seed(3))
    targets[:, 0] = facts_of(kind).bos
    everywhere = torch.ones_like(targets, dtype=torch.bool)
    with torch.no_grad():
        expected = ours(source, targets, SOURCE_MASK, everywhere)
        cache, found = ours.start(ours.encode(source, SOURCE_MASK)), []
        for column in targets[:, :4].unbind(1):
            logits, cache = ours.step(column, cache)
            found.append(logits)
        torch.testing.assert_close(torch.stack(found, 1), expected[:, :4], rtol=1e-4, atol=1e-4)
        first, _ = ours.step(targets[:, 7], cache)
        for rows in (torch.tensor([2, 0, 0, 1]), torch.tensor([1, 0, 2]), torch.tensor([0])):
            chosen, found = cache.select(rows), []
            for column in targets[rows, 4:].unbind(1):
                logits, chosen = ours.step(column, chosen)
                chosen = chosen.select(torch.arange(len(rows)))  # beams that stay in their sentences
                found.append(logits)
            torch.testing.assert_close(torch.stack(found, 1), expected[rows, 4:], rtol=1e-4, atol=1e-4)
        again, _ = ours.step(targets[:, 7], cache)
    assert torch.equal(first, again)  # the steps between have changed nothing of it


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beams", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_translations_are_those_of_generate_in_any_batch(tmp_path: Path, kind: str, beams: int) -> None:
    theirs = made(kind, tmp_path, std=0.4)
    search: Search = Greedy(max_length=9) if beams == 1 else Beam(beams=beams, length_penalty=0.0, max_length=9)
    task = task_of(kind, loaded(kind, tmp_path), search).eval()
    source, _ = pair_of(kind)
    eos = facts_of(kind).eos
    found = [hypotheses[0] for hypotheses in task.translate(source, SOURCE_MASK)]
    rest = {"length_penalty": 0.0, "early_stopping": "never"} if beams > 1 else {}
    expected = theirs.generate(
        input_ids=source, attention_mask=SOURCE_MASK.long(), num_beams=beams, do_sample=False, max_new_tokens=9, **rest
    )
    for hypothesis, ids in zip(found, expected[:, 1:].tolist(), strict=True):
        assert list(hypothesis.tokens) == (ids[: ids.index(eos)] if eos in ids else ids[:9])
    assert len({hypothesis.tokens for hypothesis in found}) > 1
    order = [2, 0, 1]
    turned = [hypotheses[0] for hypotheses in task.translate(source[order], SOURCE_MASK[order])]
    alone = [
        task.translate(source[row : row + 1, :size], SOURCE_MASK[row : row + 1, :size])[0][0]
        for row, size in enumerate(SOURCE_MASK.sum(1).tolist())
    ]
    for others in ([turned[order.index(row)] for row in range(3)], alone):
        assert [other.tokens for other in others] == [hypothesis.tokens for hypothesis in found]
        scores = [[one.score for one in some] for some in (others, found)]
        torch.testing.assert_close(*map(torch.tensor, scores), rtol=0.0, atol=1e-4)
    if beams == 1:
        one = task_of(kind, loaded(kind, tmp_path), Beam(beams=1, max_length=9)).eval()
        assert [hypotheses[0].tokens for hypotheses in one.translate(source, SOURCE_MASK)] == [x.tokens for x in found]


def batch_of(kind: str) -> TranslationBatch:
    source, target = pair_of(kind)
    labels = target.roll(-1, 1).masked_fill(~TARGET_MASK, IGNORED)
    return TranslationBatch(source, SOURCE_MASK, target, labels, TARGET_MASK, float(TARGET_MASK.sum()), torch.arange(3))


@pytest.mark.parametrize("kind", KINDS)
def test_stages_have_every_parameter_from_the_embeddings_to_the_output(tmp_path: Path, kind: str) -> None:
    made(kind, tmp_path)
    task = task_of(kind, loaded(kind, tmp_path), Greedy())
    parts = from_the_top(task)
    top, below, encoder_top, encoder_below, embeddings = parts
    trained = [name for name, parameter in task.named_parameters() if parameter.requires_grad]
    assert sorted(name for names in parts for name in names) == sorted(trained)
    for names, side, index in ((top, "decoder", 1), (below, "decoder", 0), (encoder_top, "encoder", 1)):
        inside = [name for name in names if f".{index}." in name or "final_layer_norm" in name or ".layer_norm" in name]
        assert all(f"{side}." in name for name in inside) and len(inside) >= len(names) - 1
    assert all(".encoder." in name for name in encoder_below)
    assert not any(".layers." in name or ".block." in name for name in embeddings)
    tied = kind != "t5 v1.1"
    assert ("model.matrix" in embeddings) == tied and ("model.matrix" in top) != tied


@pytest.mark.parametrize("kind", KINDS)
def test_what_transformers_does_not_train_stays(tmp_path: Path, kind: str) -> None:
    """Sines that were trained would be lost: transformers neither saves nor reads them."""
    theirs = made(kind, tmp_path)
    frozen = {f"model.{name}" for name, parameter in theirs.named_parameters() if not parameter.requires_grad}
    assert bool(frozen) == (kind == "marian")
    task = task_of(kind, loaded(kind, tmp_path), Greedy())
    assert {name for name, parameter in task.model.named_parameters() if not parameter.requires_grad} == frozen


@pytest.mark.parametrize("kind", ["t5", "m2m_100", "led"])
def test_adapters_learn(tmp_path: Path, kind: str) -> None:
    made(kind, tmp_path)
    task = task_of(kind, loaded(kind, tmp_path, dropout=0.0), Greedy()).train()
    torch.manual_seed(1)  # of the adapters
    task.adjust(LoRA(2, modules=["q", "v"] if kind == "t5" else ["v_proj"] if kind == "m2m_100" else ["fc1"]))
    before = {name: parameter.clone() for name, parameter in task.named_parameters()}
    optimizer = torch.optim.SGD([one for one in task.parameters() if one.requires_grad], lr=1e-2)
    losses = []
    for _ in range(6):
        total, count = task.loss(batch_of(kind))
        losses.append(float(total / count))
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
    moved = {name for name, parameter in task.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == set(task.parameter_schedules) and losses[-1] < losses[0]


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_again(tmp_path: Path, kind: str) -> None:
    made(kind, tmp_path / "first")
    ours = loaded(kind, tmp_path / "first")
    ours.whole().save_pretrained(tmp_path / "second")
    again = loaded(kind, tmp_path / "second")
    for name, tensor in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    peer = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "second").eval()
    source, target = pair_of(kind)
    with torch.no_grad():
        expected = peer(input_ids=source, attention_mask=SOURCE_MASK.long(), decoder_input_ids=target).logits
        logits = ours(source, target, SOURCE_MASK, TARGET_MASK)
    torch.testing.assert_close(logits[TARGET_MASK], expected[TARGET_MASK], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["t5", "m2m_100"])
def test_dropout_is_the_one_asked_for_and_that_of_the_seed(tmp_path: Path, kind: str) -> None:
    made(kind, tmp_path)
    given = (*pair_of(kind), SOURCE_MASK, TARGET_MASK)
    plain = loaded(kind, tmp_path, dropout=0.0).train()
    assert torch.equal(plain.hidden(*given), plain.hidden(*given))
    ours, draws = loaded(kind, tmp_path, dropout=0.5).train(), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(ours.hidden(*given))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    made("t5", tmp_path)
    with pytest.raises(ConfigurationError, match=r"bos is id 2, that of the weights of .* is 0"):
        WrappedEncoderDecoder(Facts(VOCABULARY, 0, 2, 1), open_pretrained(str(tmp_path)))
    with pytest.raises(ConfigurationError, match=r"'t5', which has an encoder.*another model.name"):
        HuggingFace(str(tmp_path)).build(facts_of("t5"), TextDecoder)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["decoder.final_layer_norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigurationError, match=r"missing: decoder.final_layer_norm.weight; extra: none"):
        loaded("t5", tmp_path)


def test_a_text_of_any_length_needs_a_limit(tmp_path: Path) -> None:
    made("t5", tmp_path)
    assert loaded("t5", tmp_path, max_length=LONGEST + 9).max_length == LONGEST + 9
    made("marian", tmp_path / "marian")
    assert loaded("marian", tmp_path / "marian", max_length=LONGEST + 9).max_length == LONGEST
    made("t5", tmp_path, n_positions=None)
    with pytest.raises(ConfigurationError, match=r"does not say how long a text may be; set model.max_length=512"):
        loaded("t5", tmp_path)
    assert loaded("t5", tmp_path, max_length=40).max_length == 40
