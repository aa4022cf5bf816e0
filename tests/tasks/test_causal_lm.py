"""The task: scores that add up, and texts that are continued, each for itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import pytest
import torch
from torch import Tensor

from etude.errors import ConfigurationError
from etude.models.decoder import Decoder
from etude.models.generation.search import Greedy, Sample, Search
from etude.optim.schedules import Constant
from etude.tasks.causal_lm import CausalLM
from etude.tokenization.trained import BPE, Bytes
from etude.types import IGNORED, CausalLMBatch, Facts

BYTES = Bytes().build(iter(()))
FACTS = Facts(BYTES.vocabulary, BYTES.pad, BYTES.bos, BYTES.eos)
LINES = ["one two", "", "seven eight", "o", "ü and ß"]


def build(decoding: Search, max_length: int = 32, facts: Facts = FACTS) -> CausalLM:
    torch.manual_seed(1)
    model = Decoder(facts, 16, 2, 2, 24, 0.0, max_length)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return CausalLM(facts, model, partial(torch.optim.SGD, lr=0.1), Constant(), decoding).eval()


def batch(documents: Tensor | None = None) -> CausalLMBatch:
    tokens = torch.randint(5, FACTS.vocabulary, (3, 6), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(6) < torch.tensor([[6], [3], [4]])
    labels = torch.where(mask, tokens.roll(-1, 1), IGNORED)
    labels[2, :2] = IGNORED
    return CausalLMBatch(tokens, mask, labels, documents, 11, torch.tensor([4, 0, 2]), torch.tensor([9, 5, 0]))


@pytest.mark.parametrize("documents", [None, torch.tensor([[0, 0, 1, 1, 1, 2]] * 3)])
def test_the_loss_is_that_of_the_labels_and_of_the_rows(documents: Tensor | None) -> None:
    task, given = build(Greedy()), batch(documents)
    total, count = task.loss(given)
    logits = task.model(given.tokens, given.mask, documents)
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), given.labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    torch.testing.assert_close(total, expected)
    assert int(count) == 11
    with torch.no_grad():
        judged, judged_count, rows = task.judge(given, "val")
    torch.testing.assert_close(judged, total.detach())
    assert int(judged_count) == 11
    assert [(row["id"], row["tokens"], row["bytes"]) for row in rows] == [(4, 6, 9), (0, 3, 5), (2, 2, 0)]
    assert sum(row["loss"] for row in rows) == pytest.approx(float(total.detach()))


def test_scores_are_those_of_all_rows() -> None:
    rows = [{"loss": 3 * math.log(2), "tokens": 2, "bytes": 5}, {"loss": 5 * math.log(2), "tokens": 2, "bytes": 0}]
    scores = build(Greedy()).scores(rows)
    assert scores["perplexity"].value == pytest.approx(4)
    assert scores["bits_per_byte"].value == pytest.approx(8 / 5)


@pytest.mark.parametrize("decoding", [Greedy(max_length=9), Sample(max_length=9), Sample(max_length=9, min_length=7)])
def test_a_line_is_continued_alike_wherever_it_stands(decoding: Search) -> None:
    task = build(decoding)
    together = [prediction.text for prediction in task.predictions(LINES, BYTES)]
    assert [prediction.text for prediction in task.predictions(LINES[::-1], BYTES)] == together[::-1]
    assert [task.predictions([line], BYTES)[0].text for line in LINES] == together


def test_lengths_are_those_of_what_is_added() -> None:
    prompts = BYTES.encode(LINES)
    for prompt, (first,) in zip(prompts, build(Greedy(max_length=9)).continuations(prompts), strict=True):
        assert list(first.tokens[: len(prompt)]) == prompt
        added = len(first.tokens) - len(prompt)
        assert added < 9 if first.finished else added == 9
    eager = build(Sample(max_length=9, min_length=7))
    decoder = cast(Decoder, eager.model)
    with torch.no_grad():  # the end is all but certain where it may come
        decoder.embedding.weight[FACTS.eos] = 99 * cast(torch.nn.LayerNorm, decoder.norm).bias
    for prompt, (first,) in zip(prompts, eager.continuations(prompts), strict=True):
        assert len(first.tokens) - len(prompt) == 7


def test_another_search_continues_as_if_it_were_the_tasks_own() -> None:
    prompts = BYTES.encode(LINES)
    found = build(Sample(max_length=9)).continuations(prompts, Greedy(max_length=5))
    assert found == build(Greedy(max_length=5)).continuations(prompts)


def test_two_lines_and_two_samples_differ_and_more_samples_change_none() -> None:
    two = build(Sample(max_length=9, samples=2)).predictions(LINES, BYTES)
    three = build(Sample(max_length=9, samples=3)).predictions(LINES, BYTES)
    assert [prediction.outputs for prediction in two] == [prediction.outputs[:2] for prediction in three]
    assert len({output.text for prediction in two for output in prediction.outputs}) == 2 * len(LINES)


def test_an_answer_goes_on_where_the_line_ends() -> None:
    """A tokenizer that strips spaces gives back the one between the line and what follows it."""
    texts = ["the sun", "the moon and the sun", "a star and the moon"]
    tokenizer = BPE(vocabulary=60).build(iter(texts * 9))
    facts = Facts(tokenizer.vocabulary, tokenizer.pad, tokenizer.bos, tokenizer.eos)
    (_, word), (line,) = tokenizer.encode(["the sun"])[0], tokenizer.encode(["the"])

    task = build(Greedy(max_length=1), facts=facts)
    task.continuations = always(word)  # type: ignore[method-assign, assignment]
    assert [prediction.text for prediction in task.predictions(["the"], tokenizer)] == [" sun"]
    assert line == tokenizer.encode(["the sun"])[0][:1]


def always(token: int) -> Callable[[Sequence[Sequence[int]]], list[list[object]]]:
    from etude.models.generation.hypothesis import Hypothesis

    return lambda prompts: [[Hypothesis((*prompt, token), 0.0, True, 0.0)] for prompt in prompts]


def test_a_line_longer_than_the_model_keeps_its_end_and_says_so() -> None:
    task = build(Greedy(max_length=5), max_length=8)
    short, long = task.predictions(["1234567", "12345678" * 4], BYTES)
    assert (short.cut, long.cut) == (False, True)
    assert len(task.continuations(BYTES.encode(["12345678" * 4]))[0][0].tokens) <= 37


def test_attention_is_shown_and_takes_no_target() -> None:
    task = build(Greedy())
    shown = task.look_inside("abc", None, BYTES)
    assert list(shown.source) == [FACTS.bos, *BYTES.encode(["abc"])[0]]
    assert [one.name for one in shown.maps] == ["layers.0.attention", "layers.1.attention"]
    with pytest.raises(ConfigurationError, match="not text of its own"):
        task.look_inside("abc", "def", BYTES)
