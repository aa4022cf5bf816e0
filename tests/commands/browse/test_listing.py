"""`etude runs`: which rows come, in which order, and what they say."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from etude.atomic import write_json
from etude.cli.browse_commands import browse, browse_usage
from etude.cli.command_table import COMMANDS
from etude.cli.main import main
from etude.commands.browse.inventory import read_inventory
from etude.commands.browse.listing import age, keys_of, list_runs, values_of, words_of
from etude.commands.browse.tabular import ShownColumn, cell, formatted
from etude.errors import ConfigurationError
from etude.runs.documents import Failure
from etude.runs.folder import CHECKPOINTS, FAILURE
from etude.runs.lock import RunLock
from etude.runs.record import RECORD
from etude.runs.run_row import RunRow
from etude.sweeps.progress import STATE
from etude.sweeps.sweep_documents import MEMBER, SWEEP, CodeState, MemberDocument, SweepDocument, write_document
from tests.commands.browse.conftest import WriteRun


def names(outputs: Path, *filters: str, **options: Any) -> list[str]:
    """The names of the runs that are listed, in their order."""
    return [row["run"] for row in json.loads(list_runs(filters, outputs, format="json", **options).text)]


@pytest.fixture
def three(write_run: WriteRun) -> None:
    write_run("demo/one", "optimizer.lr=1e-3", "run.tags=[good]", validations=(0.5, 0.75), test=0.7)
    write_run("demo/two", "optimizer.lr=2e-3", "model.width=64", validations=(0.9, 0.6), test=0.6)
    write_run("demo/three", "optimizer.lr=5e-4", validations=(0.25,))


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ([], {"demo/one", "demo/two", "demo/three"}),
        (["optimizer.lr<1e-3"], {"demo/three"}),
        (["state=finished"], {"demo/one", "demo/two"}),
        (["state!=finished"], {"demo/three"}),
        (["score>0.8"], {"demo/two"}),
        (["val/accuracy>=0.75"], {"demo/one", "demo/two"}),
        (["val/loss<0.2"], {"demo/two"}),
        (["test/accuracy>0.65"], {"demo/one"}),
        (["train/loss=0.5"], {"demo/one", "demo/two"}),
        (["task=classification", "model.width=64"], {"demo/two"}),
        (["run.tags=good"], {"demo/one"}),
        (["model=encoder", "optimizer=adamw"], {"demo/one", "demo/two", "demo/three"}),
        (["model=seq2seq"], set()),
        (["seconds<8"], {"demo/three"}),
        (["energy>2000"], {"demo/one", "demo/two"}),
        (["experiment=classification/demo"], {"demo/one", "demo/two", "demo/three"}),
        (["kind=run", "age<1h"], {"demo/one", "demo/two", "demo/three"}),
        (["kind=sweep"], set()),
    ],
    ids=lambda words: " ".join(sorted(words)),  # of a set, the same in every worker
)
def test_filters(filters: list[str], wanted: set[str], outputs: Path) -> None:
    assert set(names(outputs, *filters)) == wanted


@pytest.mark.usefixtures("three")
def test_sorting_puts_what_is_absent_last(outputs: Path) -> None:
    assert names(outputs, sort="score") == ["demo/three", "demo/one", "demo/two"]
    assert names(outputs, sort="-score") == ["demo/two", "demo/one", "demo/three"]
    assert names(outputs, sort="test/accuracy") == ["demo/two", "demo/one", "demo/three"]
    assert names(outputs, sort="-test/accuracy") == ["demo/one", "demo/two", "demo/three"]
    assert names(outputs, sort="cost,-optimizer.lr") == ["demo/three", "demo/two", "demo/one"]
    assert names(outputs, sort="run") == ["demo/one", "demo/three", "demo/two"]


@pytest.mark.usefixtures("three")
def test_formats_have_the_same_rows(outputs: Path) -> None:
    columns = "optimizer.lr,test/accuracy"
    plain = json.loads(list_runs([], outputs, sort="run", columns=columns, format="json").text)
    assert plain[0] | {"age": 0} == {
        "run": "demo/one",
        "task": "classification",
        "state": "finished",
        "metric": "val/accuracy",
        "score": 0.75,
        "seconds": 10.0,
        "energy_joules": 2500.0,
        "age": 0,
        "optimizer.lr": 0.001,
        "test/accuracy": 0.7,
    }
    assert plain[1]["energy_joules"] is None
    rows = list(csv.DictReader(io.StringIO(list_runs([], outputs, sort="run", columns=columns, format="csv").text)))
    assert [(row["run"], row["score"], row["optimizer.lr"]) for row in rows] == [
        ("demo/one", "0.75", "0.001"),
        ("demo/three", "0.25", "0.0005"),
        ("demo/two", "0.9", "0.002"),
    ]
    markdown = list_runs([], outputs, sort="run", format="markdown").text
    assert "| demo/one | classification | finished | val/accuracy | 0.7500 | 10.0 s | 2.5 kJ |" in markdown
    wide = list_runs([], outputs, sort="run").text.splitlines()
    assert wide[0].split() == ["run", "task", "state", "metric", "score", "seconds", "energy_joules", "age"]
    assert wide[2].split()[:8] == [
        "demo/three",
        "classification",
        "interrupted",
        "val/accuracy",
        "0.2500",
        "5.0",
        "s",
        "–",
    ]
    narrow = list_runs([], outputs, width=60).text.splitlines()
    assert max(map(len, narrow)) <= 60


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("filters", "options", "problem"),
    [
        (["optimzer.lr<1"], {}, "none of the 3 runs in .* has optimzer.lr; did you mean optimizer.lr?"),
        (["val/acuracy>1"], {}, "did you mean val/accuracy?"),
        ([], {"sort": "-scroe"}, "did you mean score?"),
        ([], {"columns": "qqqq"}, "no metric and no key"),
        (["demo"], {}, "'demo' is no filter"),
        ([], {"format": "yaml"}, r"etude runs does not know format=yaml; it takes table\|markdown\|csv\|json"),
    ],
)
def test_what_no_run_has_is_refused(filters: list[str], options: dict[str, Any], problem: str, outputs: Path) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        list_runs(filters, outputs, **options)


def test_a_key_that_is_null_everywhere_is_known(write_run: WriteRun, outputs: Path) -> None:
    write_run("demo/one")
    assert names(outputs, "stop.patience=null") == ["demo/one"]
    assert names(outputs, "stop.patience>1") == []


def test_states_follow_from_the_folder(write_run: WriteRun, outputs: Path) -> None:
    def state(folder: Path) -> str:
        return RunRow.read(folder, outputs).state

    run = write_run("demo/one")
    assert state(run) == "begun"
    (run / "data.json").write_text("{}")
    assert state(run) == "prepared"
    with RunLock(run):
        assert state(run) == "running"
    (run / CHECKPOINTS).mkdir()
    assert state(run) == "interrupted"
    write_json(run / FAILURE, Failure(code=65, reason="the data is gone").plain())
    assert state(run) == "failed"
    assert RunRow.read(run, outputs).reason == "the data is gone"
    (run / FAILURE).unlink()
    (run / "etude-traceback-x.txt").write_text("")
    assert state(run) == "failed"
    assert state(write_run("demo/two", validations=(0.5,), test=0.5)) == "finished"
    assert state(write_run("demo/three", validations=(0.5,), test=0.5, ended="pruned after 1 validations")) == "pruned"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.yaml", "seed: [", "config.yaml is not YAML"),
        ("config.yaml", "- 1", "config.yaml has no keys"),
        ("config.yaml", "sede: 1", "config.yaml has the key sede, which this version of etude does not know"),
        ("config.yaml", "seed: 1", "config.yaml has no task._target_"),
        ("config.yaml", "seed: &a 1", "line 1 has an anchor"),
        ("finished.json", "{}", "finished.json"),
        ("cost.json", '{"old": 1}', "cost.json"),
        (RECORD, "{}\n", "line 1 is damaged"),
    ],
)
@pytest.mark.usefixtures("three")
def test_a_damaged_run_is_said_and_the_rest_is_shown(
    name: str, content: str, said: str, outputs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (outputs / "demo" / "one" / name).write_text(content)
    assert main(["runs", f"paths.outputs={outputs}", "sort=run"]) == 65
    written = capfd.readouterr()
    assert [line.split()[0] for line in written.out.splitlines()] == ["run", "demo/three", "demo/two"]
    assert said in written.err
    assert written.err.count("\n") == 1
    assert "Traceback" not in written.err


@pytest.mark.usefixtures("three")
def test_a_folder_without_a_run_is_said(outputs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (outputs / "demo" / "four" / "inner").mkdir(parents=True)
    (outputs / ".hidden").mkdir()
    (outputs / "last").symlink_to("demo/one")
    assert main(["runs", f"paths.outputs={outputs}"]) == 65
    written = capfd.readouterr()
    assert len(written.out.splitlines()) == 4
    assert written.err == f"etude: {outputs / 'demo' / 'four'} is no run: it has no config.yaml\n"


def test_nothing_is_listed_where_nothing_is(outputs: Path) -> None:
    assert list_runs(["anything=1"], outputs).text.split()[0] == "run"


def write_sweep(outputs: Path, write_run: WriteRun, states: dict[int, str]) -> Path:
    """Write a sweep of three members: one finished, one interrupted, one that has not begun."""
    folder = outputs / "demo" / "lr-1"
    folder.mkdir(parents=True)
    code = CodeState(commit=None, changes=None, sources={}, packages={})
    write_document(
        folder,
        SweepDocument(command=[], extra=None, identity={}, metric="val/accuracy", mode="max", threads=1, code=code),
    )
    write_run("demo/lr-1/000", validations=(0.5, 0.75), test=0.7)
    write_run("demo/lr-1/001", validations=(0.5,))
    (folder / "002").mkdir()
    for number in range(3):
        member = MemberDocument(
            number=number,
            trial=number,
            stage="",
            start=None,
            seed=1,
            assignment={},
            words=[],
            config={},
            attempts=[],
        )
        write_document(folder / f"{number:03d}", member)
        assert (folder / f"{number:03d}" / MEMBER).exists()
    write_json(folder / STATE, {"members": [{"number": number, "state": state} for number, state in states.items()]})
    return folder


def test_a_sweep_is_a_row_beside_its_members(write_run: WriteRun, outputs: Path) -> None:
    folder = write_sweep(outputs, write_run, {})
    rows = json.loads(list_runs([], outputs, sort="run", columns="sweep,reason", format="json").text)
    assert [(row["run"], row["kind"], row["state"], row["sweep"]) for row in rows] == [
        ("demo/lr-1", "sweep", "interrupted", "lr-1"),
        ("demo/lr-1/000", "member", "finished", "lr-1"),
        ("demo/lr-1/001", "member", "interrupted", "lr-1"),
    ]
    assert rows[0]["score"] == 0.75
    assert rows[0]["seconds"] == 15.0
    assert rows[0]["reason"] == "1 of 3 members have ended"
    assert names(outputs, "kind=sweep") == ["demo/lr-1"]
    assert names(outputs, "sweep=lr-1", "kind=member", "state=finished") == ["demo/lr-1/000"]
    assert read_inventory(outputs).problems == []
    with RunLock(folder, "sweep"):
        assert names(outputs, "state=running") == ["demo/lr-1"]


def test_a_member_that_its_sweep_gave_up_has_failed(write_run: WriteRun, outputs: Path) -> None:
    write_sweep(outputs, write_run, {1: "failed", 0: "finished"})
    assert names(outputs, "state=failed") == ["demo/lr-1/001"]


def test_a_sweep_without_its_file_is_said(write_run: WriteRun, outputs: Path) -> None:
    folder = write_sweep(outputs, write_run, {})
    (folder / SWEEP).write_text("{}")
    inventory = read_inventory(outputs)
    assert [row.name for row in inventory.runs] == ["demo/lr-1/000", "demo/lr-1/001"]
    assert inventory.sweeps == []
    assert len(inventory.problems) == 1


@pytest.mark.usefixtures("three")
def test_keys_and_values_for_completion(outputs: Path) -> None:
    inventory = read_inventory(outputs)
    assert {"state", "optimizer.lr", "val/accuracy", "test/accuracy"} <= set(keys_of(inventory))
    assert values_of(inventory, "model.width") == ["128", "64"]
    assert values_of(inventory, "state") == ["finished", "interrupted"]
    assert values_of(inventory, "model") == ["encoder"]


def test_small_things() -> None:
    assert words_of("[a,-b]") == words_of(" a , -b ") == ["a", "-b"]
    assert [age(seconds) for seconds in (3, 200, 8000, 400_000)] == ["3 s", "3 min", "2 h", "5 d"]
    assert [cell(value) for value in (None, 12345.678, 12345, True, "a", [1, None])] == [
        *("–", "12.35k", "12345", "true", "a", "[1, null]")
    ]
    assert formatted([{"a": float("inf")}], [ShownColumn("a")], "csv", None) == "a\ninf\n"
    assert formatted([], [ShownColumn("a")], "json", None) == "[]\n"


@pytest.mark.parametrize("name", ["runs", "query", "schema"])
def test_usage_shows_an_example_and_all_options(name: str) -> None:
    text = browse_usage(COMMANDS[name])
    assert f"etude {name} {COMMANDS[name].example}" in text
    assert all(option in text for option in COMMANDS[name].options)


@pytest.mark.parametrize("words", [["--sort", "x"], ["-x"]])
def test_options_of_other_programs_are_refused(words: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="is not an option of etude runs"):
        browse(COMMANDS["runs"], words)


def test_torch_is_not_loaded(write_run: WriteRun, outputs: Path) -> None:
    write_run("demo/one", validations=(0.5,), test=0.5)
    lines = [["runs"], ["query", "select count(*) from scores"], ["runs", "diff", "demo/one", "demo/one"]]
    calls = "".join(f"assert main({[*line, f'paths.outputs={outputs}']!r}) == 0\n" for line in lines)
    heavy = "assert not {'torch', 'lightning', 'wandb', 'numpy'} & set(sys.modules)\n"
    code = f"import sys\nfrom etude.cli.main import main\n{calls}{heavy}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
