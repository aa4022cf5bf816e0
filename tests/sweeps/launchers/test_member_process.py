"""The process of a member ends as it says, hears signals, and is not confused by the cluster around it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.sweeps.launchers.base import LOG, Job
from etude.sweeps.launchers.member_process import MemberProcess

pytestmark = pytest.mark.usefixtures("simple")


def begun(job: Job, until: Callable[..., None]) -> dict[str, Any]:
    until((job.folder / "began.json").exists)
    content: dict[str, Any] = json.loads((job.folder / "began.json").read_text())
    return content


def process(job: Job, **environment: str) -> MemberProcess:
    return MemberProcess(job.plain(), environment, str(job.folder.parent / "here"))


@pytest.mark.parametrize("code", [0, 1, 73])
def test_it_ends_with_its_code_and_what_it_said(job: Callable[..., Job], code: int) -> None:
    member = process(job(code=code, reason="because" if code else ""))
    assert member.wait() == (code, "because" if code else "")
    assert (job().folder / LOG).read_text() == "this goes to the log\n"


def test_one_that_is_killed_ends_with_the_signal_and_says_nothing(job: Callable[..., Job]) -> None:
    assert process(job(dies=int(signal.SIGSEGV))).wait() == (-signal.SIGSEGV, "")


def test_it_runs_until_it_is_waited_for(job: Callable[..., Job]) -> None:
    member = process(job(seconds=1.0))
    assert member.wait(0.1) is None
    assert member.wait() == (0, "")


def test_a_signal_lets_it_save(job: Callable[..., Job], until: Callable[..., None]) -> None:
    member = process(job(seconds=30.0))
    begun(job(), until)
    member.send(signal.SIGTERM)
    assert member.wait() == (143, "stopped by SIGTERM")
    assert (job().folder / "saved").exists()


def test_it_can_be_ended_at_once(job: Callable[..., Job], until: Callable[..., None]) -> None:
    member = process(job(seconds=30.0, saves=30.0))
    begun(job(), until)
    member.send(signal.SIGTERM)
    member.kill()
    assert member.wait() == (-signal.SIGKILL, "")


def test_slurms_notice_is_not_for_it(job: Callable[..., Job], until: Callable[..., None]) -> None:
    member = process(job(seconds=0.5))
    os.kill(begun(job(), until)["process"], signal.SIGUSR2)
    assert member.wait() == (0, "")
    assert signal.SIGUSR2 not in signal.pthread_sigmask(signal.SIG_BLOCK, [])  # here it still is


def test_what_still_holds_the_pipe_is_not_waited_for(job: Callable[..., Job]) -> None:
    begin = time.monotonic()
    assert process(job(leaves=True, reason="said")).wait() == (0, "said")
    assert time.monotonic() - begin < 20.0


def test_its_variables_are_its_own(
    job: Callable[..., Job], until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [
        "SLURM_JOB_ID",
        "SLURM_NTASKS",
        "RANK",
        "LOCAL_RANK",
        "ETUDE_PARENT",
        "OMP_NUM_THREADS",
        "WANDB_MODE",
        "HOME",
    ]
    for name in names:
        monkeypatch.setenv(name, "7")
    made = job(threads=3, variables=names)
    process(made, WANDB_MODE="offline").wait()
    found = begun(made, until)
    assert found["variables"] == {"OMP_NUM_THREADS": "3", "WANDB_MODE": "offline", "HOME": "7"}
    assert found["directory"] == str(made.folder.parent / "here")


def test_a_folder_that_cannot_be_made_is_an_error_of_the_disk(job: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    values = {**job().plain(), "folder": str(tmp_path / "file" / "run")}
    with pytest.raises(NotADirectoryError):
        MemberProcess(values, {}, str(tmp_path))
