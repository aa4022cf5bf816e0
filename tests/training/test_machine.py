"""A machine that this computer does not have is refused in one line, before any data is read."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from etude.config.compose import compose
from etude.errors import ConfigurationError
from etude.training import machine
from etude.training.fully_sharded import FullyShardedStrategy
from etude.training.machine import Machine, StrategyName
from etude.training.rank_watch import MARGIN
from etude.training.restore import in_one_process


@pytest.fixture
def gpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with the parametrized number of GPUs."""
    count = request.param
    monkeypatch.setattr(CUDAAccelerator, "is_available", lambda: count > 0)
    monkeypatch.setattr(CUDAAccelerator, "auto_device_count", lambda: count)
    monkeypatch.setattr(MPSAccelerator, "is_available", lambda: False)
    monkeypatch.setattr(machine, "usable_cores", lambda: 64)


@pytest.mark.parametrize(
    ("gpus", "arguments", "message"),
    [
        (0, {"accelerator": "gpu"}, r"trainer.accelerator=gpu, .* finds none .*; write trainer=cpu"),
        (2, {"accelerator": "mps"}, r"trainer.accelerator=mps, .* finds none "),
        (2, {"accelerator": "gpu", "devices": 8}, r"trainer.devices=8, but torch finds 2 "),
        (2, {"devices": 3}, r"trainer.devices=3, but torch finds 2 "),
        (
            0,
            {"devices": 65},
            r"trainer.devices=65, .* 64 cores .*; write trainer.devices=64 or less, or trainer.oversub",
        ),
        (0, {"devices": 2, "workers": 513}, r"trainer.workers=513 makes 1026 workers on 64 cores; write fewer"),
        (2, {"threads": 1025}, r"trainer.threads=1025 makes 1025 threads on 64 cores; write fewer"),
    ],
    indirect=["gpus"],
)
def test_a_missing_device_is_refused(gpus: None, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Machine(**arguments).configure_torch()


@pytest.mark.parametrize(
    ("gpus", "arguments"),
    [
        (0, {"devices": 64}),
        (0, {"devices": 65, "workers": 513, "oversubscribe": True}),
        (2, {"devices": 2, "strategy": "fsdp"}),
        (0, {"devices": 2, "strategy": "fsdp"}),
        (2, {"accelerator": "gpu", "devices": 2, "nodes": 4}),
        (2, {"accelerator": "cpu", "devices": 8}),
    ],
    indirect=["gpus"],
)
def test_a_machine_that_exists_is_accepted(gpus: None, arguments: dict[str, Any]) -> None:
    Machine(**arguments).configure_torch()


def test_shards_do_not_go_with_a_gradient_scaler(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"trainer.strategy=fsdp does not go with precision=16-mixed"):
        Machine(accelerator="cpu", strategy="fsdp").trainer(tmp_path, precision="16-mixed")


@pytest.mark.parametrize("text", ["30", "5step", "0s", "1epoch", "soon"])
def test_a_timeout_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="30min"):
        Machine(timeout=text)


@pytest.mark.parametrize("strategy", ["auto", "ddp", "fsdp"])
def test_operations_of_several_ranks_wait_longer_than_the_watch(tmp_path: Path, strategy: StrategyName) -> None:
    machine = Machine(accelerator="cpu", devices=2, strategy=strategy, timeout="2min", oversubscribe=True)
    found = machine.trainer(tmp_path, precision="32-true").strategy
    assert isinstance(found, FullyShardedStrategy if strategy == "fsdp" else DDPStrategy)
    assert found._timeout == timedelta(seconds=120 + MARGIN)
    alone = Machine(accelerator="cpu").trainer(tmp_path, precision="32-true").strategy
    assert isinstance(alone, SingleDeviceStrategy)


@pytest.mark.parametrize(
    ("stored", "requested", "accelerator"),
    [
        ("gpu", {}, "auto"),  # trained on a cluster, evaluated on a laptop
        ("auto", {}, "auto"),
        ("cpu", {}, "cpu"),
        ("gpu", {"trainer.accelerator": "gpu"}, "gpu"),
        ("gpu", {"trainer": "gpu"}, "gpu"),
    ],
)
def test_a_command_works_in_one_process_wherever_the_run_was_trained(
    stored: str, requested: dict[str, Any], accelerator: str
) -> None:
    trainer = {"trainer.accelerator": stored, "trainer.devices": 8, "trainer.nodes": 2, "trainer.strategy": "fsdp"}
    config = compose("precision=bf16-mixed").updated(trainer)
    alone = in_one_process(config, requested)
    machine = {"accelerator": accelerator, "devices": 1, "nodes": 1, "strategy": "auto"}
    assert alone.trainer.arguments == {**config.trainer.arguments, **machine}
    assert alone.precision == "bf16-mixed"
    assert config.trainer.arguments["devices"] == 8
    with pytest.raises(ConfigurationError, match=r"trainer.devices=2: this command works in one process"):
        in_one_process(config, {"trainer.devices": 2})


@pytest.mark.parametrize(("micro_batches", "slices"), [(1, 1), (3, 3), ("auto", 1)])
def test_automatic_micro_batches_are_one_where_nothing_is_trained(
    micro_batches: Any, slices: int, tmp_path: Path
) -> None:
    alone = Machine(accelerator="cpu", micro_batches=micro_batches)
    assert alone.slices == slices
    assert alone.trainer(tmp_path, precision="32-true").accumulate_grad_batches == slices


@pytest.mark.parametrize("word", ["automatic", "0", "1.5", "null"])
def test_micro_batches_are_a_count_or_auto(word: str) -> None:
    assert compose("trainer.micro_batches=auto").trainer.arguments["micro_batches"] == "auto"
    with pytest.raises(ConfigurationError, match=r"trainer\.micro_batches"):
        compose(f"trainer.micro_batches={word}")


@pytest.mark.parametrize("gpus", [0, 1], indirect=True)
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("before", [None, ":16:8"])
def test_products_of_a_gpu_are_let_be_deterministic(
    gpus: None, monkeypatch: pytest.MonkeyPatch, deterministic: bool, before: str | None
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", before or "")  # whatever it is then, the test gives it back
    if before is None:
        del os.environ["CUBLAS_WORKSPACE_CONFIG"]
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda _: None)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    Machine(deterministic=deterministic).configure_torch()
    needed = deterministic and CUDAAccelerator.is_available()
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (before or (":4096:8" if needed else None))
