"""Tables of a sweep's trials: what they show, and that CSV has the same with plain numbers."""

from __future__ import annotations

import csv
import io
from typing import Any

from etude.commands.compare_tables import as_csv, render
from etude.commands.sweep_tables import sweep_notes, sweep_records, sweep_tables


def trial(number: int, **changed: Any) -> dict[str, Any]:
    return {
        "trial": number,
        "stage": "",
        "state": "finished",
        "reason": "",
        "members": [],
        "seeds": [1, 2],
        "configuration": {"optimizer.lr": 0.001234567, "scheduler": "cosine"},
        "validation": {"mean": 31.5, "sd": 0.25, "values": [31.25, 31.75]},
        "seconds": 90.0,
        "scores": {"test/bleu": {"mean": 30.125, "sd": 0.5, "values": [], "intervals": [None]}},
        "against_best": {},
        **changed,
    }


TESTED = {"test": "ar:9", "difference": {"bleu": -1.5}, "p": {"bleu": 0.0125}, "holm": {"bleu": 0.025}}
FOUND: dict[str, Any] = {
    "metric": "val/bleu",
    "mode": "max",
    "split": "test",
    "best": 3,
    "parameters": ["optimizer.lr", "scheduler", "scheduler.warmup"],
    "trials": [
        trial(3),
        trial(0, against_best=TESTED, configuration={"optimizer.lr": 0.1, "scheduler.warmup": "5step"}),
        trial(1, state="failed", reason="it fell over", validation=None, scores={}, seeds=[], seconds=None),
    ],
    "importances": {"optimizer.lr": 0.875, "scheduler": 0.125},
    "left_out": ["a", "b"],
    "signatures": {"test/bleu": "tok:13a"},
    "notes": ["a note"],
}


def test_a_row_for_each_trial_in_the_order_that_is_given() -> None:
    trials, importance = sweep_tables(FOUND)
    assert trials.header == [
        *("trial", "optimizer.lr", "scheduler", "scheduler.warmup", "seeds"),
        *("val/bleu", "test/bleu", "p", "time", "state"),
    ]
    assert trials.rows == [
        ["3", "0.001235", "cosine", "–", "1, 2", "31.50 ± 0.2500", "30.12 ± 0.5000", "–", "1 min 30 s", "finished"],
        ["0", "0.1", "–", "5step", "1, 2", "31.50 ± 0.2500", "30.12 ± 0.5000", "0.025", "1 min 30 s", "finished"],
        ["1", "0.001235", "cosine", "–", "–", "–", "–", "–", "–", "failed"],
    ]
    assert importance.rows == [["optimizer.lr", "0.88"], ["scheduler", "0.12"]]


def test_columns_that_say_nothing_are_left_out() -> None:
    plain = {**FOUND, "trials": FOUND["trials"][:1], "importances": {}, "parameters": []}
    (trials,) = sweep_tables(plain)
    assert trials.header == ["trial", "seeds", "val/bleu", "test/bleu", "time"]
    staged = {**plain, "trials": [trial(0, stage="first"), trial(1, stage="second")], "metric": None}
    assert sweep_tables(staged)[0].header[:4] == ["trial", "stage", "seeds", "validation"]


def test_a_reader_is_told_how_many_are_missing_and_what_p_is() -> None:
    notes = sweep_notes(FOUND)
    assert notes[0] == "2 members are not finished, and left out"
    assert "the best first: by the mean of val/bleu in validations, the largest" in notes
    assert any("to trial 3" in note and "ar:9" in note and "for 1 tests by Holm's method" in note for note in notes)
    assert "trial 1 failed: it fell over" in notes
    assert notes[-2:] == ["test/bleu: tok:13a", "a note"]
    said = sweep_notes({**FOUND, "importances": {}, "metric": None})
    assert any("four finished trials" in note for note in said)
    assert any("different scores" in note for note in said)


def test_csv_has_one_header_and_numbers_that_are_read_back() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(sweep_records(FOUND)))))
    assert [row["trial"] for row in rows] == ["3", "0", "1"]
    assert float(rows[0]["optimizer.lr"]) == 0.001234567
    assert (float(rows[1]["val/bleu"]), float(rows[1]["val/bleu.sd"])) == (31.5, 0.25)
    assert (rows[1]["test/bleu.p"], rows[1]["test/bleu.holm"], rows[1]["test/bleu.difference"]) == (
        "0.0125",
        "0.025",
        "-1.5",
    )
    assert rows[2]["test/bleu"] == rows[2]["seconds"] == rows[2]["val/bleu"] == rows[0]["test/bleu.p"] == ""
    assert rows[0]["scheduler.warmup"] == "" and rows[0]["seeds"] == "1 2"


def test_a_value_cannot_break_a_table() -> None:
    value = 'a|b & "c"\nd,e'
    found = {**FOUND, "trials": [trial(0, configuration={"x": value}), trial(1)], "parameters": ["x"]}
    rows = [line for line in render(sweep_tables(found)[:1], [], "markdown").splitlines() if line.startswith("|")]
    assert len(rows) == 4 and len({row.replace("\\|", "").count("|") for row in rows}) == 1
    assert next(csv.DictReader(io.StringIO(as_csv(sweep_records(found)))))["x"] == value
    assert r"\&" in render(sweep_tables(found), [], "latex")
