from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from etude.errors import ConfigurationError
from etude.training.callbacks.ema import EMA


class Task(pl.LightningModule):
    """A regression with a tied weight, a frozen one and a buffer; notes what it sees."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.first, self.second, self.frozen = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.second.weight = self.first.weight
        self.frozen.requires_grad_(False)
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(()))
        self.to(dtype)
        self.trained: list[Tensor] = []  # the tied weight after each optimizer step
        self.evaluated: list[Tensor] = []

    @property
    def weight(self) -> Tensor:
        return self.first.weight.detach().clone()

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        self.seen += 1
        rows = torch.randn(
            5, 3, generator=torch.Generator().manual_seed(index)
        )  # the loader starts anew when continued
        hidden = torch.tanh(self.first(rows.to(self.dtype)))
        return (self.frozen(self.second(hidden)) - 1).square().mean()

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.evaluated.append(self.weight)

    test_step = validation_step

    def on_before_zero_grad(self, optimizer: Any) -> None:
        self.trained.append(self.weight)  # at the start of step k: after k - 1 steps

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trainable, lr=0.05)


def batches(count: int) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(torch.zeros(count)))


def fit(task: Task, steps: int, *callbacks: Callback, resume: Path | None = None, **settings: Any) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )
    trainer.fit(task, batches(40), batches(1), ckpt_path=resume)
    return trainer


class SaveAt(Callback):
    """Saves a checkpoint after a step."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step and not self.path.exists():
            trainer.save_checkpoint(self.path)


