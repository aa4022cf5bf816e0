"""The shell's questions, answered: commands, runs, groups whose choices lie in folders, and Hydra's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from etude.cli.command_table import COMMANDS
from etude.cli.completion import complete

CONFIGURATION = """\
task: {_target_: etude.tasks.classification.Classification}
model: {width: 64}
trainer: {devices: 1}
validate: {metric: val/loss, mode: min}
run: {experiment: classification/demo}
"""


def answers(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert complete(["query=bash"]) == 0
    return capsys.readouterr().out.split()


def test_the_first_word_is_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert answers("etude ", monkeypatch, capsys) == list(COMMANDS)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """A folder of two runs and of a sweep with a member."""
    for name in ("demo/first", "demo/second", "demo/lr-1/000"):
        run = tmp_path / "classification" / name
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(CONFIGURATION)
    (tmp_path / "classification" / "demo" / "lr-1" / "sweep.json").write_text("{}")
    return tmp_path


ON_RUNS = [name for name, command in COMMANDS.items() if command.root is None and not command.browses]


@pytest.mark.parametrize("name", ON_RUNS)
def test_a_command_on_runs_takes_runs_and_its_keys(
    name: str, outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answers(f"etude {name} paths.outputs={outputs} ", monkeypatch, capsys)
    assert found[0] == "last"
    assert {"classification/demo/first", "classification/demo/second", "classification/demo/lr-1/000"} <= set(found)
    assert ("classification/demo" in found) == COMMANDS[name].folders
    assert ("classification/demo/lr-1" in found) == (bool(COMMANDS[name].sweeps) or COMMANDS[name].folders)
    keys = {word.removesuffix("=") for word in found if word.endswith("=")}
    assert keys == {key.removesuffix("…") for key in COMMANDS[name].keys}


def test_a_run_is_named_once(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"etude {{}} paths.outputs={outputs} classification/demo/first classification"
    assert answers(line.format("resume"), monkeypatch, capsys) == []
    assert len(answers(line.format("evaluate"), monkeypatch, capsys)) == 3


@pytest.mark.parametrize("kind", ["status", "stop", "resume"])
def test_sweeps_are_proposed_where_one_is_taken(
    kind: str, outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answers(f"etude sweep {kind} paths.outputs={outputs} ", monkeypatch, capsys)
    assert found == ["last", "classification/demo/lr-1", "paths.outputs="]
    assert answers("etude sweep sta", monkeypatch, capsys)[0] == "status"


def test_choices_and_keys_of_a_run_are_proposed(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start = f"etude evaluate paths.outputs={outputs} classification/demo/first "
    assert "decoding=beam" in answers(f"{start}decoding=b", monkeypatch, capsys)
    assert answers(f"{start}trainer.dev", monkeypatch, capsys) == ["trainer.devices="]
    assert answers(f"{start}model.w", monkeypatch, capsys) == []  # no key that it may change
    assert answers(f"{start}split=t", monkeypatch, capsys) == ["split=test", "split=train"]
    assert answers(f"etude train paths.outputs={outputs} start=classification/demo/s", monkeypatch, capsys) == [
        "start=classification/demo/second"
    ]


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("sta", ["state="]),
        ("state=", ["state=begun"]),
        ("state!=b", ["state!=begun"]),
        ("task=", ["task=classification"]),
        ("model.w", ["model.width="]),
        ("model.width=", ["model.width=64"]),
        ("sort=-sco", ["sort=-score"]),
        ("columns=score,model.w", ["columns=score,model.width"]),
        ("format=c", ["format=csv"]),
        ("di", ["diff"]),
        ("diff classification/demo/s", ["classification/demo/second"]),
    ],
)
def test_filters_are_proposed_with_what_runs_have(
    typed: str, wanted: list[str], outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(outputs)
    (outputs / "outputs").symlink_to(outputs)
    assert answers(f"etude runs {typed}", monkeypatch, capsys) == wanted


def test_a_line_that_cannot_be_understood_is_answered_with_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answers("etude replay no/such/run st", monkeypatch, capsys) == ["step="]
    assert answers("etude evaluate no/such/run decoding.b", monkeypatch, capsys) == []
    assert answers("etude nonsense ", monkeypatch, capsys) == []


@pytest.mark.parametrize("command", ["train", "bench decode"])
def test_choices_in_folders_are_found(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answers(f"etude {command} experiment=", monkeypatch, capsys)
    assert {"experiment=translation/demo", "experiment=masked_lm/demo"} <= set(found)
    assert answers(f"etude {command} exp", monkeypatch, capsys) == ["experiment="]
