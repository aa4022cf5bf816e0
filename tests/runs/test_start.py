"""`start=RUN`: what a run takes from the one that it starts from, and what it remembers of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.checkpoints.saver import read_weights
from etude.errors import ConfigurationError, DataError
from tests.runs.doors import find_checkpoint, resume, train

FROZEN = ["finetune=head", "budget=2step"]
"""Nothing of the model moves, so its weights are those it began with."""


@pytest.fixture
def begun(composed: Callable[..., Any]) -> Callable[..., Path]:
    """Trains a small run."""

    def run(task: str, *more: str) -> Path:
        # The small sizes are no words of the command line, where a run with a warm start has no tokenizer of its own.
        folder = train(composed(task, *more).updated({}, more))
        assert folder is not None
        return folder

    return run


def weights(run: Path, which: str = "last") -> dict[str, torch.Tensor]:
    return read_weights(find_checkpoint(run, which))


def test_a_classifier_starts_from_a_masked_language_model(begun: Callable[..., Path]) -> None:
    pretrained = begun("masked_lm", "run.name=pretrained")
    run = begun("classification", f"start={pretrained}", "run.name=tuned", *FROZEN)
    first, now = weights(pretrained, "best"), weights(run)
    inside = [name for name in now if name.startswith("model.")]
    assert inside
    assert all(torch.equal(first[name], now[name]) for name in inside)
    assert (run / "tokenizer" / "tokenizer.json").read_bytes() == (
        pretrained / "tokenizer" / "tokenizer.json"
    ).read_bytes()
    chain = json.loads((run / "manifest.json").read_text())["start"]
    assert (chain["run"], chain["start"]) == (str(pretrained.resolve()), None)
    assert chain["checkpoint"] == find_checkpoint(pretrained, "best").name

    second = begun("classification", f"start={run}", "run.name=again", "model.dropout=0.3", *FROZEN)
    assert json.loads((second / "manifest.json").read_text())["start"]["start"] == chain
    head = [name for name in now if not name.startswith("model.")]
    assert all(now[name].shape == weights(second)[name].shape for name in head)


def test_the_start_is_needed_until_the_first_checkpoint_only(begun: Callable[..., Path]) -> None:
    pretrained = begun("masked_lm", "run.name=pretrained")
    run = begun("classification", f"start={pretrained}", "run.name=tuned", "budget=2step")
    shutil.rmtree(pretrained)
    resume(run, {"budget": "4step"})
    assert json.loads((run / "finished.json").read_text())["step"] == 4


def test_adapters_in_a_run_that_started_from_another(begun: Callable[..., Path]) -> None:
    pretrained = begun("masked_lm", "run.name=pretrained")
    run = begun("classification", f"start={pretrained}", "run.name=tuned", "finetune=lora", "finetune.rank=2")
    first, now = weights(pretrained, "best"), weights(run)
    assert all(torch.equal(first[name], now[name]) for name in first if name.startswith("model."))
    with pytest.raises(ConfigurationError, match=r"tensors that are not the model's.*lora_a.*start from its export"):
        begun("classification", f"start={run}", "run.name=third")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["model=encoder"], r"brings its own model; leave that out"),
        (["tokenizer.vocabulary=50"], r"brings its own tokenizer.vocabulary"),
        (["model.width=32"], r"tensors that are not the model's"),
    ],
)
def test_what_does_not_fit_is_refused(begun: Callable[..., Path], more: list[str], words: str) -> None:
    pretrained = begun("masked_lm", "run.name=pretrained")
    with pytest.raises(ConfigurationError, match=words):
        begun("classification", f"start={pretrained}", *more)


def test_a_start_that_is_no_run(begun: Callable[..., Path]) -> None:
    with pytest.raises(ConfigurationError, match="no run 'nowhere'"):
        begun("classification", "start=nowhere")


def test_a_start_that_nothing_was_trained_of(begun: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError):
        begun("masked_lm", "run.name=empty", "data.train=/nowhere")
    (empty,) = tmp_path.rglob("empty")
    with pytest.raises(ConfigurationError, match="ended before anything was trained; first: etude resume"):
        begun("classification", f"start={empty}")
