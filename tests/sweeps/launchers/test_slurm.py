"""Members as jobs: by submitit's local executor, and by its SLURM over programs that stand for SLURM's."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import submitit

from etude.errors import ConfigurationError
from etude.sweeps.launchers.base import Ending, Job
from etude.sweeps.launchers.slurm import FOLDER, SubmititLauncher, job_parameters
from etude.sweeps.launchers.slurm_member import ending_file, signal_file
from tests.runs.killing import End
from tests.sweeps.launchers.pretended_slurm import install, task_of
from tests.sweeps.launchers.small_sweeps import SECONDS, Sweeping, assert_same_ends, begin


def gathered(launcher: SubmititLauncher, count: int, seconds: float = 60.0) -> dict[int, Ending]:
    endings: dict[int, Ending] = {}
    deadline = time.monotonic() + seconds
    while len(endings) < count:
        endings |= {ending.number: ending for ending in launcher.wait(0.2)}
        assert time.monotonic() < deadline, endings
    return endings


@pytest.mark.slow
def test_a_member_that_cannot_be_configured_is_a_job_that_says_so(job: Callable[..., Job]) -> None:
    launcher = SubmititLauncher("local", slots=2)
    made = job(no="configuration")
    launcher.start(made)
    assert launcher.fits(1) and not launcher.fits(2)
    ending = gathered(launcher, 1)[0]
    assert ending.code > 0 and ending.reason and not ending.lost
    assert launcher.fits(2)
    assert (made.folder.parent / FOLDER).stat().st_mode & 0o077 == 0  # a configuration may hold secrets
    launcher.close()


def test_a_job_that_runs_ends_with_its_launcher(job: Callable[..., Job], alive: Callable[[int], bool]) -> None:
    launcher = SubmititLauncher("local")
    launcher.start(job())
    time.sleep(0.5)
    begin = time.monotonic()
    launcher.close()
    assert time.monotonic() - begin < 9.0
    assert ending_file(job().folder.parent / FOLDER, 0).exists()


def test_without_submitit_or_slurm_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="no sbatch"):
        SubmititLauncher("slurm")
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigurationError, match=r"etude\[slurm\]"):
        SubmititLauncher("slurm")


@pytest.mark.parametrize(
    ("given", "devices", "expected"),
    [
        ({}, 2, {"nodes": 1, "tasks_per_node": 1, "name": "etude"}),
        ({"gpus_per_node": 1, "cpus_per_task": 8}, 2, {"gpus_per_node": 2, "cpus_per_task": 8}),
        ({"gpus_per_node": 8, "cpus_per_task": 1}, 2, {"gpus_per_node": 8, "cpus_per_task": 2}),
        ({"gpus_per_node": 0, "nodes": 4, "name": "mine"}, 2, {"gpus_per_node": 0, "nodes": 1, "name": "mine"}),
    ],
)
def test_a_job_is_one_task_with_what_its_devices_need(
    given: dict[str, Any], devices: int, expected: dict[str, Any]
) -> None:
    assert expected.items() <= job_parameters(given, devices).items()


def test_slots_and_cores_are_those_that_were_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", install(tmp_path)["PATH"])
    assert SubmititLauncher("slurm", array_parallelism=7).slots == 7
    launcher = SubmititLauncher("slurm", slots=3, array_parallelism=7, cpus_per_task=4)
    assert (launcher.slots, launcher.cores) == (3, 12)
    assert SubmititLauncher("local").slots == 1
    assert SubmititLauncher("local").cores == len(os.sched_getaffinity(0))


# By programs that stand for SLURM's


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of programs that stand for SLURM's, which are found first."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, value in install(folder).items():
        monkeypatch.setenv(name, value)
    submitit.SlurmJob.watcher.clear()  # the numbers of jobs begin anew
    return folder


@pytest.mark.slow
def test_a_job_of_slurm_says_how_its_member_ended(slurm: Path, job: Callable[..., Job]) -> None:
    launcher = SubmititLauncher("slurm", partition="small", timeout_min=7, setup=["export SAID=1"])
    made = job(no="configuration")
    launcher.start(made)
    ending = gathered(launcher, 1)[0]
    assert ending.code > 0 and ending.reason and not ending.lost
    script = next((made.folder.parent / FOLDER).rglob("*submission.sh")).read_text()
    assert all(line in script for line in ("--partition=small", "--time=7", "--signal=USR2@", "export SAID=1"))


def test_a_parameter_that_slurm_does_not_have_is_said(slurm: Path, job: Callable[..., Job]) -> None:
    with pytest.raises(ConfigurationError, match="partitoin"):
        SubmititLauncher("slurm", partitoin="small").start(job())


def test_a_member_that_slurm_refuses_has_failed(slurm: Path, job: Callable[..., Job]) -> None:
    (slurm / "sbatch").write_text("#!/bin/sh\necho 'invalid partition specified: small' >&2\nexit 1\n")
    launcher = SubmititLauncher("slurm")
    launcher.start(job())
    ending = gathered(launcher, 1)[0]
    assert ending.code == 1 and "invalid partition specified: small" in ending.reason


def waiting(slurm: Path) -> None:
    """Let jobs wait for a node that does not come."""
    (slurm / "sbatch").write_text(f"#!/bin/sh\nprintf PENDING > {slurm}/1.state\necho Submitted batch job 1\n")


def test_a_job_that_waits_is_withdrawn_when_it_is_to_stop(slurm: Path, job: Callable[..., Job]) -> None:
    waiting(slurm)
    launcher = SubmititLauncher("slurm")
    launcher.start(job())
    launcher.send(0, signal.SIGTERM)
    assert gathered(launcher, 1)[0].code == 143
    assert (slurm / "1.state").read_text() == "CANCELLED"
    assert signal_file(job().folder.parent / FOLDER, 0).read_text().endswith(f" {int(signal.SIGTERM)}\n")


@pytest.mark.parametrize(("state", "lost"), [("NODE_FAIL", True), ("OUT_OF_MEMORY", False), ("CANCELLED by 7", True)])
def test_a_job_that_ends_without_a_word_is_lost_with_its_node_alone(
    slurm: Path, job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, state: str, lost: bool
) -> None:
    for name in ("LOOK", "GRACE"):
        monkeypatch.setattr(f"etude.sweeps.launchers.slurm.{name}", {"slurm": 0.1})
    waiting(slurm)
    launcher = SubmititLauncher("slurm")
    launcher.start(job())
    assert launcher.wait(0.5) == []
    (slurm / "1.state").write_text(state)
    ending = gathered(launcher, 1)[0]
    assert (ending.code, ending.lost) == (-signal.SIGKILL, lost)
    assert state.split()[0] in ending.reason


def test_a_sweep_that_goes_on_takes_up_the_job_that_still_runs(slurm: Path, job: Callable[..., Job]) -> None:
    waiting(slurm)
    SubmititLauncher("slurm").start(job())  # and it is killed
    (slurm / "sbatch").write_text("#!/bin/sh\nexit 1\n")
    launcher = SubmititLauncher("slurm")
    launcher.start(job())
    assert launcher.wait(0.2) == []
    ending_file(job().folder.parent / FOLDER, 0).write_text('{"code": 0, "reason": ""}')
    assert gathered(launcher, 1) == {0: Ending(0, 0)}


# Trainings


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[End]:
    """What the members come to beside each other on this machine."""
    sweep = begin(tmp_path_factory.mktemp("local"), "local", ["hydra.launcher.slots=2"])
    sweep.finished()
    return sweep.ends()


LOCAL = ("hydra/launcher=submitit_local", "hydra.launcher.slots=2")
SLURM = ("hydra/launcher=submitit_slurm", "hydra.launcher.slots=2", "hydra.launcher.cpus_per_task=1")


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def process_of(sweep: Sweeping, number: int) -> int:
    """The process that trains a member, by the lock of its folder."""
    return int((sweep.folder / f"{number:03d}" / ".lock").read_text())


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
def test_jobs_that_are_preempted_amid_members_go_on(expected: list[End], tmp_path: Path) -> None:
    sweep = begin(tmp_path, "preempted", LOCAL)
    for number in (0, 2):
        sweep.wait_for(lambda number=number: sweep.steps(number) > 8)  # type: ignore[misc]
        first = process_of(sweep, number)
        os.kill(parent(first), signal.SIGUSR2)
        sweep.wait_for(lambda number=number, first=first: process_of(sweep, number) != first)  # type: ignore[misc]
    sweep.finished()
    assert sweep.attempts() == []  # requeued by submitit, not tried anew by the sweep
    assert_same_ends(sweep.ends(), expected)


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
def test_a_sweep_of_jobs_that_is_stopped_and_one_that_is_killed_go_on(
    expected: list[End], tmp_path: Path, alive: Callable[[int], bool], until: Callable[..., None]
) -> None:
    sweep = begin(tmp_path, "stopped", LOCAL)
    sweep.wait_for(lambda: sweep.steps(0) > 8)
    sweep.process.terminate()
    said = sweep.process.communicate(timeout=SECONDS)[1]
    assert sweep.process.returncode == 143, said
    sweep = begin(tmp_path, "stopped", LOCAL)
    sweep.wait_for(lambda: sweep.steps(0) > 20)
    trains = process_of(sweep, 0)
    sweep.process.kill()
    sweep.process.communicate()
    until(lambda: not alive(trains))
    sweep = begin(tmp_path, "stopped", LOCAL)
    sweep.finished()
    assert_same_ends(sweep.ends(), expected)


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
def test_on_slurm_jobs_are_requeued_and_outlive_their_sweep(slurm: Path, expected: list[End], tmp_path: Path) -> None:
    sweep = begin(tmp_path, "requeued", SLURM)
    sweep.wait_for(lambda: sweep.steps(0) > 8)
    first = process_of(sweep, 0)
    os.kill(task_of(slurm, 1), signal.SIGUSR2)
    sweep.wait_for(lambda: process_of(sweep, 0) != first)
    sweep.process.kill()
    sweep.process.communicate()
    sweep = begin(tmp_path, "requeued", SLURM)
    sweep.finished()
    assert sweep.attempts() == []
    assert len(list(slurm.glob("*.state"))) == 3  # the jobs that ran on were taken up
    assert_same_ends(sweep.ends(), expected)
