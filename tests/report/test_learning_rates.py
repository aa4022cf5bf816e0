"""A sweep of range tests ends with a proposal for each trial, a file, and a page that needs nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from etude.report.charts import Floats
from etude.report.learning_rates import RANGE_TEST, LearningRates, is_range_test, write_learning_rates
from etude.report.range_curve import RangeCurve, written
from etude.report.sweep_charts import WIDE
from etude.runs.record import RECORD, Event, Record
from etude.sweeps.saved_sweep import SavedSweep
from etude.sweeps.sweep_documents import MemberDocument, write_document
from tests.report.test_range_curve import RATES, losses, noisy
from tests.report.test_sweep_page import Page
from tests.sweeps.pretended import conclude
from tests.sweeps.test_saved_sweep import begun


def add(
    sweep: SavedSweep,
    number: int,
    curve: Floats,
    trial: int = 0,
    target: str = RANGE_TEST,
    width: int | None = None,
    ends: bool = True,
) -> None:
    """Add a member with this curve."""
    folder = sweep.path / f"{number:03d}"
    folder.mkdir()
    document = MemberDocument(
        number=number,
        trial=trial,
        stage="",
        start=None,
        seed=number,
        assignment={} if width is None else {"model.width": width},
        words=[],
        config={"validate": {"metric": "val/loss", "mode": "min"}, "scheduler": {"_target_": target}, "seed": number},
        attempts=[],
    )
    write_document(folder, document)
    record = Record(folder / RECORD)
    for step, (rate, loss) in enumerate(zip(RATES.tolist(), curve.tolist(), strict=True), 1):
        record.append(Event(step, step, float(step), {"train/loss": loss, "train/learning_rate": rate}))
    record.append(Event(len(RATES), 1, 1.0, {"val/loss": 1.0}))
    record.close()
    if ends:
        conclude(folder, len(RATES), "the budget is spent", 1.0)


@pytest.fixture
def sweep(tmp_path: Path) -> SavedSweep:
    return begun(tmp_path / "outputs" / "translation" / "demo" / "range")


def read(rates: LearningRates) -> list[dict[str, object]]:
    trials: list[dict[str, object]] = json.loads(rates.page.with_suffix(".json").read_text())["trials"]
    return trials


def test_a_sweep_of_whole_runs_is_none(sweep: SavedSweep) -> None:
    assert not is_range_test(sweep)
    add(sweep, 0, losses(), target="etude.optim.schedules.Cosine")
    assert not is_range_test(SavedSweep.open(sweep.path))
    add(sweep, 1, losses(), trial=1, ends=False)
    assert not is_range_test(SavedSweep.open(sweep.path))
    add(sweep, 2, losses(), trial=1)
    assert is_range_test(SavedSweep.open(sweep.path))
    rates = write_learning_rates(SavedSweep.open(sweep.path))
    assert [one.curve.runs for one in rates.found] == [1]


def test_the_proposal_is_that_of_the_mean_curve_over_seeds(sweep: SavedSweep) -> None:
    curves = [noisy(losses(), seed, 0.4) for seed in range(3)]
    for number, curve in enumerate(curves):
        add(sweep, number, curve)
    rates = write_learning_rates(sweep)
    expected = RangeCurve(RATES, np.mean(curves, axis=0)).propose()
    (found,) = rates.found
    assert rates.proposes
    assert found.proposal == expected
    assert found.curve.runs == 3
    assert re.fullmatch(
        rf"proposed: optimizer.lr={written(expected.rate)} \(a tenth of the rate at which the loss is least; "
        r"the loss diverges above \S+e-\d\)",
        found.line,
    )
    (stored,) = read(rates)
    assert stored["runs"] == 3
    assert stored["rates"] == RATES.tolist()
    assert stored["proposal"] == {
        "rate": expected.rate,
        "why": expected.why,
        "lowest": expected.lowest,
        "steepest": expected.steepest,
        "diverges": expected.diverges,
    }


def test_trials_are_judged_apart_and_one_without_a_descent_says_so(sweep: SavedSweep) -> None:
    add(sweep, 0, losses(1e-4), width=64)
    add(sweep, 1, losses(1e-3, 1.0), trial=1, width=128)
    add(sweep, 2, noisy(np.full(len(RATES), 2.0), 1, 0.1), trial=2, width=256)
    rates = write_learning_rates(sweep)
    narrow, wide, none = rates.found
    assert narrow.proposal and wide.proposal
    assert narrow.proposal.rate < wide.proposal.rate
    assert "proposed (model.width=64): optimizer.lr=" in narrow.line
    assert none.line.startswith("no learning rate is proposed: the loss did not fall")
    assert none.line.endswith("(model.width=256)")
    assert read(rates)[2]["proposal"] is None
    assert rates.proposes


def test_without_any_proposal_the_page_still_shows_the_curve(sweep: SavedSweep) -> None:
    add(sweep, 0, np.full(len(RATES), 2.0))
    rates = write_learning_rates(sweep)
    assert not rates.proposes
    page = Page(rates.page)
    assert "problem" in page.classes("p")
    assert "svg" in [tag for tag, _ in page.tags]


def test_the_page_is_whole_and_needs_nothing_else(sweep: SavedSweep) -> None:
    add(sweep, 0, losses())
    rates = write_learning_rates(sweep)
    page = Page(rates.page)
    assert page.open == []
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.tags}
    assert "http:" not in page.source and "https:" not in page.source
    proposal = rates.found[0].proposal
    assert proposal is not None
    assert f"optimizer.lr={written(proposal.rate)}" in page.texts["code"]
    assert f"proposed: {written(proposal.rate)}" in page.texts["title"]


def test_what_a_name_says_is_text(tmp_path: Path) -> None:
    sweep = begun(tmp_path / "outputs" / "a" / "b" / "<script>x")
    add(sweep, 0, losses())
    assert "<script" not in write_learning_rates(sweep).page.read_text()


def test_marks_are_on_the_curve_and_inside_the_frame(sweep: SavedSweep) -> None:
    curve = losses(1e-3, 0.03)
    curve[-20:] = 1e6
    add(sweep, 0, curve)
    plot = write_learning_rates(sweep).found[0].plot
    assert plot is not None
    assert [mark.title.partition(":")[0] for mark in plot.marks] == [
        "divergence",
        "steepest descent",
        "least loss",
        "proposed",
    ]
    for mark in plot.marks:
        assert WIDE.left <= mark.x <= WIDE.right
        assert WIDE.top <= mark.y <= WIDE.bottom
    at = {mark.title.partition(":")[0]: mark for mark in plot.marks}
    assert at["proposed"].x < at["least loss"].x < at["divergence"].x
    assert at["least loss"].y > at["proposed"].y  # lower on the page
    assert at["least loss"].y == pytest.approx(WIDE.bottom, abs=40)
    assert next(tick.label for tick in plot.x_ticks) == "1e-06"
