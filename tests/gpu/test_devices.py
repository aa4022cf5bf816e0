"""What a GPU must do as a CPU does: end with the same bits when killed and continued, and learn the same.

`make test-gpu` runs these on a GPU, `make test-slow` on a CPU. Every command is a process of its own, as it is for users.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from etude.checkpoints.integrity import read_manifest
from etude.runs.record import RECORD, comparable, read, series
from etude.training.callbacks.compilation import FAILED, SECONDS
from tests.bench import gpu
from tests.runs.conftest import TASKS

Overrides = Callable[..., list[str]]

LAST = "step-00000008"
SAVED = ("checkpoint.every=1step", "checkpoint.keep_last=9", "trainer.deterministic=true")
PATIENCE = 300.0


def start(words: Sequence[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "etude", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def train(words: Sequence[str]) -> Path:
    process = start(["train", *words])
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    return Path(out.strip())


def losses(run: Path) -> list[float]:
    return series(read(run / RECORD), "train/loss")[1]


def state(run: Path) -> tuple[dict[str, str], list[str]]:
    """The hashes of the tensors of the last checkpoint, and the record without its times."""
    files = read_manifest(run / "checkpoints" / LAST).files
    hashes = {name: file.sha256 for name, file in files.items() if name.endswith(".safetensors")}
    return hashes, [comparable(event) for event in read(run / RECORD)]


def without_dropout(task: str) -> tuple[str, ...]:
    return ("model.dropout=0.0", *(["task.head_dropout=0.0"] if task == "classification" else []))


@pytest.mark.parametrize("task", TASKS)
def test_killed_and_continued_a_run_ends_with_the_same_bits(overrides: Overrides, device: str, task: str) -> None:
    words = overrides(task, *SAVED, f"trainer.accelerator={device}")
    whole = train([*words, "run.name=whole"])
    process = start(["train", *words, "run.name=killed"])
    killed, deadline = whole.with_name("killed"), time.monotonic() + PATIENCE
    while not any(killed.glob("checkpoints/step-0000000[3-8]")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "finished.json").exists()
    continued = start(["resume", str(killed)])
    continued.communicate(timeout=PATIENCE)
    assert continued.returncode == 0
    assert state(killed) == state(whole)


@pytest.mark.parametrize("task", TASKS)
def test_the_losses_are_those_of_a_cpu(overrides: Overrides, device: str, task: str) -> None:
    words = overrides(task, *without_dropout(task))
    here = train([*words, f"trainer.accelerator={device}", "run.name=here"])
    cpu = train([*words, "trainer.accelerator=cpu", "run.name=cpu"])
    assert losses(here) == pytest.approx(losses(cpu), rel=1e-3)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("task", ["translation", "classification"])
def test_two_processes_learn_what_one_does(overrides: Overrides, two_devices: str, task: str, strategy: str) -> None:
    words = overrides(task, *without_dropout(task), f"trainer.accelerator={two_devices}", "trainer.oversubscribe=true")
    one = train([*words, "run.name=one"])
    two = train([*words, "run.name=two", "trainer.devices=2", f"trainer.strategy={strategy}"])
    assert losses(two) == pytest.approx(losses(one), rel=1e-3)


@pytest.mark.parametrize("task", TASKS)
def test_compiled_and_recomputed_in_bfloat16_a_run_learns_about_the_same(
    overrides: Overrides, device: str, task: str
) -> None:
    words = overrides(task, *without_dropout(task), f"trainer.accelerator={device}", "precision=bf16-mixed")
    backend = "inductor" if device == "gpu" else "aot_eager"
    plain = train([*words, "run.name=plain"])
    other = train([*words, "run.name=other", f"trainer.compile={backend}", "trainer.checkpoint_activations=true"])
    assert losses(other) == pytest.approx(losses(plain), rel=3e-2)
    assert series(read(other / RECORD), SECONDS)[1]
    assert not series(read(other / RECORD), FAILED)[1]


def test_the_bench_runs_with_small_shapes(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    where = "cuda" if device == "gpu" else "cpu"
    gpu.main(["--tiny", "--device", where, "--rounds", "1", "--seconds", "0.05"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(gpu.TINY)
    assert all('"etude_over"' in line for line in lines)
