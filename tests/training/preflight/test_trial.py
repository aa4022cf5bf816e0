"""Memory that is free, and the number of micro-batches: as few as fit, tried out once for a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.config.compose import compose
from etude.config.schema import Config
from etude.errors import MemoryExhaustedError
from etude.runs.reading import read_changes
from etude.runs.saved_run import SavedRun
from etude.training.preflight import trial
from etude.training.preflight.trial import (
    KEPT_SHARE,
    MICRO_BATCHES,
    Outcome,
    Planned,
    TrialMemoryError,
    attempt,
    choose,
    micro_batches_of,
    with_micro_batches,
)

CONFIG = compose("experiment=classification/demo", "trainer=cpu", "trainer.micro_batches=auto", "logger=none")
GIB = 2**30


def planned(**values: Any) -> Planned:
    known: dict[str, Any] = {
        "steps_per_epoch": 10,
        "tokens_per_step": 100.0,
        "examples": 64,
        "splits": ["train", "val"],
        "parameters": 100,
        "trainable": 100,
        "first_steps": [1, 2, 5],
    }
    return Planned(**{**known, **values})


def outcome(micro_batches: int = 1, kept_bytes: int = 0, **values: Any) -> Outcome:
    return Outcome(planned(**values), 0.1, GIB, "cpu", micro_batches, kept_bytes)


def fitting(least: int, examples: int = 64) -> Callable[[Config, int | None], Outcome]:
    """Attempts on a machine on which so many micro-batches fit, or more."""

    def attempted(config: Config, limit: int | None = None) -> Outcome:
        count = config.trainer.arguments["micro_batches"]
        if count < least:
            raise TrialMemoryError("too much", planned(examples=examples))
        return outcome(count)

    return attempted


# One trial


def test_more_memory_than_the_limit_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(
        TrialMemoryError, match=r"needs more than the 0\.05 GiB of memory .*micro_batches=auto"
    ) as raised:
        attempt(CONFIG.updated({"trainer.micro_batches": 1}), limit=GIB // 20)
    assert raised.value.exit_code == 71
    assert raised.value.planned is None
    assert not list(tmp_path.iterdir())


@given(st.integers(0, 500), st.integers(0, 500), st.lists(st.integers(1, 900), max_size=20), st.integers(1, 8))
def test_a_longer_training_never_takes_less_and_each_new_size_takes_more(
    steps: int, more: int, first: list[int], micro_batches: int
) -> None:
    one = outcome(micro_batches, kept_bytes=10**6, first_steps=first)
    assert GIB <= one.peak_after(steps) <= one.peak_after(steps + more)
    assert (one.peak_after(steps) > GIB) == any(step <= steps for step in first)
    assert outcome(first_steps=first).peak_after(steps) == GIB


@pytest.mark.parametrize(("capacity", "sizes"), [(None, 512), ("1024", 512), ("10", 5), ("0", 0), ("many", 512)])
def test_no_more_is_kept_than_the_cache_holds(
    capacity: str | None, sizes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    if capacity is not None:
        monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", capacity)
    kept = outcome(kept_bytes=10, first_steps=list(range(1, 2000))).peak_after(10**6) - GIB
    assert kept == int(sizes * 10 * KEPT_SHARE)


# The number


@given(st.integers(1, 64))
def test_the_smallest_power_of_two_that_fits_is_chosen(least: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "attempt", fitting(least))
        count = choose(CONFIG, limit=GIB).micro_batches
    assert count // 2 < least <= count
    assert count.bit_count() == 1


@given(st.integers(1, 64))
def test_not_even_one_example_fits(examples: int) -> None:
    tried: list[int] = []

    def attempted(config: Config, limit: int | None) -> Outcome:
        tried.append(config.trainer.arguments["micro_batches"])
        return fitting(10**6, examples)(config, limit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "attempt", attempted)
        with pytest.raises(MemoryExhaustedError, match="=auto: even a micro-batch of a single example needs") as raised:
            choose(CONFIG, limit=GIB)
    assert raised.value.exit_code == 71
    assert tried[-1] >= examples > tried[-1] // 2


def test_a_model_that_does_not_fit_is_not_cut_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def attempted(config: Config, limit: int | None) -> Outcome:
        tried.append(config)
        raise TrialMemoryError("too much", None)

    monkeypatch.setattr(trial, "attempt", attempted)
    with pytest.raises(MemoryExhaustedError, match=r"the model alone needs more than the 1\.00 GiB"):
        choose(CONFIG, limit=GIB)
    assert len(tried) == 1


# The number of a run


@pytest.fixture
def run(tmp_path: Path) -> SavedRun:
    folder = tmp_path / "run"
    folder.mkdir()
    return SavedRun.begin(folder, CONFIG)


def test_a_number_is_tried_out_once_and_the_configuration_keeps_auto(
    run: SavedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert micro_batches_of(run) == 1
    monkeypatch.setattr(trial, "attempt", fitting(3))
    assert with_micro_batches(run).trainer.arguments["micro_batches"] == 4
    monkeypatch.setattr(trial, "attempt", fitting(5))  # would be another number
    again = SavedRun.open(run.path)
    assert again.config.trainer.arguments["micro_batches"] == "auto"
    assert with_micro_batches(again).trainer.arguments["micro_batches"] == 4
    assert micro_batches_of(again) == 4
    assert not read_changes(run.path)


def test_another_machine_gets_another_number_and_the_change_is_noted(
    run: SavedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "attempt", fitting(3))
    with_micro_batches(run)
    stored = json.loads((run.path / MICRO_BATCHES).read_text())
    stored["machine"]["memory_gib"] += 1
    (run.path / MICRO_BATCHES).write_text(json.dumps(stored))
    monkeypatch.setattr(trial, "attempt", fitting(5))
    assert with_micro_batches(run).trainer.arguments["micro_batches"] == 8
    assert [change.changed for change in read_changes(run.path)] == [{"trainer.micro_batches": "4 -> 8"}]


def test_other_ranks_take_the_number_of_the_first(run: SavedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "attempt", fitting(3))
    with_micro_batches(run)
    monkeypatch.setattr(trial, "attempt", fitting(5))
    monkeypatch.setenv("RANK", "1")
    assert with_micro_batches(run).trainer.arguments["micro_batches"] == 4


def test_a_configured_number_is_not_tried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "attempt", fitting(10**6))
    run = SavedRun.begin(tmp_path, CONFIG.updated({"trainer.micro_batches": 3}))
    assert with_micro_batches(run) is run.config
    assert micro_batches_of(run) == 3
    assert not (tmp_path / MICRO_BATCHES).exists()
