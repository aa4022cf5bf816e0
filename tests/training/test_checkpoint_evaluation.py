"""A checkpoint is scored alike whenever it is, and its evaluation is written in full, row by row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from etude.checkpoints.checkpoint import snapshot, write
from etude.checkpoints.integrity import checkpoint_folder
from etude.config.compose import compose
from etude.errors import ConfigurationError, StorageError
from etude.metrics.calibration import COLDEST, HOTTEST, fitted_temperature
from etude.metrics.score import Score, mean_of_rows
from etude.runs.reading import read_evaluation, read_rows
from etude.runs.saved_run import SavedRun
from etude.tasks.running_sums import Row
from etude.training.build import Experiment, build
from etude.training.checkpoint_evaluation import evaluate_checkpoint, score
from etude.training.evaluation_settings import RequestedFiles, evaluation_name

ROWS = {"train": 13, "val": 7, "test": 5}
SMALL = ["model.width=16", "model.heads=2", "model.feed_forward=24", "budget=8step", "scheduler.warmup=1step"]
LAYERS = {"classification": ["model.layers=1"], "translation": ["model.encoder_layers=1", "model.decoder_layers=1"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table and a pair of files for each split."""
    folder = tmp_path_factory.mktemp("data")
    words = ["sun", "moon", "tree", "road", "bird"]
    for split, count in ROWS.items():
        texts = [" ".join(words[: 1 + (row + count) % 5]) for row in range(count)]
        labels = ["warm" if row % 3 else "cold" for row in range(count)]
        lines = [f"{text}\t{label}\n" for text, label in zip(texts, labels, strict=True)]
        (folder / f"{split}.tsv").write_text("text\tlabel\n" + "".join(lines))
        (folder / f"{split}.en").write_text("".join(f"{text}\n" for text in texts))
        (folder / f"{split}.de").write_text("".join(f"{text[::-1]}\n" for text in texts))
    return folder


def built(place: Path, task: str, *words: str, splits: tuple[str, ...] = tuple(ROWS)) -> Experiment:
    """Return an experiment of a model with one layer and weights of its own."""
    tables = ["data=table", *(f"data.{split}={place}/{split}.tsv" for split in splits), "batch.examples=4"]
    files = ["data=parallel", f"data.root={place}", "decoding=greedy", "decoding.max_length=6", "batch.tokens=60"]
    data = [*(tables if task == "classification" else files), "tokenizer.vocabulary=50"]
    machine = ["trainer=cpu", "trainer.progress_bar=false", "logger=none", f"paths.cache={place}/cache"]
    return build(compose(f"experiment={task}/demo", *data, *SMALL, *LAYERS[task], *machine, *words))


@pytest.fixture(scope="module")
def classifier(place: Path) -> Experiment:
    return built(place, "classification")


@pytest.fixture(scope="module")
def translator(place: Path) -> Experiment:
    return built(place, "translation")


@pytest.fixture
def run(tmp_path: Path) -> SavedRun:
    """A run's folder; its configuration is the experiment's, which evaluation is given besides."""
    folder = tmp_path / "run"
    folder.mkdir()
    return SavedRun(folder, compose("experiment=classification/demo"))


def saved(run: SavedRun, experiment: Experiment, step: int) -> Path:
    """Save weights of the step's own."""
    generator = torch.Generator().manual_seed(step)
    own = experiment.task.state_dict()
    weights = {name: 0.3 * torch.randn(tensor.shape, generator=generator) for name, tensor in own.items()}
    folder = checkpoint_folder(run.checkpoints, step)
    write(snapshot({"state_dict": weights, "global_step": step}), folder, {})
    return folder


def written(run: SavedRun) -> dict[str, bytes]:
    folder = run.path / "evaluations"
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def log_probability(row: Row) -> float:
    logits = row["logits"]
    return float(logits[row["label"]] - math.log(sum(math.exp(value) for value in logits)))


# What is written


