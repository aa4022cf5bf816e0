"""Tables of a comparison: what they show, and how they are written for Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
from typing import Any

from etude.commands.compare_tables import (
    ComparisonTable,
    as_csv,
    comparison_records,
    comparison_tables,
    render,
    table_notes,
)

ONE = {"mean": 37.1234, "sd": None, "intervals": [[36.0, 38.2]]}
SEVERAL = {"mean": 37.9, "sd": 0.41, "intervals": [[36.9, 38.8], [37.0, 39.0]]}
FOUND: dict[str, Any] = {
    "groups": [
        {
            "name": "plain",
            "configuration": {"model.width": "128"},
            "seeds": [1],
            "scores": {"test/bleu": ONE},
            "against_first": {},
            "over_seeds": {},
            "cost": {"tokens": 1000, "energy_joules": 2000.0, "energy_estimated": True},
        },
        {
            "name": "wide",
            "configuration": {"model.width": "256"},
            "seeds": [1, 2],
            "scores": {"test/bleu": SEVERAL},
            "against_first": {"p": {"bleu": {"1": 0.01, "2": 0.0412}}, "test": "1000 trials"},
            "over_seeds": {"test/bleu": {"why_not": "plain has one seed"}},
            "cost": {"tokens": 2000},
        },
    ],
    "signatures": {"test/bleu": "case:mixed|tok:13a"},
    "notes": ["one run is not finished"],
}


def test_a_table_for_what_differs_for_scores_and_for_cost() -> None:
    configuration, scores, cost = comparison_tables(FOUND)
    assert configuration.header == ["run", "model.width"]
    assert configuration.rows == [["plain", "128"], ["wide", "256"]]
    assert scores.header == ["run", "seeds", "test/bleu", "p"]
    assert [row[1] for row in scores.rows] == ["1", "1, 2"]
    assert scores.rows[0][2].endswith("]")
    assert " ± " in scores.rows[1][2]
    assert [row[3] for row in scores.rows] == ["–", "0.0412"]  # over seeds, the largest
    assert cost.header == ["run", "tokens", "energy"]
    assert cost.rows[0][2] == "2 kJ (estimated)"
    assert cost.rows[1][2] == "–"


def test_more_keys_than_runs_become_rows() -> None:
    keys = {f"key{number}": "1" for number in range(3)}
    groups = [{**group, "configuration": keys} for group in FOUND["groups"]]
    configuration, *_ = comparison_tables({**FOUND, "groups": groups})
    assert configuration.header == ["run", "plain", "wide"]
    assert [row[0] for row in configuration.rows] == list(keys)


def test_what_a_reader_must_know_is_written_below() -> None:
    notes = table_notes(FOUND)
    assert notes[0].startswith("p: of the difference to plain")
    assert "1000 trials" in notes[0]
    seeds = "test/bleu, wide minus plain: whether it holds for other seeds cannot be told: plain has one seed"
    rest = ["test/bleu: case:mixed|tok:13a", "one run is not finished"]
    assert notes[1:] == ["±: standard deviation over seeds", seeds, *rest]


def test_how_many_seeds_would_tell_a_difference_is_said_where_there_are_fewer() -> None:
    one, other = FOUND["groups"]
    test = {"difference": 0.4, "low": -0.2, "high": 1.0, "p": 0.18, "paired": True, "needed": 12}
    said = "test/bleu, wide minus plain: +0.4 [-0.2, +1] over seeds (t-test, paired by seed, p = 0.18)"
    more = "; to tell a difference of this size takes some 12 seeds of each"
    for found, note in ((test, said + more), ({**test, "needed": 2}, said), ({**test, "needed": None}, said)):
        assert note in table_notes({**FOUND, "groups": [one, {**other, "over_seeds": {"test/bleu": found}}]})


def test_signs_of_markdown_and_latex_are_escaped() -> None:
    table = ComparisonTable("T", ["run", "a_b"], [["x|y", "50 % ± 1"]])
    markdown, latex = render([table], ["p|q"], "markdown"), render([table], ["p_q"], "latex")
    assert "| x\\|y | 50 % ± 1 |" in markdown
    assert markdown.endswith("p\\|q\n")
    assert r"run & a\_b \\" in latex
    assert r"x|y & 50 \% $\pm$ 1 \\" in latex
    assert latex.endswith("p\\_q\n")


def test_a_transposed_table_has_its_rows_as_columns() -> None:
    table = ComparisonTable("T", ["run", "a", "b"], [["x", "1", "2"]])
    assert table.transposed() == ComparisonTable("T", ["run", "x"], [["a", "1"], ["b", "2"]])
    assert table.transposed().transposed() == table


def test_csv_has_a_row_for_each_group_with_plain_numbers() -> None:
    one, other = FOUND["groups"]
    tested = {**other, "against_first": {**other["against_first"], "difference": {"bleu": 0.75}}}
    rows = list(csv.DictReader(io.StringIO(as_csv(comparison_records({**FOUND, "groups": [one, tested]})))))
    assert [row["run"] for row in rows] == ["plain", "wide"]
    assert [float(row["test/bleu"]) for row in rows] == [37.1234, 37.9]
    assert [row["test/bleu.sd"] for row in rows] == ["", "0.41"]
    assert [row["test/bleu.p"] for row in rows] == ["", "0.0412"]
    assert [row["tokens"] for row in rows] == ["1000", "2000"]
    assert [row["seeds"] for row in rows] == ["1", "1 2"]
    assert [row["model.width"] for row in rows] == ["128", "256"]
