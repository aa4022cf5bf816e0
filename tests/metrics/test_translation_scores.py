from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
import sacrebleu
from sacrebleu.significance import PairedTest

from etude.errors import ConfigurationError, DataError
from etude.metrics.resampling import paired_p_value
from etude.metrics.score import Score, Statistics
from etude.metrics.text_metrics import TextMetric, text_scores
from etude.metrics.translation import BLEU, TER, ChrF

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
SINGLE = [[text] for text in REFERENCES]
METRICS: tuple[TextMetric, ...] = (BLEU(), ChrF(), TER())


def of(metric: TextMetric, hypotheses: list[str], references: list[list[str]], bootstrap: int = 0) -> Score:
    return text_scores({"it": metric}, hypotheses, references, bootstrap)["it"]


def rows_of(metric: TextMetric, hypotheses: list[str], references: list[list[str]]) -> Statistics:
    return metric.statistics(hypotheses, references)[""]


def alone(statistics: Statistics) -> list[float]:
    assert statistics.alone is not None
    return statistics.alone.tolist()


def test_worked_by_hand() -> None:
    """The hypothesis has 4 of 5 words, 2 of 4 pairs, 1 of 3 triples, 0 of 2 quadruples right; it is as long as wanted.

    sacrebleu counts the first empty order as half a match: (4/5 · 2/4 · 1/3 · (1/2)/2)^(1/4). Of the five words one is
    to be edited.
    """
    row = ["a b c x d"], [["a b c d e"]]
    assert of(BLEU(tokenize="none"), *row).value == pytest.approx(100 * (4 / 5 * 2 / 4 * 1 / 3 * 1 / 4) ** 0.25)
    assert of(TER(), ["a b c x e"], [["a b c d e"]]).value == pytest.approx(100 / 5)


def test_the_signature_says_how() -> None:
    version = f"version:{sacrebleu.__version__}"
    assert of(BLEU(), HYPOTHESES, SINGLE).signature == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|{version}"
    lowercase = of(BLEU(lowercase=True, tokenize="intl"), HYPOTHESES, SINGLE, bootstrap=7)
    metric = sacrebleu.metrics.BLEU(lowercase=True, tokenize="intl")
    metric.corpus_score(HYPOTHESES, [REFERENCES], n_bootstrap=7)
    assert lowercase.signature == str(metric.get_signature())
    assert of(ChrF(), HYPOTHESES, SINGLE).signature == f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|{version}"
    assert of(TER(), HYPOTHESES, SINGLE).signature == f"nrefs:1|case:lc|tok:tercom|norm:no|punct:yes|asian:no|{version}"


def test_copies_are_perfect_and_case_may_be_ignored() -> None:
    shouted = [text.upper() for text in REFERENCES]
    for metric in (BLEU(), ChrF(), ChrF(word_order=2)):
        assert of(metric, REFERENCES, SINGLE).value == pytest.approx(100)
        assert of(metric, shouted, SINGLE).value < 30
    for metric in (BLEU(lowercase=True), ChrF(lowercase=True)):
        assert of(metric, shouted, SINGLE).value == pytest.approx(100)
    assert of(TER(), shouted, SINGLE).value == 0
    assert of(TER(case_sensitive=True), shouted, SINGLE).value > 90


@pytest.mark.parametrize("metric", METRICS, ids=["bleu", "chrf", "ter"])
def test_the_interval_is_that_of_sacrebleu_and_narrows_with_more_rows(metric: TextMetric) -> None:
    few = of(metric, HYPOTHESES, SINGLE, bootstrap=200)
    many = of(metric, 20 * HYPOTHESES, 20 * SINGLE, bootstrap=200)
    assert few.low is not None and few.high is not None and many.low is not None and many.high is not None
    assert few.low < few.value < few.high
    assert many.low < many.value < many.high
    assert (many.high - many.low) / (few.high - few.low) == pytest.approx(1 / math.sqrt(20), rel=0.5)
    assert of(metric, HYPOTHESES, SINGLE, bootstrap=200) == few
    assert of(metric, HYPOTHESES, SINGLE).low is None
    reference = getattr(sacrebleu.metrics, {"ChrF": "CHRF"}.get(type(metric).__name__, type(metric).__name__))()
    known = reference.corpus_score(20 * HYPOTHESES, [20 * REFERENCES], n_bootstrap=200)
    signature = str(reference.get_signature())
    shown = json.loads(known.format(width=9, is_json=True, signature=signature))
    assert many.value == known.score
    assert many.signature == signature
    middle, half = shown["confidence_mean"], shown["confidence_var"]
    assert (many.low, many.high) == pytest.approx((middle - half, middle + half), rel=1e-5)


def test_where_nothing_matches_the_interval_is_a_point() -> None:
    nothing = of(BLEU(), ["x"], [["a b c d"]], bootstrap=41)
    assert (nothing.low, nothing.value, nothing.high) == (0.0, 0.0, 0.0)
    some = of(ChrF(), ["abc", "xyz", "xyz"], [["abd"], ["uvw"], ["uvw"]], bootstrap=200)
    assert some.low is not None
    assert some.high is not None
    assert some.low <= some.value <= some.high


