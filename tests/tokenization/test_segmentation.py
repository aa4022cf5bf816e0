"""Drawn segmentations: nothing drawn is the tokenizer's own, and what is drawn has the distribution of the papers."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import ConfigurationError
from etude.seeding import uniforms
from etude.tokenization import segmentation
from etude.tokenization.base import Tokenizer
from etude.tokenization.segmentation import BPESegmenter, UnigramSegmenter
from etude.tokenization.trained import BPE, Bytes, Unigram

TEXTS = [
    "the device, the devices, the settings and the setting of the device",
    "Öffne die Einstellungen nicht, sie sind zu 50 % falsch.",
    "Don't open the settings (again): 50 % of them are wrong!",
] * 3
NOTHING = 1e-15
"""A probability that no draw comes near."""

DRAWS = 20_000


@cache
def built(recipe: BPE | Unigram | Bytes) -> Tokenizer:
    return recipe.build(iter(TEXTS))


def drawn(segmenter: BPESegmenter | UnigramSegmenter, words: list[str], number: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(segmenter.sample(words, uniforms("test", draw))) for draw in range(number))


def assert_distribution(found: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> None:
    """Each share is within five standard deviations of its probability; nothing else was drawn."""
    assert sum(expected.values()) == pytest.approx(1)
    assert found.keys() <= expected.keys()
    for ids, probability in expected.items():
        deviation = math.sqrt(probability * (1 - probability) / DRAWS)
        assert found[ids] / DRAWS == pytest.approx(probability, abs=5 * deviation + 1e-9), ids


@given(text=st.text(max_size=43) | st.lists(st.sampled_from(TEXTS[0].split()), max_size=9).map(" ".join))
def test_without_dropout_it_is_plain_bpe(text: str) -> None:
    """Also with characters that the vocabulary does not have."""
    tokenizer = built(BPE(120))
    assert BPESegmenter(tokenizer, NOTHING).sample(tokenizer.words(text), uniforms(1)) == tokenizer.encode([text])[0]


@given(text=st.text(max_size=43) | st.lists(st.sampled_from(TEXTS[0].split()), max_size=9).map(" ".join))
def test_with_a_large_alpha_it_is_plain_unigram(text: str) -> None:
    tokenizer = built(Unigram(90))
    assert UnigramSegmenter(tokenizer, 1e9).sample(tokenizer.words(text), uniforms(1)) == tokenizer.encode([text])[0]


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@given(seed=st.integers(0, 10**6))
def test_what_is_drawn_decodes_to_the_text(kind: str, seed: int) -> None:
    tokenizer = built(BPE(120) if kind == "bpe" else Unigram(90))
    segmenter = BPESegmenter(tokenizer, 0.4) if kind == "bpe" else UnigramSegmenter(tokenizer, 0.1)
    for text in TEXTS[:3]:
        assert tokenizer.decode([segmenter.sample(tokenizer.words(text), uniforms(seed))]) == [text]


def distribution(symbols: tuple[str, ...], ranks: dict[tuple[str, str], int], p: float) -> dict[tuple[str, ...], float]:
    """Algorithm 1 of Provilkov et al. 2020, every branch followed."""
    found: dict[tuple[str, ...], float] = defaultdict(float)
    pairs = sorted((ranks[pair], i) for i, pair in enumerate(itertools.pairwise(symbols)) if pair in ranks)
    for dropped, (_, i) in enumerate(pairs):
        merged = (*symbols[:i], symbols[i] + symbols[i + 1], *symbols[i + 2 :])
        for ids, probability in distribution(merged, ranks, p).items():
            found[ids] += p**dropped * (1 - p) * probability
    found[symbols] += p ** len(pairs)
    return found


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_bpe_dropout_has_the_distribution_of_the_paper(p: float) -> None:
    tokenizer = built(BPE(120))
    ranks = {tuple(pair): rank for rank, pair in enumerate(segmentation._model(tokenizer, "BPE", "")["merges"])}
    expected: dict[tuple[int, ...], float] = defaultdict(float)
    vocabulary = tokenizer.backend.get_vocab()
    for symbols, probability in distribution(tuple("▁the"), ranks, p).items():
        for after, again in distribution(tuple("▁set"), ranks, p).items():
            ids = tuple(vocabulary[symbol] for symbol in (*symbols, *after))
            expected[ids] += probability * again
    assert len(expected) > 8
    assert_distribution(drawn(BPESegmenter(tokenizer, p), ["▁the", "▁set"], DRAWS), expected)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_unigram_sampling_has_the_distribution_of_the_paper(alpha: float) -> None:
    tokenizer = built(Unigram(90))
    vocabulary = segmentation._model(tokenizer, "Unigram", "")["vocab"]
    scores = {piece: (i, score) for i, (piece, score) in enumerate(vocabulary)}

    def paths(word: str) -> list[tuple[tuple[int, ...], float]]:
        if not word:
            return [((), 0.0)]
        heads = [scores[word[:size]] for size in range(1, len(word) + 1) if word[:size] in scores]
        sizes = [size for size in range(1, len(word) + 1) if word[:size] in scores]
        return [
            ((i, *rest), score + more)
            for (i, score), size in zip(heads, sizes, strict=True)
            for rest, more in paths(word[size:])
        ]

    found = paths("▁settings")
    assert len(found) > 4
    total = sum(math.exp(alpha * score) for _, score in found)
    expected = {ids: math.exp(alpha * score) / total for ids, score in found}
    assert_distribution(drawn(UnigramSegmenter(tokenizer, alpha), ["▁settings"], DRAWS), expected)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_what_is_remembered_changes_nothing(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The same draws in any order, with an empty memory, and in another process."""
    tokenizer = built(BPE(120) if kind == "bpe" else Unigram(90))

    def fresh() -> BPESegmenter | UnigramSegmenter:
        return BPESegmenter(tokenizer, 0.3) if kind == "bpe" else UnigramSegmenter(tokenizer, 0.2)

    words = [tokenizer.words(text) for text in TEXTS]
    segmenter = fresh()
    expected = [segmenter.sample(text, uniforms(i)) for i, text in enumerate(words)]
    assert [segmenter.sample(words[i], uniforms(i)) for i in reversed(range(len(words)))] == expected[::-1]
    moved = segmenter.__reduce__()
    assert moved[0](*moved[1]).sample(words[0], uniforms(0)) == expected[0]
    monkeypatch.setattr(segmentation, "REMEMBERED", 0)
    assert [fresh().sample(text, uniforms(i)) for i, text in enumerate(words)] == expected
    monkeypatch.setattr(segmentation, "REMEMBERED", 25)
    full = fresh()
    assert [full.sample(text, uniforms(i)) for i, text in enumerate(words)] == expected
    assert full._held < 25 + 40


