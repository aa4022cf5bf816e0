from __future__ import annotations

import io
import re

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from etude.training.callbacks.progress_bar import StepProgressBar


class Task(pl.LightningModule):
    """Logs every third step, after the callbacks were told of the batch's end, as etude's tasks do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.last_logged: dict[str, float] = {}

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        return self.weight.square()

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        if (batch_idx + 1) % 2 == 0 and self.global_step % 3 == 0:
            self.last_logged = {"train/loss": 10 / self.global_step, "speed/tokens_per_second": 12345.6}

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.log("val/loss", 2.5)

    def test_step(self, batch: Tensor, index: int) -> None:
        self.log("test/loss", 3.5)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def loader(rows: int) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(torch.zeros(rows)))


def trainer(progress: StepProgressBar, max_steps: int = 7) -> pl.Trainer:
    """Two micro-batches a step; five steps an epoch; a validation after each."""
    return pl.Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        max_epochs=2,
        accumulate_grad_batches=2,
        callbacks=[progress],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
    )


def test_without_a_terminal_there_is_a_line_for_each_time_the_task_logs(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    trainer(StepProgressBar(stream)).fit(Task(), loader(10), loader(2))
    lines = [re.sub(r"remaining \d\d:\d\d", "remaining …", line) for line in stream.getvalue().splitlines()]
    assert lines == [
        "step 3/7  loss 3.3333  12,346 tokens/s  remaining …",
        "step 5/7  val/loss 2.5",
        "step 6/7  loss 1.6667  12,346 tokens/s  remaining …",
    ]
    assert capsys.readouterr().out == ""


def test_a_time_budget_has_no_total() -> None:
    stream = io.StringIO()
    trainer(StepProgressBar(stream), max_steps=-1).fit(Task(), loader(10), loader(2))
    assert stream.getvalue().splitlines()[0] == "step 3  loss 3.3333  12,346 tokens/s"


def test_the_last_line_is_not_lost() -> None:
    stream = io.StringIO()
    trainer(StepProgressBar(stream), max_steps=6).fit(Task(), loader(10), loader(2))
    assert stream.getvalue().splitlines()[-1].startswith("step 6/6  loss 1.6667")


def test_a_terminal_shows_the_whole_budget_in_steps(capsys: pytest.CaptureFixture[str]) -> None:
    stream = Terminal()
    trainer(StepProgressBar(stream)).fit(Task(), loader(10), loader(2))
    shown = stream.getvalue()
    assert "training" in shown and "validation" in shown
    assert "7/7" in shown and "10/10" not in shown
    assert "loss 1.6667  12,346 tokens/s" in shown
    assert "step 5/7  val/loss 2.5\n" in shown
    assert capsys.readouterr().out == ""


def test_scores_of_a_test_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    trainer(StepProgressBar(stream)).test(Task(), loader(2), verbose=False)
    assert stream.getvalue().splitlines() == ["step 0/7  test/loss 3.5"]
    assert capsys.readouterr().out == ""


def test_a_disabled_bar_is_silent() -> None:
    stream = Terminal()
    progress = StepProgressBar(stream)
    progress.disable()
    trainer(progress).fit(Task(), loader(10), loader(2))
    assert stream.getvalue() == ""
