from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any, cast

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from etude.checkpoints.checkpoint import Snapshot, write
from etude.checkpoints.integrity import checkpoints, read_manifest
from etude.checkpoints.saver import CheckpointSaver, FolderCheckpointIO, Retention, newest_valid, read_weights
from etude.errors import ConfigurationError, StorageError

BATCHES = 7
EPOCHS = 3
EVERY = 5
"""Steps between validations: coprime to the epoch's batches, so that they fall everywhere in it."""


class Loader(DataLoader[Tensor]):
    """Serves an epoch's batches, which depend on the epoch and their place, and knows its position."""

    def __init__(self, batches: int) -> None:
        super().__init__(range(batches), batch_size=1)  # type: ignore[arg-type]
        self.batches = batches
        self.epoch, self.batch = 0, 0

    def __iter__(self) -> Iterator[Tensor]:  # type: ignore[override]
        epoch = self.epoch
        for batch in range(self.batch, self.batches):
            self.epoch, self.batch = (epoch + 1, 0) if batch == self.batches - 1 else (epoch, batch + 1)
            yield torch.randn(3, 5, generator=torch.Generator().manual_seed(100 * epoch + batch))

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.batch = state["epoch"], state["batch"]


class Model(lightning.LightningModule):
    """Autoencodes with tied weights and dropout, and writes down what happens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encode = nn.Linear(5, 5)
        self.decode = nn.Linear(5, 5)
        self.decode.weight = self.encode.weight
        self.happened: list[tuple[str, int, float]] = []

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        torch.manual_seed(1000 * self.current_epoch + index)
        loss = (self.decode(nn.functional.dropout(self.encode(batch), 0.3)) - batch).square().mean()
        self.happened.append(("train", self.trainer.global_step, loss.item()))
        return loss

    def validation_step(self, batch: Tensor, index: int) -> None:
        loss = (self.decode(self.encode(batch)) - batch).square().mean()
        self.happened.append(("val", self.trainer.global_step, loss.item()))
        self.log("val/loss", loss)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)

    def train_dataloader(self) -> Loader:
        return Loader(BATCHES * self.trainer.accumulate_grad_batches)

    def val_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader([torch.ones(5)], batch_size=1)  # type: ignore[arg-type]


class StopAfter(Callback):
    """Asks the trainer to stop after a number of batches, as a signal would."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_train_batch_end(self, *_: Any) -> None:
        self.batches -= 1

    def on_before_zero_grad(self, trainer: lightning.Trainer, *_: Any) -> None:
        trainer.should_stop = self.batches <= 1


class KilledError(Exception):
    """Stands for a SIGKILL: nothing is saved on the way out."""

    def __init__(self, model: Model) -> None:
        self.model = model


