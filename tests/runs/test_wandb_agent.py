"""The agent of the wandb package trains with etude, and a run of its sweep comes back under its id.

The agent and `wandb sweep` are W&B's own; only their server is a stand-in.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from etude.commands.sweep import wandb_sweep
from etude.commands.train import train
from etude.config.compose import compose
from etude.runs.record import RECORD, read
from etude.runs.saved_run import SavedRun
from etude.training.loggers.tracking import STEP
from tests.runs.sweep_server import ENTITY, SWEEP, Command, SweepServer

AGENT = f"""
from wandb import wandb_agent
wandb_agent.Agent.POLL_INTERVAL = 0.2
wandb_agent.agent("{ENTITY}/etude/{SWEEP}")
"""
KILLED, OTHER = "8xk2j1p9", "q0w1e2r3"
BUDGET = 300
VALUES: dict[str, dict[str, Any]] = {
    KILLED: {
        "optimizer.lr": 0.003,
        "optimizer.betas": [0.9, 0.98],
        "tokenizer.lowercase": True,
        "stop.patience": None,
        "batch": {"examples": 16, "tokens": None},
        "model.positions": "rotary",
    },
    OTHER: {
        "optimizer.lr": 0.001,
        "model/positions": "learned",
        "budget": "2step",
        "run.notes": "a note, with 'quotes'",
    },
}


def arguments(values: dict[str, Any]) -> dict[str, Any]:
    return {key: {"value": value} for key, value in values.items()}


class Lender:
    """Hands out two runs; the first is killed after its first checkpoint, and comes back with all that W&B knows of it.

    Attributes:
        killed_at: The step that was saved last before the kill; None before it.
    """

    def __init__(self, outputs: Path) -> None:
        self.run = outputs / "translation" / "demo" / KILLED
        self.killed_at: int | None = None
        self._waiting: list[Callable[[], Command]] = [self._first, self._again, self._other]

    def __call__(self, running: list[str]) -> Command | None:
        if running:
            self._kill()
            return None
        return self._waiting.pop(0)() if self._waiting else {"type": "exit"}

    def _first(self) -> Command:
        return {"type": "run", "run_id": KILLED, "program": "etude", "args": arguments(VALUES[KILLED])}

    def _again(self) -> Command:
        config = yaml.safe_load((self.run / "config.yaml").read_text())
        known = {**json.loads(json.dumps(config)), **VALUES[KILLED]}
        hidden = {"_wandb": {"cli_version": "0.31.0", "start_time": 1795000000.5, "t": {"1": [1, 5], "3": [17]}}}
        return {"type": "resume", "run_id": KILLED, "program": "etude", "args": arguments({**hidden, **known})}

    def _other(self) -> Command:
        return {"type": "run", "run_id": OTHER, "program": "etude", "args": arguments(VALUES[OTHER])}

    def _kill(self) -> None:
        steps = sorted((self.run / "checkpoints").glob("step-*[0-9]"))
        if self.killed_at is None and steps:
            os.kill(int((self.run / ".lock").read_text()), signal.SIGKILL)
            self.killed_at = int(steps[-1].name.removeprefix("step-"))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["${args_no_hyphens}", "${args_json}"])
def test_a_run_of_a_sweep_comes_back(form: str, overrides: Callable[..., list[str]], tmp_path: Path) -> None:
    words = overrides(
        "translation", f"budget={BUDGET}step", "validate.every=100step", "checkpoint.every=50step", "logger=wandb"
    )
    words += ["logger.wandb.mode=offline", "limit.train=60", "log.every=20step"]
    file = tmp_path / "sweep.yaml"
    file.write_text(wandb_sweep([*words, "optimizer.lr=1e-3,3e-3"]).replace("${args_no_hyphens}", form))
    lender = Lender(tmp_path / "outputs")
    server = SweepServer(lender)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "WANDB_BASE_URL": server.url,
        "WANDB_API_KEY": "a" * 40,
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_CONFIG_DIR": str(tmp_path / "settings"),
        "WANDB_AGENT_DISABLE_FLAPPING": "true",
        "HOME": str(tmp_path),
    }

    def call(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    with server.serving():
        assert f"{ENTITY}/etude/{SWEEP}" in call("-m", "wandb", "sweep", str(file))
        log = call("-c", AGENT)
    assert "_wandb" in log
    assert lender.killed_at is not None, log
    assert 0 < lender.killed_at < BUDGET

    # One run: its folder and its id in W&B are the agent's, and it went on from its checkpoint.
    run = SavedRun.open(lender.run)
    assert run.state == "finished", log
    assert run.identity() == KILLED
    assert (run.config.model.arguments["positions"]["_target_"], run.config.batch.examples) == (
        "etude.models.layers.positions.Rotary",
        16,
    )
    assert not (run.path / "changes.jsonl").exists()
    steps = [event.step for event in read(run.path / RECORD) if "train/loss" in event.values]
    assert steps == list(range(20, BUDGET + 1, 20))
    files = sorted((run.path / "wandb").glob(f"offline-run-*-{KILLED}/run-{KILLED}.wandb"))
    assert len(files) == 2
    sent = [item[STEP] for file in files for item in history(file) if "train/loss" in item]
    assert sorted(sent) == steps  # each once
    assert OmegaConf.load(run.path / "overrides.yaml") == [*words, *first_words()]

    other = SavedRun.open(lender.run.with_name(OTHER))
    assert other.state == "finished", log
    assert other.config.run.notes == "a note, with 'quotes'"
    assert sorted(path.name for path in lender.run.parent.iterdir()) == sorted([KILLED, OTHER])


def history(file: Path) -> list[dict[str, Any]]:
    """Return what one of W&B's local files holds of a run's history."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    records = [json.loads(line) for line in answer.stdout.splitlines()]
    return [record["history"]["item"] for record in records if record["type"] == "history"]


def first_words() -> list[str]:
    """What the agent's values are as words of a person."""
    return [
        "optimizer.lr=0.003",
        "optimizer.betas=[0.9,0.98]",
        "tokenizer.lowercase=true",
        "stop.patience=null",
        "batch.examples=16",
        "batch.tokens=null",
        "model/positions=rotary",
    ]


def test_the_agents_id_is_the_name_of_the_folder_and_of_the_run(
    overrides: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", SWEEP)
    monkeypatch.setenv("WANDB_RUN_ID", KILLED)
    words = overrides("translation", "budget=2step", "limit.train=60")
    run = train(compose(*words))
    assert run.path == tmp_path / "outputs" / "translation" / "demo" / KILLED
    assert run.identity() == KILLED
    assert train(compose(*words)).path == run.path  # the same run, which is finished
    assert train(compose(*words, "run.name=mine")).path == run.path.with_name("mine")
