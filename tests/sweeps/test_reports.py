"""What a member and its sweep say to each other is said once, in order, and survives both of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.sweeps.reports import REPORTS, ValidationReport, answer, open_reports, read_answer, write_report
from etude.untrusted import BrokenFileError


def report(index: int, value: float = 1.0) -> ValidationReport:
    return ValidationReport(index=index, step=10 * index, value=value)


def indices(run: Path) -> list[int]:
    return [one.index for one in open_reports(run)]


def test_a_run_that_has_said_nothing_has_no_reports(tmp_path: Path) -> None:
    assert indices(tmp_path) == []
    assert read_answer(tmp_path, 1) is None


def test_a_report_is_open_until_it_is_answered(tmp_path: Path) -> None:
    for index, ends in ((1, False), (2, False), (3, True)):
        write_report(tmp_path, report(index))
        assert list(open_reports(tmp_path)) == [report(index)]
        assert read_answer(tmp_path, index) is None
        answer(tmp_path, index, ends)
        assert indices(tmp_path) == []
        assert read_answer(tmp_path, index) is ends


@settings(max_examples=20)
@given(asked=st.sets(st.integers(1, 30), max_size=12), told=st.sets(st.integers(1, 30), max_size=12))
def test_open_reports_are_those_without_an_answer_in_order(
    tmp_path_factory: pytest.TempPathFactory, asked: set[int], told: set[int]
) -> None:
    """Also where validations in between have not been reported, since their scores were no numbers."""
    run = tmp_path_factory.mktemp("run")
    for index in asked:
        write_report(run, report(index))
    for index in told & asked:
        answer(run, index, index % 2 == 0)
    assert indices(run) == sorted(asked - told)
    assert {index: read_answer(run, index) for index in asked} == {
        index: index % 2 == 0 if index in told else None for index in asked
    }


def test_what_was_said_stays(tmp_path: Path) -> None:
    """A member that was killed after its report, and goes on from a checkpoint before it, says it again."""
    write_report(tmp_path, report(1, 0.5))
    write_report(tmp_path, report(1, 0.7))
    assert list(open_reports(tmp_path)) == [report(1, 0.5)]
    answer(tmp_path, 1, True)
    write_report(tmp_path, report(1, 0.7))
    assert indices(tmp_path) == []
    assert read_answer(tmp_path, 1) is True


@settings(max_examples=30)
@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_a_score_comes_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, value: float) -> None:
    run = tmp_path_factory.mktemp("run")
    write_report(run, report(1, value))
    assert repr(next(open_reports(run)).value) == repr(value)


def test_after_a_kill_what_was_half_written_is_not_there(tmp_path: Path) -> None:
    write_report(tmp_path, report(1))
    answer(tmp_path, 1, False)
    write_report(tmp_path, report(2))
    names = sorted(path.name for path in (tmp_path / REPORTS).iterdir())
    assert names == ["1.answer.json", "1.json", "2.json"]
    for name in ("3.json", "2.answer.json"):
        (tmp_path / REPORTS / f".{name}.4711.tmp").write_text('{"ind')
    assert indices(tmp_path) == [2]
    assert read_answer(tmp_path, 2) is None


@pytest.mark.parametrize(
    "text", ["", "{}", '{"index": 0, "step": 1, "value": 1}', '{"index": 1, "step": 1, "value": "x"}']
)
def test_a_damaged_report_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / REPORTS).mkdir()
    (tmp_path / REPORTS / "1.json").write_text(text)
    with pytest.raises(BrokenFileError, match="remove the folder of this member") as caught:
        list(open_reports(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_damaged_answer_is_one_line(tmp_path: Path) -> None:
    (tmp_path / REPORTS).mkdir()
    (tmp_path / REPORTS / "1.answer.json").write_text('{"ends": 1}')
    with pytest.raises(BrokenFileError, match="ends is a whole number, not true or false"):
        read_answer(tmp_path, 1)
