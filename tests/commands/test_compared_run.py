"""A finished run as it is compared: what distinguishes it, what it was scored on, and scores that its rows must bear out."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from etude.commands.compared_run import IGNORED, ComparedRun, common_split
from etude.config.compose import compose
from etude.config.schema import Config
from etude.config.values import shown_values
from etude.errors import ConfigurationError, DataError
from etude.metrics.text_metrics import text_scores
from etude.runs.folder import COST, DATA, EVALUATIONS, FACTS
from etude.runs.saved_run import SavedRun
from etude.tasks.translation import STANDARD_METRICS
from etude.types import Facts
from etude.untrusted import BrokenFileError
from tests.runs.test_compare import DESCRIBED, cost_of

OUTPUTS = ["sun moon star tree lake", "moon star tree", "star", "tree lake road bird song wind"]
REFERENCES = ["sun moon star tree lake", "moon star road", "star", "tree lake road bird wind song"]
LABELS, PREDICTIONS = [0, 1, 1, 0, 1], [0, 1, 0, 0, 0]


@pytest.fixture(scope="module")
def translation() -> Config:
    words = ("data=parallel", "data.root=/nowhere", "paths.cache=/nowhere/cache")
    return compose("experiment=translation/demo", *words)


@pytest.fixture(scope="module")
def classification() -> Config:
    return compose("experiment=classification/demo", "data=table", "data.train=a.tsv", "data.val=b.tsv")


def text_rows(outputs: list[str] = OUTPUTS, references: list[str] = REFERENCES) -> list[dict[str, Any]]:
    pairs = zip(outputs, references, strict=True)
    return [{"id": number, "output": output, "references": [text]} for number, (output, text) in enumerate(pairs)]


def class_rows() -> list[dict[str, Any]]:
    pairs = zip(LABELS, PREDICTIONS, strict=True)
    return [{"id": number, "label": label, "prediction": found} for number, (label, found) in enumerate(pairs)]


def written(folder: Path, config: Config, scores: dict[str, float], rows: list[dict[str, Any]]) -> SavedRun:
    """Write what a comparison reads of a run that was evaluated on `test`."""
    (folder / EVALUATIONS).mkdir(parents=True)
    run = SavedRun.begin(folder, config)
    evaluation = {
        "split": "test",
        "checkpoint": "step-00000008",
        "examples": len(rows),
        "scores": scores,
        "intervals": {"test/bleu": [20.0, 90.5]},
        "signatures": {"test/bleu": "nrefs:1|case:mixed"},
    }
    (folder / EVALUATIONS / "test.json").write_text(json.dumps(evaluation))
    (folder / EVALUATIONS / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = Facts(vocabulary=9, pad=0, bos=1, eos=2)
    (folder / FACTS).write_text(json.dumps(replace(facts, classes=("cold", "warm")).to_json()))
    (folder / DATA).write_text(json.dumps(DESCRIBED))
    (folder / COST).write_text(json.dumps(cost_of(7.0)))
    return run


@pytest.fixture
def translator(tmp_path: Path, translation: Config) -> SavedRun:
    """A translation whose recorded scores are those of its rows."""
    found = text_scores(STANDARD_METRICS, OUTPUTS, [[text] for text in REFERENCES])
    scores = {"test/loss": 2.5, **{f"test/{name}": score.value for name, score in found.items()}}
    return written(tmp_path / "demo" / "x", translation, scores, text_rows())


@pytest.fixture
def classifier(tmp_path: Path, classification: Config) -> SavedRun:
    """A classification with three of five right."""
    return written(tmp_path / "demo" / "y", classification, {"test/loss": 0.75, "test/accuracy": 0.6}, class_rows())


# What distinguishes a run

OTHERWISE: dict[str, Any] = {
    "seed": 7,
    "run.name": "again",
    "run.notes": "a note",
    "paths.outputs": "/elsewhere",
    "log.every": "9step",
    "logger": {"_target_": "etude.training.loggers.tracking.Wandb"},
    "trainer.progress_bar": False,
    "trainer.watts_per_core": 17.5,
}
"""Values that the translation does not have, of keys that are ignored."""


@given(st.sets(st.sampled_from(list(OTHERWISE)), min_size=1))
@settings(max_examples=20)
@example(set(OTHERWISE))
def test_what_is_ignored_distinguishes_no_runs(
    translation: Config, tmp_path_factory: pytest.TempPathFactory, keys: set[str]
) -> None:
    folder, changed = tmp_path_factory.mktemp("pair"), translation.updated({key: OTHERWISE[key] for key in keys})
    one, other = (
        ComparedRun.read(written(folder / name, config, {}, []), "test")
        for name, config in (("a", translation), ("b", changed))
    )
    assert translation.changes_to(changed)
    assert one.configuration == other.configuration
    assert other.seed == (7 if "seed" in keys else translation.seed)


def test_everything_else_distinguishes_them(translator: SavedRun) -> None:
    configuration = ComparedRun.read(translator, "test").configuration
    everything = shown_values(translator.config.values)
    left_out = {key for key in everything if key not in configuration}
    assert configuration.items() <= everything.items()
    assert left_out and all(key.startswith(IGNORED) for key in left_out)
    assert {"seed", "run.name", "paths.outputs", "log.every"} <= left_out
    assert {"model.width", "trainer.devices", "batch.tokens", "validate.every"} <= configuration.keys()
    assert configuration["model.width"] == "128"


# What is read


def test_a_run_has_what_its_files_say(translator: SavedRun) -> None:
    run = ComparedRun.read(translator, "test")
    assert run.folder == translator.path
    assert run.main == "bleu"
    assert run.scores["test/loss"] == 2.5
    assert run.intervals == {"test/bleu": [20.0, 90.5]}
    assert run.signatures == {"test/bleu": "nrefs:1|case:mixed"}
    assert run.rows == text_rows()
    assert run.cost == cost_of(7.0)


def test_rows_and_cost_need_not_have_been_kept(translator: SavedRun) -> None:
    (translator.path / EVALUATIONS / "test.jsonl").unlink()
    (translator.path / COST).unlink()
    run = ComparedRun.read(translator, "test")
    assert (run.rows, run.cost) == ([], {})
    assert run.scored_rows(["bleu"]).results == {}
    assert run.scored_rows(["bleu"]).rows == []


@pytest.mark.parametrize("name", [f"{EVALUATIONS}/test.json", f"{EVALUATIONS}/test.jsonl", COST])
def test_a_damaged_file_is_named(translator: SavedRun, name: str) -> None:
    (translator.path / name).write_text("{\n")
    with pytest.raises(BrokenFileError) as error:
        ComparedRun.read(translator, "test")
    assert str(error.value).startswith(str(translator.path / name))
    assert str(error.value).endswith("; put the file back from a copy of the run")


# What it was scored on


def test_the_same_data_are_the_same_rows_with_the_same_references(translator: SavedRun) -> None:
    run = ComparedRun.read(translator, "test")
    assert run.has_data_of(replace(run, rows=text_rows(outputs=OUTPUTS[::-1])))
    for rows in (text_rows(references=REFERENCES[::-1]), text_rows()[1:]):
        assert not run.has_data_of(replace(run, rows=rows))


@pytest.mark.parametrize("rows", [[], [{"id": 0, "loss": 1.5}], [*text_rows(), {"id": 4, "output": "sun"}]])
def test_where_a_row_does_not_say_what_was_wanted_the_fingerprints_decide(
    translator: SavedRun, tmp_path: Path, rows: list[Any]
) -> None:
    run = ComparedRun.read(translator, "test")
    without = replace(run, rows=rows)
    assert run.has_data_of(without) and without.has_data_of(run)
    copy = Path(shutil.copytree(translator.path, tmp_path / "copy"))
    (copy / "data.json").write_text((copy / "data.json").read_text().replace('"abc"', '"def"'))
    assert not run.has_data_of(replace(without, run=SavedRun(copy, translator.config)))


# Scores that the rows must bear out


def test_scores_of_the_rows_are_those_that_were_recorded(translator: SavedRun, classifier: SavedRun) -> None:
    run = ComparedRun.read(translator, "test")
    names = [name.removeprefix("test/") for name in run.scores if name != "test/loss"]
    found = run.scored_rows(names)
    assert {name: score.value for name, score in found.results.items()} == {
        name: pytest.approx(run.scores[f"test/{name}"]) for name in names
    }
    assert found.rows == [(number, [text]) for number, text in enumerate(REFERENCES)]
    accuracy = ComparedRun.read(classifier, "test").scored_rows(["accuracy"])
    assert accuracy.results["accuracy"].value == pytest.approx(0.6)
    assert accuracy.rows == list(enumerate(LABELS))


@pytest.mark.parametrize("names", [[], ["bleu"], ["chrf", "bleu"], ["bleu_lowercase"]])
def test_only_what_is_asked_for_is_computed(translator: SavedRun, names: list[str]) -> None:
    assert ComparedRun.read(translator, "test").scored_rows(names).results.keys() == set(names)


@pytest.mark.parametrize("names", [["loss"], ["blue"], ["test/bleu"]])
def test_what_no_row_can_give_is_not_there(translator: SavedRun, names: list[str]) -> None:
    assert ComparedRun.read(translator, "test").scored_rows(names).results == {}


def test_metrics_are_those_of_the_runs_configuration(tmp_path: Path, classification: Config) -> None:
    positive = {"_target_": "etude.metrics.classification.ClassF1", "positive": "warm"}
    config = classification.updated({"task.metrics": {"warm": positive}})
    run = ComparedRun.read(written(tmp_path / "z", config, {"test/warm": 0.5}, class_rows()), "test")
    # One of the three that are warm was found, and nothing else was taken for warm: precision 1, recall 1/3.
    assert run.scored_rows(["warm"]).results["warm"].value == pytest.approx(0.5)
    assert run.scored_rows(["accuracy"]).results == {}


@given(st.floats(-2, 2, allow_nan=False).filter(lambda value: abs(value) > 2e-6))
@settings(max_examples=20)
def test_a_score_that_the_rows_do_not_give_is_refused(
    classification: Config, tmp_path_factory: pytest.TempPathFactory, by: float
) -> None:
    folder = tmp_path_factory.mktemp("wrong") / "w"
    run = ComparedRun.read(written(folder, classification, {"test/accuracy": 0.6 + by}, class_rows()), "test")
    with pytest.raises(DataError) as error:
        run.scored_rows(["accuracy"])
    assert str(error.value) == (
        f"{folder}: the rows of its evaluation give test/accuracy 0.6, not {0.6 + by:g} as was recorded; "
        f"evaluate it again: etude evaluate {folder}"
    )


def test_a_recorded_nan_that_the_rows_do_not_give_is_refused(tmp_path: Path, classification: Config) -> None:
    run = ComparedRun.read(written(tmp_path / "n", classification, {"test/accuracy": math.nan}, class_rows()), "test")
    with pytest.raises(DataError):
        run.scored_rows(["accuracy"])


def test_a_score_that_is_not_asked_for_is_not_checked(tmp_path: Path, classification: Config) -> None:
    scores = {"test/accuracy": 0.6, "test/macro_f1": 0.0}
    run = ComparedRun.read(written(tmp_path / "w", classification, scores, class_rows()), "test")
    assert run.scored_rows(["accuracy"]).results["accuracy"].value == pytest.approx(0.6)


# The split that all have


def evaluated(folder: Path, config: Config, *splits: str) -> SavedRun:
    (folder / EVALUATIONS).mkdir(parents=True)
    for split in splits:
        (folder / EVALUATIONS / f"{split}.json").touch()
    return SavedRun(folder, config)


@pytest.mark.parametrize(
    ("first", "second", "requested", "split"),
    [
        (["test", "val"], ["test", "val"], None, "test"),
        (["test", "val"], ["val"], None, "val"),
        (["test", "val"], ["val", "test"], "val", "val"),
        (["test", "train"], ["train"], "train", "train"),
        (["mine"], ["mine", "test"], "mine", "mine"),
    ],
)
def test_the_split_is_the_requested_one_or_the_best_that_all_have(
    tmp_path: Path, classification: Config, first: list[str], second: list[str], requested: str | None, split: str
) -> None:
    runs = [evaluated(tmp_path / name, classification, *has) for name, has in (("a", first), ("b", second))]
    assert common_split(runs, requested) == split
    assert common_split(runs[::-1], requested) == split


def test_without_a_common_split_it_is_said_who_lacks_it_and_how_to_make_it(
    tmp_path: Path, classification: Config
) -> None:
    first, second = (evaluated(tmp_path / name, classification, name) for name in ("test", "val"))
    with pytest.raises(ConfigurationError) as error:
        common_split([first, second], None)
    assert str(error.value) == (
        f"{second.path} has no evaluation of test; {first.path} has no evaluation of val; "
        f"make it: etude evaluate {second.path} split=test"
    )
    with pytest.raises(ConfigurationError) as error:
        common_split([first, second], "train")
    assert str(error.value) == (
        f"{first.path} has no evaluation of train; make it: etude evaluate {first.path} split=train"
    )
