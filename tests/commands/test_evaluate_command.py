"""`etude evaluate` of runs whose weights are drawn: what is scored, what it is compared with, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etude.atomic import replace_link
from etude.calling_process import undisturbed
from etude.checkpoints.checkpoint import snapshot, write
from etude.commands.evaluate import CHANGEABLE, evaluate
from etude.config.compose import compose
from etude.config.schema import Config
from etude.errors import ConfigurationError, EtudeError
from etude.metrics.resampling import paired_p_value
from etude.report import significance
from etude.runs.reading import read_evaluation, read_rows
from etude.runs.saved_run import SavedRun
from etude.tasks.prediction import AnswersRecords
from etude.training import checkpoint_evaluation
from etude.training.build import build
from etude.training.provenance import write_provenance
from etude.training.restore import load_run

WORDS = ("sun", "moon", "star", "tree", "lake")
ROWS = {"train": 29, "val": 5, "test": 7}
STEPS = (3, 8)
"""The checkpoints of a run, the best one first."""

SMALL = (
    "trainer=cpu",
    "logger=none",
    "callbacks=none",
    "budget=8step",
    "validate.every=4step",
    "scheduler.warmup=2step",
    "tokenizer.vocabulary=60",
    "model.width=16",
    "model.heads=2",
    "model.feed_forward=24",
)


def texts_of(split: str) -> list[str]:
    """Texts of one to four words and a number of their own."""
    return [" ".join([*WORDS[: 1 + number % 4], f"{split}{number}"]) for number in range(ROWS[split])]


def label_of(number: int) -> str:
    return ("cold", "warm", "warm")[number % 3]


def small_classification(folder: Path, *more: str) -> Config:
    """The configuration of a small classification, whose data is written to a folder."""
    for split in ROWS:
        rows = [f"{text}\t{label_of(number)}\n" for number, text in enumerate(texts_of(split))]
        (folder / f"{split}.tsv").write_text("text\tlabel\n" + "".join(rows))
    data = ["data=table", *(f"data.{split}={folder}/{split}.tsv" for split in ROWS), "batch.examples=13"]
    paths = [f"paths.outputs={folder}/outputs", f"paths.cache={folder}/cache"]
    return compose("experiment=classification/demo", *data, *SMALL, "model.layers=1", *paths, *more)


def small_translation(folder: Path, *more: str) -> Config:
    """The configuration of a small translation into words spelt backwards, whose data is written to a folder."""
    for split in ROWS:
        (folder / f"{split}.en").write_text("".join(f"{text}\n" for text in texts_of(split)))
        targets = [" ".join(word[::-1] for word in text.split()) for text in texts_of(split)]
        (folder / f"{split}.de").write_text("".join(f"{text}\n" for text in targets))
    data = ["data=parallel", f"data.root={folder}", "batch.tokens=180", "validate.metric=val/bleu"]
    layers = ["model.encoder_layers=1", "model.decoder_layers=2", "decoding=greedy", "decoding.max_length=9"]
    paths = [f"paths.outputs={folder}/outputs", f"paths.cache={folder}/cache"]
    return compose("experiment=translation/demo", *data, *SMALL, *layers, *paths, *more)


def drawn_run(folder: Path, config: Config, steps: Sequence[int] = STEPS) -> SavedRun:
    """Write the folder of a run as a training leaves it, with a checkpoint at each step whose weights are drawn.

    The first checkpoint is the best one; nothing was trained, and nothing is evaluated.
    """
    folder.mkdir(parents=True)
    run = SavedRun.begin(folder, config)
    with undisturbed():
        experiment = build(config)
        write_provenance(run, experiment)
        for step in steps:
            torch.manual_seed(1000 * config.seed + step)
            for name, parameter in experiment.task.named_parameters():
                torch.nn.init.normal_(parameter, std=0.0 if "bias" in name else 1.0)
            content = {"global_step": step, "state_dict": experiment.task.state_dict()}
            write(snapshot(content), run.checkpoints / f"step-{step:08d}", {})
    replace_link(run.checkpoints / "best", f"step-{steps[0]:08d}")
    return SavedRun.open(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs `a` and `b`, which differ in their seed, and their data."""
    folder = tmp_path_factory.mktemp("made")
    for seed, name in enumerate(("a", "b"), start=1):
        # Of the mean of such drawn states, unlike of the first one, logits are near 1: their rounding is below what is compared.
        drawn_run(folder / "runs" / name, small_classification(folder, f"seed={seed}", "task.pooling=mean"))
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> list[SavedRun]:
    """Copies of both runs for one test."""
    shutil.copytree(made / "runs", tmp_path / "runs", symlinks=True)
    return [SavedRun.open(tmp_path / "runs" / name) for name in ("a", "b")]


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Few resamplings, and the process as it was."""
    monkeypatch.setattr(checkpoint_evaluation, "BOOTSTRAP", 40)
    monkeypatch.setattr(significance, "paired_p_value", partial(paired_p_value, trials=200))
    with undisturbed():
        yield


def evaluations(run: SavedRun) -> set[str]:
    """Names of the evaluations that a run has."""
    return {path.stem for path in (run.path / "evaluations").glob("*.json")}


def refusal(*arguments: Any, **named: Any) -> str:
    """Return the line that an evaluation ends in."""
    with pytest.raises(EtudeError) as error:
        evaluate(*arguments, **named)
    assert isinstance(error.value, ConfigurationError)
    return str(error.value)


# Laws


@pytest.mark.parametrize("split", ROWS)
def test_the_scores_are_those_of_the_rows_counted_by_hand(runs: list[SavedRun], split: str) -> None:
    found = evaluate(runs[:1], split=split)
    rows = read_rows(runs[0].path, split)
    classes = ["cold", "warm"]
    assert [row["id"] for row in rows] == list(range(ROWS[split]))
    assert [classes[row["label"]] for row in rows] == [label_of(number) for number in range(ROWS[split])]
    accuracy = sum(row["label"] == row["prediction"] for row in rows) / ROWS[split]
    assert found["scores"][f"{split}/accuracy"] == pytest.approx(accuracy)
    logits = torch.tensor([row["logits"] for row in rows])
    losses = logits.logsumexp(dim=1) - logits[range(len(rows)), [row["label"] for row in rows]]
    assert found["scores"][f"{split}/loss"] == pytest.approx(losses.mean().item(), abs=1e-4)


@pytest.mark.parametrize("step", STEPS)
def test_what_is_scored_is_what_the_checkpoint_answers_to_each_text_alone(runs: list[SavedRun], step: int) -> None:
    found = evaluate(runs[:1], checkpoint=step)
    task = load_run(runs[0], checkpoint=str(step))
    assert isinstance(task, AnswersRecords)
    answers = [task.answer_records([{"text": text}], runs[0].tokenizer)[0].values for text in texts_of("test")]
    right = [answer["label"] == label_of(number) for number, answer in enumerate(answers)]
    assert found["scores"]["test/accuracy"] == pytest.approx(sum(right) / len(right))
    assert found["checkpoint"] == f"step-{step:08d}"


@given(st.integers(1, 9), st.sampled_from(["32-true", "64-true"]))
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_size_of_a_batch_changes_nothing_and_a_precision_has_its_own_file(
    runs: list[SavedRun], examples: int, precision: str
) -> None:
    plain = evaluate(runs[:1])
    found = evaluate(runs[:1], changes={"batch.examples": examples, "precision": precision})
    if precision == "32-true":
        assert found.pop("scores") == pytest.approx(plain["scores"], rel=1e-6)
        assert found == {key: value for key, value in plain.items() if key != "scores"}
    else:
        assert found["settings"] == {"precision": precision}
        assert found["scores"] == pytest.approx(plain["scores"], abs=1e-5)
        assert f"test-precision={precision}" in evaluations(runs[0])
    assert read_evaluation(runs[0].path, "test").scores == pytest.approx(plain["scores"], rel=1e-6)


def test_what_is_returned_is_what_is_written(runs: list[SavedRun]) -> None:
    found = evaluate(runs[:1], split="val")
    assert json.loads((runs[0].path / "evaluations" / "val.json").read_text()) == found
    assert evaluations(runs[0]) == {"val"}
    assert (found["split"], found["examples"]) == ("val", ROWS["val"])


def test_an_ensemble_with_ones_own_copy_is_the_run_itself(made: Path, tmp_path: Path) -> None:
    run, other = (
        drawn_run(tmp_path / name, small_translation(made, f"seed={seed}"), steps=[5])
        for name, seed in (("one", 1), ("other", 2))
    )
    shutil.copytree(run.path, tmp_path / "twin", symlinks=True)
    alone, twins = evaluate([run]), evaluate([run], ensemble=str(tmp_path / "twin"))
    assert twins["ensemble"] == [str(tmp_path / "twin")]
    assert twins["scores"] == pytest.approx(alone["scores"], abs=1e-5)
    mixed = evaluate([run], ensemble=[str(other.path)])
    assert mixed["scores"]["test/loss"] != pytest.approx(alone["scores"]["test/loss"], abs=1e-3)
    assert evaluations(run) == {"test", "test-ensemble"}


def test_a_comparison_turns_its_sign_with_the_order_of_the_runs(runs: list[SavedRun]) -> None:
    first, second = (str(run.path) for run in runs)
    forth, back = evaluate(runs, split="train"), evaluate(runs[::-1], split="train")
    assert list(forth) == [first, second] and list(back) == [second, first]
    assert "against" not in forth[first] and "against" not in back[second]
    there, here = forth[second]["against"], back[first]["against"]
    assert (there["run"], here["run"]) == (first, second)
    assert there["difference"] == {name: -value for name, value in here["difference"].items()}
    assert there["p"] == here["p"]
    scores = [forth[name]["scores"]["train/accuracy"] for name in (first, second)]
    assert there["difference"]["accuracy"] == pytest.approx(scores[1] - scores[0])
    assert scores[0] != scores[1] and 0 < there["p"]["accuracy"] < 1


# Examples


def test_a_comparison_is_not_written_into_the_runs(runs: list[SavedRun]) -> None:
    both = evaluate(runs)
    alone = {str(run.path): evaluate([run]) for run in runs}
    for run in runs:
        assert read_evaluation(run.path, "test").plain() == alone[str(run.path)]
    del both[str(runs[1].path)]["against"]
    assert both == alone


def test_without_a_test_split_it_is_the_validation_split(made: Path, tmp_path: Path) -> None:
    run = drawn_run(tmp_path / "x", small_classification(made, "data.test=null", "seed=3"), steps=[5])
    assert evaluate([run])["split"] == "val"
    assert refusal([run], split="test") == "split=test: the data has no such split; write split=train or split=val"


def test_the_best_checkpoint_is_the_runs_own_and_another_has_its_own_file(runs: list[SavedRun]) -> None:
    best, named = evaluate(runs[:1]), evaluate(runs[:1], checkpoint=STEPS[0])
    assert best == named and "settings" not in best
    last = evaluate(runs[:1], checkpoint="last")
    assert (last["checkpoint"], last["settings"]) == ("step-00000008", {"checkpoint": "last"})
    assert evaluations(runs[0]) == {"test", "test-checkpoint=last"}


def test_a_limit_is_a_setting_and_is_written_under_its_name(runs: list[SavedRun]) -> None:
    found = evaluate(runs[:1], changes={"limit.test": 4})
    assert (found["examples"], found["settings"]) == (4, {"limit.test": 4})
    assert evaluations(runs[0]) == {"test-limit.test=4"}


def test_a_metric_that_is_added_is_scored_and_changes_no_other(runs: list[SavedRun]) -> None:
    added = {"task.metrics.cold": {"_target_": "etude.metrics.classification.ClassF1", "positive": "cold"}}
    plain, found = evaluate(runs[:1]), evaluate(runs[:1], changes=added)
    assert found["scores"].keys() - plain["scores"].keys() == {"test/cold"}
    assert found["scores"].items() >= plain["scores"].items()
    assert evaluations(runs[0]) == {"test"}


def test_scores_are_shown_with_the_runs_and_their_checkpoints(
    runs: list[SavedRun], capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluate(runs)
    out, shown = capsys.readouterr()
    assert out == ""
    assert shown.index("a (step-00000003)") < shown.index("b (step-00000003)")
    p_value = found[str(runs[1].path)]["against"]["p"]["accuracy"]
    assert f"p={p_value:.3g}" in shown


def test_a_run_on_other_rows_is_scored_and_not_compared(runs: list[SavedRun], made: Path, tmp_path: Path) -> None:
    fewer = drawn_run(tmp_path / "fewer", small_classification(made, "limit.test=4", "seed=4"), steps=[5])
    found = evaluate([runs[0], fewer])
    assert found[str(fewer.path)]["against"] == {"run": str(runs[0].path), "why_not": "the rows are not the same"}
    assert found[str(fewer.path)]["examples"] == 4


# What is refused


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"split": "tset"}, "split=tset: the data has no such split; write split=train or split=val or split=test"),
        ({"checkpoint": 7}, "{run} has no checkpoint '7'; there are: step-00000003, step-00000008"),
        ({"source": "x.en"}, "source= is given without reference=FILE; write both (command line)"),
        (
            {"source": "x.en", "reference": "x.de", "split": "val"},
            "split=val and source= exclude each other (command line)",
        ),
        (
            {"source": "x.en", "reference": "x.de"},
            "source= is for runs that turn texts into texts, not for etude.tasks.classification.Classification "
            "(command line)",
        ),
        ({"ensemble": "{run}"}, "ensemble: {run} is in it twice; leave one out (command line)"),
        (
            {"changes": {"model.width": 32}},
            f"model.width cannot be changed here; what can: {', '.join(CHANGEABLE)} (command line)",
        ),
        (
            {"changes": {"trainer.devices": 2}},
            "trainer.devices=2: this command works in one process; leave it out (command line)",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_one_line_and_nothing_is_written(
    runs: list[SavedRun], asked: dict[str, Any], said: str
) -> None:
    run = str(runs[0].path)
    asked = {key: value.format(run=run) if isinstance(value, str) else value for key, value in asked.items()}
    assert refusal(runs[:1], **asked) == said.format(run=run)
    assert evaluations(runs[0]) == set()


def test_an_ensemble_joins_one_run(runs: list[SavedRun]) -> None:
    assert refusal(runs, ensemble="x") == "ensemble=x joins one RUN, not 2; name one (command line)"
    assert [evaluations(run) for run in runs] == [set(), set()]


def test_an_ensemble_of_other_vocabularies_is_refused(runs: list[SavedRun], made: Path, tmp_path: Path) -> None:
    other = drawn_run(tmp_path / "other", small_classification(made, "tokenizer.vocabulary=50"), steps=[5])
    said = refusal(runs[:1], ensemble=str(other.path))
    assert re.fullmatch(
        rf"ensemble: {other.path} has another vocabulary than {runs[0].path} \(tokenizer [0-9a-f]{{12}}, not "
        r"[0-9a-f]{12}\); name runs that were trained with the same tokenizer \(command line\)",
        said,
    )
