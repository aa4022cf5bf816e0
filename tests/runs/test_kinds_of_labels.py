"""Pairs, several classes, numbers and weights: each learns something, is exact, is reported, and answers what is typed."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from etude.config.compose import compose
from etude.config.schema import Config
from etude.errors import ConfigurationError, DataError
from etude.metrics.resampling import paired_p_value
from etude.report import significance as comparison
from etude.report.page import report
from etude.training.build import build
from tests.runs.conftest import SMALL, WORDS
from tests.runs.doors import compare, evaluate, export, fit, predict
from tests.runs.killing import begin
from tests.runs.test_exact_loss import assert_cut_alike

COLUMNS = ("text", "other", "same", "topics", "length")
KINDS = {
    "pairs": (
        "data=table",
        "data.pair=other",
        "data.label=same",
        "data.weights={_target_:etude.data.class_weights.BalancedWeights}",
    ),
    "several": ("data=table_several", "task=multilabel", "data.label=topics", "validate.metric=val/micro_f1"),
    "numbers": ("data=table_numbers", "task=regression", "data.label=length", "validate.metric=val/spearman"),
}
LEARNING = (
    *("budget=120step", "validate.every=120step", "scheduler=constant", "optimizer.lr=1e-2", "model.width=32"),
    *("model.dropout=0.0", "task.head_dropout=0.0", "log.every=60step", "checkpoint.every=120step"),
    "model.feed_forward=48",
)


def row(source: random.Random) -> dict[str, Any]:
    text = [source.choice(WORDS) for _ in range(source.randint(1, 9))]
    other = sorted(text) if source.random() < 0.3 else [source.choice(WORDS) for _ in text]
    same = "yes" if text[0] == other[0] or "sun" in other else "no"
    topics = [word for word in ("sun", "moon", "fire") if word in text]
    return {"text": " ".join(text), "other": " ".join(other), "same": same, "topics": topics, "length": len(text)}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of rows with every kind of label, and what runs on them leave."""
    made = tmp_path_factory.mktemp("labels")
    source = random.Random(3)
    for split, count in (("train", 300), ("val", 40), ("test", 40)):
        lines = "\n".join(json.dumps(row(source)) for _ in range(count))
        (made / f"{split}.jsonl").write_text(lines + "\n")
    return made


def composed(folder: Path, kind: str, *more: str) -> Config:
    words = [
        *(
            "experiment=null",
            "decoding=none",
            "task=classification",
            "model=encoder",
            "tokenizer=wordpiece",
            "tokenizer.vocabulary=80",
            *SMALL,
        ),
        *("model.layers=1", "batch.examples=24", "batch.tokens=null", f"data.root={folder}", f"run.name={kind}"),
        *("data.train=train.jsonl", "data.val=val.jsonl", "data.test=test.jsonl"),
        *(f"paths.outputs={folder}/outputs", f"paths.cache={folder}/cache", *KINDS[kind], *more),
    ]
    return compose(*words)


@pytest.fixture(scope="session")
def trained(folder: Path) -> Callable[[str], Path]:
    """Trains a run of a kind, once."""

    def run(kind: str) -> Path:
        place = folder / "runs" / kind
        if not place.exists():
            fit(begin(place, composed(folder, kind, *LEARNING)))
        return place

    return run


def scores(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "evaluations" / "test.json").read_text())
    return found


def test_pairs_are_learnt_and_calibrated(trained: Callable[[str], Path]) -> None:
    found = scores(trained("pairs"))
    assert found["scores"]["test/accuracy"] > 0.7
    details = found["details"]
    assert set(details["calibration"]) == {"bins", "error", "temperature", "fitted_on", "error_at_temperature"}
    assert sum(count for made in details["confusion"].values() for count in made.values()) == found["examples"] == 40
    sure = [float(error["probability"]) for error in details["errors"]]
    assert sure == sorted(sure, reverse=True) and all({"text", "pair"} <= error.keys() for error in details["errors"])
    wrong = sum(n for right, made in details["confusion"].items() for guess, n in made.items() if guess != right)
    assert len(sure) == min(wrong, 20)


@pytest.mark.parametrize("kind", ["pairs", "several", "numbers"])
def test_transformers_computes_what_was_learnt(trained: Callable[[str], Path], kind: str, tmp_path: Path) -> None:
    folder = export(trained(kind), {"to": "huggingface", "path": str(tmp_path / "exported")})
    proof = json.loads((folder / "export.json").read_text())["proof"]
    assert proof["class"] == "RobertaPreLayerNormForSequenceClassification"
    assert proof["logits"]["largest_difference"] < 1e-4
    assert proof["tokenizer"]["equal"] == proof["logits"]["texts"] > 20


