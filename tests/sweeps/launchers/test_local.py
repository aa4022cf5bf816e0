"""Members as processes of this machine: started by forking, pinned to slots, ended in every way."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from etude.errors import ConfigurationError
from etude.sweeps.launchers.base import LOG, Ending, Job
from etude.sweeps.launchers.local import ForkServer, LocalLauncher
from tests.runs.processes import gone


class PretendedServer:
    """In the place of the process that forks: says of each job that it runs."""

    def __init__(self, gpus: int) -> None:
        self.gpus = gpus
        self.jobs: list[dict[str, Any]] = []
        self.is_gone = False
        self.said: list[dict[str, Any]] = []

    def first(self) -> dict[str, Any]:
        return {"gpus": self.gpus}

    def send(self, message: dict[str, Any]) -> None:
        self.jobs.append(message)

    def receive(self, seconds: float) -> Iterator[dict[str, Any]]:
        said, self.said = self.said, []
        yield from said

    def close(self) -> None:
        self.is_gone = True


def a_job(folder: Path, number: int = 0, devices: int = 1, **values: Any) -> Job:
    return Job(number, folder / f"{number:03d}", values, (), (), devices, 1, False)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> PretendedServer:
    made = PretendedServer(getattr(request, "param", 0))
    monkeypatch.setattr("etude.sweeps.launchers.local.ForkServer", lambda: made)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return made


@pytest.mark.parametrize(
    ("server", "asked", "slots"), [(0, None, 1), (4, None, 4), (4, 2, 2), (0, 3, 3)], indirect=["server"]
)
def test_there_is_a_slot_for_each_gpu_or_as_many_as_are_asked_for(
    server: PretendedServer, asked: int | None, slots: int
) -> None:
    assert LocalLauncher(asked).slots == slots


def test_no_slots_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"hydra\.launcher\.slots=0: at least one member runs at a time"):
        LocalLauncher(0)


@pytest.mark.parametrize("server", [4], indirect=True)
def test_each_member_sees_the_gpus_of_its_slots_alone(server: PretendedServer, tmp_path: Path) -> None:
    launcher = LocalLauncher()
    for number, devices in ((0, 2), (1, 1)):
        assert launcher.fits(devices)
        launcher.start(a_job(tmp_path, number, devices))
    assert not launcher.fits(2) and launcher.fits(1)
    server.said = [{"number": 0, "process": 7}, {"number": 0, "reason": "why"}, {"number": 0, "code": 1}]
    assert launcher.wait(0.0) == [Ending(0, 1, "why")]
    launcher.start(a_job(tmp_path, 2, 3))
    seen = [job["environment"].get("CUDA_VISIBLE_DEVICES") for job in server.jobs]
    assert seen == ["0,1", "2", "0,1,3"]


@pytest.mark.parametrize("server", [2], indirect=True)
def test_of_more_slots_than_gpus_several_share_one(server: PretendedServer, tmp_path: Path) -> None:
    launcher = LocalLauncher(4)
    for number in range(4):
        launcher.start(a_job(tmp_path, number))
    assert [job["environment"]["CUDA_VISIBLE_DEVICES"] for job in server.jobs] == ["0", "1", "0", "1"]


@pytest.mark.parametrize("server", [2], indirect=True)
def test_only_gpus_that_this_process_sees_are_given_on(
    server: PretendedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    launcher = LocalLauncher()
    launcher.start(a_job(tmp_path, 0))
    launcher.start(a_job(tmp_path, 1))
    assert [job["environment"]["CUDA_VISIBLE_DEVICES"] for job in server.jobs] == ["5", "7"]


def test_a_member_that_needs_more_than_there_is_runs_alone(server: PretendedServer, tmp_path: Path) -> None:
    launcher = LocalLauncher(2)
    assert launcher.fits(8)
    launcher.start(a_job(tmp_path, 0, 8))
    assert not launcher.fits(1)


def test_a_signal_to_a_member_that_is_being_forked_comes_later(
    server: PretendedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr("os.kill", lambda process, number: sent.append((process, number)))
    launcher = LocalLauncher(2)
    launcher.start(a_job(tmp_path, 0))
    launcher.send(0, signal.SIGTERM)
    assert sent == []
    server.said = [{"number": 0, "process": 7}]
    launcher.wait(0.0)
    launcher.send(0, signal.SIGTERM)
    assert sent == [(7, signal.SIGTERM)] * 2


def test_all_are_lost_with_the_process_that_forks(server: PretendedServer, tmp_path: Path) -> None:
    launcher = LocalLauncher(2)
    for number in (0, 1):
        launcher.start(a_job(tmp_path, number))
    server.said, server.is_gone = [{"number": 1, "code": 0}], True
    lost = "the process that starts members was killed"
    assert launcher.wait(0.0) == [Ending(1, 0), Ending(0, -signal.SIGKILL, lost, lost=True)]
    assert launcher.fits(2)


def test_real_members_are_forked_killed_and_end_with_their_sweep(tmp_path: Path) -> None:
    """Their configuration is none: each ends at once with a reason, or is killed before."""
    server = ForkServer()
    try:
        assert server.first()["gpus"] >= 0
        job = {**a_job(tmp_path, 3).plain(), "environment": {"OF_THE_SLOT": "1"}}
        began = time.monotonic()
        server.send(job)
        messages: list[dict[str, Any]] = []
        while not messages or "code" not in messages[-1]:
            messages += server.receive(5.0)
        assert time.monotonic() - began < 5
        assert [sorted({*message} - {"number"}) for message in messages] == [["process"], ["reason"], ["code"]]
        assert {message["number"] for message in messages} == {3}
        assert "nothing in etude foresaw this (KeyError" in messages[1]["reason"]
        assert messages[2]["code"] == 70
        assert "etude: error: nothing in etude foresaw this" in (tmp_path / "003" / LOG).read_text()
        assert gone(messages[0]["process"])
    finally:
        server.close()


def test_what_members_say_goes_to_a_descriptor_where_stderr_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *_words, **options: started.append(options["stdout"]))
    ForkServer()
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # as in a notebook
    ForkServer()
    assert len(started) == 2 and all(isinstance(descriptor, int) for descriptor in started) and started[1] == 2
