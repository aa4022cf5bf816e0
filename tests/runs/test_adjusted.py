"""Runs that train some of their parameters: they are continued, ranked, counted, loaded and exported like any other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from etude.checkpoints.saver import read_weights
from etude.cli.main import main
from etude.runs.saved_run import SavedRun
from etude.training.build import build_task
from tests.runs.doors import evaluate, export, fit, load_run, train
from tests.runs.killing import BATCH, EXACT, assert_killed_is_the_same, begin
from tests.runs.processes import run
from tests.runs.test_ranks import WITHOUT_DROPOUT, assert_close

Overrides = Callable[..., list[str]]
FINETUNES = {
    "gradual": ("finetune=gradual", "finetune.every=3step", "finetune.decay=0.5", "model.layers=2"),
    "lora": ("finetune=lora", "finetune.rank=2", "finetune.dropout=0.1"),
}
"""With two layers, parts begin to train after 0, 3, 6 and 9 steps."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gradual", "lora"])
def test_killed_it_is_the_same_run(composed: Callable[..., Any], tmp_path: Path, name: str) -> None:
    values = composed("classification", *EXACT, BATCH["classification"], *FINETUNES[name])
    assert_killed_is_the_same(tmp_path, values)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gradual", "lora"])
def test_two_ranks_train_what_one_does(overrides: Overrides, tmp_path: Path, name: str) -> None:
    folders = []
    for devices in (1, 2):
        settings = (*WITHOUT_DROPOUT["classification"], *FINETUNES[name], f"trainer.devices={devices}")
        words = overrides("classification", *settings, f"run.experiment=on{devices}")
        if name == "lora":
            words.append("finetune.dropout=0.0")
        left = run(tmp_path / f"{devices}", ["train", *words])
        assert left.code == 0, left.log[-3000:]
        folders.append(Path(left.out.strip()))
    assert_close(folders[1], folders[0])


def test_gradual_leaves_below_as_it_was(composed: Callable[..., Any], tmp_path: Path) -> None:
    """Eight steps: with a part each third, the embeddings would begin after nine."""
    settings = (*FINETUNES["gradual"], "checkpoint.every=1step", "checkpoint.keep_last=20", "validate.every=8step")
    folder = begin(tmp_path / "run", composed("classification", *settings))
    fit(folder)
    weights = {step: read_weights(folder / "checkpoints" / f"step-{step:08d}") for step in (1, 3, 4, 6, 7, 8)}

    def moved(before: int, after: int) -> set[str]:
        pairs = ((name, tensor, weights[after][name]) for name, tensor in weights[before].items())
        return {".".join(name.split(".")[:3]) for name, tensor, other in pairs if not torch.equal(tensor, other)}

    head, top = {"head.weight", "head.bias"}, {"model.layers.1", "model.norm.weight", "model.norm.bias"}
    assert moved(1, 3) == head
    assert moved(3, 4) == moved(3, 6) == head | top
    assert moved(6, 7) == moved(1, 8) == head | top | {"model.layers.0"}


def test_a_run_with_adapters_is_whole(
    composed: Callable[..., Any], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    folder = train(composed("classification", *FINETUNES["lora"], "model.layers=2"))
    assert folder is not None
    counts = json.loads((folder / "manifest.json").read_text())["parameters"]
    # Two layers with adapters of rank 2 on query and value, of width 16, and the head of two classes.
    assert counts["trainable"] == 2 * 2 * (2 * 16 + 16 * 2) + 2 * 16 + 2
    assert f"290 of {counts['total']:,} parameters train ({100 * 290 / counts['total']:.3g} %)" in caplog.text
    stored = OmegaConf.load(folder / "config.yaml")
    assert stored.finetune["_target_"] == "etude.optim.finetune.lora.LoRA"
    finished = json.loads((folder / "finished.json").read_text())["scores"]
    assert evaluate([folder], {})["scores"] == finished
    task, _ = load_run(folder)
    saved = SavedRun.open(folder)
    first = build_task(saved.config, saved.facts)
    adapters = {name: tensor for name, tensor in task.state_dict().items() if "lora_b" in name}
    assert len(adapters) == 2 and all(bool(tensor.any()) for tensor in adapters.values())
    assert not any(bool(first.state_dict()[name].any()) for name in adapters)
    proof = json.loads((export(folder, {"to": "huggingface"}) / "export.json").read_text())["proof"]
    assert proof["logits"]["largest_difference"] < 1e-5


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("finetune=lora", "finetune.rank=0"), "finetune.rank = 0 is too small; write at least 1 (command line)"),
        (("finetune=gradual", "finetune.every=5min"), "finetune.every = 5min is not a number of steps above 0"),
        (("finetune=top_layers", "finetune.layers=9"), "finetune.layers = 9, but the model has 1; write 1 to 1"),
        (
            ("finetune=lora", "finetune.modules=[qeury]"),
            "finetune.modules: qeury is not a linear layer of Encoder; it has",
        ),
        (("finetune=freeze",), "finetune=freeze does not exist; "),
    ],
)
def test_wrong_values_are_told_in_a_line(
    overrides: Overrides, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], line: str
) -> None:
    assert main(["train", *overrides("classification", *words)]) == 78
    error = [text for text in capsys.readouterr().err.splitlines() if text.startswith("etude: error:")]
    assert len(error) == 1
    assert line in error[0]


def test_parts_that_the_budget_does_not_reach_are_told(
    composed: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    fit(begin(tmp_path / "run", composed("classification", *FINETUNES["gradual"], "budget=4step")))
    assert "would begin to after the budget of 4 steps, the last at step 10; a shorter finetune.every" in caplog.text