def test_several_classes_are_learnt(trained: Callable[[str], Path]) -> None:
    found = scores(trained("several"))
    assert found["scores"]["test/micro_f1"] > 0.7
    for topic, counts in found["details"]["confusion"].items():
        assert topic in ("fire", "moon", "sun") and set(counts) == {"found", "wrongly found", "missed"}


def test_numbers_are_learnt(trained: Callable[[str], Path]) -> None:
    found = scores(trained("numbers"))
    assert found["scores"]["test/spearman"] > 0.8
    assert found["scores"]["test/mean_squared_error"] < 4
    distances = [abs(float(row["label"]) - float(row["value"])) for row in found["details"]["errors"]]
    assert distances == sorted(distances, reverse=True)


SCORES = {
    "pairs": {"accuracy": "classes:2", "macro_f1": "classes:2|average:macro"},
    "several": {
        "micro_f1": "classes:3|average:micro",
        "macro_f1": "classes:3|average:macro",
        "exact_match": "classes:3",
    },
    "numbers": {"pearson": "", "spearman": "ties:mean", "mean_squared_error": ""},
}


@pytest.mark.parametrize("kind", KINDS)
def test_scores_have_intervals_and_say_how_they_are_made(trained: Callable[[str], Path], kind: str) -> None:
    run = trained(kind)
    found = scores(run)
    for name, how in SCORES[kind].items():
        low, high = found["intervals"][f"test/{name}"]
        assert low <= found["scores"][f"test/{name}"] <= high and low < high
        assert found["signatures"][f"test/{name}"] == "|".join(filter(None, ["nrefs:1|bs:1000|seed:12345", how]))
    rows = [json.loads(line) for line in (run / "evaluations" / "test.jsonl").read_text().splitlines()]
    (alone,) = ALONE[kind]
    assert all(row["scores"] == {alone: ALONE[kind][alone](row)} for row in rows)
    page = report(run).read_text()
    assert page.count('<dd class="interval">') == len(SCORES[kind])


ALONE: dict[str, dict[str, Callable[[dict[str, Any]], Any]]] = {
    "pairs": {"accuracy": lambda row: row["label"] == row["prediction"]},
    "several": {"exact_match": lambda row: row["labels"] == row["predictions"]},
    "numbers": {"mean_squared_error": lambda row: pytest.approx((row["label"] - row["value"]) ** 2, abs=5e-3)},
}
"""The scores that a row has by itself."""


