"""Details of an evaluation as tables of a tracker."""

from __future__ import annotations

from typing import Any, cast

from lightning.pytorch.loggers import Logger

from etude.training.loggers.detail_tables import log_curves, log_details, tables

DETAILS: dict[str, Any] = {
    "calibration": {"temperature": 1.25, "bins": 15},
    "confusion": {"cat": {"cat": 5, "dog": 2}, "dog": {"dog": 7}},
    "errors": [{"text": "woof", "label": "dog"}, {"text": "meow", "label": "cat"}],
}


class Tables:
    """A logger that records the tables it gets."""

    def __init__(self) -> None:
        self.tables: dict[str, Any] = {}

    def log_table(self, key: str, columns: list[str], rows: list[list[Any]], step: int | None = None) -> None:
        self.tables[key] = (columns, rows, step)


def test_each_detail_is_a_table() -> None:
    by_name = tables(DETAILS)
    assert by_name["calibration"] == (["name", "value"], [["temperature", "1.25"], ["bins", "15"]])
    assert by_name["confusion"][1] == [["cat", "cat", 5], ["cat", "dog", 2], ["dog", "dog", 7]]
    assert by_name["errors"] == (["text", "label"], [["woof", "dog"], ["meow", "cat"]])
    assert tables({}) == {}
    assert tables({"errors": []}) == {}


def test_tables_are_logged_under_the_name_of_the_split() -> None:
    supported, unsupported = Tables(), object()
    log_details({**DETAILS, "confusion": {}}, "test", cast(list[Logger], [unsupported, supported]), step=12)
    assert supported.tables.keys() == {"test/calibration", "test/errors"}
    assert supported.tables["test/errors"][2] == 12


def test_curves_are_logged_where_there_are_rows() -> None:
    supported, unsupported = Tables(), object()
    curves: dict[str, Any] = {"reliability": (["confidence"], [[0.5]]), "empty": (["class"], [])}
    log_curves(curves, "val", cast(list[Logger], [unsupported, supported]), step=7)
    assert supported.tables == {"val/reliability": (["confidence"], [[0.5]], 7)}
