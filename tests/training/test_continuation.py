"""A run goes on with another machine and a longer budget, and what it went on with is noted; nothing else is let in."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etude.atomic import write_json
from etude.checkpoints.checkpoint import snapshot, write
from etude.checkpoints.integrity import checkpoint_folder
from etude.config.compose import compose
from etude.config.schema import Config
from etude.config.values import is_machine, shown_values
from etude.duration import Duration
from etude.errors import ConfigurationError, StorageError
from etude.runs.documents import Change
from etude.runs.reading import read_changes
from etude.runs.saved_run import SavedRun
from etude.training.continuation import (
    continue_with,
    is_complete,
    note_changes,
    refuse_other_data,
    requested_changes,
)

CONFIG = compose("experiment=translation/demo", "budget=8step", "trainer=cpu", "trainer.threads=3")
TYPED = ("budget", "batch", "validate", "checkpoint", "log", "limit", "callbacks", "stop", "average", "start")
"""Keys that not every value suits."""
KEYS = sorted(key for key in shown_values(CONFIG.values) if key.partition(".")[0] not in TYPED)
PATHS = ("data.corpus.source", "data.corpus.target")
"""Texts that may be paths: whether other data is there is found out by reading it."""
DATA = {
    "rows": {},
    "dropped": {},
    "fingerprint": "a",
    "classes": [],
    "tokenizer": {"vocabulary": 9, "fingerprint": "b"},
    "batch": {"examples": 4, "tokens": None, "pool": None},
    "steps_per_epoch": 1,
    "tokens_per_step": 1.0,
}
DURATIONS = st.builds(
    lambda amount, unit: f"{amount}{unit}", st.integers(1, 40), st.sampled_from(["step", "epoch", "ktok", "tok", "min"])
)


@pytest.fixture
def run(tmp_path: Path) -> SavedRun:
    """A run that was begun."""
    return SavedRun.begin(tmp_path, CONFIG)


def conclude(run: SavedRun) -> None:
    for name in ("finished.json", "report.html"):
        (run.path / name).write_text("whatever")


def save(run: SavedRun, step: int) -> None:
    content = {"state_dict": {"weight": torch.ones(2, 3)}, "global_step": step}
    write(snapshot(content), checkpoint_folder(run.checkpoints, step), {})


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(action: Callable[[], Any]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        action()
    return str(caught.value)


# What may change


@given(st.sampled_from(KEYS))
def test_a_key_of_the_machine_may_change_and_where_data_is_and_no_other(key: str) -> None:
    run, config = SavedRun(Path("outputs/a"), CONFIG), CONFIG.updated({key: "other"})
    change = f"{shown_values(CONFIG.values)[key]} -> 'other'"
    if is_machine(key) or key in PATHS:
        assert requested_changes(run, config) == {key: change}
    else:
        assert refused(lambda: requested_changes(run, config)) == (
            f"outputs/a was begun with another configuration ({key}: {change}); "
            "give this one a name of its own: run.name=NAME, or write what was begun"
        )


def test_the_keys_above_have_both_kinds() -> None:
    assert {is_machine(key) for key in KEYS} == {True, False}
    assert {"seed", "model.width", "trainer.threads", "paths.outputs"} <= {*KEYS}


def test_data_that_moves_is_read_and_refused_if_it_is_other_data(run: SavedRun) -> None:
    moved, read = CONFIG.updated({"data.corpus.source": "/elsewhere"}), []

    def described(fingerprint: str) -> Callable[[], dict[str, str]]:
        return lambda: read.append(fingerprint) or {"fingerprint": fingerprint}  # type: ignore[func-returns-value]

    refuse_other_data(run, moved, described("not prepared: any data may be the run's"))
    write_json(run.path / "data.json", DATA)
    refuse_other_data(run, CONFIG.updated({"trainer.threads": 5}), described("not moved"))
    assert read == []
    refuse_other_data(run, moved, described("a"))
    assert "(data.corpus.source: 'en' -> '/elsewhere')" in refused(
        lambda: refuse_other_data(run, moved, described("b"))
    )
    assert read == ["a", "b"]


@given(DURATIONS, DURATIONS)
def test_a_budget_may_grow_in_its_unit_and_never_shrink(old: str, new: str) -> None:
    run = SavedRun(Path("outputs/a"), CONFIG.updated({"budget": old}))
    before, after = Duration.parse(old), Duration.parse(new)
    config = CONFIG.updated({"budget": new})
    if before == after:
        assert requested_changes(run, config) == {}
    elif before.unit == after.unit and before.amount <= after.amount:
        assert requested_changes(run, config) == {"budget": f"{old!r} -> {new!r}"}
    else:
        assert refused(lambda: requested_changes(run, config)) == (
            f"outputs/a was begun with budget={old}, which {new} does not extend; "
            "write a longer one in the same unit, or begin a new run: run.name=NAME"
        )


def test_a_budget_in_other_words_is_the_same_budget() -> None:
    run = SavedRun(Path("outputs/a"), CONFIG.updated({"budget": "60s"}))
    assert requested_changes(run, CONFIG.updated({"budget": "1min"})) == {}
    assert requested_changes(run, CONFIG.updated({"budget": "61s"})) == {"budget": "'60s' -> '61s'"}


def test_all_that_differs_is_said_but_the_machine() -> None:
    run = SavedRun(Path("outputs/a"), CONFIG)
    other = CONFIG.updated({"seed": 7, "trainer.threads": 5, "budget": "9step", "model.heads": 2})
    assert refused(lambda: requested_changes(run, other)) == (
        f"outputs/a was begun with another configuration (budget: '8step' -> '9step'; model.heads: "
        f"{CONFIG.values['model']['heads']} -> 2; seed: {CONFIG.seed} -> 7); "
        "give this one a name of its own: run.name=NAME, or write what was begun"
    )
    allowed = CONFIG.updated({"trainer.threads": 5, "budget": "9step"})
    assert requested_changes(run, allowed) == {"budget": "'8step' -> '9step'", "trainer.threads": "3 -> 5"}


# Whether anything is left to do


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("reported", [False, True])
@pytest.mark.parametrize(
    ("changes", "extended"),
    [({}, False), ({"trainer.threads": 5}, False), ({"budget": "9step"}, True)],
)
def test_a_run_is_complete_when_it_is_finished_reported_and_not_extended(
    run: SavedRun, finished: bool, reported: bool, changes: dict[str, Any], extended: bool
) -> None:
    conclude(run)
    for name, there in (("finished.json", finished), ("report.html", reported)):
        if not there:
            (run.path / name).unlink()
    before = content(run.path)
    assert is_complete(run, CONFIG.updated(changes)) == (finished and reported and not extended)
    assert content(run.path) == before


def test_a_finished_run_of_another_experiment_is_refused_and_not_touched(run: SavedRun) -> None:
    conclude(run)
    before = content(run.path)
    other, shorter = CONFIG.updated({"seed": 7}), CONFIG.updated({"budget": "7step"})
    assert "(seed: 1 -> 7)" in refused(lambda: is_complete(run, other))
    assert "(seed: 1 -> 7)" in refused(lambda: continue_with(run, other))
    assert "budget=8step, which 7step does not extend" in refused(lambda: is_complete(run, shorter))
    assert "budget=8step, which 7step does not extend" in refused(lambda: continue_with(run, shorter))
    assert content(run.path) == before


# Going on


def test_without_changes_nothing_is_written(run: SavedRun) -> None:
    conclude(run)
    before = content(run.path)
    assert continue_with(run, CONFIG.updated({}, ["seed=1"])) is run
    assert content(run.path) == before


def test_a_run_goes_on_with_the_configuration_that_it_was_given(run: SavedRun) -> None:
    longer = CONFIG.updated({"trainer.threads": 5, "budget": "9step"}, ["budget=9step"])
    changed = continue_with(run, longer)
    assert (changed.path, changed.config) == (run.path, longer)
    assert SavedRun.open(run.path).config == longer
    assert continue_with(changed, longer) is changed


def test_another_machine_leaves_a_finished_run_finished_and_a_longer_budget_does_not(run: SavedRun) -> None:
    conclude(run)
    moved = continue_with(run, CONFIG.updated({"trainer.threads": 5}))
    assert moved.state == "finished"
    extended = continue_with(moved, moved.config.updated({"budget": "9step"}))
    assert extended.state == "unfinished"
    assert not (run.path / "finished.json").exists()


def test_each_continuation_is_noted_with_the_step_of_the_newest_checkpoint(run: SavedRun) -> None:
    moved = continue_with(run, CONFIG.updated({"trainer.threads": 5}))
    for step in (4, 6):
        save(run, step)
    continue_with(moved, moved.config.updated({"trainer.threads": 2, "budget": "9step"}))
    assert read_changes(run.path) == [
        Change(step=0, changed={"trainer.threads": "3 -> 5"}),
        Change(step=6, changed={"budget": "'8step' -> '9step'", "trainer.threads": "5 -> 2"}),
    ]


def test_changes_are_logged_and_a_longer_budget_is_warned_of(run: SavedRun, caplog: pytest.LogCaptureFixture) -> None:
    save(run, 6)
    with caplog.at_level(logging.INFO, "etude"):
        continue_with(run, CONFIG.updated({"trainer.threads": 5, "budget": "9step"}))
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "from step 6 on: budget: '8step' -> '9step'"),
        ("INFO", "from step 6 on: trainer.threads: 3 -> 5"),
        ("WARNING", "the budget is longer now; a learning rate that depends on it follows the new one"),
    ]


def test_a_run_killed_before_its_new_budget_is_written_is_an_unfinished_one(
    run: SavedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And doing it again notes the change no second time."""
    conclude(run)
    longer = CONFIG.updated({"budget": "9step"})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SavedRun, "begin", _killed)
        continue_with(run, longer)
    again = SavedRun.open(run.path)
    assert (again.state, again.config.budget) == ("unfinished", Duration(8, "step"))
    assert continue_with(again, longer).config == longer
    assert read_changes(run.path) == [Change(step=0, changed={"budget": "'8step' -> '9step'"})]


