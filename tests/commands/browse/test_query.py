"""`etude query`: the tables hold what the runs hold, and nothing can be done but read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etude.cli.main import main
from etude.commands.browse.query import TABLES, query_runs, tables_text
from etude.errors import ConfigurationError
from etude.runs.folder import EVALUATIONS
from etude.runs.record import RECORD, Event, Record, read
from tests.commands.browse.conftest import WriteRun, conclusion


def rows(statement: str, outputs: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(query_runs(statement, outputs, format="json").text)
    return found


@pytest.fixture
def two(write_run: WriteRun, outputs: Path) -> None:
    write_run("demo/one", "optimizer.lr=1e-3", "seed=3", validations=(0.5, 0.75), test=0.75)
    folder = write_run("demo/two", "optimizer.lr=2e-3", validations=(0.25,))
    (folder / EVALUATIONS).mkdir()
    (folder / EVALUATIONS / "news.json").write_text(
        json.dumps(
            {key: value for key, value in conclusion({"news/accuracy": 0.5}).items() if key not in ("step", "ended")}
        )
    )


@pytest.mark.usefixtures("two")
def test_runs(outputs: Path) -> None:
    first, second = rows("select * from runs order by run", outputs)
    assert list(first) == list(TABLES["runs"])
    assert first["run"] == "demo/one"
    assert (first["task"], first["seed"], first["state"]) == ("classification", 3, "finished")
    assert (first["score"], first["mode"], first["step"], first["energy_joules"]) == (0.75, "max", 4, 2500.0)
    assert (second["state"], second["energy_joules"], second["sweep"]) == ("interrupted", None, None)


@pytest.mark.usefixtures("two")
def test_configurations_as_text_and_number(outputs: Path) -> None:
    found = rows("select run, value, number from config where key = 'optimizer.lr' order by number", outputs)
    assert [tuple(row.values()) for row in found] == [("demo/one", "0.001", 0.001), ("demo/two", "0.002", 0.002)]
    plain = {row["key"]: row["value"] for row in rows("select key, value from config where run = 'demo/one'", outputs)}
    assert (plain["budget"], plain["start"], plain["optimizer.fused"]) == ("4epoch", None, "true")
    assert plain["optimizer.betas"] == "[0.9, 0.98]"


@pytest.mark.usefixtures("two")
def test_metrics_are_those_of_the_record(outputs: Path) -> None:
    found = rows("select step, tokens, seconds, name, value from metrics where run = 'demo/one'", outputs)
    events = read(outputs / "demo" / "one" / RECORD)
    wanted = [
        (event.step, event.tokens, event.seconds, name, value)
        for event in events
        for name, value in event.values.items()
    ]
    assert [tuple(row.values()) for row in found] == wanted


@pytest.mark.usefixtures("two")
def test_scores_are_final_ones_and_other_evaluations(outputs: Path) -> None:
    found = rows("select run, evaluation, name, value, low, high, examples from scores order by run", outputs)
    assert [tuple(row.values()) for row in found] == [
        ("demo/one", "test", "test/accuracy", 0.75, 0.5, 1.0, 7),
        ("demo/two", "news", "news/accuracy", 0.5, 0.25, 0.75, 7),
    ]


@pytest.mark.usefixtures("two")
def test_tables_are_joined_and_columns_named_apart(outputs: Path) -> None:
    statement = "select r.run, c.run from runs r join config c on c.run = r.run and c.key = 'seed' order by 1"
    assert rows(statement, outputs)[0] == {"run": "demo/one", "run_2": "demo/one"}
    assert rows("SELECT max(VALUE) AS best FROM Metrics WHERE name LIKE 'val/acc%'", outputs) == [{"best": 0.75}]


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("drop table runs", "one select is what can be asked"),
        ("insert into runs (run) values ('x')", "one select"),
        ("delete from runs", "one select"),
        ("attach 'x.db' as other", "one select"),
        ("pragma user_version = 3", "one select"),
        ("select 1; select 2", "one select"),
        ("select load_extension('x')", "x"),
        ("selec", "syntax error"),
        ("select x from runs", "no such column: x; etude query without a statement"),
        ("select * from run", "no such table: run; the tables are runs, config, metrics, scores"),
    ],
)
def test_a_wrong_statement_is_one_line(
    statement: str, said: str, outputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert main(["query", statement, f"paths.outputs={outputs}"]) == 78
    written = capfd.readouterr()
    assert said in written.err
    assert written.err.count("\n") == 1
    assert written.out == ""
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("two")
def test_a_damaged_record_is_said_and_the_others_are_read(outputs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    record = outputs / "demo" / "one" / RECORD
    lines = record.read_bytes().splitlines(keepends=True)
    record.write_bytes(lines[0].replace(b"1.0", b"2.0") + b"".join(lines[1:]))
    assert main(["query", "select distinct run from metrics", f"paths.outputs={outputs}"]) == 65
    written = capfd.readouterr()
    assert written.out.split() == ["run", "demo/two"]
    assert "line 1 is damaged" in written.err
    assert main(["query", "select count(*) n from runs", "format=csv", f"paths.outputs={outputs}"]) == 0
    assert capfd.readouterr().out == "n\n2\n"


def test_without_a_statement_the_tables_are_shown(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["query"]) == 0
    assert capfd.readouterr().out == tables_text()
    assert all(f"\n  {name} " in f"\n{tables_text()}" for columns in TABLES.values() for name in columns)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(value=st.floats(allow_nan=True))
def test_a_number_comes_back_bit_for_bit(value: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    outputs = tmp_path_factory.mktemp("outputs")
    folder = outputs / "one"
    folder.mkdir()
    (folder / "config.yaml").write_text("task: {_target_: a.B}\nvalidate: {metric: val/x, mode: min}\n")
    record = Record(folder / RECORD)
    record.append(Event(1, 2, 3.0, {"train/x": value}))
    record.close()
    found = rows("select value from metrics", outputs)[0]["value"]
    assert found == (None if value != value else str(value) if value in (float("inf"), -float("inf")) else value)


def test_a_format_that_is_none_is_refused(outputs: Path) -> None:
    with pytest.raises(ConfigurationError, match="etude query does not know format=latex"):
        query_runs("select 1", outputs, format="latex")