def test_the_scores_are_those_of_the_rows(run: SavedRun, classifier: Experiment) -> None:
    evaluation = evaluate_checkpoint(run, classifier, saved(run, classifier, 6))
    assert read_evaluation(run.path, "test").plain() == evaluation
    assert {key: evaluation[key] for key in ("split", "checkpoint", "examples")} == {
        "split": "test",
        "checkpoint": "step-00000006",
        "examples": ROWS["test"],
    }
    rows = read_rows(run.path, "test")
    assert [row["id"] for row in rows] == list(range(ROWS["test"]))
    right = [row["label"] == row["prediction"] for row in rows]
    assert evaluation["scores"]["test/accuracy"] == pytest.approx(sum(right) / 5)
    assert evaluation["scores"]["test/loss"] == pytest.approx(-sum(map(log_probability, rows)) / 5, abs=1e-4)
    assert evaluation["scores"].keys() == {"test/loss", "test/accuracy", "test/macro_f1"}
    assert evaluation["intervals"].keys() == evaluation["signatures"].keys() == {"test/accuracy", "test/macro_f1"}
    for name, (low, high) in evaluation["intervals"].items():
        assert low < evaluation["scores"][name] < high
    assert written(run).keys() == {"test.json", "test.jsonl"}


def test_the_weights_are_the_checkpoints_whatever_was_evaluated_before(run: SavedRun, classifier: Experiment) -> None:
    first, second = (saved(run, classifier, step) for step in (6, 9))
    found = evaluate_checkpoint(run, classifier, first)
    files = written(run)
    other = evaluate_checkpoint(run, classifier, second)
    assert other["scores"] != found["scores"] and other["checkpoint"] == "step-00000009"
    assert evaluate_checkpoint(run, classifier, first) == found
    assert written(run) == files


