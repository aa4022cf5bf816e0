"""Confusions as a matrix and as a list."""

from __future__ import annotations

from etude.report.confusion import SHOWN_CONFUSIONS, WIDEST_MATRIX, confusion_matrix, most_confused

THREE = {"cat": {"cat": 5, "dog": 2}, "dog": {"bird": 1, "dog": 7}, "cow": {"dog": 2}}


def test_a_matrix_has_what_was_right_in_its_order_and_then_what_was_only_guessed() -> None:
    matrix = confusion_matrix(THREE)
    assert matrix is not None
    assert matrix.columns == ["cat", "dog", "bird"]
    assert matrix.rows == [("cat", [5, 2, 0]), ("dog", [0, 7, 1]), ("cow", [0, 2, 0])]


def test_a_matrix_that_is_too_wide_is_none() -> None:
    def wide(columns: int) -> dict[str, dict[str, int]]:
        return {"a": {f"class {number}": 1 for number in range(columns)}}

    assert confusion_matrix(wide(WIDEST_MATRIX)) is not None
    assert confusion_matrix(wide(WIDEST_MATRIX + 1)) is None


def test_the_most_frequent_confusions_come_first_and_hits_are_none() -> None:
    assert [tuple(one) for one in most_confused(THREE)] == [("cat", "dog", 2), ("cow", "dog", 2), ("dog", "bird", 1)]
    many = {"a": {f"class {number}": number + 1 for number in range(SHOWN_CONFUSIONS + 5)}}
    assert [confusion.rows for confusion in most_confused(many)] == list(range(SHOWN_CONFUSIONS + 5, 5, -1))
