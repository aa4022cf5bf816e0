from __future__ import annotations

from typing import Any

import pytest

from etude.metrics.rouge import ROUGE
from etude.metrics.text_metrics import text_scores

OUTPUTS = ["the police killed the gunman", "a network learns to summarise papers", "nothing"]
REFERENCES = [
    ["police kill the gunman"],
    ["networks learning to summarize scientific papers", "a network learns", "we summarise papers in one sentence"],
    ["something else", "nothing"],
]


def peer(*kinds: str) -> Any:
    """The scorer of Google's package, which takes seconds to import, in each process that collects."""
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([*kinds], use_stemmer=True)


def values(metric: ROUGE, bootstrap: int = 0) -> dict[str, float]:
    scores = text_scores({"rouge": metric}, OUTPUTS, REFERENCES, bootstrap)
    return {name: score.value for name, score in scores.items()}


def test_worked_by_hand() -> None:
    """Unstemmed (Lin 2004, section 3): 3 of 5 and 3 of 4 words; 1 of 4 and 1 of 3 pairs; the subsequence `police the gunman`."""
    scores = text_scores({"rouge": ROUGE(stem=False)}, OUTPUTS[:1], REFERENCES[:1])
    assert scores["rouge_1"].value == pytest.approx(100 * 2 * 3 / (5 + 4))
    assert scores["rouge_2"].value == pytest.approx(100 * 2 * 1 / (4 + 3))
    assert scores["rouge_l"].value == pytest.approx(100 * 2 * 3 / (5 + 4))
    assert text_scores({"rouge": ROUGE()}, OUTPUTS[:1], REFERENCES[:1])["rouge_1"].value > scores["rouge_1"].value


def test_the_best_reference_counts_as_in_the_reference_library() -> None:
    scorer = peer("rouge1", "rouge2", "rougeL", "rougeLsum")
    known = [scorer.score_multi(row, output) for output, row in zip(OUTPUTS, REFERENCES, strict=True)]
    found = values(ROUGE())
    for part, name in (("1", "rouge1"), ("2", "rouge2"), ("l", "rougeL"), ("lsum", "rougeLsum")):
        mean = sum(row[name].fmeasure for row in known) / len(known)
        assert found[f"rouge_{part}"] == pytest.approx(100 * mean)


def test_the_closest_reference_counts_for_all_parts() -> None:
    """Of the second row the first reference is best by ROUGE-1 and the second one by ROUGE-2, as is shown here."""
    scorer = peer("rouge1", "rouge2")
    of_row = [scorer.score(reference, OUTPUTS[1]) for reference in REFERENCES[1]]
    ones, twos = ([row[name].fmeasure for row in of_row] for name in ("rouge1", "rouge2"))
    assert ones.index(max(ones)) != twos.index(max(twos))
    best, closest, mean = (
        text_scores({"rouge": ROUGE(several=several)}, OUTPUTS[1:2], REFERENCES[1:2])
        for several in ("best", "closest", "mean")
    )
    assert closest["rouge_1"].value == best["rouge_1"].value == pytest.approx(100 * max(ones))
    assert closest["rouge_2"].value == pytest.approx(100 * twos[ones.index(max(ones))])
    assert mean["rouge_2"].value == pytest.approx(100 * sum(twos) / 3)


def test_lines_are_compared_one_by_one_in_lsum() -> None:
    scores = text_scores({"rouge": ROUGE()}, ["second part\nfirst part"], [["first part\nsecond part"]])
    assert scores["rouge_lsum"].value == pytest.approx(100)
    assert scores["rouge_l"].value < 100


def test_the_signature_and_the_interval() -> None:
    score = text_scores({"rouge": ROUGE(several="closest")}, OUTPUTS, REFERENCES, bootstrap=100)["rouge_l"]
    assert score.signature == "nrefs:var|bs:100|seed:12345|several:closest|stat:f1|stem:yes|version:0.1.2"
    assert score.low is not None
    assert score.high is not None
    assert 0 <= score.low < score.value < score.high


def test_an_empty_output_scores_nothing() -> None:
    assert {score.value for score in text_scores({"r": ROUGE()}, [""], [["a word"]]).values()} == {0.0}
