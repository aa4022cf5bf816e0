"""The import path of a command's process, and of the processes it starts: the working directory is off it, the rest stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from etude.cli import process
from etude.cli.process import forget_working_directory

FILE = Path(process.__file__)
SOURCES = FILE.parents[2]
"""The folder that etude was found in."""

HERE = ("", ".", "./", "inner/..", "{here}", "{here}/", "{here}/inner/..", "{link}")
"""Spellings of the working directory."""

ELSEWHERE = ("{here}/inner", "inner", "..", "{here}/absent", "{here}/archive.zip", "/", "lib")
"""Entries that lead to other places, some of which do not exist."""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A working directory with a folder in it, and a link to it from outside."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "here" / "inner").mkdir(parents=True)
    (folder / "link").symlink_to(folder / "here")
    return {"here": folder / "here", "link": folder / "link"}


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the process back as it was."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setenv("PYTHONSAFEPATH", "")


def forgotten(path: list[str], folder: Path) -> list[str]:
    """Return what is left of an import path where the folder is the working directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", path[:])
        forget_working_directory()
        return list(sys.path)


# Laws


@given(st.lists(st.sampled_from(HERE + ELSEWHERE)))
@example([*HERE, *ELSEWHERE])
def test_the_working_directory_goes_however_it_is_written_and_the_rest_keeps_its_order(
    places: dict[str, Path], entries: list[str]
) -> None:
    path = [entry.format(**places) for entry in entries]
    left = forgotten(path, places["here"])
    assert left == [entry.format(**places) for entry in entries if entry in ELSEWHERE]
    assert forgotten(left, places["here"]) == left


@given(st.lists(st.sampled_from(HERE + ELSEWHERE)))
def test_the_folder_of_etude_stays_and_comes_last(places: dict[str, Path], entries: list[str]) -> None:
    others = [entry for entry in entries if entry.startswith("{here}")]
    path = [str(SOURCES), "", *(entry.format(**places) for entry in others), str(SOURCES)]
    left = forgotten(path, SOURCES)
    assert left == [*(entry.format(**places) for entry in others), str(SOURCES)]
    assert forgotten(left, SOURCES) == left


def test_the_path_is_that_of_pythons_own_safe_mode(tmp_path: Path) -> None:
    printed = "import sys; print(sys.path)"
    forget = "from etude.cli.process import forget_working_directory; forget_working_directory(); "
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(SOURCES), str(tmp_path / "mine")])}

    def path_of(*words: str) -> str:
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    safe = path_of("-P", "-c", printed)
    assert path_of("-c", forget + printed) == safe
    assert path_of("-c", printed) != safe


# Examples


def test_processes_that_are_started_do_not_search_the_working_directory_either(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-c", "import sys; print('' in sys.path)"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"
    forget_working_directory()
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


def test_who_holds_the_path_sees_the_change(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    held = sys.path
    held.insert(0, "")
    forget_working_directory()
    assert sys.path is held and "" not in held


def test_a_working_directory_that_no_longer_exists_is_no_obstacle(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(sys, "path", ["", str(gone), str(tmp_path), "."])
    forget_working_directory()
    assert sys.path == [str(gone), str(tmp_path)]


def test_it_imports_nothing_that_python_has_not_loaded_before(tmp_path: Path) -> None:
    script = (
        "import sys; before = set(sys.modules); exec(compile(open(sys.argv[1]).read(), sys.argv[1], 'exec'));"
        "print(sorted(set(sys.modules) - before), 'forget_working_directory' in globals())"
    )
    command = [sys.executable, "-c", script, str(FILE)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "[] True\n"
