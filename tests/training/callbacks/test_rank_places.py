"""Each place of a training is noted in its order, and the watch is stopped at its end."""

from __future__ import annotations

from pathlib import Path

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from etude.training.callbacks.rank_places import RankPlaces
from etude.training.rank_watch import RankWatch


class NotedWatch(RankWatch):
    """A watch that notes what it is told, and watches nothing."""

    def __init__(self) -> None:
        super().__init__(1.0, "1s", Path())
        self.noted: list[str] = []

    def start(self) -> None:
        self.noted.append("started")

    def stop(self) -> None:
        self.noted.append("stopped")

    def note(self, place: str) -> None:
        self.noted.append(place)


class Line(lightning.LightningModule):
    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.fails = fails

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        if self.fails:
            raise ValueError("as asked")
        loss: torch.Tensor = self.layer(batch[0]).sum()
        return loss

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def noted(folder: Path, module: Line, watch: RankWatch) -> None:
    trainer = lightning.Trainer(
        max_steps=2,
        accelerator="cpu",
        devices=1,
        callbacks=[RankPlaces(watch)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    loader = DataLoader(TensorDataset(torch.ones(2, 2)), batch_size=1)
    trainer.fit(module, loader, loader)
    trainer.save_checkpoint(folder / "saved.ckpt")


def test_places_are_noted_in_their_order(tmp_path: Path) -> None:
    watch = NotedWatch()
    noted(tmp_path, Line(), watch)
    steps = [
        place
        for step in (1, 2)
        for place in (
            f"in the forward pass of step {step}",
            f"in the backward pass of step {step}",
            f"in the update of step {step}",
            f"after a batch, with {step} steps done",
        )
    ]
    batches = [
        f"{place} of the validation after step 2" for k in (1, 2) for place in (f"at batch {k}", f"after batch {k}")
    ]
    assert watch.noted == [
        "started",
        "before step 1",
        *steps,
        "at the start of the validation after step 2",
        *batches,
        "at the end of the validation after step 2",
        "at the end of the training, after step 2",
        "stopped",
        "at the checkpoint of step 2",
    ]


def test_a_failure_stops_the_watch(tmp_path: Path) -> None:
    watch = NotedWatch()
    with pytest.raises(ValueError, match="as asked"):
        noted(tmp_path, Line(fails=True), watch)
    assert watch.noted[2:4] == ["in the forward pass of step 1", "stopped"]
