"""A machine that this computer does not have is refused in one line, before any data is read."""

from __future__ import annotations

from typing import Any

import pytest
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator

from etude.config.compose import compose
from etude.errors import ConfigurationError
from etude.training import machine
from etude.training.machine import Machine
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
        (0, {"strategy": "fsdp", "devices": 2}, r"trainer.strategy=fsdp .*; write trainer.strategy=ddp"),
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
        (2, {"accelerator": "gpu", "devices": 2, "nodes": 4}),
        (2, {"accelerator": "cpu", "devices": 8}),
    ],
    indirect=["gpus"],
)
def test_a_machine_that_exists_is_accepted(gpus: None, arguments: dict[str, Any]) -> None:
    Machine(**arguments).configure_torch()


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