class DieAfter(Callback):
    """Raises when a number of steps are done and all that belongs to them."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            raise KilledError(cast(Model, pl_module))


def saver(folder: Path, micro_batches: int = 1, **options: Any) -> CheckpointSaver:
    arguments: dict[str, Any] = {
        "every_steps": 1,
        "metric": "val/loss",
        "validation_due": lambda step: step % EVERY == 0,
        "retention": Retention(keep_last=99),
        **options,
    }
    return CheckpointSaver(folder / "checkpoints", **arguments)


def fit(
    folder: Path,
    *others: Callback,
    callback: CheckpointSaver | None = None,
    from_: Path | None = None,
    micro_batches: int = 1,
    **options: Any,
) -> Model:
    model = Model()
    trainer = lightning.Trainer(
        **{
            "max_epochs": EPOCHS,
            "val_check_interval": EVERY * micro_batches,
            "check_val_every_n_epoch": None,
            "accumulate_grad_batches": micro_batches,
            **options,
        },
        accelerator="cpu",
        logger=False,
        plugins=[FolderCheckpointIO()],
        callbacks=[callback or saver(folder), *others],
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(model, ckpt_path=from_)
    return model


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.fixture(autouse=True)
def quiet() -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    """A run that nobody interrupted, with a checkpoint of every step."""
    folder = tmp_path_factory.mktemp("whole")
    return folder / "checkpoints", fit(folder)


# Continuing


def test_a_run_leaves_a_checkpoint_for_every_step(whole: tuple[Path, Model]) -> None:
    folder, model = whole
    assert list(checkpoints(folder)) == list(range(1, BATCHES * EPOCHS + 1))
    last = read_weights(folder / "last")
    assert all(torch.equal(last[name], tensor) for name, tensor in model.state_dict().items())
    assert last["decode.weight"] is last["encode.weight"]


@pytest.mark.parametrize("step", range(1, BATCHES * EPOCHS + 1))
def test_continued_from_any_step_it_is_the_same_run(tmp_path: Path, whole: tuple[Path, Model], step: int) -> None:
    folder, model = whole
    again = fit(tmp_path, from_=checkpoints(folder)[step])
    assert same_weights(again, model)
    expected = [event for event in model.happened if event[1] >= step]
    # A checkpoint is written after the validation of its step: that one is not due again.
    assert again.happened == [event for event in expected if event[0] == "train" or event[1] > step]


def test_killed_after_every_single_step_it_is_the_same_run(tmp_path: Path, whole: tuple[Path, Model]) -> None:
    folder, model = whole
    happened: list[tuple[str, int, float]] = []
    for step in range(1, BATCHES * EPOCHS):
        with pytest.raises(KilledError) as killed:
            fit(tmp_path, DieAfter(step), from_=newest_valid(tmp_path / "checkpoints"))
        happened += killed.value.model.happened
    again = fit(tmp_path, from_=newest_valid(tmp_path / "checkpoints"))
    assert same_weights(again, model)
    assert happened + again.happened == model.happened
    for step, path in checkpoints(folder).items():
        for file in path.iterdir():
            assert file.read_bytes() == (tmp_path / "checkpoints" / path.name / file.name).read_bytes(), (step, file)


@pytest.mark.parametrize("step", [2, 6, 7, 9, 13])
def test_stopped_at_any_step_and_continued_it_is_the_same_run(
    tmp_path: Path, whole: tuple[Path, Model], step: int
) -> None:
    _, model = whole
    callback = saver(tmp_path, every_steps=None)
    stopped = fit(tmp_path, StopAfter(step), callback=callback, min_epochs=0)
    assert stopped.trainer.global_step == step
    newest = newest_valid(tmp_path / "checkpoints")
    assert newest is not None
    assert read_manifest(newest).step == step
    again = fit(tmp_path, from_=newest)
    assert same_weights(again, model)
    trained = [event for event in stopped.happened + again.happened if event[0] == "train"]
    assert trained == [event for event in model.happened if event[0] == "train"]


def test_ended_in_the_middle_of_an_epoch_and_given_more_steps(tmp_path: Path, whole: tuple[Path, Model]) -> None:
    _, model = whole
    first = fit(tmp_path, callback=saver(tmp_path, every_steps=None), max_epochs=-1, max_steps=11)
    again = fit(tmp_path, from_=newest_valid(tmp_path / "checkpoints"))
    assert same_weights(again, model)
    assert first.happened + again.happened == model.happened


def test_a_finished_run_trains_no_more(tmp_path: Path, whole: tuple[Path, Model]) -> None:
    folder, model = whole
    again = fit(tmp_path, from_=folder / "last")
    assert same_weights(again, model)
    assert again.happened == []
    assert not (tmp_path / "checkpoints").exists()


def test_killed_again_and_again_it_is_the_same_run(tmp_path: Path, whole: tuple[Path, Model]) -> None:
    _, model = whole
    step, killed = 0, 0
    while True:
        step += 4
        try:
            again = fit(
                tmp_path,
                DieAfter(step),
                callback=saver(tmp_path, every_steps=3, retention=Retention(keep_last=2)),
                from_=newest_valid(tmp_path / "checkpoints"),
            )
        except KilledError:
            killed += 1
            continue
        break
    assert killed == 5
    assert same_weights(again, model)
    assert list(checkpoints(tmp_path / "checkpoints"))[-2:] == [20, 21]


def test_a_broken_newest_checkpoint_costs_steps_and_nothing_else(tmp_path: Path, whole: tuple[Path, Model]) -> None:
    _, model = whole
    with pytest.raises(KilledError):
        fit(tmp_path, DieAfter(13))
    folder = tmp_path / "checkpoints"
    os.truncate(folder / "step-00000013" / "training.safetensors", 100)
    newest = newest_valid(folder)
    assert newest == folder / "step-00000012"
    again = fit(tmp_path, from_=newest)
    assert same_weights(again, model)
    assert newest_valid(folder) == folder / "step-00000021"
    assert read_manifest(folder / "step-00000013").step == 13


@pytest.fixture(scope="module")
def whole_in_micro_batches(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    folder = tmp_path_factory.mktemp("micro")
    return folder / "checkpoints", fit(folder, micro_batches=2)


@pytest.mark.parametrize("step", [1, 5, 7, 9, 10, 14])
def test_steps_of_several_micro_batches(tmp_path: Path, whole_in_micro_batches: tuple[Path, Model], step: int) -> None:
    folder, model = whole_in_micro_batches
    saved = checkpoints(folder)
    assert list(saved) == list(range(1, BATCHES * EPOCHS + 1))
    again = fit(tmp_path, from_=saved[step], micro_batches=2)
    assert same_weights(again, model)
    assert [event for event in again.happened if event[0] == "train"] == [
        event for event in model.happened if event[0] == "train" and event[1] >= step
    ]


def test_stopped_between_micro_batches_nothing_wrong_is_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class StopInside(Callback):
        def on_train_batch_end(self, trainer: lightning.Trainer, *others: Any) -> None:
            trainer.should_stop = others[-1] == 2

    fit(tmp_path, StopInside(), callback=saver(tmp_path, every_steps=None), micro_batches=2, min_epochs=0)
    assert not checkpoints(tmp_path / "checkpoints")
    assert "between the micro-batches of step 2" in caplog.text


# When


def test_another_callback_can_have_a_step_saved_also_before_its_validation(
    tmp_path: Path, whole: tuple[Path, Model]
) -> None:
    folder, _ = whole
    callback = saver(tmp_path, every_steps=None)

    class SaveNow(Callback):
        def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
            callback.save_now(trainer)

    fit(tmp_path, SaveNow(), callback=callback)
    for step, path in checkpoints(folder).items():
        for file in path.iterdir():
            assert file.read_bytes() == (tmp_path / "checkpoints" / path.name / file.name).read_bytes(), (step, file)


def test_every_validation_has_a_checkpoint_with_its_score(tmp_path: Path) -> None:
    model = fit(tmp_path, callback=saver(tmp_path, every_steps=None))
    saved = checkpoints(tmp_path / "checkpoints")
    assert list(saved) == [5, 10, 15, 20, 21]
    scores = {step: pytest.approx(loss) for kind, step, loss in model.happened if kind == "val"}
    assert {step: read_manifest(path).score for step, path in saved.items()} == {**scores, 21: None}


def test_without_a_metric_validations_are_no_reason_to_save(tmp_path: Path) -> None:
    fit(tmp_path, callback=saver(tmp_path, every_steps=10, metric=None))
    saved = checkpoints(tmp_path / "checkpoints")
    assert list(saved) == [10, 20, 21]
    assert {read_manifest(path).score for path in saved.values()} == {None}


def test_without_validation_data_nothing_waits_for_it(tmp_path: Path) -> None:
    fit(tmp_path, callback=saver(tmp_path, every_steps=5), limit_val_batches=0)
    assert list(checkpoints(tmp_path / "checkpoints")) == [5, 10, 15, 20, 21]


def test_by_time_each_save_starts_the_interval_anew(tmp_path: Path) -> None:
    ticks: Callable[[], float] = cast(Any, Ticks(seconds=1.0))
    callback = saver(
        tmp_path, every_steps=None, every_seconds=4.0, metric=None, clock=ticks, validation_due=lambda _: False
    )
    fit(tmp_path, callback=callback, limit_val_batches=0)
    # The clock is read once at the start, once at each step and once at each save.
    assert list(checkpoints(tmp_path / "checkpoints")) == [4, 8, 12, 16, 20, 21]


class Ticks:
    """A clock that moves on with every look at it."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 100.0, seconds

    def __call__(self) -> float:
        self.now += self.seconds
        return self.now


