from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from etude.runs.code_state import code, sources


def test_sources_are_hashed_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "hashed_package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    seen = [sources("hashed_package")]
    for name, text in (("inner/a.py", "a = 1\n"), ("inner/a.py", "a = 2\n"), ("b.py", "a = 2\n")):
        (package / name).write_text(text)
        seen.append(sources("hashed_package"))
    assert len({*seen}) == 4
    assert None not in seen
    (package / "notes.txt").write_text("no code")
    assert sources("hashed_package") == seen[-1]
    assert sources("no_such_package") is None
    assert len(sources("etude") or "") == len(sources("json") or "") == 64


@pytest.fixture
def git(tmp_path: Path) -> Callable[..., None]:
    def run(*arguments: str) -> None:
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    try:
        run("init")
    except OSError:
        pytest.skip("git is not installed")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "a.py").write_text("a = 1\n")
    (tmp_path / ".gitignore").write_text("*.pyc\n")
    return run


def test_code_that_is_committed(tmp_path: Path, git: Callable[..., None]) -> None:
    git("add", ".")
    git("commit", "-m", "first")
    state = code(tmp_path / "package")
    assert len(state["commit"] or "") == 40
    assert state["changes"] is None


def test_each_change_of_the_code_is_seen_and_nothing_else(tmp_path: Path, git: Callable[..., None]) -> None:
    package = tmp_path / "package"
    git("add", ".")
    git("commit", "-m", "first")
    seen = [code(package)["changes"]]
    (tmp_path / "notes.txt").write_text("beside the code")
    (package / "a.pyc").write_text("ignored")
    assert code(package)["changes"] is None
    for name, text in (("a.py", "a = 2\n"), ("b.py", "b = 1\n"), ("b.py", "b = 2\n"), ("c.py", "b = 2\n")):
        (package / name).write_text(text)
        seen.append(code(package)["changes"])
    assert len(set(seen)) == len(seen)
    git("add", ".")
    git("commit", "-m", "second")
    assert code(package)["changes"] is None


def test_code_without_a_commit_or_without_git(
    tmp_path: Path, git: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = {"commit": None, "changes": None}
    assert code(tmp_path / "package") == nothing
    git("add", ".")
    git("commit", "-m", "first")
    (tmp_path / "venv" / "etude").mkdir(parents=True)
    (tmp_path / "venv" / "etude" / "a.py").write_text("installed in somebody's repository")
    assert code(tmp_path / "venv" / "etude") == nothing
    monkeypatch.setenv("PATH", "")
    assert code(tmp_path / "package") == nothing