def test_rows_are_scored_one_by_one_and_their_order_does_not_matter_to_the_corpus() -> None:
    order = list(range(5))
    random.Random(3).shuffle(order)
    hypotheses, references = [HYPOTHESES[i] for i in order], [SINGLE[i] for i in order]
    for metric in METRICS:
        straight, shuffled = rows_of(metric, HYPOTHESES, SINGLE), rows_of(metric, hypotheses, references)
        assert shuffled.whole == pytest.approx(straight.whole)
        assert alone(shuffled) == [alone(straight)[i] for i in order]
    pairs = zip(HYPOTHESES, REFERENCES, strict=True)
    assert alone(rows_of(BLEU(), HYPOTHESES, SINGLE)) == [
        sacrebleu.sentence_bleu(hypothesis, [reference]).score for hypothesis, reference in pairs
    ]
    two_words = rows_of(BLEU(), ["Hello there"], [["Hello there"]])  # which make no triple
    assert alone(two_words) == pytest.approx([100])


def test_several_references_and_fewer_for_some_rows() -> None:
    references = [[text, HYPOTHESES[place]] if place % 2 else [text] for place, text in enumerate(REFERENCES)]
    streams = [REFERENCES, [HYPOTHESES[place] if place % 2 else None for place in range(5)]]
    for metric, known in zip(METRICS, ("BLEU", "CHRF", "TER"), strict=True):
        score = of(metric, HYPOTHESES, references)
        assert score.value == getattr(sacrebleu.metrics, known)().corpus_score(HYPOTHESES, streams).score
        assert score.signature.startswith("nrefs:var|")
        assert alone(rows_of(metric, HYPOTHESES, references))[1] == pytest.approx(0 if known == "TER" else 100)


@pytest.mark.parametrize("metric", METRICS, ids=["bleu", "chrf", "ter"])
def test_the_p_value_is_that_of_sacrebleu(metric: TextMetric) -> None:
    """At 200 trials, not a multiple of those at once. Edits are whole numbers: there a trial may equal what was observed."""
    source = random.Random(5)
    words = " ".join(REFERENCES).split()
    references = [" ".join(source.choices(words, k=source.randint(6, 14))) for _ in range(60)]

    def system(wrong: float) -> list[str]:
        return [
            " ".join(source.choice(words) if source.random() < wrong else word for word in row.split())
            for row in references
        ]

    first, second = system(0.3), system(0.36)
    known = {"BLEU": "BLEU", "ChrF": "CHRF", "TER": "TER"}[type(metric).__name__]
    test = PairedTest(
        [("first", first), ("second", second)],
        {known: getattr(sacrebleu.metrics, known)()},
        [references],
        test_type="ar",
        n_samples=200,
    )
    _, results = test()
    (expected,) = [results[name][1].p_value for name in results if name != "System"]
    rows = [[text] for text in references]
    found = paired_p_value(rows_of(metric, first, rows), rows_of(metric, second, rows), trials=200)
    assert 0.01 < expected < 0.99
    assert found >= expected if known == "TER" else found == expected


def test_equal_systems_differ_by_chance_and_a_clear_difference_does_not() -> None:
    bad, good = rows_of(BLEU(), HYPOTHESES * 8, SINGLE * 8), rows_of(BLEU(), REFERENCES * 8, SINGLE * 8)
    assert paired_p_value(good, good, trials=100) == 1
    assert paired_p_value(good, bad, trials=199) == 1 / 200


def test_a_line_break_inside_counts_as_a_space() -> None:
    assert of(BLEU(), ["a b\nc-\nd e"], [["a b c- d e"]]).value == pytest.approx(100)


def test_rows_must_match() -> None:
    with pytest.raises(DataError, match=r"5 outputs .* 4 rows"):
        of(BLEU(), HYPOTHESES, SINGLE[:4])
    with pytest.raises(DataError, match="0 outputs"):
        of(ChrF(), [], [])
    with pytest.raises(DataError, match="row 2 has no reference"):
        of(BLEU(), ["a", "b"], [["a"], []])
    with pytest.raises(ConfigurationError, match=r"tokenize=moses .* 13a"):
        BLEU(tokenize="moses")


def test_the_scores_are_those_of_sacrebleus_command(tmp_path: Path) -> None:
    (tmp_path / "outputs.txt").write_text("".join(f"{line}\n" for line in HYPOTHESES))
    (tmp_path / "references.txt").write_text("".join(f"{line}\n" for line in REFERENCES))
    command = [sys.executable, "-m", "sacrebleu", "references.txt", "-i", "outputs.txt", "-w", "12"]
    done = subprocess.run(
        [*command, "-m", "bleu", "chrf", "ter"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    known = json.loads(done.stdout)
    assert [one["score"] for one in known] == [round(of(metric, HYPOTHESES, SINGLE).value, 12) for metric in METRICS]
    assert [one["signature"] for one in known] == [of(metric, HYPOTHESES, SINGLE).signature for metric in METRICS]


@pytest.mark.parametrize(("tokenize", "warns"), [("none", False), ("13a", True)])
def test_tokenized_text_is_warned_of_where_it_is_not_asked_for(
    tokenize: str, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    texts = ["a dog runs ."] * 100
    assert of(BLEU(tokenize=tokenize), texts, [[text] for text in texts]).value == pytest.approx(100)
    assert ("tokenized period" in caplog.text) == warns
