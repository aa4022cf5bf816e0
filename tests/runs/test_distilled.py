"""Runs that learn from another run: the labels' loss without it, exact however a batch is cut, and one run over kills."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.checkpoints.checkpoint import read_weights
from etude.config.schema import Config
from etude.errors import ConfigurationError, DataError
from etude.models.losses.distillation import Distillation
from etude.runs.saved_run import SavedRun
from etude.tasks.teaching.teacher import Teacher
from etude.training.build import build
from etude.training.from_runs.teacher_run import with_teacher, with_teacher_folder
from tests.runs.conftest import TASKS
from tests.runs.doors import evaluate, reproduce, resume, train
from tests.runs.killing import BATCH, EXACT, Point, assert_same, begin, end, finish, kill_at
from tests.runs.test_exact_loss import NO_DROPOUT, assert_cut_alike

EACH = [pytest.param(task, marks=() if task == "classification" else pytest.mark.slow) for task in TASKS]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the teachers that are trained once."""
    return tmp_path_factory.mktemp("teachers")


@pytest.fixture
def taught(composed: Callable[..., Any], teachers: Path, tmp_path: Path) -> Callable[..., Path]:
    """Trains a teacher of a task, or finds it trained; one of its own for a test that changes it."""

    def run(task: str, *more: str, own: bool = False) -> Path:
        folder = (tmp_path if own else teachers) / "_".join(more).replace("=", "-")
        words = ("run.name=teacher", "seed=5", "model.width=24", "budget=5step", f"paths.outputs={folder}")
        return train(composed(task, *words, *more))

    return run


def learning_from(teacher: Path, *more: str) -> list[str]:
    return ["distillation=from_run", f"distillation.teacher={teacher}", *more]


def recorded(run: Path, name: str) -> list[float]:
    return [event.values[name] for event in SavedRun.open(run).events if name in event.values]


@pytest.mark.parametrize("task", EACH)
def test_with_weight_0_a_run_is_the_one_without_a_teacher(
    composed: Callable[..., Any], taught: Callable[..., Path], task: str
) -> None:
    """A teacher of another width draws no random numbers of the student's; its divergence is told, and changes nothing."""
    teacher = taught(task)
    plain = train(composed(task, "run.name=plain"))
    run = train(composed(task, "run.name=student", *learning_from(teacher, "distillation.weight=0.0")))
    weights = [read_weights(SavedRun.open(folder).checkpoint("last")) for folder in (plain, run)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert recorded(run, "train/loss") == recorded(run, "train/loss_labels") == recorded(plain, "train/loss")
    assert min(recorded(run, "train/loss_distillation")) > 0
    assert recorded(run, "val/loss") == recorded(plain, "val/loss")


def test_the_record_tells_both_parts_and_the_manifest_the_teacher(
    composed: Callable[..., Any], taught: Callable[..., Path]
) -> None:
    teacher = taught("classification")
    words = learning_from(teacher, "distillation.weight=0.25", "distillation.temperature=2.0", "log.every=4step")
    run = train(composed("classification", "run.name=student", "trainer.micro_batches=2", *words))
    parts = zip(recorded(run, "train/loss_labels"), recorded(run, "train/loss_distillation"), strict=True)
    assert recorded(run, "train/loss") == pytest.approx([0.75 * labels + 0.25 * kl for labels, kl in parts])
    assert len(recorded(run, "train/loss")) == 2
    named = json.loads((run / "manifest.json").read_text())["teacher"]
    best = SavedRun.open(teacher).checkpoint("best")
    written = json.loads((best / "manifest.json").read_text())["files"]["model.safetensors"]["sha256"]
    assert named == {"run": str(teacher), "checkpoint": best.name, "weights": written, "start": None}
    cost = json.loads((run / "cost.json").read_text())
    alone = json.loads((train(composed("classification", "run.name=alone")) / "cost.json").read_text())
    assert cost["flops"] > alone["flops"] and cost["parameters"] == alone["parameters"]


@pytest.mark.slow
def test_what_is_made_needs_no_teacher_any_more(composed: Callable[..., Any], taught: Callable[..., Path]) -> None:
    teacher = taught("classification", own=True)
    run = train(composed("classification", "run.name=student", *learning_from(teacher)))
    repeated = reproduce(run, {})
    assert repeated["identical"] and "teacher" in repeated["data"]["is"]
    shutil.rmtree(teacher)
    assert evaluate([run], {})["scores"] == SavedRun.open(run).conclusion.scores


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("world", "micro_batches"),
    [(1, 3), pytest.param(2, 1, marks=pytest.mark.slow), pytest.param(1, 64, marks=pytest.mark.slow)],
)
def test_gradients_do_not_depend_on_how_a_batch_is_cut(
    composed: Callable[..., Any], task: str, world: int, micro_batches: int
) -> None:
    extra = ("task.head_dropout=0.0",) if task.endswith("classification") else ()
    experiment = build(composed(task, *NO_DROPOUT, *extra))
    torch.manual_seed(3)
    other = build(composed(task, *NO_DROPOUT, *extra, "seed=5", "model.width=24")).task
    experiment.task.teacher = Teacher(other, Distillation("RUN", temperature=2.0, weight=0.7))
    assert_cut_alike(experiment, world, micro_batches)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in other.parameters())
    assert not {id(parameter) for parameter in other.parameters()} & {*map(id, experiment.task.parameters())}
    assert not other.training and experiment.task.training


# What is refused


