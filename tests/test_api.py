"""The Python door: what it gives, and that it leaves the caller's process as it was."""

from __future__ import annotations

import doctest
import gc
import json
import logging
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

import etude
from etude import api
from etude.commands.export import documented_use
from etude.errors import ConfigurationError
from etude.tasks.evaluation import EvaluatedTask
from tests.runs.conftest import SMALL, sentence
from tests.runs.doors import ask_here


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words of a small translation."""
    folder, source = tmp_path_factory.mktemp("door"), random.Random(7)
    for split, rows in (("train", 120), ("val", 12), ("test", 11)):
        texts = [sentence(source) for _ in range(rows)]
        (folder / f"{split}.en").write_text("".join(" ".join(text) + "\n" for text in texts))
        (folder / f"{split}.de").write_text("".join(" ".join(word[::-1] for word in text) + "\n" for text in texts))
    own = ["data=parallel", f"data.root={folder}", "tokenizer.vocabulary=60", "batch.tokens=180"]
    layers = ["model.encoder_layers=1", "model.decoder_layers=1", "decoding.max_length=24", "validate.metric=val/bleu"]
    return [*SMALL, *own, *layers, f"paths.outputs={folder}/outputs", f"paths.cache={folder}/cache"]


@pytest.fixture(scope="module")
def run(words: list[str]) -> etude.Run:
    return etude.train("translation/demo", *words, "run.name=first", seed=2)


def test_composition_is_that_of_the_command_line() -> None:
    config = etude.compose("translation/demo", "model.width=128", seed=2, trust=["tests"])
    assert (config.seed, config.model.arguments["width"], config.trust) == (2, 128, ("tests",))
    assert config.overrides == ("experiment=translation/demo", "model.width=128", "seed=2", "trust=[tests]")
    assert etude.compose("experiment=masked_lm/demo").task.target.endswith("MaskedLM")
    with pytest.raises(ConfigurationError, match=r"did you mean model.width\? \(command line\)"):
        etude.compose("translation/demo", "model.witdh=128")


@pytest.mark.parametrize("value", [None, True, 3, 0.25, "a, b: 'c' \\ {d}", ["x", 1, None], {"a": "b=c", "d": [1.5]}])
def test_values_by_name_come_through_hydras_grammar(value: Any) -> None:
    from etude.config.change import read_overrides
    from etude.config.values import as_override

    assert read_overrides([f"key={as_override(value)}"]) == {"key": value}


def test_a_run_has_what_was_measured(run: etude.Run) -> None:
    assert isinstance(run, etude.Run) and run.state == "finished" and run.config.seed == 2
    finished = json.loads((run.path / "finished.json").read_text())["scores"]
    assert run.scores == {name.removeprefix("test/"): value for name, value in finished.items()}
    columns = run.metrics
    assert {len(column) for column in columns.values()} == {len(run.events)}
    assert columns["step"][-1] == 8 and "train/loss" in columns and "val/bleu" in columns
    assert isinstance(run.model, nn.Module) and not run.model.training
    assert run.tokenizer.vocabulary == run.facts.vocabulary


def test_a_run_answers_as_the_command_line_does(run: etude.Run) -> None:
    texts = ["sun moon", "", "tree lake road"]
    command = [sys.executable, "-m", "etude", "predict", str(run.path)]
    answer = subprocess.run(command, input="\n".join(texts) + "\n", capture_output=True, text=True, check=True)
    assert run.predict(texts) == answer.stdout.split("\n")[:-1]
    beams = run.predictions(texts, "decoding=beam", "decoding.beams=3", "decoding.n_best=2")
    assert [len(prediction.outputs) for prediction in beams] == [2, 1, 2]
    assert run.evaluate("val")["split"] == "val"
    assert run.evaluate(None, "limit.test=5")["examples"] == 5
    seen = run.attention("sun moon", "nus noom")
    assert seen.target == "nus noom" and all(len(one.weights) == 2 for one in seen.maps)
    assert run.inspect("sun moon").suffix == ".html"
    assert run.report() == run.path / "report.html"
    with mock.patch.object(documented_use, "ask", ask_here):
        assert (run.export("huggingface", sentences=5) / "model.safetensors").exists()


@pytest.mark.slow
def test_a_finished_run_is_left_and_a_longer_one_goes_on(run: etude.Run, words: list[str]) -> None:
    again = etude.train("translation/demo", *words, "run.name=first", seed=2)
    assert again.path == run.path and again.scores == run.scores
    longer = etude.train("translation/demo", *words, "run.name=longer", seed=2).resume("budget=12step")
    assert longer.metrics["step"][-1] == 12 and longer.config.values["budget"] == "12step"
    with pytest.raises(ConfigurationError, match="was extended"):
        longer.reproduce()


def test_runs_are_found_and_compared(run: etude.Run, words: list[str]) -> None:
    outputs = run.config.paths.outputs
    assert etude.load("translation/demo/first", outputs).path == run.path
    assert etude.load(run.path).scores == run.scores
    with pytest.raises(ConfigurationError, match="nearest: translation/demo/first"):
        etude.load("translation/demo/frist", outputs)
    other = etude.train("translation/demo", *words, "run.name=other", "model.dropout=0.3", seed=2)
    groups = etude.compare(run, other)["groups"]
    assert [group["configuration"]["model.dropout"] for group in groups] == ["0.1", "0.3"]


def state_of_the_process() -> dict[str, Any]:
    logger = logging.getLogger("etude")
    return {
        "folder": Path.cwd(),
        "argv": list(sys.argv),
        "path": list(sys.path),
        "environment": dict(os.environ),
        "random": (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "fill": torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        "logger": (logger.handlers[:], logger.level, logger.propagate),
        "filters": list(warnings.filters),
        "stdout": (sys.stdout, sys.stderr),
    }


def test_the_callers_process_is_left_as_it_was(words: list[str]) -> None:
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    before = state_of_the_process()
    fresh = etude.train("translation/demo", *words, "trainer.threads=1", "run.name=quiet", seed=3)
    fresh.predict(["sun"])
    fresh.evaluate("val")
    after = state_of_the_process()
    assert after == before


def test_a_training_leaves_no_model_behind(words: list[str]) -> None:
    """Its memory is free for the next one as soon as it returns."""

    def models() -> int:
        return sum(isinstance(one, EvaluatedTask) for one in gc.get_objects())

    gc.collect()
    before = models()
    etude.train("translation/demo", *words, "run.name=freed", "budget=2step", seed=2).evaluate("val")
    assert models() == before


def test_importing_etude_imports_nothing_heavy() -> None:
    script = (
        "import sys, etude; print(sorted({'torch', 'hydra', 'omegaconf', 'lightning', 'msgspec'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"
    assert set(etude.__all__) <= set(dir(etude))
    with pytest.raises(AttributeError, match="it has Run"):
        _ = etude.fit


def test_examples_in_docstrings_run() -> None:
    results = doctest.testmod(api)
    assert results.attempted and not results.failed
