"""Masks are filled by what the model finds likeliest; a sentence's score is that of masking its tokens one by one."""

from __future__ import annotations

import math
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch

from etude.models.encoder import Encoder
from etude.optim.schedules import Constant
from etude.tasks.fill_mask import Filling, FillMasks, Likelihood, MaskedAnswers, PseudoLogLikelihood
from etude.tasks.masked_lm import MaskedLM
from etude.tokenization.trained import BPE
from etude.types import Facts

TEXTS = ["sun moon star", "the moon is a <mask>", "", "a longer sentence of the sun and the [MASK] and stars"]
TOKENIZER = BPE(90).build(iter(["the sun and the moon and a star is a longer sentence of stars"] * 3))
FACTS = Facts(TOKENIZER.vocabulary, TOKENIZER.pad, TOKENIZER.bos, TOKENIZER.eos, TOKENIZER.mask)


def task(decoding: MaskedAnswers | None = None, max_length: int = 40) -> MaskedLM:
    torch.manual_seed(1)
    model = Encoder(FACTS, width=22, heads=2, layers=2, feed_forward=31, dropout=0.3, max_length=max_length)
    parts: dict[str, Any] = {"optimizer": partial(torch.optim.SGD, lr=0.1), "scheduler": Constant(warmup="1step")}
    made = MaskedLM(FACTS, model, decoding=decoding, **parts).eval()
    torch.nn.init.normal_(model.embedding.weight)  # answers that differ
    return made


@torch.no_grad()
def probabilities(made: MaskedLM, ids: list[int]) -> torch.Tensor:
    """Return those at every position of one text, by the whole grid."""
    tokens = torch.tensor([[FACTS.bos, *ids, FACTS.eos]])
    states = made.model(tokens, torch.ones_like(tokens, dtype=torch.bool))[0]
    return made.logits(made.head(states)).softmax(dim=1)[1:-1]


def test_a_score_is_the_sum_over_tokens_masked_one_by_one() -> None:
    made = task(PseudoLogLikelihood())
    (found,) = made.predictions([TEXTS[0]], TOKENIZER)[0].outputs
    (ids,) = TOKENIZER.encode([TEXTS[0]])
    expected = []
    for place, wanted in enumerate(ids):
        hidden = [*ids[:place], FACTS.mask, *ids[place + 1 :]]
        expected.append(math.log(probabilities(made, hidden)[place, wanted]))
    assert isinstance(found, Likelihood)
    assert found.log_probabilities == pytest.approx(expected, abs=1e-5)
    assert found.score == sum(found.log_probabilities)
    assert found.tokens == tuple(TOKENIZER.names(ids))
    assert found.text == f"{found.score:.4f}"


def test_a_score_is_the_same_to_the_last_bit_wherever_the_text_stands() -> None:
    made = task(PseudoLogLikelihood())
    together = [one.outputs[0] for one in made.predictions(TEXTS, TOKENIZER)]
    assert together == [made.predictions([text], TOKENIZER)[0].outputs[0] for text in TEXTS]
    assert (together[2].text, together[2].score) == ("0.0000", 0.0)


def test_texts_of_one_length_are_read_together_with_the_same_scores() -> None:
    made = task()
    rows = TOKENIZER.encode(["sun moon star", "star moon sun", "the moon is a star", "", "moon star sun", "a", "sun"])
    alone = [made.log_likelihoods([row], TOKENIZER, 1)[0] for row in rows]
    for size in (1, 3, 100):
        assert made.log_likelihoods(rows, TOKENIZER, size) == pytest.approx(alone, abs=1e-4)
    reads = []
    guess = made.log_probabilities
    made.log_probabilities = lambda *of: reads.append(of[0].shape) or guess(*of)  # type: ignore[method-assign, func-returns-value]
    made.log_likelihoods(rows, TOKENIZER, 100)
    assert len(reads) == len({len(row) for row in rows})


def test_copies_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = task(PseudoLogLikelihood()).predictions(TEXTS, TOKENIZER)
    monkeypatch.setattr("etude.tasks.fill_mask.TOKENS", 30)
    parts = task(PseudoLogLikelihood()).predictions(TEXTS, TOKENIZER)
    assert [one.outputs[0].score for one in parts] == pytest.approx([one.outputs[0].score for one in whole], abs=1e-4)


def test_masks_of_a_text_are_not_scored() -> None:
    outputs = task(PseudoLogLikelihood()).predictions([TEXTS[1]], TOKENIZER)[0].outputs
    assert isinstance(outputs[0], Likelihood)
    assert len(outputs[0].tokens) == len(TOKENIZER.encode(["the moon is a "])[0])


def test_fillings_are_the_most_probable_choices_of_all_masks_together() -> None:
    made = task(FillMasks(fillers=4))
    found = made.predictions(["the <mask> and [MASK] is"], TOKENIZER)[0].outputs
    ids = TOKENIZER.encode_masked("the <mask> and [MASK] is")
    places = [place for place, number in enumerate(ids) if number == FACTS.mask]
    assert len(places) == 2
    rows = probabilities(made, ids)[places]
    rows[:, [FACTS.pad, FACTS.bos, FACTS.eos, FACTS.mask, TOKENIZER.unknown]] = 0
    every = sorted((float(rows[0, i] * rows[1, j]), i, j) for i, j in product(range(len(rows[0])), repeat=2))[::-1]
    assert [one.score for one in found] == pytest.approx([score for score, _, _ in every[:4]], abs=2e-6)
    _, first, second = every[0]
    filled = [{places[0]: first, places[1]: second}.get(place, number) for place, number in enumerate(ids)]
    assert isinstance(found[0], Filling)
    assert found[0].text == TOKENIZER.decode([filled])[0]
    assert found[0].fillers == tuple(TOKENIZER.decode([[first], [second]]))


def test_neighbours_change_no_filling_and_a_text_without_masks_stays() -> None:
    made = task()
    together = made.predictions(TEXTS, TOKENIZER)
    for text, found in zip(TEXTS, together, strict=True):
        (alone,) = made.predictions([text], TOKENIZER)
        assert [one.text for one in alone.outputs] == [one.text for one in found.outputs]
    assert [(one.text, one.score) for one in together[0].outputs] == [(TEXTS[0], 1.0)]
    assert [len(one.outputs) for one in together] == [1, 5, 1, 5]


def test_a_text_that_is_too_long_is_cut_and_counted() -> None:
    found = task(max_length=8).predictions(["<mask>", " ".join(["sun"] * 30)], TOKENIZER)
    assert [one.cut for one in found] == [False, True]
