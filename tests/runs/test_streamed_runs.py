"""Runs on shards that are elsewhere: exact over kills, over silence of the address, and on any machine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from etude.config.compose import compose
from etude.data import encode
from etude.data.corpora import TextFiles
from etude.data.streaming.address import Address
from etude.data.streaming.shard_writer import write_shards
from etude.tokenization.trained import BPE
from tests.data.serving import Served, serving
from tests.runs.doors import fit, resume
from tests.runs.killing import BATCH, EXACT, assert_killed_is_the_same, assert_same, begin, end
from tests.runs.processes import command, ended, run
from tests.runs.test_continued import assert_same_but_for_rounding, continue_from_every_step, elastic, only_until

STREAM = ("batch.shuffle=keyed", "batch.pool=3", "data.window=2", "data.keep=4")


@pytest.fixture
def served(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """Shards of twenty documents each."""
    monkeypatch.setattr(encode, "BATCH_ROWS", 20)
    train, val, test = (f"{small_data}/{split}.txt" for split in ("train", "val", "test"))
    corpus = TextFiles(train, val, test)
    index = write_shards(corpus, BPE(60), Address(f"{tmp_path}/shards"), 1, tmp_path / "cache")
    assert len(index.splits["train"]) == 11
    with serving(tmp_path / "shards") as one:
        yield one


@pytest.fixture
def words(overrides: Callable[..., list[str]], served: Served) -> Callable[..., list[str]]:
    """What is written on a command line for a small training on the shards."""

    def written(*more: str) -> list[str]:
        kept = [word for word in overrides("causal_lm") if not word.startswith(("data", "tokenizer", "experiment"))]
        data = ["data=shards", "tokenizer=of_data", f"data.root={served.address}", "data.max_length=16"]
        return ["experiment=causal_lm/streamed", *kept, *data, *STREAM, BATCH["causal_lm"], *more]

    return written


@pytest.fixture
def streamed(words: Callable[..., list[str]]) -> Callable[..., Any]:
    return lambda *more: compose(*words(*more))


def test_killed_it_is_the_same_run(streamed: Callable[..., Any], tmp_path: Path) -> None:
    assert_killed_is_the_same(tmp_path, streamed(*EXACT))


@pytest.mark.slow
def test_continued_from_every_step(streamed: Callable[..., Any], tmp_path: Path) -> None:
    settings = (*EXACT, "budget=12step", "checkpoint.every=1step", "checkpoint.keep_last=100")
    continue_from_every_step(begin(tmp_path / "whole", streamed(*settings)), list(range(1, 13)))


@pytest.mark.slow
def test_it_is_continued_with_other_micro_batches_and_workers(streamed: Callable[..., Any], tmp_path: Path) -> None:
    whole = elastic(lambda _, *more: streamed(*more), tmp_path / "whole", "causal_lm", "checkpoint.keep_last=100")
    fit(whole)
    begun = elastic(lambda _, *more: streamed(*more), tmp_path / "run", "causal_lm", "checkpoint.keep_last=100")
    fit(begun)
    for step, machine in ((6, {"trainer.micro_batches": 1}), (12, {"trainer.micro_batches": 3, "trainer.workers": 1})):
        only_until(begun, step)
        shutil.rmtree(tmp_path / "cache" / "shards")
        resume(begun, machine)
    assert_same_but_for_rounding(begun, whole)


@pytest.mark.parametrize("stopped", [pytest.param(False, marks=pytest.mark.slow), True])
def test_an_address_that_falls_silent_ends_a_run_in_good_order(
    words: Callable[..., list[str]], streamed: Callable[..., Any], served: Served, tmp_path: Path, stopped: bool
) -> None:
    """It waits, tries again, then ends; or a signal ends the wait. What was trained is saved, and gone on with."""
    settings = (*EXACT, "checkpoint.every=100step", "validate.every=100step")
    fit(whole := begin(tmp_path / "whole", streamed(*settings)))
    served.asked.clear()
    shutil.rmtree(tmp_path / "cache" / "shards")
    served.falls_silent = 12
    typed = ["train", *words(*settings, "run.name=it")]
    process = command(tmp_path / "process", [*typed, f"data.patience={60.0 if stopped else 0.3}"])
    if stopped:
        while not served.fails or "trying again" not in (tmp_path / "process" / "log").read_text():
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGTERM)
    found = ended(tmp_path / "process", process)
    assert found.code == (143 if stopped else 65), found.log[-2000:]
    assert re.search(
        "stopped by SIGTERM after step" if stopped else r"no answer for .*503.*goes on from here", found.said[-1]
    )
    begun = tmp_path / "outputs" / "causal_lm" / "streamed" / "it"
    (saved,) = [int(path.name[5:]) for path in (begun / "checkpoints").glob("step-*")]
    assert 0 < saved < 17
    served.falls_silent, served.fails = None, False
    found = run(tmp_path / "process", ["train", *typed[1:], f"data.patience={60.0 if stopped else 0.3}"])
    assert found.code == 0, found.log[-2000:]
    kept = end(begun).kept
    assert kept.pop(f"step-{saved:08d}") and kept == end(whole).kept
    shutil.rmtree(begun / "checkpoints" / f"step-{saved:08d}")
    assert_same(end(begun), end(whole))