def test_by_time_a_step_is_waited_for(tmp_path: Path, whole_in_micro_batches: tuple[Path, Model]) -> None:
    class Batches(Callback):
        done = 0

        def on_train_batch_start(self, *_: Any) -> None:
            self.done += 1

    clock = Batches()
    callback = saver(
        tmp_path,
        every_steps=None,
        every_seconds=7.0,
        metric=None,
        clock=lambda: clock.done,
        validation_due=lambda _: False,
    )
    fit(tmp_path, clock, callback=callback, micro_batches=2)
    saved = checkpoints(tmp_path / "checkpoints")
    assert list(saved) == [4, 8, 12, 16, 20, 21]  # 7 micro-batches are three steps and a half
    again = fit(tmp_path / "again", from_=saved[12], micro_batches=2)
    assert same_weights(again, whole_in_micro_batches[1])


def test_by_time_rank_0_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def broadcast(self: object, value: Any, src: int = 0) -> Any:
        if not isinstance(value, bool):
            return value  # one of Lightning's own
        asked.append(value)
        return len(asked) == 3

    monkeypatch.setattr(lightning.Trainer, "world_size", property(lambda self: 2))
    monkeypatch.setattr(SingleDeviceStrategy, "broadcast", broadcast)
    clock = Ticks(seconds=1000.0)
    fit(tmp_path, callback=saver(tmp_path, every_steps=None, every_seconds=1.0, clock=clock), limit_val_batches=0)
    assert asked == [True] * (BATCHES * EPOCHS)
    assert list(checkpoints(tmp_path / "checkpoints")) == [3, 21]


