"""Confusions as a matrix and as a list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from etude.report.evaluated.confusion import (
    LEVELS,
    OTHERS,
    SHOWN_CONFUSIONS,
    WIDEST_MATRIX,
    confusion_matrix,
    largest_confusions,
)

THREE = {"cat": {"cat": 5, "dog": 2}, "dog": {"bird": 1, "dog": 7}, "cow": {"dog": 2}}
NAMES = st.integers(0, 60).map(lambda number: f"class {number}")


def counts(confusion: dict[str, dict[str, int]]) -> list[tuple[str, list[int]]]:
    return [(label, [cell.rows for cell in cells]) for label, cells in confusion_matrix(confusion).rows]


def test_a_matrix_has_what_was_right_in_its_order_and_then_what_was_only_guessed() -> None:
    matrix = confusion_matrix(THREE)
    assert matrix.columns == ["cat", "dog", "bird"] and matrix.is_square and not matrix.has_others
    assert counts(THREE) == [("cat", [5, 2, 0]), ("dog", [0, 7, 1]), ("cow", [0, 2, 0])]


def test_a_shade_is_the_share_of_the_row_and_the_words_are_those_of_the_cell() -> None:
    (_, cat), (_, dog), (_, cow) = confusion_matrix(THREE).rows
    assert [cell.kind for cell in cat] == [f"right-{round(LEVELS * 5 / 7)}", f"wrong-{round(LEVELS * 2 / 7)}", ""]
    assert (
        cat[1].told == "cat taken for dog in 2 of 7 rows (28.6%)" and dog[1].told == "dog: right in 7 of 8 rows (87.5%)"
    )
    assert cow[1].kind == f"wrong-{LEVELS}"


@given(st.dictionaries(NAMES, st.dictionaries(NAMES, st.integers(1, 99), min_size=1), min_size=1))
def test_every_row_adds_up_whatever_is_left_out(confusion: dict[str, dict[str, int]]) -> None:
    matrix = confusion_matrix(confusion)
    assert len(matrix.columns) - matrix.has_others <= WIDEST_MATRIX
    for label, cells in matrix.rows:
        assert sum(cell.rows for cell in cells) == sum(confusion[label].values())


def test_of_many_classes_those_of_the_largest_confusions_are_shown() -> None:
    names = [f"intent {number}" for number in range(150)]
    confusion = {name: {name: 30} for name in names}
    confusion["intent 149"] = {"intent 149": 20, "intent 3": 9}
    for number in range(40, 140):
        confusion[names[number]][names[number + 1]] = 1
    matrix = confusion_matrix(confusion)
    assert matrix.classes == 150 and matrix.has_others and matrix.columns[-1] == OTHERS
    assert len(matrix.columns) - 1 <= WIDEST_MATRIX and {"intent 3", "intent 149"} <= set(matrix.columns)


def test_decisions_are_no_confusions() -> None:
    decisions = {"news": {"found": 3, "wrongly found": 1, "missed": 2}}
    assert not confusion_matrix(decisions).is_square and largest_confusions(decisions) == []
    assert counts(decisions) == [("news", [3, 1, 2])]


def test_the_most_frequent_confusions_come_first_and_hits_are_none() -> None:
    assert [tuple(one) for one in largest_confusions(THREE)] == [
        ("cat", "dog", 2, 7),
        ("cow", "dog", 2, 2),
        ("dog", "bird", 1, 8),
    ]
    many = {"a": {f"class {number}": number + 1 for number in range(SHOWN_CONFUSIONS + 5)}}
    assert [confusion.rows for confusion in largest_confusions(many)] == list(range(SHOWN_CONFUSIONS + 5, 5, -1))
