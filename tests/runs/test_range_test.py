"""A range test of real processes: it diverges, ends there, proposes a rate, and does the same when it is killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs.killing import assert_same, end
from tests.runs.test_sweeps import children, done, kill, members, start, when

GIVEN_BY_THE_SEARCH = ("callbacks", "scheduler.warmup", "validate.every", "log.every", "budget")


@pytest.mark.slow
def test_a_killed_range_test_ends_at_the_same_step(overrides: Callable[..., list[str]], tmp_path: Path) -> None:
    small = [word for word in overrides("causal_lm") if word.partition("=")[0] not in GIVEN_BY_THE_SEARCH]
    # A loss is four times its best only where the best is small; less is enough to see that it ends.
    more = ["budget=100step", "optimizer.lr=30.0", "callbacks.divergence.multiple=1.5", "checkpoint.every=3step"]
    words = ["sweep", *small, "search=lr_range", *more, "run.experiment=ranges", "sweep.name=x"]
    code, out, log = done([*words, f"paths.outputs={tmp_path}/whole"])
    assert code == 0, log[-3000:]
    whole = Path(out.strip())
    conclusion = json.loads((whole / "000" / "finished.json").read_text())
    assert 30 < conclusion["step"] < 100
    assert conclusion["ended"].startswith("diverged: the ")
    assert "etude: proposed: optimizer.lr=" in log
    assert f"plot: {whole}/learning_rates.html" in log
    (found,) = json.loads((whole / "learning_rates.json").read_text())["trials"]
    assert found["rates"][0] == 30.0 * 1e-6
    assert len(found["rates"]) <= conclusion["step"]
    folder = tmp_path / "killed" / "ranges" / "x"
    process = start([*words, f"paths.outputs={tmp_path}/killed"])
    when(folder, lambda: len(list(folder.glob("000/checkpoints/step-*"))) > 0)
    running = [process.pid, *children(process.pid), *members(process.pid)]
    for one in running:
        kill(one)
    process.communicate()
    assert not (folder / "000" / "finished.json").exists()
    code, out, log = done([*words, f"paths.outputs={tmp_path}/killed"])
    assert code == 0, log[-3000:]
    for sweep in (folder, whole):
        (sweep / "000" / "samples").mkdir()  # a range test has none
    assert_same(end(folder / "000"), end(whole / "000"))
    assert (folder / "learning_rates.json").read_text() == (whole / "learning_rates.json").read_text()


@pytest.mark.slow
def test_a_step_that_is_not_finite_ends_it_in_good_order(overrides: Callable[..., list[str]], tmp_path: Path) -> None:
    small = [word for word in overrides("classification") if word.partition("=")[0] not in GIVEN_BY_THE_SEARCH]
    far = ["budget=80step", "optimizer.lr=1e25", "scheduler.low=1e-31", "callbacks.divergence.multiple=1e30"]
    words = [
        "sweep",
        *small,
        "search=lr_range",
        *far,
        "run.experiment=ranges",
        "sweep.name=x",
        f"paths.outputs={tmp_path}",
    ]
    _, _, log = done(words)
    assert "000 finished" in log, log[-3000:]
    conclusion = json.loads((tmp_path / "ranges" / "x" / "000" / "finished.json").read_text())
    assert conclusion["ended"] == "diverged: the loss or its gradient is not finite"
    assert conclusion["step"] < 80
