"""Laws of masking: exactly k, the shares asked for, and nothing but (seed, epoch, example) decides."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.data.loader import Slice
from etude.data.masked_lm import MaskedTexts
from etude.data.masking import Masker, Masking, SpanMasking, TokenMasking, WholeWordMasking
from etude.errors import ConfigurationError
from etude.tokenization.base import Tokenizer
from etude.tokenization.trained import Bytes, WordPiece
from etude.tokenization.word_boundaries import WordBoundaries
from etude.types import IGNORED, Facts
from tests.data.test_prepare import prepared, toy

STRATEGIES: list[Callable[..., Masking]] = [TokenMasking, WholeWordMasking, SpanMasking]
TOKENIZER = Bytes().build(iter(()))


def bits(length: int, seed: int) -> np.ndarray:
    return np.random.Philox(key=seed).random_raw(2 * length).reshape(2, length)


@st.composite
def begun(draw: st.DrawFn) -> np.ndarray:
    """Where words begin in a text; its first token begins one."""
    return np.array([True, *draw(st.lists(st.booleans(), max_size=70))])


@given(begun(), st.floats(0.01, 0.99), st.integers(0, 10**6), st.sampled_from(STRATEGIES))
@settings(deadline=None, max_examples=60)
def test_exactly_as_many_are_chosen_as_the_plan_counts(starts: np.ndarray, share: float, seed: int, kind: Any) -> None:
    masking = kind(probability=share)
    count = int(masking.counts(np.array([len(starts)]))[0])
    assert count == max(1, round(share * len(starts)))
    deciding = masking.select(starts, count, bits(len(starts), seed))
    assert (deciding >= 0).sum() == count
    chosen = np.flatnonzero(deciding >= 0)
    assert np.isin(deciding[chosen], chosen).all(), "what decides about a token is itself one that is predicted"


@given(begun(), st.floats(0.01, 0.99), st.integers(0, 10**6))
@settings(deadline=None, max_examples=60)
def test_words_are_whole_but_for_one_where_no_other_fits(starts: np.ndarray, share: float, seed: int) -> None:
    masking = WholeWordMasking(probability=share)
    count = int(masking.counts(np.array([len(starts)]))[0])
    chosen = masking.select(starts, count, bits(len(starts), seed)) >= 0
    words = np.split(chosen, np.flatnonzero(starts)[1:])
    parts = [word for word in words if word.any() and not word.all()]
    assert len(parts) <= 1
    if parts:
        assert all(len(word) > parts[0].sum() for word in words if not word.any()), "another word would have fitted"


@given(begun(), st.floats(0.01, 0.99), st.integers(0, 10**6))
@settings(deadline=None, max_examples=60)
def test_spans_begin_at_words_and_only_one_ends_within_a_word(starts: np.ndarray, share: float, seed: int) -> None:
    masking = SpanMasking(probability=share)
    count = int(masking.counts(np.array([len(starts)]))[0])
    deciding = masking.select(starts, count, bits(len(starts), seed))
    begins = np.unique(deciding[deciding >= 0])
    assert starts[begins].all()
    words = np.cumsum(starts)
    cut = 0
    for begin in begins:
        (places,) = np.nonzero(deciding == begin)
        assert np.array_equal(places, begin + np.arange(len(places))), "a span is in one piece"
        assert words[places[-1]] - words[begin] < masking.longest
        cut += int(places[-1] + 1 < len(starts) and not starts[places[-1] + 1])
    assert cut <= 1


def test_lengths_of_spans_are_geometric_and_cut_off_at_ten() -> None:
    lengths = SpanMasking().lengths((np.arange(100_000) + 0.5) / 100_000)
    assert lengths.mean() == pytest.approx(3.8, abs=0.01)
    counts = np.bincount(lengths, minlength=11)[1:]
    expected = 0.2 * 0.8 ** np.arange(10)
    assert counts / 100_000 == pytest.approx(expected / expected.sum(), abs=1e-4)
    assert SpanMasking().lengths(np.array([0.0, 1.0])).tolist() == [1, 10]
    assert set(SpanMasking(geometric=0.999, longest=1).lengths(np.array([0.0, 0.5, 1.0]))) == {1}


def test_every_token_is_equally_often_chosen_alone() -> None:
    counts = sum(TokenMasking().select(np.ones(20, bool), 3, bits(20, seed)) >= 0 for seed in range(1500))
    assert np.abs(counts / 1500 - 0.15).max() < 4 * np.sqrt(0.15 * 0.85 / 1500)  # four standard deviations


@pytest.mark.parametrize("kind", STRATEGIES)
def test_the_shares_are_those_asked_for(kind: Callable[..., Masking]) -> None:
    masker = Masker(kind(masked=0.6, random=0.3), TOKENIZER)
    ids = np.array(TOKENIZER.encode(["one of these words is as good as another of them " * 2])[0])
    texts = [masker(ids, (1, 0, example)) for example in range(400)]
    seen, labels = (np.concatenate(part) for part in zip(*texts, strict=True))
    chosen = labels != IGNORED
    every = np.tile(ids, len(texts))
    assert np.array_equal(labels[chosen], every[chosen])
    assert np.array_equal(seen[~chosen], every[~chosen])
    count = chosen.sum() / (4 if kind is SpanMasking else 1)  # a span is replaced as one
    error = 4 * np.sqrt(0.6 * 0.4 / count)  # four standard deviations
    assert abs((seen[chosen] == TOKENIZER.mask).mean() - 0.6) < error
    assert abs((seen[chosen] == every[chosen]).mean() - 0.1) < error
    assert not np.isin(seen, [TOKENIZER.pad, TOKENIZER.bos, TOKENIZER.eos]).any()


def test_a_span_is_replaced_as_one() -> None:
    masker = Masker(SpanMasking(masked=0.5, random=0.0), TOKENIZER)
    ids = np.array(TOKENIZER.encode(["words " * 30])[0])
    words = WordBoundaries.of(TOKENIZER).starts(ids).cumsum()
    for example in range(50):
        seen, labels = masker(ids, (1, 0, example))
        for before, after in pairwise(np.flatnonzero(labels != IGNORED)):
            if after == before + 1 and words[before] == words[after]:
                assert (seen[before] == TOKENIZER.mask) == (seen[after] == TOKENIZER.mask)


@pytest.mark.parametrize("kind", STRATEGIES)
def test_seed_epoch_and_example_each_change_the_choice(kind: Callable[..., Masking]) -> None:
    masker, ids = Masker(kind(), TOKENIZER), np.array(TOKENIZER.encode(["some words and others " * 9])[0])
    keys = [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1)]
    assert len({masker(ids, key).labels.tobytes() for key in keys}) == 4
    assert masker(ids, (1, 0, 0)).inputs.tobytes() == masker(ids, (1, 0, 0)).inputs.tobytes()


@pytest.mark.parametrize("kind", STRATEGIES)
def test_neither_the_batch_nor_its_order_changes_what_is_hidden(kind: Callable[..., Masking], tmp_path: Path) -> None:
    texts = prepared(toy(train=["a"] * 5), tmp_path, tokenizer=WordPiece(80), max_length=9, overflow="window")
    tokenizer = texts.tokenizer
    facts = Facts(tokenizer.vocabulary, tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.mask)
    examples = MaskedTexts(texts.splits["train"].only(np.arange(5)), facts, Masker(kind(), tokenizer), 1, training=True)

    def hidden(*chosen: int) -> dict[int, tuple[list[int], list[int]]]:
        batch = examples.batch(Slice(np.array(chosen), 3, 1, filler=False))
        rows = zip(batch.ids.tolist(), batch.tokens, batch.labels, batch.mask, strict=True)
        assert torch.equal((batch.labels != IGNORED).sum(dim=1), torch.from_numpy(examples.counts[list(chosen)]))
        return {example: (ids[real].tolist(), labels[real].tolist()) for example, ids, labels, real in rows}

    together = hidden(0, 1, 2, 3, 4)
    assert hidden(3, 1) | hidden(0) | hidden(4, 2) == together


def test_a_tokenizer_without_words_is_refused_where_words_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Tokenizer(Bytes().build(iter(())).backend, TOKENIZER.special)
    monkeypatch.setattr(Tokenizer, "names", lambda self, ids: ["x" for _ in ids])
    plain.backend.pre_tokenizer = None
    plain.backend.decoder = None
    Masker(TokenMasking(), plain)
    for kind in (WholeWordMasking, SpanMasking):
        with pytest.raises(ConfigurationError, match="choose data/masking=tokens"):
            Masker(kind(), plain)


@pytest.mark.parametrize(
    "wrong",
    [
        {"probability": 0.0},
        {"probability": 1.0},
        {"masked": 0.9, "random": 0.2},
        {"random": -0.1},
        {"geometric": 1.0},
        {"longest": 0},
    ],
)
def test_impossible_shares_are_refused_with_their_values(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=str(next(iter(wrong.values())))):
        SpanMasking(**wrong)