def test_only_the_last_and_best_stay_and_lightning_finds_the_best(tmp_path: Path) -> None:
    callback = saver(tmp_path, retention=Retention(keep_last=2, keep_best=1, mode="max"))
    model = fit(tmp_path, callback=callback)
    scores = {step: loss for kind, step, loss in model.happened if kind == "val"}
    best = max(scores, key=lambda step: scores[step])
    assert list(checkpoints(tmp_path / "checkpoints")) == sorted({best, 20, 21})
    assert callback.best_model_path == str((tmp_path / "checkpoints" / f"step-{best:08d}").resolve())
    model.trainer.validate(model, ckpt_path="best", verbose=False)
    assert model.happened[-1][2] == scores[best]


def test_milestones_are_written_and_stay_whatever_else_is_due(tmp_path: Path) -> None:
    fit(tmp_path, callback=saver(tmp_path, every_steps=7, metric=None, retention=Retention(keep_last=2, keep_every=4)))
    assert list(checkpoints(tmp_path / "checkpoints")) == [4, 8, 12, 16, 20, 21]


def test_validating_alone_saves_nothing(tmp_path: Path, whole: tuple[Path, Model]) -> None:
    folder, _ = whole
    model = Model()
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        plugins=[FolderCheckpointIO()],
        callbacks=[saver(tmp_path)],
        enable_progress_bar=False,
    )
    trainer.validate(model, ckpt_path=str(folder / "last"), verbose=False)
    assert not (tmp_path / "checkpoints").exists()


def test_a_metric_that_is_not_logged_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"validate\.metric='val/bleu' was not logged; .* logged: val/loss"):
        fit(tmp_path, callback=saver(tmp_path, metric="val/bleu"))


def test_lightning_can_remove_a_checkpoint(tmp_path: Path) -> None:
    fit(tmp_path, max_epochs=1)
    FolderCheckpointIO().remove_checkpoint(tmp_path / "checkpoints" / "step-00000003")
    assert 3 not in checkpoints(tmp_path / "checkpoints")


def test_tensors_go_to_the_device_that_is_asked_for(whole: tuple[Path, Model]) -> None:
    loaded = FolderCheckpointIO().load_checkpoint(whole[0] / "last", map_location="meta")
    assert loaded["state_dict"]["encode.weight"].device.type == "meta"


# In the background


