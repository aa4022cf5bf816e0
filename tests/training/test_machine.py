"""A machine that is not there is refused in one line, before anything is read."""

from __future__ import annotations

from typing import Any

import pytest
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator

from etude.errors import ConfigurationError
from etude.runs.stored import for_one_process
from etude.training.machine import Machine


@pytest.fixture
def gpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with as many GPUs as the test says."""
    count = request.param
    monkeypatch.setattr(CUDAAccelerator, "is_available", lambda: count > 0)
    monkeypatch.setattr(CUDAAccelerator, "auto_device_count", lambda: count)
    monkeypatch.setattr(MPSAccelerator, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("gpus", "asked", "said"),
    [
        (0, {"accelerator": "gpu"}, r"trainer.accelerator=gpu, .* finds none .*; write trainer=cpu"),
        (2, {"accelerator": "mps"}, r"trainer.accelerator=mps, .* finds none "),
        (0, {"strategy": "fsdp", "devices": 2}, r"trainer.strategy=fsdp .*; write trainer.strategy=ddp"),
        (2, {"accelerator": "gpu", "devices": 8}, r"trainer.devices=8, but torch finds 2 "),
        (2, {"devices": 3}, r"trainer.devices=3, but torch finds 2 "),
    ],
    indirect=["gpus"],
)
def test_what_is_not_there_is_refused(gpus: None, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Machine(**asked).settle()


@pytest.mark.parametrize(
    ("gpus", "asked"),
    [
        (0, {"devices": 64}),
        (2, {"devices": 2, "strategy": "fsdp"}),
        (2, {"accelerator": "gpu", "devices": 2, "nodes": 4}),
        (2, {"accelerator": "cpu", "devices": 8}),
    ],
    indirect=["gpus"],
)
def test_what_is_there_is_taken(gpus: None, asked: dict[str, Any]) -> None:
    Machine(**asked).settle()


@pytest.mark.parametrize(
    ("stored", "asked", "accelerator"),
    [
        ("gpu", {}, "auto"),  # trained on a cluster, looked at on a laptop
        ("auto", {}, "auto"),
        ("cpu", {}, "cpu"),
        ("gpu", {"trainer.accelerator": "gpu"}, "gpu"),
        ("gpu", {"trainer": "gpu"}, "gpu"),
    ],
)
def test_a_run_is_looked_at_in_one_process_where_one_is(stored: str, asked: dict[str, Any], accelerator: str) -> None:
    trainer = {"accelerator": stored, "devices": 8, "nodes": 2, "strategy": "fsdp", "precision": "bf16-mixed"}
    found = for_one_process({"seed": 1, "trainer": trainer}, asked)
    one = {"accelerator": accelerator, "devices": 1, "nodes": 1, "strategy": "auto", "precision": "bf16-mixed"}
    assert found == {"seed": 1, "trainer": one}
    assert trainer["devices"] == 8
    with pytest.raises(ConfigurationError, match=r"trainer.devices=2: this command works in one process"):
        for_one_process({"trainer": trainer}, {"trainer.devices": 2})