@pytest.mark.parametrize(
    ("task", "sizes", "answer"),
    [
        ("classification", ("batch.examples=4", "batch.examples=1"), "prediction"),
        ("translation", ("batch.tokens=90", "batch.tokens=40"), "output"),
    ],
)
def test_the_size_of_a_batch_changes_no_output_and_no_score(
    run: SavedRun, place: Path, task: str, sizes: tuple[str, str], answer: str
) -> None:
    """But for the loss, whose sum is rounded batch by batch."""
    large, small = (built(place, task, size) for size in sizes)
    assert len(list(large.data.test_dataloader())) < len(list(small.data.test_dataloader()))
    checkpoint = saved(run, large, 6)
    found = []
    for experiment in (large, small):
        evaluation = evaluate_checkpoint(run, experiment, checkpoint)
        loss = evaluation["scores"].pop("test/loss")
        found.append((loss, evaluation, [row[answer] for row in read_rows(run.path, "test")]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert found[0][1:] == found[1][1:]


def test_a_split_is_scored_as_it_is_in_an_evaluation(run: SavedRun, classifier: Experiment) -> None:
    checkpoint = saved(run, classifier, 6)
    evaluation = evaluate_checkpoint(run, classifier, checkpoint, "val")
    classifier.task.bootstrap = 0
    trainer = score(run.path, classifier, "val")
    assert trainer.default_root_dir == str(run.path)
    assert {f"val/{name}": one.value for name, one in classifier.task.results.items()} == evaluation["scores"]
    assert [row["id"] for row in classifier.task.rows] == list(range(ROWS["val"]))


# Which split


def test_any_split_can_be_asked_for(run: SavedRun, classifier: Experiment) -> None:
    checkpoint = saved(run, classifier, 6)
    for split, count in ROWS.items():
        evaluation = evaluate_checkpoint(run, classifier, checkpoint, split)
        assert (evaluation["split"], evaluation["examples"]) == (split, count)
        assert f"{split}/loss" in evaluation["scores"]
    assert written(run).keys() == {f"{split}.{ending}" for split in ROWS for ending in ("json", "jsonl")}


def test_without_a_test_split_the_validation_split_is_scored(run: SavedRun, place: Path) -> None:
    experiment = built(place, "classification", splits=("train", "val"))
    checkpoint = saved(run, experiment, 6)
    assert evaluate_checkpoint(run, experiment, checkpoint)["split"] == "val"
    with pytest.raises(ConfigurationError) as caught:
        evaluate_checkpoint(run, experiment, checkpoint, "test")
    assert str(caught.value) == "split=test: the data has no such split; write split=train or split=val"


def test_a_calibration_is_fitted_on_the_validation_split(run: SavedRun, classifier: Experiment) -> None:
    checkpoint = saved(run, classifier, 4)
    found = [evaluate_checkpoint(run, classifier, checkpoint, split)["details"] for split in ("test", "val", "test")]
    rows = read_rows(run.path, "val")
    logits = torch.tensor([row["logits"] for row in rows], dtype=torch.float64)
    temperature = fitted_temperature(logits, torch.tensor([row["label"] for row in rows]))
    assert 2 * COLDEST < temperature < HOTTEST / 2
    for details in found:
        assert details["calibration"]["temperature"] == pytest.approx(temperature)
        assert details["calibration"]["fitted_on"] == "val"
    assert found[0] == found[2] != found[1]
    assert sum(count for row in found[1]["confusion"].values() for count in row.values()) == ROWS["val"]


# What belongs to some evaluations


def test_what_has_no_content_is_left_out(run: SavedRun, classifier: Experiment) -> None:
    evaluation = evaluate_checkpoint(run, classifier, saved(run, classifier, 6), settings={})
    names = {"split", "checkpoint", "examples", "scores", "intervals", "signatures", "details"}
    assert evaluation.keys() == names


def test_changed_settings_have_files_of_their_own(run: SavedRun, classifier: Experiment) -> None:
    settings = {"limit.test": 5, "batch.examples": 4}
    evaluation = evaluate_checkpoint(run, classifier, saved(run, classifier, 6), settings=settings)
    assert evaluation["settings"] == settings and evaluation["split"] == "test"
    name = evaluation_name("test", settings)
    assert written(run).keys() == {f"{name}.json", f"{name}.jsonl"} and name != "test"


def test_rows_that_were_left_out_are_counted(
    run: SavedRun, classifier: Experiment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(classifier.data.prepared.dropped, "test", {"repeated": 2})
    evaluation = evaluate_checkpoint(run, classifier, saved(run, classifier, 6))
    assert evaluation["left_out_or_changed"] == {"repeated": 2}
    assert not [record for record in caplog.records if record.name.startswith("etude")]


@pytest.mark.parametrize(
    ("named", "settings", "stem"),
    [
        (False, {}, "news.en"),
        (False, {"decoding.beams": 3}, "news.en-decoding.beams=3"),
        (True, {"decoding.beams": 3}, "news.en"),
    ],
)
def test_files_in_place_of_a_split_give_the_evaluation_their_name(
    run: SavedRun,
    translator: Experiment,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    named: bool,
    settings: dict[str, Any],
    stem: str,
) -> None:
    monkeypatch.setitem(translator.data.prepared.dropped, "test", {"truncated": 3})
    monkeypatch.setattr(translator.task, "details", lambda rows, split: {"errors": [{"text": "of a split"}]})
    files = RequestedFiles(Path("a/news.en"), (Path("a/one.de"), Path("a/two.de")), "news.en", named)
    evaluation = evaluate_checkpoint(run, translator, saved(run, translator, 6), files=files, settings=settings)
    assert evaluation["split"] == "news.en" and "details" not in evaluation
    assert evaluation["files"] == {"source": "a/news.en", "references": ["a/one.de", "a/two.de"]}
    assert all(name.startswith("news.en/") for name in evaluation["scores"])
    assert {name.partition(f"{stem}.")[2] for name in written(run)} == {
        "json",
        "jsonl",
        "outputs.txt",
        "references.txt",
    }
    assert "news.en: 3 lines truncated" in caplog.messages


def test_an_ensemble_is_written_beside_the_evaluation_of_the_run_alone(run: SavedRun, place: Path) -> None:
    experiment, member = (built(place, "translation", *words) for words in ((), ("seed=7",)))
    checkpoint = saved(run, experiment, 6)
    alone = evaluate_checkpoint(run, experiment, checkpoint)
    together = evaluate_checkpoint(run, experiment, checkpoint, members={run.path.with_name("other"): member.task})
    assert together["ensemble"] == [str(run.path.with_name("other"))] and "ensemble" not in alone
    assert together["split"] == "test" and together["scores"]["test/loss"] != alone["scores"]["test/loss"]
    assert read_evaluation(run.path, "test").plain() == alone
    assert read_evaluation(run.path, "test-ensemble").plain() == together


# Rows


def with_rows(experiment: Experiment, rows: Mapping[int, Row], patch: pytest.MonkeyPatch) -> None:
    """Let a task judge its rows otherwise in part."""
    patch.setattr(
        experiment.task, "concluded", lambda found, split: [{**row, **rows.get(row["id"], {})} for row in found]
    )


def test_texts_have_one_line_for_each_row(
    run: SavedRun, translator: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = ["one\ntwo", "", "three\r\nfour", "fünf", " six"]
    references = [["a\rb"], ["c"], ["d"], ["e"], ["f"]]
    rows = {row: {"output": outputs[row], "references": references[row]} for row in range(5)}
    with_rows(translator, rows, monkeypatch)
    evaluate_checkpoint(run, translator, saved(run, translator, 6))
    files = written(run)
    assert files["test.outputs.txt"].decode() == "one two\n\nthree  four\nfünf\n six\n"
    assert files["test.references.txt"].decode() == "a b\nc\nd\ne\nf\n"
    assert "fünf" in files["test.jsonl"].decode()
    assert [row["output"] for row in read_rows(run.path, "test")] == outputs


def test_references_are_written_as_texts_where_each_row_has_one(
    run: SavedRun, translator: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_rows(translator, {row: {"references": ["a", "b"]} for row in range(5)}, monkeypatch)
    evaluate_checkpoint(run, translator, saved(run, translator, 6))
    assert written(run).keys() == {"test.json", "test.jsonl", "test.outputs.txt"}


def test_outputs_that_were_stopped_are_warned_of(
    run: SavedRun, translator: Experiment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_rows(translator, {row: {"finished": row not in (1, 4)} for row in range(5)}, monkeypatch)
    evaluate_checkpoint(run, translator, saved(run, translator, 6))
    assert [record.getMessage() for record in caplog.records if record.name.startswith("etude")] == [
        "2 of 5 outputs were stopped at their length limit; "
        "a larger decoding.max_length lets them go on, up to twice their source"
    ]


def test_each_row_has_its_own_scores_with_few_digits(
    run: SavedRun, classifier: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.array([12.3456, -0.123456, 1.0, 0.99999, -7.891])
    counted = np.array([True, True, False, True, True])
    results = {
        "mean": Score(3.0, statistics=mean_of_rows(values, "mean", (-9, 99), counted)),
        "half": Score(3.0, statistics=mean_of_rows(values / 2, "half", (-9, 99))),
        "whole": Score(3.0, statistics=replace(mean_of_rows(values, "whole", (-9, 99)), alone=None)),
    }
    monkeypatch.setattr(classifier.task, "scores", lambda rows: results)
    evaluate_checkpoint(run, classifier, saved(run, classifier, 6))
    assert [row["scores"] for row in read_rows(run.path, "test")] == [
        {"mean": 12.35, "half": 6.17},
        {"mean": -0.1235, "half": -0.0617},
        {"half": 0.5},
        {"mean": 1.0, "half": 0.5},
        {"mean": -7.89, "half": -3.95},
    ]


def test_rows_without_scores_of_their_own_have_none(
    run: SavedRun, classifier: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier.task, "scores", lambda rows: {"mean": Score(3.0, "how", 2.5, 3.5)})
    evaluation = evaluate_checkpoint(run, classifier, saved(run, classifier, 6))
    assert not any("scores" in row for row in read_rows(run.path, "test"))
    assert evaluation["intervals"] == {"test/mean": [2.5, 3.5]}
    assert evaluation["signatures"] == {"test/mean": "how"}


# Machine and disk


def test_another_process_than_the_first_writes_nothing(
    run: SavedRun, classifier: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = saved(run, classifier, 6)
    expected = evaluate_checkpoint(run, classifier, checkpoint, "val")
    files = written(run)
    monkeypatch.setattr(lightning.Trainer, "is_global_zero", False)
    assert evaluate_checkpoint(run, classifier, checkpoint, "val") == expected
    evaluate_checkpoint(run, classifier, checkpoint, "test")
    assert written(run) == files


def test_a_folder_that_cannot_be_written_is_one_line(run: SavedRun, classifier: Experiment) -> None:
    (run.path / "evaluations").write_text("no folder")
    with pytest.raises(StorageError) as caught:
        evaluate_checkpoint(run, classifier, saved(run, classifier, 6))
    assert str(caught.value) == (
        f"cannot write {run.path}/evaluations: File exists; see whether the disk is in order and run the same command again"
    )


@pytest.mark.parametrize(("callbacks", "wanted"), [(1, True), (1, False), (0, True)])
def test_progress_is_shown_where_callbacks_and_machine_say_so(
    run: SavedRun, classifier: Experiment, callbacks: int, wanted: bool
) -> None:
    experiment = replace(classifier, machine=replace(classifier.machine, progress_bar=wanted))
    trainer = score(run.path, experiment, "val", [Callback() for _ in range(callbacks)])
    assert (trainer.progress_bar_callback is not None) == (bool(callbacks) and wanted)