def _killed(path: Path, config: Config) -> SavedRun:
    raise KeyboardInterrupt


def test_a_conclusion_that_cannot_be_removed_is_one_line(run: SavedRun) -> None:
    (run.path / "finished.json").mkdir()
    with pytest.raises(StorageError, match=rf"^cannot write {re.escape(str(run.path))}/finished\.json: .*; .*again$"):
        continue_with(run, CONFIG.updated({"budget": "9step"}))
    assert SavedRun.open(run.path).config == CONFIG


# Notes


def test_no_change_is_no_note(run: SavedRun, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "etude"):
        note_changes(run, {})
    assert not (run.path / "changes.jsonl").exists() and not caplog.records


def test_a_note_is_repeated_where_another_one_came_between(run: SavedRun) -> None:
    there, back = {"trainer.threads": "1 -> 2"}, {"trainer.threads": "2 -> 1"}
    for change in (there, there, back, back, there):
        note_changes(run, change)
    assert [change.changed for change in read_changes(run.path)] == [there, back, there]


def test_a_note_with_a_line_separator_is_not_repeated_either(run: SavedRun) -> None:
    for _ in range(2):
        note_changes(run, {"a\u2028b": "1 -> 2"})
    assert len(read_changes(run.path)) == 1


def test_a_note_of_another_step_is_another_note(run: SavedRun) -> None:
    note_changes(run, {"python": "'ä' -> 'b'"})
    save(run, 5)
    note_changes(run, {"python": "'ä' -> 'b'"})
    lines = (run.path / "changes.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 5]
    assert lines[0] == """{"step": 0, "changed": {"python": "'ä' -> 'b'"}}"""
