"""A data module in a plain `lightning.Trainer`, without a run."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor

from etude.data.base import DataSettings
from etude.data.corpora import ParallelFiles
from etude.data.sizes import BatchSize, Limit
from etude.data.translation import TranslationData
from etude.errors import ConfigurationError, DataError
from etude.packages import cache_folder
from etude.tokenization.trained import Bytes
from etude.types import TranslationBatch


class Lengths(lightning.LightningModule):
    """Sums what it is given; its one weight is there to be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Linear(1, 1)
        self.seen: list[tuple[str, int]] = []

    def training_step(self, batch: TranslationBatch, index: int) -> Tensor:
        self.seen += [("train", example) for example in batch.ids.tolist()]
        loss: Tensor = self.weight(batch.source_mask.sum(dim=1, keepdim=True).float()).mean()
        return loss

    def validation_step(self, batch: TranslationBatch, index: int) -> None:
        self.seen += [("val", example) for example in batch.ids.tolist()]

    def test_step(self, batch: TranslationBatch, index: int) -> None:
        self.seen += [("test", example) for example in batch.ids.tolist()]

    def predict_step(self, batch: TranslationBatch, index: int) -> Tensor:
        return batch.ids

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)

    def counts(self, split: str) -> dict[int, int]:
        examples = [example for name, example in self.seen if name == split]
        return {example: examples.count(example) for example in examples}


def data(folder: Path, *splits: str, **settings: Any) -> TranslationData:
    for number, split in enumerate(splits):
        for language in ("en", "de"):
            lines = (f"line {line} of {split} in {language}\n" for line in range(9 - number))
            (folder / f"{split}.{language}").write_text("".join(lines))
    corpus = ParallelFiles(str(folder), "en", "de", {split: split for split in splits})
    settings = {"batch": BatchSize(examples=4), "cache": folder / "cache", **settings}
    return TranslationData(corpus, max_length=64, settings=DataSettings(Bytes(), **settings))


def trainer(**settings: Any) -> lightning.Trainer:
    silent: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return lightning.Trainer(accelerator="cpu", max_epochs=2, **silent, **settings)


def test_settings_have_defaults() -> None:
    settings = DataSettings(Bytes())
    assert (settings.batch, settings.limit, settings.cache) == (BatchSize(examples=32), Limit(), cache_folder())


def test_every_example_once_an_epoch_in_every_loop(tmp_path: Path) -> None:
    module, texts, run = Lengths(), data(tmp_path, "train", "val", "test"), trainer()
    assert not (tmp_path / "cache").exists()
    run.fit(module, datamodule=texts)
    assert module.counts("train") == dict.fromkeys(range(9), 2)
    assert module.counts("val") == dict.fromkeys(range(8), 2 + 1)  # and the sanity check's batch, which has all of them
    run.validate(module, datamodule=texts, verbose=False)
    run.test(module, datamodule=texts, verbose=False)
    assert module.counts("test") == dict.fromkeys(range(7), 1)
    predictions = run.predict(module, datamodule=texts)
    assert sorted(torch.cat(predictions).tolist()) == list(range(7))  # type: ignore[arg-type]
    texts.evaluated = "val"
    assert len(torch.cat(run.predict(module, datamodule=texts))) == 8  # type: ignore[arg-type]


def test_lightning_prepares(tmp_path: Path) -> None:
    texts = data(tmp_path, "train", "val")
    texts.prepare_data()
    assert list((tmp_path / "cache" / "prepared").iterdir())
    again = data(tmp_path, "train", "val")
    again.setup("fit")
    assert again.prepared.fingerprint == texts.prepared.fingerprint


def test_the_workers_of_training_end_with_it(tmp_path: Path) -> None:
    texts = data(tmp_path, "train", workers=1)
    module, children = Lengths(), []
    module.on_train_epoch_end = lambda: children.extend(multiprocessing.active_children())  # type: ignore[method-assign]
    run = trainer()
    run.fit(module, datamodule=texts)
    assert module.counts("train") == dict.fromkeys(range(9), 2)
    assert children
    assert not any(child.is_alive() for child in children)


def test_a_split_that_is_missing(tmp_path: Path) -> None:
    module, texts, run = Lengths(), data(tmp_path, "train"), trainer()
    run.fit(module, datamodule=texts)  # without a validation
    for loop, split in ((run.validate, "val"), (run.test, "test"), (run.predict, "test")):
        with pytest.raises(DataError, match=rf"the data has no split '{split}', only \['train'\]"):
            loop(module, datamodule=texts)


def test_lightning_must_not_divide_the_batches_again(tmp_path: Path) -> None:
    texts = data(tmp_path, "train", "val")
    texts.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=0, world_size=2, _accelerator_connector=SimpleNamespace(use_distributed_sampler=True)
    )
    with pytest.raises(ConfigurationError, match=r"write Trainer\(use_distributed_sampler=False\)"):
        texts.train_dataloader()