def test_a_word_of_thousands_of_characters() -> None:
    tokenizer = built(BPE(120))
    word = "the" * 700
    assert BPESegmenter(tokenizer, NOTHING).sample(tokenizer.words(word), uniforms(1)) == tokenizer.encode([word])[0]


def test_another_tokenizer_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"of a BPE model, but the tokenizer is Unigram; write tokenizer=bpe"):
        BPESegmenter(built(Unigram(90)), 0.1)
    with pytest.raises(ConfigurationError, match=r"the tokenizer is BPE without merges; write tokenizer=bpe"):
        BPESegmenter(built(Bytes()), 0.1)
    with pytest.raises(ConfigurationError, match=r"write tokenizer=unigram, or data.sampling=null"):
        UnigramSegmenter(built(BPE(120)), 0.1)


def test_uniforms_are_uniform_and_of_their_own() -> None:
    source = uniforms("a", 1)
    numbers = [next(source) for _ in range(DRAWS)]
    assert 0 < min(numbers) < max(numbers) < 1
    assert sum(numbers) / DRAWS == pytest.approx(0.5, abs=5 * math.sqrt(1 / 12 / DRAWS))
    assert len(set(numbers)) > DRAWS - 5
    assert [next(uniforms(*key)) for key in (("a", 1), ("a", 2), ("b", 1), ("a1",))] == pytest.approx(FIRST, abs=0)


FIRST = [0.4825753477634862, 0.23510547738987952, 0.592812429764308, 0.2856872627744451]
