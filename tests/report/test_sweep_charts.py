"""Charts of a sweep: every trial is a line through its own values, and every member a curve inside the frame."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etude.report.sweep_charts import (
    ABSENT,
    SHADES,
    described,
    history,
    importance_bars,
    member_curves,
    parallel_coordinates,
)
from etude.runs.record import RECORD, Event, Record
from etude.sweeps.saved_sweep import SavedSweep
from etude.sweeps.sweep_documents import CodeState, MemberDocument, SweepDocument, write_document
from etude.sweeps.sweep_results import SweepResults
from tests.sweeps.pretended import conclude

SPACE: dict[str, Any] = {
    "lr": {"low": 1e-5, "high": 1e-1, "log": True, "step": None},
    "layers": {"values": [[8, ["layers=8"]], [2, ["layers=2"]]]},
    "scheduler": {"values": [["cosine", []], ["constant", []]]},
    "warmup": {"low": 0, "high": 10, "log": False, "step": None},
}


def a_sweep(
    folder: Path, *trials: tuple[dict[str, Any], list[float]], mode: str = "min", space: Any = SPACE
) -> SweepResults:
    """A sweep of trials with one member each: its values, and the scores of its validations."""
    folder.mkdir(parents=True)
    code = CodeState(commit=None, changes=None, sources={}, packages={})
    identity = {"stages": {"": {"space": space}}}
    document = SweepDocument(
        command=[], extra=None, identity=identity, metric="val/loss", mode=mode, threads=1, code=code
    )
    write_document(folder, document)
    for number, (assignment, scores) in enumerate(trials):
        member = folder / f"{number:03d}"
        member.mkdir()
        config = {"validate": {"metric": "val/loss", "mode": mode}, "seed": 1}
        write_document(
            member,
            MemberDocument(
                number=number,
                trial=number,
                stage="",
                start=None,
                seed=None,
                assignment=assignment,
                words=[],
                config=config,
                attempts=[],
            ),
        )
        record = Record(member / RECORD)
        for index, score in enumerate(scores, 1):
            record.append(Event(10 * index, 0, float(index), {"val/loss": score}))
        record.close()
        if scores:
            conclude(member, 10 * len(scores), "the budget is spent", scores[-1])
    return SweepResults.read(SavedSweep.open(folder))


def points(path: str) -> list[tuple[float, float]]:
    """The points of a path."""
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path)]


SEVERAL: list[tuple[dict[str, Any], list[float]]] = [
    ({"lr": 1e-5, "layers": 2, "scheduler": "cosine", "warmup": 0}, [3.0]),
    ({"lr": 1e-3, "layers": 8, "scheduler": "constant"}, [1.0]),
    ({"lr": 1e-1, "layers": 2, "scheduler": "constant"}, [2.0]),
    ({"lr": 1e-2, "layers": 8, "scheduler": "cosine", "warmup": 10}, []),
]


def test_each_line_goes_through_the_values_of_its_trial(tmp_path: Path) -> None:
    chart = parallel_coordinates(a_sweep(tmp_path / "s", *SEVERAL))
    assert chart is not None
    assert [axis.name for axis in chart.axes] == ["lr", "layers", "scheduler", "warmup", "val/loss"]
    frame = chart.frame
    lines = {int(line.title.removeprefix("trial ").partition(":")[0]): points(line.path) for line in chart.lines}
    assert lines.keys() == {0, 1, 2}  # one without a score has no end
    for line in lines.values():
        assert [x for x, _ in line] == pytest.approx([axis.at for axis in chart.axes], abs=0.06)
    lr = {number: line[0][1] for number, line in lines.items()}
    assert (lr[0], lr[2]) == (frame.bottom, frame.top)
    assert lr[1] == pytest.approx((frame.bottom + frame.top) / 2, abs=0.06)  # logarithmic, as the space is
    assert (lines[0][1][1], lines[1][1][1]) == (frame.top, frame.bottom)  # in the order of the space
    assert lines[0][2][1] == frame.bottom and lines[1][2][1] == lines[2][2][1] == frame.top
    assert lines[0][3][1] == frame.bottom < lines[1][3][1]  # one that has no value lies below all others
    assert [lines[number][4][1] for number in (1, 2, 0)] == [frame.bottom, (frame.top + frame.bottom) / 2, frame.top]
    assert [tick.label for tick in chart.axes[3].ticks][-1] == ABSENT
    assert [tick.label for tick in chart.axes[1].ticks] == ["8", "2"]


def test_the_best_is_drawn_last_and_colours_go_by_rank(tmp_path: Path) -> None:
    trials: list[tuple[dict[str, Any], list[float]]] = [
        ({"lr": 10.0**-n}, [score]) for n, score in ((1, 9e9), (2, 1.0), (3, 2.0))
    ]
    chart = parallel_coordinates(a_sweep(tmp_path / "s", *trials))
    assert chart is not None
    assert [line.kind for line in chart.lines] == [f"shade-{SHADES}", f"shade-{SHADES // 2}", "best"]
    assert chart.lines[-1].title == "trial 1: lr=0.01, val/loss 1.00"


def test_values_of_equal_text_and_other_types_are_apart(tmp_path: Path) -> None:
    trials = [({"x": value}, [1.0]) for value in (1, 1.0, True, "1", None)]
    chart = parallel_coordinates(a_sweep(tmp_path / "s", *trials, space={}))
    assert chart is not None
    heights = [points(line.path)[0][1] for line in chart.lines]
    assert len(set(heights)) == 5
    assert sorted(tick.at for tick in chart.axes[0].ticks) == pytest.approx(sorted(heights), abs=0.06)


def test_without_parameters_or_scores_there_is_nothing_to_draw(tmp_path: Path) -> None:
    assert parallel_coordinates(a_sweep(tmp_path / "a", ({"lr": 0.1}, [1.0]))) is None
    assert parallel_coordinates(a_sweep(tmp_path / "b", ({"lr": 0.1}, []), ({"lr": 0.2}, []))) is None
    assert history(a_sweep(tmp_path / "c", ({"lr": 0.1}, [1.0]))) is None
    assert member_curves(a_sweep(tmp_path / "d", ({"lr": 0.1}, [])), {}) is None
    assert importance_bars({}) == []


FINITE = st.floats(-1e6, 1e6)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(FINITE, min_size=1, max_size=4), min_size=2, max_size=6), st.sampled_from(["min", "max"]))
def test_the_history_falls_to_the_best_and_all_is_inside_the_frame(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[list[float]], mode: str
) -> None:
    folder = tmp_path_factory.mktemp("sweeps") / "s"
    results = a_sweep(folder, *(({"lr": 1e-3}, scores) for scores in drawn), mode=mode)
    plot = history(results)
    assert plot is not None and len(plot.marks) == len(drawn)
    steps = [y for _, y in points(plot.lines[0].path)]
    ordered = sorted(steps, reverse=mode == "max")  # up is down in a picture
    assert steps == ordered
    best = next(mark for mark in plot.marks if mark.kind == "best")
    assert steps[-1] == pytest.approx(best.y, abs=0.06)
    recorded = {
        number: ([10.0 * place for place in range(1, len(scores) + 1)], scores) for number, scores in enumerate(drawn)
    }
    curves = member_curves(results, recorded)
    assert curves is not None and len(curves.lines) == len(drawn)
    frame = curves.frame
    for line in curves.lines:
        assert all(frame.left <= x <= frame.right + 0.06 for x, _ in points(line.path))
        assert all(frame.top - 0.06 <= y <= frame.bottom + 0.06 for _, y in points(line.path))
    assert curves.lines[-1].kind == "best"


def test_a_curve_has_the_points_of_its_record_and_a_gap_where_there_is_no_number(tmp_path: Path) -> None:
    results = a_sweep(tmp_path / "s", ({"lr": 1e-3}, [3.0, 2.0]), ({"lr": 1e-2}, [1.0]))
    curves = member_curves(results, {0: ([10, 20, 30], [3.0, float("nan"), 2.0]), 1: ([10], [1.0])})
    assert curves is not None
    first = next(line for line in curves.lines if line.title.startswith("member 000"))
    assert first.path.count("M") == 2 and len(points(first.path)) == 2
    assert [mark.title.split()[1] for mark in curves.marks] == ["001"]  # a single value is no line


def test_scores_over_several_powers_of_ten_are_drawn_on_a_logarithmic_axis(tmp_path: Path) -> None:
    scores = [1.0, 10.0, 100.0]
    results = a_sweep(tmp_path / "s", *(({"lr": 1e-3 * score}, [score]) for score in scores))
    plot = history(results)
    assert plot is not None
    heights = [mark.y for mark in plot.marks]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2])


def test_bars_are_as_long_as_shares_the_longest_first() -> None:
    bars = importance_bars({"a": 0.25, "b": 0.75}, width=300)
    assert [(bar.name, bar.share, bar.length) for bar in bars] == [("b", "0.75", 300.0), ("a", "0.25", 100.0)]


def test_a_trial_is_described_by_what_varies_and_how_it_went(tmp_path: Path) -> None:
    results = a_sweep(tmp_path / "s", ({"lr": 1e-3, "same": 1}, [2.0]), ({"lr": 1e-2, "same": 1}, []))
    assert [described(trial, results.varied) for trial in results.trials] == [
        "trial 0: lr=0.001, val/loss 2.00",
        "trial 1: lr=0.01 (unfinished)",
    ]


@pytest.mark.parametrize("count", [1, 5, 12])
def test_names_of_axes_do_not_run_into_each_other(tmp_path: Path, count: int) -> None:
    names = [f"some.group.parameter_of_a_long_name_{number}" for number in range(count)]
    trials = [(dict.fromkeys(names, value), [1.0]) for value in (1, 2)]
    chart = parallel_coordinates(a_sweep(tmp_path / "s", *trials))
    assert chart is not None and [axis.name for axis in chart.axes[:-1]] == names
    room = chart.axes[1].at - chart.axes[0].at
    assert all(7 * len(axis.label) < room for axis in chart.axes)
    assert all(axis.label.endswith("…") and not axis.label.startswith("some") for axis in chart.axes[:-1])
