"""Importing a command is not slowed by the search for garbage, which goes on as before afterwards."""

import gc
from pathlib import Path
from typing import Any

import pytest

from etude.cli.command_table import load

MANY = "kept = [[number] for number in range(200_000)]\n\n\ndef function():\n    return len(kept)\n"


def test_no_collection_while_a_command_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large_command.py").write_text(MANY)
    monkeypatch.syspath_prepend(tmp_path)
    passes: list[int] = []

    def count(phase: str, known: dict[str, Any]) -> None:
        if phase == "start":
            passes.append(known["generation"])

    gc.callbacks.append(count)
    try:
        assert load("large_command:function")() == 200_000
    finally:
        gc.callbacks.remove(count)
    assert passes == []
    assert gc.isenabled()


def test_the_collector_goes_on_when_an_import_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_command.py").write_text("raise ValueError('broken')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="broken"):
        load("broken_command:function")
    assert gc.isenabled()


def test_who_has_switched_the_collector_off_finds_it_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small_command.py").write_text("def function():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    gc.disable()
    try:
        assert load("small_command:function")() == 1
        assert not gc.isenabled()
    finally:
        gc.enable()
