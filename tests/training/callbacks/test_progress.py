from __future__ import annotations

import io
import re

import lightning.pytorch as pl
import nbformat
import pytest
import torch
from nbclient import NotebookClient
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from etude.training.callbacks.progress_bar import StepProgressBar
from tests.training.callbacks.conftest import OneWeight


class Tiny(OneWeight):
    """Logs every third step, after the callbacks were told of the batch's end."""

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        if (batch_idx + 1) % 2 == 0 and self.global_step % 3 == 0:
            self.last_logged = {"train/loss": 10 / self.global_step, "speed/tokens_per_second": 12345.6}

    def on_validation_epoch_end(self) -> None:
        self.log("val/loss", 2.5)

    def on_test_epoch_end(self) -> None:
        self.log("test/loss", 3.5)


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
    trainer(StepProgressBar(stream)).fit(Tiny(), loader(10), loader(2))
    lines = [re.sub(r"remaining \d\d:\d\d", "remaining …", line) for line in stream.getvalue().splitlines()]
    assert lines == [
        "step 3/7  loss 3.3333  12,346 tokens/s  remaining …",
        "step 5/7  val/loss 2.5",
        "step 6/7  loss 1.6667  12,346 tokens/s  remaining …",
    ]
    assert capsys.readouterr().out == ""


def test_a_time_budget_has_no_total() -> None:
    stream = io.StringIO()
    trainer(StepProgressBar(stream), max_steps=-1).fit(Tiny(), loader(10), loader(2))
    assert stream.getvalue().splitlines()[0] == "step 3  loss 3.3333  12,346 tokens/s"


def test_the_last_line_is_not_lost() -> None:
    stream = io.StringIO()
    trainer(StepProgressBar(stream), max_steps=6).fit(Tiny(), loader(10), loader(2))
    assert stream.getvalue().splitlines()[-1].startswith("step 6/6  loss 1.6667")


def test_a_terminal_shows_the_whole_budget_in_steps(capsys: pytest.CaptureFixture[str]) -> None:
    stream = Terminal()
    trainer(StepProgressBar(stream)).fit(Tiny(), loader(10), loader(2))
    shown = stream.getvalue()
    assert "training" in shown and "validation" in shown
    assert "7/7" in shown and "10/10" not in shown
    assert "loss 1.6667  12,346 tokens/s" in shown
    assert "step 5/7  val/loss 2.5\n" in shown
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_a_notebook_shows_a_bar() -> None:
    """In a real kernel: its streams are no terminals, and rewrite their last line on a carriage return."""
    cell = """
import sys
from types import SimpleNamespace
from etude.training.callbacks.progress_bar import StepProgressBar
trainer = SimpleNamespace(global_step=3, max_steps=7)
progress = StepProgressBar()
progress.on_train_start(trainer, None)
progress.on_train_batch_end(trainer, None, None, None, 0)
progress.on_train_end(trainer, None)
print(sys.stderr.isatty())
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    NotebookClient(notebook, timeout=120).execute()
    outputs = notebook.cells[0].outputs
    stdout, stderr = ("".join(out["text"] for out in outputs if out["name"] == name) for name in ("stdout", "stderr"))
    assert stdout == "False\n"
    assert re.search(r"training:\s+43%.*3/7", stderr)


def test_scores_of_a_test_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    trainer(StepProgressBar(stream)).test(Tiny(), loader(2), verbose=False)
    assert stream.getvalue().splitlines() == ["step 0/7  test/loss 3.5"]
    assert capsys.readouterr().out == ""


def test_a_disabled_bar_is_silent() -> None:
    stream = Terminal()
    progress = StepProgressBar(stream)
    progress.disable()
    trainer(progress).fit(Tiny(), loader(10), loader(2))
    assert stream.getvalue() == ""
