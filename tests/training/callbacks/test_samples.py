from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from etude.errors import ConfigurationError, StorageError
from etude.training.callbacks.validation_samples import ValidationSamples, table
from tests.training.callbacks.conftest import OneWeight


class Sampled(OneWeight):
    """Keeps as many samples as it is asked to, when a validation ends."""

    def on_validation_epoch_end(self) -> None:
        step = self.trainer.global_step
        rows = [{"source": f"Größe {row}\n", "output": f"size {row} at {step}"} for row in range(5)]
        self.samples = rows[: self.sample_count]


class Tables(CSVLogger):
    """A logger that shows tables, or fails to."""

    def __init__(self, folder: Path, fails: bool = False) -> None:
        super().__init__(folder)
        self.fails = fails
        self.tables: list[tuple[Any, ...]] = []

    def log_table(
        self,
        key: str,
        columns: list[str] | None = None,
        data: list[list[Any]] | None = None,
        dataframe: Any = None,
        step: int | None = None,
    ) -> None:
        if self.fails:
            raise ConnectionError("no route to host")
        self.tables.append((key, columns, data, step))


def trainer(folder: Path, *callbacks: ValidationSamples, loggers: list[CSVLogger] | None = None) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_steps=6,
        val_check_interval=3,
        default_root_dir=folder,
        callbacks=list(callbacks),
        logger=loggers or False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
    )


def loader(rows: int) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(torch.zeros(rows)))


def test_each_validation_is_written_once(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "step-00000003.jsonl").write_text("of a run that was stopped\n")
    trainer(tmp_path, ValidationSamples(count=2)).fit(Sampled(), loader(6), loader(1))
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        "step-00000003.jsonl",
        "step-00000006.jsonl",
    ]
    lines = (tmp_path / "samples" / "step-00000003.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"source": f"Größe {row}\n", "output": f"size {row} at 3"} for row in range(2)
    ]


def test_loggers_that_show_tables_get_them_and_may_fail(tmp_path: Path) -> None:
    plain, broken, good = CSVLogger(tmp_path), Tables(tmp_path, fails=True), Tables(tmp_path)
    with pytest.warns(UserWarning, match="samples of step 3 were not sent to Tables: no route to host"):
        trainer(tmp_path, ValidationSamples(count=1), loggers=[plain, broken, good]).fit(
            Sampled(), loader(6), loader(1)
        )
    assert good.tables == [
        ("samples", ["step", "source", "output"], [[step, "Größe 0\n", f"size 0 at {step}"]], step) for step in (3, 6)
    ]


def test_a_table_marks_how_an_output_differs_from_its_reference() -> None:
    samples = [{"source": "s", "reference": "the red house", "output": "the blue house"}]
    assert table(samples, 7) == (
        ["step", "source", "reference", "output", "difference"],
        [[7, "s", "the red house", "the blue house", "the [-red-]{+blue+} house"]],
    )


def test_nothing_is_written_outside_of_training_or_when_none_are_asked_for(tmp_path: Path) -> None:
    task = Sampled()
    task.sample_count = 3
    trainer(tmp_path, ValidationSamples(count=3)).validate(task, loader(1), verbose=False)
    assert task.samples
    trainer(tmp_path, ValidationSamples(count=0)).fit(Sampled(), loader(6), loader(1))
    assert not (tmp_path / "samples").exists()


def test_what_cannot_work_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"callbacks.samples.count=-1"):
        ValidationSamples(count=-1)
    with pytest.raises(ConfigurationError, match=r"LightningModule keeps no samples; write ~callbacks.samples"):
        ValidationSamples().setup(trainer(tmp_path), pl.LightningModule(), "fit")
    (tmp_path / "samples").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match=r"step-00000003.jsonl cannot be written: .*exists"):
        trainer(tmp_path, ValidationSamples(count=1)).fit(Sampled(), loader(6), loader(1))
