"""Tasks in a `lightning.Trainer` of one's own, without a run: fit, validate, test, predict, with Lightning's callbacks."""

from __future__ import annotations

import csv
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from etude.data.base import DataSettings, PlannedData
from etude.data.causal_lm import CausalLMData
from etude.data.classification import ClassificationData
from etude.data.masked_lm import MaskedLMData
from etude.data.masking import TokenMasking
from etude.data.question_answering import QuestionData
from etude.data.readers.sources import Row
from etude.data.sizes import BatchSize
from etude.data.token_classification import TokenClassificationData
from etude.data.translation import TranslationData
from etude.duration import Duration
from etude.errors import ConfigurationError, NonFiniteError
from etude.models.decoder import Decoder
from etude.models.encoder import Encoder
from etude.models.generation.search import Greedy
from etude.models.seq2seq import Seq2Seq
from etude.optim.schedules import Constant, Cosine, Schedule
from etude.seeding import seed_all
from etude.tasks.base import Task
from etude.tasks.causal_lm import CausalLM
from etude.tasks.classification import Classification
from etude.tasks.masked_lm import MaskedLM
from etude.tasks.non_finite import SkipNonFinite
from etude.tasks.question_answering import QuestionAnswering
from etude.tasks.run_context import RunContext
from etude.tasks.token_classification import TokenClassification
from etude.tasks.translation import Translation
from etude.tokenization.trained import Bytes
from etude.training.callbacks.log_training import LogTraining

KINDS = ("translation", "masked_lm", "causal_lm", "classification", "token_classification", "question_answering")
SHAPE: dict[str, Any] = {"width": 16, "heads": 2, "feed_forward": 24, "dropout": 0.0, "max_length": 64}
ADAM = partial(torch.optim.AdamW, lr=1e-2)
WORDS = ["sun", "moon", "star", "tree"]


@dataclass
class InMemory:
    """A corpus that is nowhere but here: 24 rows to train on, 7 each for val and test."""

    dropped: Counter[str] = field(default_factory=Counter)

    def fingerprint(self) -> str:
        return "in memory"

    def splits(self) -> tuple[str, ...]:
        return "train", "val", "test"

    def rows(self, split: str) -> Iterator[Row]:
        source = random.Random(split)
        for number in range(24 if split == "train" else 7):
            words = [source.choice(WORDS) for _ in range(source.randint(1, 4))]
            text, answer = " ".join(words), source.choice(words)
            span = {"text": [answer], "answer_start": [text.index(answer)]}
            fields = {"text": text, "label": "warm" if "sun" in words else "cold"}
            fields |= {"tags": json.dumps(["A" if word == "sun" else "B" for word in words])}
            fields |= {"source": text, "target": text[::-1], "id": f"q{number}"}
            fields |= {"question": "which?", "context": text, "answers": json.dumps(span)}
            yield Row(fields, f"{split}:{number}")


def build(
    kind: str, folder: Path, schedule: Schedule | None = None, optimizer: Any = ADAM, micro_batches: int = 1
) -> tuple[Task, PlannedData]:
    """Return a task and its data module, made by hand; weights are the same each time."""
    settings = DataSettings(
        Bytes(), seed=1, batch=BatchSize(examples=6), cache=folder / "cache", micro_batches=micro_batches
    )
    makers: dict[str, Callable[..., PlannedData]] = {
        "translation": partial(TranslationData, max_length=40),
        "masked_lm": partial(MaskedLMData, max_length=40, masking=TokenMasking()),
        "causal_lm": partial(CausalLMData, max_length=24),
        "classification": partial(ClassificationData, max_length=40),
        "token_classification": partial(TokenClassificationData, max_length=12),
        "question_answering": partial(QuestionData, max_length=30, stride=8, max_question=8),
    }
    data = makers[kind](InMemory(), settings=settings)
    seed_all(1)
    facts = data.facts
    training: dict[str, Any] = {"optimizer": optimizer, "scheduler": schedule or Cosine(warmup="1step")}
    if kind == "translation":
        model = Seq2Seq(facts, encoder_layers=1, decoder_layers=1, **SHAPE)
        return Translation(facts, model, decoding=Greedy(max_length=9), label_smoothing=0.0, **training), data
    if kind == "causal_lm":
        return CausalLM(facts, Decoder(facts, layers=1, **SHAPE), decoding=Greedy(max_length=5), **training), data
    encoder = Encoder(facts, layers=1, **SHAPE)
    if kind == "masked_lm":
        return MaskedLM(facts, encoder, **training), data
    if kind == "classification":
        return Classification(facts, encoder, head_dropout=0.0, **training), data
    if kind == "token_classification":
        return TokenClassification(facts, encoder, head_dropout=0.0, **training), data
    assert isinstance(data, QuestionData)
    return QuestionAnswering(facts, encoder, windows=data.windows, **training), data


