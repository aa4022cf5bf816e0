from __future__ import annotations

import math
import random

import pytest
import sacrebleu

from etude.errors import ConfigurationError, DataError
from etude.metrics.bleu import bleu, chrf, sentence_bleu, sentence_chrf

REFERENCES = [
    "Two dogs run through the snow.",
    "A man in a blue shirt reads a newspaper.",
    "The children are playing with a red ball, and laugh!",
    "Nobody is here.",
    "She sells 3,000 shells by the sea-shore.",
]
HYPOTHESES = [
    "Two dogs run in the snow.",
    "A man in blue shirt reads the newspaper.",
    "Children play with a red ball and laugh.",
    "Nobody is here.",
    "she sells shells at the sea-shore.",
]


def test_worked_by_hand() -> None:
    """The hypothesis has 4 of 5 words, 2 of 4 pairs, 1 of 3 triples, 0 of 2 quadruples right; it is as long as wanted.

    sacrebleu counts the first empty order as half a match: (4/5 · 2/4 · 1/3 · (1/2)/2)^(1/4).
    """
    score = bleu(["a b c x d"], ["a b c d e"], tokenize="none")
    assert score.value == pytest.approx(100 * (4 / 5 * 2 / 4 * 1 / 3 * 1 / 4) ** 0.25)


def test_a_corpus_is_scored_as_sacrebleu_does() -> None:
    assert bleu(HYPOTHESES, REFERENCES).value == sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score
    assert chrf(HYPOTHESES, REFERENCES).value == sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score
    assert chrf(HYPOTHESES, REFERENCES, word_order=2).value != chrf(HYPOTHESES, REFERENCES).value


def test_the_signature_says_how() -> None:
    version = f"version:{sacrebleu.__version__}"
    assert bleu(HYPOTHESES, REFERENCES).signature == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|{version}"
    lowercase = bleu(HYPOTHESES, REFERENCES, lowercase=True, tokenize="intl", bootstrap=7)
    assert lowercase.signature == f"nrefs:1|bs:7|seed:12345|case:lc|eff:no|tok:intl|smooth:exp|{version}"
    assert chrf(HYPOTHESES, REFERENCES).signature == f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|{version}"


def test_copies_are_perfect_and_case_may_be_ignored() -> None:
    shouted = [text.upper() for text in REFERENCES]
    for metric in (bleu, chrf):
        assert metric(REFERENCES, REFERENCES).value == pytest.approx(100)
        assert metric(shouted, REFERENCES).value < 30
        assert metric(shouted, REFERENCES, lowercase=True).value == pytest.approx(100)


def test_the_interval_holds_the_score_and_narrows_with_more_rows() -> None:
    few = bleu(HYPOTHESES, REFERENCES, bootstrap=200)
    many = bleu(20 * HYPOTHESES, 20 * REFERENCES, bootstrap=200)
    assert few.low is not None and few.high is not None and many.low is not None and many.high is not None
    assert few.low < few.value < few.high
    assert many.low < many.value < many.high
    assert (many.high - many.low) / (few.high - few.low) == pytest.approx(1 / math.sqrt(20), rel=0.5)
    assert bleu(HYPOTHESES, REFERENCES, bootstrap=200) == few
    assert bleu(HYPOTHESES, REFERENCES).low is None
    nothing = bleu(["x"], ["a b c d"], bootstrap=11)
    assert (nothing.low, nothing.value, nothing.high) == (0.0, 0.0, 0.0)


def test_rows_are_scored_one_by_one_and_their_order_does_not_matter_to_the_corpus() -> None:
    order = list(range(5))
    random.Random(3).shuffle(order)
    hypotheses, references = [HYPOTHESES[i] for i in order], [REFERENCES[i] for i in order]
    for corpus, sentences in ((bleu, sentence_bleu), (chrf, sentence_chrf)):
        assert corpus(hypotheses, references).value == pytest.approx(corpus(HYPOTHESES, REFERENCES).value)
        scores = sentences(HYPOTHESES, REFERENCES)
        assert sentences(hypotheses, references) == [scores[i] for i in order]
        assert scores[3] == pytest.approx(100)
        assert all(0 < score < 100 for score in scores[:3])
    assert sentence_bleu(["Hello there"], ["Hello there"]) == pytest.approx([100])  # though it has no triple of words


def test_rows_must_match() -> None:
    with pytest.raises(DataError, match=r"5 hypotheses .* 4 references"):
        bleu(HYPOTHESES, REFERENCES[:4])
    with pytest.raises(DataError, match="0 hypotheses"):
        sentence_chrf([], [])
    with pytest.raises(ConfigurationError, match=r"tokenize=moses .* 13a"):
        bleu(HYPOTHESES, REFERENCES, tokenize="moses")


def test_an_interval_where_some_resamplings_match_nothing() -> None:
    score = chrf(["abc", "xyz", "xyz"], ["abd", "uvw", "uvw"], bootstrap=200)
    assert score.low is not None
    assert score.high is not None
    assert score.low <= score.value <= score.high
