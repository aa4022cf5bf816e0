"""`etude sweep wandb` checks the members and writes W&B's file; what an agent then starts is one run in one folder."""

from __future__ import annotations

import pytest
import yaml

from etude.cli.main import main
from etude.commands.sweep import wandb_sweep
from etude.errors import ConfigurationError

FIXED = ["experiment=translation/demo", "limit.train=60"]


def test_the_file_is_the_only_output(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "wandb", *FIXED, "searcher=random", "optimizer.lr=interval(1e-4,1e-2)"]) == 0
    out, err = capfd.readouterr()
    assert out == wandb_sweep([*FIXED, "searcher=random", "optimizer.lr=interval(1e-4,1e-2)"])
    assert yaml.safe_load(out)["parameters"] == {"optimizer.lr": {"distribution": "uniform", "min": 1e-4, "max": 1e-2}}
    assert err == ""


def test_a_member_that_does_not_fit_is_refused_first() -> None:
    with pytest.raises(ConfigurationError, match=r"in the member with model\.heads=5"):
        wandb_sweep([*FIXED, "model.heads=2,5"])
    with pytest.raises(ConfigurationError, match=r"optimizer.lrr is not a key.*did you mean optimizer.lr"):
        wandb_sweep([*FIXED, "optimizer.lrr=1,2"])


@pytest.fixture
def an_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "k3v9x1c2")
    monkeypatch.setenv("WANDB_RUN_ID", "8xk2j1p9")
    monkeypatch.delenv("WANDB_SWEEP_PARAM_PATH", raising=False)


@pytest.mark.usefixtures("an_agent")
@pytest.mark.parametrize("form", ["args_no_hyphens", "args_json"])
def test_the_command_of_an_agent_is_read(form: str, capfd: pytest.CaptureFixture[str]) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args  # takes seconds, in each process that collects

    values = {
        "stop.patience": None,
        "tokenizer.lowercase": True,
        "optimizer.betas": [0.9, 0.98],
        "batch": {"examples": 32, "tokens": None},
        "model/positions": "rotary",
        "_wandb": {"cli_version": "0.31.0"},
    }
    words = create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})[form]
    assert main(["train", *FIXED, *words, "--cfg", "job", "--resolve"]) == 0
    shown = yaml.safe_load(capfd.readouterr().out)
    assert shown["stop"]["patience"] is None
    assert shown["tokenizer"]["lowercase"] is True
    assert shown["optimizer"]["betas"] == [0.9, 0.98]
    assert shown["batch"] == {"examples": 32, "tokens": None, "pool": None, "shuffle": "stored"}
    assert shown["model"]["positions"]["_target_"] == "etude.models.layers.positions.Rotary"


def test_a_person_writes_null(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *FIXED, "stop.patience=None", "--cfg", "job"]) == 78
    assert "stop.patience = 'None', but stop.patience takes int or null" in capfd.readouterr().err