def read(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def averaged(initial: Tensor, weights: list[Tensor], decay: float) -> Tensor:
    average = initial.double()
    for update, weight in enumerate(weights):
        d = min(decay, (1 + update) / (10 + update))
        average = d * average + (1 - d) * weight.double()
    return average


@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
def test_the_average_is_taken_once_after_each_optimizer_step(tmp_path: Path, micro_batches: int, decay: float) -> None:
    task = Task()
    initial, path = task.weight, tmp_path / "checkpoint"
    fit(task, 11, EMA(decay), SaveAt(11, path), accumulate_grad_batches=micro_batches)
    checkpoint = read(path)
    weights = [*task.trained[1:], task.weight]
    assert len(weights) == 11
    expected = averaged(initial, weights, decay).float()
    torch.testing.assert_close(checkpoint["state_dict"]["first.weight"], expected)
    assert checkpoint["callbacks"]["EMA"]["updates"] == 11


def test_a_checkpoint_holds_what_was_validated_and_the_weights_that_training_goes_on_with(tmp_path: Path) -> None:
    task, path = Task(), tmp_path / "checkpoint"
    fit(task, 10, EMA(0.9), SaveAt(10, path), val_check_interval=5)
    checkpoint = read(path)
    kept, state = checkpoint["state_dict"], checkpoint["callbacks"]["EMA"]
    assert len(task.evaluated) == 2
    assert torch.equal(kept["first.weight"], task.evaluated[-1])
    assert torch.equal(kept["second.weight"], task.evaluated[-1])  # the tied name too
    assert torch.equal(state["weights"]["first.weight"], task.weight)
    assert not torch.equal(task.weight, task.evaluated[-1])
    assert set(state["weights"]) == {"first.weight", "first.bias", "second.bias"}
    assert kept["seen"] == 10 and torch.equal(kept["frozen.weight"], Task().frozen.weight)
    assert set(kept) == set(Task().state_dict())


def test_validation_leaves_no_trace_in_training() -> None:
    often, never, without = Task(), Task(), Task()
    fit(often, 12, EMA(0.9), val_check_interval=1)
    fit(never, 12, EMA(0.9), val_check_interval=40)
    fit(without, 12, val_check_interval=1)
    assert len(often.evaluated) == 12 and not never.evaluated
    assert torch.equal(often.weight, never.weight) and torch.equal(often.weight, without.weight)


@pytest.mark.parametrize(("micro_batches", "dtype"), [(1, torch.float32), (2, torch.float32), (1, torch.bfloat16)])
def test_a_continued_training_is_the_same_training(tmp_path: Path, micro_batches: int, dtype: torch.dtype) -> None:
    """Ten steps, and five and five more: the same weights and averages, bit for bit."""
    settings: dict[str, Any] = {"accumulate_grad_batches": micro_batches, "val_check_interval": 2 * micro_batches}
    straight, first, second = tmp_path / "straight", tmp_path / "first", tmp_path / "second"
    whole = Task(dtype)
    fit(whole, 10, EMA(0.9), SaveAt(5, first), SaveAt(10, straight), **settings)
    continued = Task(dtype)
    with torch.no_grad():
        continued.first.weight.zero_()  # all must come from the checkpoint
    fit(continued, 10, EMA(0.9), SaveAt(10, second), resume=first, **settings)
    one, other = read(straight), read(second)
    for name, tensor in one["state_dict"].items():
        assert torch.equal(tensor, other["state_dict"][name]), name
    for name, tensor in one["callbacks"]["EMA"]["weights"].items():
        assert torch.equal(tensor, other["callbacks"]["EMA"]["weights"][name]), name
    assert torch.equal(whole.evaluated[-1], continued.evaluated[-1])


def test_a_test_sees_the_averages_of_its_checkpoint(tmp_path: Path) -> None:
    task, path, ema = Task(), tmp_path / "checkpoint", EMA(0.9)
    trainer = fit(task, 9, ema, SaveAt(4, path))
    trained = task.weight
    trainer.test(task, batches(1), verbose=False)  # the last averages, swapped in
    assert not torch.equal(task.evaluated[-1], trained) and torch.equal(task.weight, trained)
    trainer.test(task, batches(1), ckpt_path=path, verbose=False)
    assert torch.equal(task.evaluated[-1], read(path)["state_dict"]["first.weight"])
    fresh = Task()
    fit_less = pl.Trainer(accelerator="cpu", callbacks=[EMA(0.9)], logger=False, enable_progress_bar=False)
    fit_less.test(fresh, batches(1), ckpt_path=path, verbose=False)
    assert torch.equal(fresh.evaluated[-1], task.evaluated[-1])


def test_a_checkpoint_saved_while_the_averages_are_in_place_is_the_same(tmp_path: Path) -> None:
    class SaveInside(Callback):
        def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            trainer.save_checkpoint(tmp_path / "inside")

    task = Task()
    fit(task, 5, EMA(0.9), SaveInside(), SaveAt(5, tmp_path / "outside"), val_check_interval=5)
    inside, outside = read(tmp_path / "inside"), read(tmp_path / "outside")
    assert torch.equal(inside["state_dict"]["first.weight"], outside["state_dict"]["first.weight"])
    ours, theirs = inside["callbacks"]["EMA"], outside["callbacks"]["EMA"]
    assert torch.equal(ours["weights"]["first.weight"], theirs["weights"]["first.weight"])


def test_half_precision_is_averaged_in_float32(tmp_path: Path) -> None:
    task, path = Task(torch.bfloat16), tmp_path / "checkpoint"
    fit(task, 7, EMA(0.999), SaveAt(7, path), val_check_interval=7)
    average = read(path)["state_dict"]["first.weight"]
    assert average.dtype == torch.float32
    assert torch.equal(average.bfloat16(), task.evaluated[-1])


def test_a_second_training_does_not_remember_the_first(tmp_path: Path) -> None:
    ema, fresh, used = EMA(0.9), tmp_path / "fresh", tmp_path / "used"
    fit(Task(), 5, EMA(0.9), SaveAt(5, fresh))
    fit(Task(), 3, ema)
    fit(Task(), 5, ema, SaveAt(5, used))
    assert torch.equal(read(fresh)["state_dict"]["first.weight"], read(used)["state_dict"]["first.weight"])
    assert read(used)["callbacks"]["EMA"]["updates"] == 5


def test_what_cannot_be_averaged_is_refused() -> None:
    for decay in (-0.1, 1.0):
        with pytest.raises(ConfigurationError, match=f"callbacks.ema.decay={decay}"):
            EMA(decay)
    sharding = cast(pl.Trainer, SimpleNamespace(strategy=FSDPStrategy()))
    with pytest.raises(ConfigurationError, match=r"sharded by FSDPStrategy; write trainer.strategy=ddp"):
        EMA().on_train_start(sharding, Task())
