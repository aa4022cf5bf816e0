"""What a job does: it runs a member, passes on what the sweep asks, and lets it save when its node is taken away."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.errors import StorageError
from etude.sweeps.launchers.base import Job
from etude.sweeps.launchers.slurm_member import SlurmMember, ending_file, signal_file

pytestmark = pytest.mark.usefixtures("simple")


class RequeuedError(Exception):
    """Stands for the end of a process whose job is requeued."""


@pytest.fixture
def member(tmp_path: Path) -> Callable[..., SlurmMember]:
    def made(job: Job, patience: float = 20.0, owner: int | None = None) -> SlurmMember:
        signal_file(tmp_path, job.number).write_text("")
        return SlurmMember(job.plain(), tmp_path, str(tmp_path), patience, owner)

    return made


def ending(folder: Path) -> Any:
    return json.loads(ending_file(folder, 0).read_text())


def when_begun(job: Job, until: Callable[..., None], act: Callable[[], object]) -> None:
    def wait() -> None:
        until((job.folder / "began.json").exists)
        act()

    threading.Thread(target=wait).start()


@pytest.mark.parametrize("code", [0, 78])
def test_it_writes_how_its_member_ended(
    job: Callable[..., Job], member: Callable[..., SlurmMember], tmp_path: Path, code: int
) -> None:
    assert member(job(code=code, reason="because"))() == code
    assert ending(tmp_path) == {"code": code, "reason": "because"}


def test_a_signal_of_the_sweep_lets_it_save(
    job: Callable[..., Job], member: Callable[..., SlurmMember], tmp_path: Path, until: Callable[..., None]
) -> None:
    made = job(seconds=60.0)
    when_begun(made, until, lambda: signal_file(tmp_path, 0).write_text(f"1 {int(signal.SIGTERM)}\n"))
    assert member(made)() == 143
    assert ending(tmp_path) == {"code": 143, "reason": "stopped by SIGTERM"}


def test_a_signal_that_is_half_written_is_waited_for(
    job: Callable[..., Job], member: Callable[..., SlurmMember], tmp_path: Path, until: Callable[..., None]
) -> None:
    made = job(seconds=1.5)
    when_begun(made, until, lambda: signal_file(tmp_path, 0).write_text("17"))
    assert member(made)() == 0


@pytest.mark.parametrize(("saves", "saved"), [(0.0, True), (60.0, False)])
def test_on_slurms_notice_it_saves_and_the_requeued_job_does_the_same(
    job: Callable[..., Job],
    member: Callable[..., SlurmMember],
    tmp_path: Path,
    until: Callable[..., None],
    saves: float,
    saved: bool,
) -> None:
    made = job(seconds=60.0, saves=saves)
    running = member(made, patience=2.0)
    next_one = []

    def requeue(number: int, frame: object) -> None:  # as submitit does
        next_one.append(running.checkpoint())
        raise RequeuedError

    before = signal.signal(signal.SIGUSR2, requeue)
    try:
        when_begun(made, until, lambda: os.kill(os.getpid(), signal.SIGUSR2))
        with pytest.raises(RequeuedError):
            running()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert (made.folder / "saved").exists() == saved  # one that takes too long is ended
    assert not ending_file(tmp_path, 0).exists()
    assert next_one[0].function.arguments == running.arguments
    assert pickle.loads(pickle.dumps(next_one[0].function)).arguments == running.arguments


def test_it_ends_with_the_sweep_where_it_belongs_to_it(
    job: Callable[..., Job], member: Callable[..., SlurmMember], tmp_path: Path
) -> None:
    owner = subprocess.Popen(["sleep", "60"])
    running = member(job(seconds=60.0), owner=owner.pid)
    threading.Timer(1.0, owner.kill).start()
    threading.Thread(target=owner.wait).start()  # it is reaped, as the process of a sweep is
    assert running() == -signal.SIGKILL


def test_a_disk_that_refuses_is_said(job: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = {**job().plain(), "folder": str(tmp_path / "file" / "run")}
    assert SlurmMember(refused, tmp_path, str(tmp_path), 1.0)() == StorageError.exit_code
    assert "cannot write" in ending(tmp_path)["reason"]
