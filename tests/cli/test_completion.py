"""The shell's questions, answered: commands, runs, groups whose choices lie in folders, and Hydra's own."""

from __future__ import annotations

import pytest

from etude.cli.command_table import COMMANDS
from etude.cli.completion import complete


def answers(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert complete(["query=bash"]) == 0
    return capsys.readouterr().out.split()


def test_the_first_word_is_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert answers("etude ", monkeypatch, capsys) == list(COMMANDS)


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if command.root is None])
def test_a_command_on_runs_takes_last_and_its_keys(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answers(f"etude {name} ", monkeypatch, capsys)
    assert found[0] == "last"
    assert {word.removesuffix("=") for word in found[1:]} == {
        key for key in COMMANDS[name].keys if not key.endswith("…")
    }


@pytest.mark.parametrize("command", ["train", "bench decode"])
def test_choices_in_folders_are_found(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answers(f"etude {command} experiment=", monkeypatch, capsys)
    assert {"experiment=translation/demo", "experiment=masked_lm/demo"} <= set(found)
    assert answers(f"etude {command} exp", monkeypatch, capsys) == ["experiment="]