@pytest.fixture
def refused(composed: Callable[..., Any], taught: Callable[..., Path]) -> Callable[..., str]:
    """What is said of a student with a teacher of classification."""

    def said(task: str, *more: str, given: tuple[str, ...] = ()) -> str:
        teacher = taught("classification", *given)
        with pytest.raises(ConfigurationError) as caught:
            train(composed(task, "run.name=student", *learning_from(teacher), *more))
        return str(caught.value).replace(str(teacher), "TEACHER")

    return said


def test_another_vocabulary_is_refused_and_the_teacher_s_can_be_taken(
    refused: Callable[..., str], composed: Callable[..., Any], taught: Callable[..., Path]
) -> None:
    said = refused("classification", "tokenizer.vocabulary=50")
    assert said.startswith("distillation.teacher=TEACHER has another vocabulary (tokenizer ")
    assert said.endswith("write tokenizer=stored tokenizer.folder=TEACHER/tokenizer ~tokenizer.vocabulary")
    teacher = taught("classification")
    config: Config = composed("classification", "limit.train=150", "run.name=second", *learning_from(teacher))
    stored = {"_target_": "etude.tokenization.stored_tokenizer.StoredTokenizer", "folder": f"{teacher}/tokenizer"}
    experiment = with_teacher(build(config.updated({"tokenizer": stored})))
    assert experiment.data.tokenizer.fingerprint == SavedRun.open(teacher).tokenizer.fingerprint
    assert experiment.task.teacher is not None and experiment.teacher is not None


def test_another_task_is_refused(refused: Callable[..., str]) -> None:
    assert refused("translation") == (
        "distillation.teacher=TEACHER has learned another task (Classification, not Translation); name a run of the same "
        "task, or write distillation=none"
    )


def test_other_labels_are_refused(refused: Callable[..., str], small_data: Path, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        text = (small_data / f"{split}.tsv").read_text()
        (tmp_path / f"{split}.tsv").write_text(text.replace("\twarm", "\thot"))
    said = refused("classification", *(f"data.{split}={tmp_path}/{split}.tsv" for split in ("train", "val", "test")))
    assert said == (
        "distillation.teacher=TEACHER has other classes (cold, warm) than the data (cold, hot); name a run of data with the same"
    )


def test_a_teacher_that_reads_shorter_texts_is_refused(refused: Callable[..., str]) -> None:
    said = refused("classification", given=("data.max_length=40", "model.max_length=40"))
    assert said.endswith("reads 40 tokens at most, and data.max_length=96; write data.max_length=40")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["distillation.weight=1.5"], r"distillation.weight = 1.5 is out of range; write 0 to 1, such as 0.5"),
        (["distillation.temperature=0.0"], r"distillation.temperature = 0.0 is out of range; write more than 0"),
        (["task/consistency=r_drop"], r"replaces the loss, and so does distillation; write task.consistency=null or"),
    ],
)
def test_configurations_that_do_not_fit(composed: Callable[..., Any], words: list[str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        composed("translation", *learning_from(Path("RUN")), *words)


def test_a_loss_of_another_kind_has_no_teacher() -> None:
    from etude.tasks.multilabel import Multilabel

    with pytest.raises(ConfigurationError, match="Multilabel predicts neither tokens nor one of several classes"):
        Multilabel.labelled_states(object.__new__(Multilabel), None)


def test_a_changed_teacher_is_refused(composed: Callable[..., Any], taught: Callable[..., Path]) -> None:
    """One that is trained further, or another in its place; the run is left as it was, and goes on when it is back."""
    best = taught("classification", "checkpoint.every=1step", "checkpoint.keep_last=9", own=True) / "checkpoints/best"
    name = best.resolve().name
    run = train(composed("classification", "run.name=student", "budget=2step", *learning_from(best.parent.parent)))
    best.unlink()
    best.symlink_to("step-00000002")
    with pytest.raises(
        DataError, match=rf"the teacher of \S+ has changed since it was begun \({name} \w{{12}} -> step-0"
    ):
        resume(run, {"budget": "4step"})
    assert [path.name for path in (run / "checkpoints").glob("step-*")] == ["step-00000002"]
    best.unlink()
    best.symlink_to(name)
    resume(run)
    assert SavedRun.open(run).conclusion.step == 4


# Kills


@pytest.fixture
def student(composed: Callable[..., Any], taught: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Begins a small run that learns from a teacher."""

    def begin_run(name: str, task: str, *more: str) -> Path:
        words = learning_from(taught(task), "distillation.temperature=2.0", "log.every=2step")
        return begin(tmp_path / name, with_teacher_folder(composed(task, *EXACT, BATCH[task], *words, *more)))

    return begin_run


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("task", TASKS)
def test_killed_it_is_the_same_run(student: Callable[..., Path], task: str) -> None:
    """Killed before the teacher is read, at steps between two lines of the record, and at checkpoints."""
    whole, killed = student("whole", task), student("killed", task)
    finish(whole)
    for point in (
        Point("etude.training.from_runs.teacher_run:build_task", 1),
        Point("etude.training.fit:write_provenance", 1),
        Point("etude.tasks.base:Task.training_step", 9),
        Point("etude.tasks.base:Task.training_step", 8),
        Point("etude.checkpoints.checkpoint:write_file", 3),
        Point("etude.tasks.base:Task.validation_step", 1),
    ):
        assert kill_at(killed, point), point
    finish(killed)
    assert_same(end(killed), end(whole))
    assert min(recorded(killed, "train/loss_distillation")) > 0


def test_a_run_without_a_teacher_is_left_alone(composed: Callable[..., Any]) -> None:
    config = composed("classification")
    assert with_teacher_folder(config) is config
    experiment = build(config)
    assert with_teacher(experiment) is experiment and experiment.task.teacher is None
