"""A place on a node: what it sees, the member that it runs, and the folders that come and go."""

from __future__ import annotations

import importlib.metadata
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from etude.errors import StorageError
from etude.signals import TERMINATED
from etude.sweeps.launchers import ray_place
from etude.sweeps.launchers.base import Job
from etude.sweeps.launchers.ray_place import RayPlace
from etude.sweeps.launchers.travel import entries


def test_its_codes_are_those_of_the_house() -> None:
    assert (TERMINATED, StorageError.exit_code) == (ray_place.STOPPED, ray_place.STORAGE)


def test_it_sees_the_token_only_where_the_disk_is_shared(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("7")
    place = RayPlace()
    assert place.look(str(tmp_path / "token"), "7")["shared"]
    assert not place.look(str(tmp_path / "token"), "8")["shared"]  # a path of that name on another disk
    assert not place.look(str(tmp_path / "other"), "7")["shared"]


def test_it_says_which_etude_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert RayPlace().look("", "")["version"] == importlib.metadata.version("etude")

    def none(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", none)
    assert RayPlace().look("", "")["version"] is None


@pytest.mark.usefixtures("simple")
def test_it_runs_a_member_and_passes_signals_on(job: Callable[..., Job], until: Callable[..., None]) -> None:
    made, place, ended = job(seconds=30.0), RayPlace(), []
    thread = threading.Thread(target=lambda: ended.append(place.run(made.plain(), {}, str(made.folder))))
    thread.start()
    until((made.folder / "began.json").exists)
    place.send(signal.SIGTERM)
    thread.join()
    assert ended == [(143, "stopped by SIGTERM")]


@pytest.mark.usefixtures("simple")
def test_a_signal_that_comes_first_keeps_it_from_beginning(job: Callable[..., Job]) -> None:
    place = RayPlace()
    place.send(signal.SIGTERM)
    assert place.run(job().plain(), {}, ".")[0] == TERMINATED
    assert not (job().folder / "began.json").exists()


def test_a_disk_that_refuses_is_said_in_a_line(tmp_path: Path, job: Callable[..., Job]) -> None:
    (tmp_path / "file").write_text("")
    refused = {**job().plain(), "folder": str(tmp_path / "file" / "run")}
    code, reason = RayPlace().run(refused, {}, str(tmp_path))
    assert code == StorageError.exit_code
    assert "cannot write" in reason and "\n" not in reason
    assert "cannot write" in RayPlace().arrive(str(tmp_path / "file" / "run"))
    assert RayPlace().arrive(str(tmp_path / "run")) == ""


def test_a_folder_goes_from_one_place_to_another(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    one, other = RayPlace(), RayPlace()
    there = one.entries(str(tmp_path / "a"), ())
    one.leave(str(tmp_path / "a"), list(there))
    assert other.arrive(str(tmp_path / "b")) == ""
    while batch := one.parts():
        other.take(batch)
    other.commit(there)
    assert entries(tmp_path / "b") == there
    one.forget(str(tmp_path / "a"))
    assert not (tmp_path / "a").exists()


def test_a_file_that_is_gone_meanwhile_ends_the_journey(tmp_path: Path) -> None:
    place = RayPlace()
    place.leave(str(tmp_path), ["gone"])
    assert place.parts() is None