class SlowDisk:
    """Holds up every checkpoint in the thread that writes it until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.go = threading.Event()
        self.steps: list[int] = []
        self.threads: set[int] = set()

        def slow(taken: Snapshot, folder: Path, companions: Mapping[str, Path]) -> None:
            self.go.wait(30)
            self.steps.append(taken.step)
            self.threads.add(threading.get_ident())
            if error is not None:
                raise error
            write(taken, folder, companions)

        monkeypatch.setattr("etude.checkpoints.saver.write", slow)


class AtStep(Callback):
    """Acts before the batch that follows a step."""

    def __init__(self, step: int, act: Callable[[], object]) -> None:
        self.step, self.act = step, act

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            self.act()


def test_steps_go_on_while_a_checkpoint_is_written_and_it_holds_its_own_step(
    tmp_path: Path, whole: tuple[Path, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = whole
    disk = SlowDisk(monkeypatch)
    seen: list[list[int]] = []

    def look() -> None:
        seen.append(list(checkpoints(tmp_path / "checkpoints")))
        disk.go.set()

    fit(tmp_path, AtStep(9, look), callback=saver(tmp_path, every_steps=6, metric=None))
    assert seen == [[]]  # step 6 was due three steps ago
    saved = checkpoints(tmp_path / "checkpoints")
    assert list(saved) == disk.steps == [6, 12, 18, 21]
    assert threading.get_ident() not in disk.threads
    for step, path in saved.items():
        for file in path.glob("*.safetensors"):
            assert file.read_bytes() == (folder / path.name / file.name).read_bytes(), (step, file)


def test_one_save_at_a_time_and_links_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SlowDisk(monkeypatch)
    callback = saver(tmp_path, every_steps=2, metric=None)
    timer = threading.Timer(0.5, disk.go.set)
    seen: list[tuple[list[int], bool]] = []

    def look() -> None:
        seen.append((list(disk.steps), (tmp_path / "checkpoints" / "last").is_symlink()))

    timer.start()
    fit(tmp_path, AtStep(3, look), AtStep(4, look), callback=callback)
    assert seen[0] == ([], False)
    assert seen[1][0][:1] == [2]  # step 4 has waited for it
    assert (tmp_path / "checkpoints" / "last").resolve().name == "step-00000021"


@pytest.mark.parametrize("at", [4, 21])
def test_a_full_disk_ends_the_training_after_the_next_step_and_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    fit(tmp_path, callback=saver(tmp_path, every_steps=3, metric=None), max_epochs=-1, max_steps=3)
    before = newest_valid(tmp_path / "checkpoints")
    disk = SlowDisk(monkeypatch, StorageError("cannot write step-00000004: No space left on device"))
    disk.go.set()
    trained: list[int] = []

    class LetItFail(Callback):
        def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
            trained.append(trainer.global_step)
            if trainer.global_step == at + 1:
                futures.wait([cast(Any, trainer.strategy.checkpoint_io).writer._last], 30)

    with pytest.raises(StorageError, match="No space left"):
        fit(tmp_path, LetItFail(), callback=saver(tmp_path, every_steps=at, metric=None), from_=before)
    assert disk.steps == [at]
    assert trained[-1] == min(at + 1, BATCHES * EPOCHS)
    assert newest_valid(tmp_path / "checkpoints") == before
    assert (tmp_path / "checkpoints" / "last").resolve() == before


def test_what_a_training_fails_by_is_told_before_what_the_disk_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = SlowDisk(monkeypatch, StorageError("No space left on device"))

    class Fail(Callback):
        def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
            if trainer.global_step == 2:
                disk.go.set()
                raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        fit(tmp_path, Fail(), callback=saver(tmp_path, every_steps=1, metric=None))
    assert "No space left on device" in caplog.text


def test_a_training_that_fails_leaves_the_checkpoint_it_had_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    timer = threading.Timer(0.3, disk.go.set)
    timer.start()
    with pytest.raises(KilledError):
        fit(tmp_path, DieAfter(2), callback=saver(tmp_path, every_steps=2, metric=None))
    assert list(checkpoints(tmp_path / "checkpoints")) == [2]


def test_save_now_returns_when_the_disk_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SlowDisk(monkeypatch)
    disk.go.set()
    callback = saver(tmp_path, every_steps=1, metric=None)
    found: list[list[int]] = []

    class SaveNow(Callback):
        def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
            callback.save_now(trainer)
            found.append(list(checkpoints(tmp_path / "checkpoints")))

    fit(tmp_path, SaveNow(), callback=callback, max_epochs=1)
    assert [steps[-1] for steps in found] == list(range(1, BATCHES + 1))


def test_lightning_alone_waits_and_hears_of_errors_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With Lightning's own ModelCheckpoint in the place of etude's saver."""
    fit(tmp_path, callback=cast(CheckpointSaver, ModelCheckpoint(tmp_path / "own", save_top_k=-1)), max_epochs=1)
    (saved,) = (tmp_path / "own").iterdir()
    assert FolderCheckpointIO().load_checkpoint(saved)["global_step"] == EVERY
    SlowDisk(monkeypatch, StorageError("No space left on device")).go.set()
    with pytest.raises(StorageError, match="No space left"):
        fit(tmp_path, callback=cast(CheckpointSaver, ModelCheckpoint(tmp_path / "full")), max_epochs=1)