def trainer(folder: Path, *callbacks: Callback, **settings: Any) -> lightning.Trainer:
    arguments: dict[str, Any] = {"max_steps": 4, "check_val_every_n_epoch": None, "val_check_interval": 2}
    arguments |= {"logger": CSVLogger(folder, name="log", version=0), "log_every_n_steps": 1}
    arguments |= {"enable_model_summary": False, "enable_progress_bar": False, "default_root_dir": folder}
    arguments |= {"callbacks": list(callbacks), **settings}
    return lightning.Trainer(accelerator="cpu", **arguments)


def logged(folder: Path, name: str) -> list[float]:
    with (folder / "log" / "version_0" / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def checkpoints(folder: Path, metric: str = "val/loss") -> ModelCheckpoint:
    return ModelCheckpoint(folder, monitor=metric, filename="best", auto_insert_metric_name=False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_is_fitted_validated_tested_and_predicts(kind: str, tmp_path: Path) -> None:
    task, data = build(kind, tmp_path)
    best = checkpoints(tmp_path)
    run = trainer(tmp_path, best, EarlyStopping("val/loss", patience=9), LearningRateMonitor("step"))
    run.fit(task, datamodule=data)
    assert run.global_step == 4
    assert len(logged(tmp_path, "train/loss")) == 4
    assert len(logged(tmp_path, "val/loss")) == 2  # the sanity check is not logged
    assert float(best.best_model_score or math.nan) == pytest.approx(min(logged(tmp_path, "val/loss")))

    (validated,) = run.validate(task, datamodule=data, verbose=False, weights_only=False, ckpt_path="best")
    assert validated["val/loss"] == pytest.approx(float(best.best_model_score or math.nan))
    (tested,) = run.test(task, datamodule=data, verbose=False)
    assert {name.replace("val/", "test/") for name in type(task).METRICS} <= tested.keys()

    predicted = run.predict(task, datamodule=data)
    assert predicted is not None
    rows = sorted((row for batch in predicted for row in batch), key=lambda row: row["id"])
    assert [row["id"] for row in rows] == list(range(len(data.splits["test"].counts)))
    CHECKS[kind](rows, data)


def check_translations(rows: list[dict[str, Any]], data: PlannedData) -> None:
    assert all(isinstance(row["output"], str) and row["score"] <= 0 for row in rows)
    assert {row["finished"] for row in rows} <= {True, False}


def check_fillings(rows: list[dict[str, Any]], data: PlannedData) -> None:
    for row in rows:
        assert len(row["positions"]) == len(row["predictions"]) == len(row["probabilities"]) >= 1
        assert all(0 < probability <= 1 for probability in row["probabilities"])
        text = data.text("test", "text", row["id"])
        if not row["predictions"][0]:
            continue  # a special token
        assert "<mask>" not in row["output"] and len(row["output"].split()) <= len(text) + 1


def check_continuations(rows: list[dict[str, Any]], data: PlannedData) -> None:
    assert [row["text"] for row in rows] == [data.text("test", "text", row["id"]) for row in rows]
    assert all(isinstance(row["output"], str) and row["score"] < 0 for row in rows)


def check_classes(rows: list[dict[str, Any]], data: PlannedData) -> None:
    for row in rows:
        assert row["probabilities"].keys() == {"cold", "warm"}
        assert row["probability"] == max(row["probabilities"].values()) == row["probabilities"][row["label"]]


def check_tags(rows: list[dict[str, Any]], data: PlannedData) -> None:
    examples = data.splits["test"]
    for row in rows:
        assert len(row["tags"]) == len(row["probabilities"]) == examples.counts[row["id"]]
        assert set(row["tags"]) <= {"A", "B"} and all(0.5 <= probability <= 1 for probability in row["probabilities"])
    assert max(row["sentence"] for row in rows) == 6 < len(rows) - 1  # some sentences are in parts


def check_answers(rows: list[dict[str, Any]], data: PlannedData) -> None:
    for row in rows:
        passage = data.text("test", "context", row["number"])
        assert row["answer"] == ("" if row["start"] is None else passage[row["start"] : row["end"]])
        assert row["answers"] and row["null_score"] < 1e4


CHECKS: dict[str, Callable[[list[dict[str, Any]], PlannedData], None]] = {
    "translation": check_translations,
    "masked_lm": check_fillings,
    "causal_lm": check_continuations,
    "classification": check_classes,
    "token_classification": check_tags,
    "question_answering": check_answers,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_losses_and_rates_are_those_of_a_run(kind: str, micro_batches: int, tmp_path: Path) -> None:
    names = ("train/loss", "train/gradient_norm", "train/learning_rate", "val/loss")
    curves = []
    for folder in (tmp_path / "plain", tmp_path / "run"):
        task, data = build(kind, tmp_path, micro_batches=micro_batches)
        callbacks: list[Callback] = []
        if folder.name == "run":
            budget = Duration(4, "step")
            task.run_context = RunContext(1, micro_batches, budget, log_every=1, clock=data.clock, folder=folder)
            callbacks = [LogTraining()]
        settings: dict[str, Any] = {"val_check_interval": 2 * micro_batches, "num_sanity_val_steps": 0}
        run = trainer(folder, *callbacks, accumulate_grad_batches=micro_batches, **settings)
        run.fit(task, datamodule=data)
        curves.append([logged(folder, name) for name in names])
    plain, in_run = curves
    assert len(in_run[0]) == 4
    for one, other in zip(plain, in_run, strict=True):
        assert one == pytest.approx(other, rel=1e-6)


@pytest.mark.parametrize(("micro_batches", "accumulated"), [(1, 2), (2, 4), (2, 1)])
def test_other_numbers_of_accumulated_batches_keep_the_scale(
    micro_batches: int, accumulated: int, tmp_path: Path
) -> None:
    """The gradient is the mean over the planned steps that an update spans, or an estimate of it from a part of one."""
    task, data = build("classification", tmp_path, Constant(), micro_batches=micro_batches)
    gradients: dict[str, torch.Tensor] = {}

    class Keep(Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            gradients.update({name: weight.grad.clone() for name, weight in pl_module.named_parameters()})

    quiet: dict[str, Any] = {"max_steps": 1, "limit_val_batches": 0, "enable_checkpointing": False}
    trainer(tmp_path, Keep(), accumulate_grad_batches=accumulated, **quiet).fit(task, datamodule=data)

    same, again = build("classification", tmp_path, Constant(), micro_batches=micro_batches)
    same.train()
    loader, spanned = iter(again.train_dataloader()), max(1, accumulated // micro_batches)
    for batch in (next(loader) for _ in range(accumulated)):
        part = micro_batches if accumulated < micro_batches else 1
        (same.loss(batch)[0] * part / batch.step_count / spanned).backward()
    for name, weight in same.named_parameters():
        torch.testing.assert_close(gradients[name], weight.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("unit", ["epoch", "tok"])
def test_the_schedule_is_as_long_as_the_training(unit: str, accumulated: int, tmp_path: Path) -> None:
    _, data = build("classification", tmp_path)
    assert data.clock.steps_per_epoch == 4
    warmup = "1epoch" if unit == "epoch" else f"{4 * data.clock.tokens_per_step:g}tok"
    task, data = build("classification", tmp_path, Cosine(warmup=warmup))
    settings: dict[str, Any] = {"max_steps": -1, "max_epochs": 3, "limit_val_batches": 0}
    run = trainer(tmp_path, accumulate_grad_batches=accumulated, **settings)
    run.fit(task, datamodule=data)
    rise, total = 4 // accumulated, 12 // accumulated
    expected = [1e-2 * step / rise for step in range(1, rise)]
    expected += [1e-2 * (1 + math.cos(math.pi * (step - rise) / (total - rise))) / 2 for step in range(rise, total + 1)]
    assert logged(tmp_path, "train/learning_rate") == pytest.approx(expected, abs=1e-9)


def test_steps_left_out_are_counted(tmp_path: Path) -> None:
    task, data = build("classification", tmp_path)
    task.non_finite = SkipNonFinite(limit=9)
    torch.nn.init.constant_(task.get_parameter("head.bias"), math.inf)
    trainer(tmp_path, limit_val_batches=0, enable_checkpointing=False).fit(task, datamodule=data)
    assert task.non_finite.skipped == 4
    assert not (tmp_path / "log" / "version_0" / "metrics.csv").exists() or not logged(tmp_path, "train/loss")


def test_a_training_without_an_end_needs_a_schedule_without_one(tmp_path: Path) -> None:
    task, data = build("classification", tmp_path, Cosine(warmup="1step"))
    run = trainer(tmp_path, max_steps=-1, max_epochs=-1, limit_val_batches=0, enable_checkpointing=False)
    with pytest.raises(ConfigurationError, match=r"Cosine descends until the end .* max_steps or max_epochs"):
        run.fit(task, datamodule=data)


def test_the_seed_is_that_of_whoever_seeds(tmp_path: Path) -> None:
    losses: list[list[float]] = []
    for seed in (1, 1, 2):
        task, data = build("classification", tmp_path)
        task.model.layers[0].attention.dropout = torch.nn.Dropout(0.5)  # type: ignore[union-attr, index]
        assert isinstance(task, Classification)
        task.dropout = torch.nn.Dropout(0.5)  # type: ignore[assignment]
        lightning.seed_everything(seed, verbose=False)
        folder = tmp_path / str(len(losses))
        trainer(folder, limit_val_batches=0, enable_checkpointing=False).fit(task, datamodule=data)
        losses.append(logged(folder, "train/loss"))
    assert losses[0] == losses[1] != losses[2]


def test_lightnings_checkpoint_continues_and_loads(tmp_path: Path) -> None:
    whole, data = build("classification", tmp_path)
    trainer(tmp_path / "whole", limit_val_batches=0, enable_checkpointing=False).fit(whole, datamodule=data)
    task, data = build("classification", tmp_path)
    saving = ModelCheckpoint(tmp_path, filename="step2", every_n_train_steps=2, save_top_k=-1)
    trainer(tmp_path / "first", saving, max_steps=4, limit_val_batches=0).fit(task, datamodule=data)
    saved = tmp_path / "step2.ckpt"
    assert saved.exists()
    task, data = build("classification", tmp_path)
    run = trainer(tmp_path / "second", limit_val_batches=0, enable_checkpointing=False)
    run.fit(task, datamodule=data, ckpt_path=saved, weights_only=False)
    assert run.global_step == 4
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in task.state_dict().items())

    other, _ = build("classification", tmp_path)
    parts: dict[str, Any] = {"facts": other.facts, "model": other.model, "optimizer": ADAM, "scheduler": Constant()}
    loaded = Classification.load_from_checkpoint(tmp_path / "step2.ckpt", weights_only=False, **parts)
    assert not torch.equal(loaded.head.weight, other.get_parameter("head.weight"))


def test_the_trainers_own_clipping_goes_first(tmp_path: Path) -> None:
    norms = {}
    for algorithm in ("norm", "value"):
        task, data = build("classification", tmp_path, Constant(), partial(torch.optim.SGD, lr=1.0))
        before = {name: weight.detach().clone() for name, weight in task.named_parameters()}
        clip: dict[str, Any] = {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": algorithm}
        quiet: dict[str, Any] = {"max_steps": 1, "limit_val_batches": 0, "enable_checkpointing": False}
        trainer(tmp_path, **quiet, **clip).fit(task, datamodule=data)
        moves = torch.cat([(weight - before[name]).flatten() for name, weight in task.named_parameters()])
        norms[algorithm] = (float(moves.norm()), float(moves.abs().max()))
    assert norms["norm"][0] == pytest.approx(1e-3, rel=1e-2)
    assert norms["value"][1] == pytest.approx(1e-3, rel=1e-2) and norms["value"][0] > 2e-3


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path: Path) -> None:
    task, data = build("classification", tmp_path)
    torch.nn.init.constant_(task.get_parameter("head.bias"), math.inf)
    with pytest.raises(NonFiniteError, match=r"^step 1: .* its training examples: \d+, ") as caught:
        trainer(tmp_path, log_every_n_steps=2, limit_val_batches=0).fit(task, datamodule=data)
    assert "etude replay" not in str(caught.value)


def test_loaders_alone_train_and_say_what_they_lack(tmp_path: Path) -> None:
    task, data = build("masked_lm", tmp_path)
    quiet: dict[str, Any] = {"enable_checkpointing": False, "num_sanity_val_steps": 0}
    trainer(tmp_path, **quiet, limit_val_batches=0).fit(task, data.train_dataloader())
    assert len(logged(tmp_path, "train/loss")) == 4
    with pytest.raises(ConfigurationError, match=r"MaskedLM needs its data module .* datamodule="):
        trainer(tmp_path / "val", **quiet).validate(task, data.val_dataloader(), verbose=False)


def test_an_optimizer_without_weight_decay_or_groups(tmp_path: Path) -> None:
    for optimizer in (torch.optim.LBFGS, torch.optim.Rprop):
        task, data = build("classification", tmp_path, Constant(), partial(optimizer, lr=1e-2))
        before = float(task.get_parameter("head.weight").detach().norm())
        quiet: dict[str, Any] = {"max_steps": 2, "limit_val_batches": 0, "enable_checkpointing": False}
        run = trainer(tmp_path / optimizer.__name__, **quiet)
        run.fit(task, datamodule=data)
        assert len(run.optimizers[0].param_groups) == 1
        assert float(task.get_parameter("head.weight").detach().norm()) != before


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"lr": 1e300, "fused": False}, "value cannot be converted to type float without overflow"),
        ({"betas": [0.9, 0.98, 0.99]}, "too many values to unpack"),
        ({"capturable": True}, "If capturable=True"),
    ],
)
def test_what_the_optimizer_refuses_at_its_first_step_is_one_line(
    settings: dict[str, Any], text: str, tmp_path: Path
) -> None:
    task, data = build("classification", tmp_path, optimizer=partial(torch.optim.AdamW, **settings))
    run = trainer(tmp_path, limit_val_batches=0, enable_checkpointing=False)
    with pytest.raises(
        ConfigurationError, match=rf"^optimizer, at a learning rate of \S+: {text}.*; set optimizer\.NAME"
    ):
        run.fit(task, datamodule=data)


def test_an_error_of_the_model_is_not_the_optimizers(tmp_path: Path) -> None:
    class Broken(torch.nn.Module):
        def forward(self, *values: Any) -> None:
            raise RuntimeError("shapes do not match")

    task, data = build("classification", tmp_path)
    task.dropout = Broken()
    with pytest.raises(RuntimeError, match="shapes do not match"):
        trainer(tmp_path, limit_val_batches=0, num_sanity_val_steps=0).fit(task, datamodule=data)


@pytest.mark.parametrize("kind", KINDS)
def test_forward_returns_logits(kind: str, tmp_path: Path) -> None:
    task, data = build(kind, tmp_path)
    batch: Any = next(iter(data.val_dataloader()))
    logits = task.eval()(batch)
    vocabulary = task.facts.vocabulary
    if kind == "translation":
        assert logits.shape == (*batch.labels.shape, vocabulary)
        flat, labels = logits[batch.target_mask], batch.labels[batch.target_mask]
    elif kind == "question_answering":
        starts, ends = logits
        assert starts.shape == ends.shape == batch.tokens.shape
        losses = [
            torch.nn.functional.cross_entropy(*pair, reduction="sum")
            for pair in ((starts, batch.starts), (ends, batch.ends))
        ]
        torch.testing.assert_close(task.loss(batch)[0], sum(losses) / 2)
        return
    elif kind == "classification":
        assert logits.shape == (len(batch.labels), 2)
        flat, labels = logits, batch.labels
    elif kind == "token_classification":
        assert logits.shape == (*batch.tokens.shape, 2)
        flat, labels = logits[batch.mask], batch.labels[batch.mask]
    else:
        assert logits.shape == (*batch.tokens.shape, vocabulary)
        flat, labels = logits[batch.mask], batch.labels[batch.mask]
    torch.testing.assert_close(
        task.loss(batch)[0], torch.nn.functional.cross_entropy(flat, labels, ignore_index=-100, reduction="sum")
    )