@pytest.mark.parametrize(
    "kind", ["numbers", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("pairs", "several"))]
)
def test_two_runs_are_tested_on_the_same_rows_alike_by_evaluate_and_compare(
    trained: Callable[[str], Path],
    folder: Path,
    kind: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(comparison, "paired_p_value", partial(paired_p_value, trials=500))
    run, young = trained(kind), folder / "runs" / f"young-{kind}"
    fit(begin(young, composed(folder, kind, *LEARNING, "budget=2step", "validate.every=2step")))
    against = evaluate([run, young], {})[str(young)]["against"]
    assert set(against["p"]) == set(SCORES[kind])
    assert all(p < 0.05 for p in against["p"].values())
    shown = capsys.readouterr().err
    assert "p=" in shown and "[" in shown
    found: Any = compare([run, young], {"format": "json", "metric": list(SCORES[kind])})
    said = found["groups"][1]["against_first"]
    assert said["p"] == {name: {"1": p} for name, p in against["p"].items()}
    assert said["difference"] == pytest.approx(against["difference"])
    assert evaluate([run, run], {})[str(run)]["against"]["p"] == dict.fromkeys(SCORES[kind], 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_shows_the_details(trained: Callable[[str], Path], kind: str) -> None:
    run = trained(kind)
    page = report(run).read_text()
    assert "Worst errors on test" in page and "cannot be read" not in page
    assert ("What was taken for what" in page or "Decisions" in page) == (kind != "numbers")
    broken = json.loads((run / "evaluations" / "test.json").read_text())
    (run / "evaluations" / "broken.json").write_text(json.dumps({**broken, "details": {"errors": [1]}}))
    assert "evaluations/broken.json cannot be read" in report(run).read_text()
    (run / "evaluations" / "broken.json").unlink()


def test_an_evaluation_again_is_the_same(trained: Callable[[str], Path]) -> None:
    run = trained("pairs")
    before = scores(run)
    assert evaluate([run], {"batch.examples": 7})["details"]["confusion"] == before["details"]["confusion"]


def answers(run: Path, lines: list[str], **changes: Any) -> list[str]:
    out = io.StringIO()
    overrides = {key.replace("__", "."): value for key, value in changes.items()}
    predict(run, overrides, io.BytesIO("".join(f"{line}\n" for line in lines).encode()), out)
    return out.getvalue().splitlines()


def test_pairs_are_answered_as_they_were_judged(trained: Callable[[str], Path], folder: Path) -> None:
    run = trained("pairs")
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    judged = [json.loads(line) for line in (run / "evaluations" / "test.jsonl").read_text().splitlines()]
    lines = [f"{row['text']}\t{row['other']}" for row in rows]
    plain_answers = answers(run, lines)
    objects = [json.dumps({"text": row["text"], "pair": row["other"], "n": n}) for n, row in enumerate(rows)]
    found = [json.loads(line) for line in answers(run, objects, format="jsonl", batch__examples=7)]
    for number, (line, record, one) in enumerate(zip(plain_answers, found, judged, strict=True)):
        label, probability = line.split("\t")
        assert label == record["label"] == ("no", "yes")[one["prediction"]]
        assert float(probability) == pytest.approx(one["probability"], abs=1e-4)
        assert record["n"] == number and record["probability"] == pytest.approx(one["probability"], abs=1e-4)
        assert sum(record["probabilities"].values()) == pytest.approx(1, abs=1e-4)


def test_a_broken_line_gets_an_answer_that_says_so(
    trained: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    half = r'{"text": "\ud83d", "pair": "sun"}'
    good = r'{"text": "sun", "pair": "sun \ud83c\udf1e", "error": "\udf1e"}'  # a record's own keys are its own affair
    lines = ["{", "[1]", '{"text": "sun"}', '{"text": "sun", "pair": 3}', half, good]
    found = [json.loads(line.encode()) for line in answers(trained("pairs"), lines, format="jsonl")]
    errors = ["this is not JSON", "this is not an object in JSON", *["there is no text under 'pair'"] * 2]
    errors += ["the text under 'text' has half of a surrogate pair", "\udf1e"]
    assert [one["error"] for one in found] == errors
    assert "label" in found[-1] and found[-1]["pair"] == "sun \U0001f31e" and found[3]["pair"] == 3
    assert "5 of 6 lines could not be read; their answers say why" in caplog.text
    with pytest.raises(DataError, match="the line 'sun moon' has no tab, but this run reads pairs"):
        answers(trained("pairs"), ["sun moon"])


def test_other_kinds_are_answered(trained: Callable[[str], Path]) -> None:
    labels, probabilities = answers(trained("several"), ["sun moon sun moon"])[0].split("\t")
    (record,) = (
        json.loads(line) for line in answers(trained("several"), ['{"text": "sun moon sun moon"}'], format="jsonl")
    )
    assert ", ".join(record["labels"]) == labels and set(record["probabilities"]) == {"fire", "moon", "sun"}
    assert len(probabilities.split(", ")) == len(record["labels"])
    short, long = (
        float(line) for line in answers(trained("numbers"), ["sun", "sun moon lake tree sun moon lake tree"])
    )
    assert short < 4 < long


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("world", "micro_batches"),
    [pytest.param(2, 1, marks=pytest.mark.slow), pytest.param(1, 4, marks=pytest.mark.slow), (2, 64)],
)
def test_gradients_do_not_depend_on_how_a_batch_is_cut(folder: Path, kind: str, world: int, micro_batches: int) -> None:
    experiment = build(composed(folder, kind, "model.dropout=0.0", "task.head_dropout=0.0"))
    assert_cut_alike(experiment, world, micro_batches)


def test_wrong_combinations_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"takes RegressionBatch, but data \(ClassificationData\) gives"):
        composed(folder, "pairs", "task=regression", "validate.metric=val/pearson")
    with pytest.raises(ConfigurationError, match="is not a metric of Regression; did you mean val/pearson"):
        composed(folder, "numbers", "validate.metric=val/pearsn")
    with pytest.raises(ConfigurationError, match=r"data\.val_share = 1.5 is not in \[0, 1\)"):
        composed(folder, "numbers", "data.val=null", "data.val_share=1.5")


FOLDERS = {"stsb": "sts-b", "sst2": "sst"}


@pytest.mark.slow
@pytest.mark.corpora
@pytest.mark.parametrize("name", ["cola", "mrpc", "rte", "stsb", "sst2", "trec", "banking77", "clinc150"])
def test_published_sets_take_two_steps(corpus_folder: Path, tmp_path: Path, name: str) -> None:
    words = [
        *(f"experiment=classification/{name}", f"data.root={corpus_folder}/{FOLDERS.get(name, name)}"),
        *("model=encoder", "model.width=16", "model.heads=2", "model.layers=1", "model.feed_forward=24"),
        *("logger=none", "trainer=cpu", "trainer.progress_bar=false", "callbacks=none", "scheduler.warmup=1step"),
        *("budget=2step", "validate.every=2step", "limit.train=200", "limit.val=30", "limit.test=30"),
        *(f"paths.outputs={tmp_path}", f"paths.cache={tmp_path}/cache"),
    ]
    config = compose(*words)
    run = begin(tmp_path / "run", config)
    fit(run)
    found = scores(run)
    metric = config.validate.metric.replace("val/", "test/")
    assert found["examples"] == 30 and metric in found["scores"]
