"""Members on real nodes of Ray: they end as elsewhere, bit for bit, also when nodes die amid them."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from etude.errors import ConfigurationError
from etude.sweeps.launchers.base import Ending, Job
from etude.sweeps.launchers.ray import RayLauncher
from tests.runs.killing import End
from tests.sweeps.launchers.small_sweeps import SECONDS, Sweeping, assert_same_ends, begin


@pytest.fixture
def cluster() -> Iterator[Callable[[int], Cluster]]:
    """Makes a cluster whose head runs no members, of so many nodes with one CPU."""
    made = []

    def start(nodes: int) -> Cluster:
        one = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        made.append(one)
        for _ in range(nodes):
            one.add_node(num_cpus=1)
        return one

    yield start
    ray.shutdown()
    for one in made:
        one.shutdown()


def gathered(launcher: RayLauncher, count: int, seconds: float = 60.0) -> dict[int, Ending]:
    """Wait until so many members have ended."""
    endings: dict[int, Ending] = {}
    deadline = time.monotonic() + seconds
    while len(endings) < count:
        endings |= {ending.number: ending for ending in launcher.wait(0.2)}
        assert time.monotonic() < deadline, endings
    return endings


def process_of(job: Job) -> int:
    return int(json.loads((job.folder / "began.json").read_text())["process"])


@pytest.mark.slow
@pytest.mark.usefixtures("simple")
@pytest.mark.timeout(180)
def test_members_on_two_nodes_end_as_they_say_hear_signals_and_are_lost_with_their_node(
    cluster: Callable[[int], Cluster],
    job: Callable[..., Job],
    until: Callable[..., None],
    alive: Callable[[int], bool],
    capfd: pytest.CaptureFixture[str],
) -> None:
    nodes = cluster(2)
    handler = signal.getsignal(signal.SIGTERM)
    launcher = RayLauncher(nodes.address)
    assert signal.getsignal(signal.SIGTERM) is handler  # Ray's own would end a sweep before its members have saved
    assert (launcher.slots, launcher.cores) == (2, 2)

    # What members say reaches the sweep; with all slots taken nothing fits.
    launcher.start(job(0))
    launcher.start(job(1, code=3, reason="because"))
    assert not launcher.fits(1)
    assert gathered(launcher, 2) == {0: Ending(0, 0), 1: Ending(1, 3, "because")}
    assert launcher.fits(2)  # alone, though no node has so many
    with pytest.raises(ConfigurationError, match=r"no node of the Ray cluster has 2 CPUs"):
        launcher.start(job(9, devices=2))

    # A signal lets one save; a third has no place, and is stopped before it begins; a crash is a member's own.
    jobs = [job(2, seconds=60.0), job(3, seconds=60.0), job(4)]
    for one in jobs:
        launcher.start(one)
    until((jobs[0].folder / "began.json").exists)
    until((jobs[1].folder / "began.json").exists)
    launcher.send(4, signal.SIGTERM)
    assert gathered(launcher, 1)[4].code == 143
    launcher.send(2, signal.SIGTERM)
    assert gathered(launcher, 1) == {2: Ending(2, 143, "stopped by SIGTERM")}
    launcher.send(3, signal.SIGSEGV)
    assert gathered(launcher, 1) == {3: Ending(3, -signal.SIGSEGV)}

    # Nodes die: members on them are lost, their processes are gone, and others take their place.
    jobs = [job(5, seconds=60.0), job(6, seconds=60.0)]
    for one in jobs:
        launcher.start(one)
    until((jobs[0].folder / "began.json").exists)
    until((jobs[1].folder / "began.json").exists)
    for node in list(nodes.worker_nodes):
        nodes.remove_node(node, allow_graceful=False)
    endings = gathered(launcher, 2)
    assert all(ending.lost and ending.code == -signal.SIGKILL for ending in endings.values()), endings
    until(lambda: not any(alive(process_of(one)) for one in jobs), 10.0)
    nodes.add_node(num_cpus=1)
    ending = Ending(7, -1, lost=True)
    while ending.lost:  # until the cluster knows that the nodes are gone
        launcher.start(job(7))
        ending = gathered(launcher, 1)[7]
    assert ending == Ending(7, 0)

    # What still runs ends with the launcher.
    last = job(8, seconds=60.0)
    launcher.start(last)
    while not (last.folder / "began.json").exists():
        for ending in launcher.wait(0.1):
            assert ending.lost
            launcher.start(last)
    launcher.close()
    until(lambda: not alive(process_of(last)), 10.0)
    assert "raylet" not in "".join(capfd.readouterr())


@pytest.mark.usefixtures("simple")
@pytest.mark.slow
def test_a_node_with_another_etude_is_said(job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = RayLauncher()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9.9")
    launcher.start(job(0))
    with pytest.raises(ConfigurationError, match=r"has etude .*, and this machine has etude 9\.9\.9"):
        gathered(launcher, 1)
    launcher.close()


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigurationError, match=r"hydra/launcher=ray needs ray: pip install 'etude\[ray\]'"):
        RayLauncher()


@pytest.mark.parametrize("address", ["auto", pytest.param("ray://127.0.0.1:9", marks=pytest.mark.slow)])
def test_no_cluster_is_said_in_a_line(address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(ConfigurationError) as refusal:
        RayLauncher(address)
    assert f"hydra.launcher.address={address}: no Ray cluster" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("wrong", [{"cpus": 0}, {"gpus": -1.0}, {"slots": 0}])
def test_numbers_that_make_no_place_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=rf"hydra\.launcher\.{next(iter(wrong))}="):
        RayLauncher(**wrong)


# Trainings


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[End]:
    """What the members come to beside each other on this machine."""
    sweep = begin(tmp_path_factory.mktemp("local"), "local", ["hydra.launcher.slots=2"])
    sweep.finished()
    return sweep.ends()


def on(nodes: Cluster, *words: str) -> list[str]:
    return ["hydra/launcher=ray", f"hydra.launcher.address={nodes.address}", "hydra.launcher.slots=2", *words]


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize("nodes", [2, 3])
def test_nodes_that_die_amid_members_change_nothing(
    nodes: int, cluster: Callable[[int], Cluster], expected: list[End], tmp_path: Path
) -> None:
    several = cluster(nodes)
    sweep = begin(tmp_path, "killed", on(several))
    for steps in (12, 30):
        sweep.wait_for(lambda steps=steps: any(steps <= sweep.steps(number) < 55 for number in range(3)))  # type: ignore[misc]
        for node in list(several.worker_nodes)[:nodes]:
            several.remove_node(node, allow_graceful=False)
        for _ in range(nodes):
            several.add_node(num_cpus=1)
    sweep.finished()
    assert len(sweep.attempts()) >= 2
    assert all("lost" in reason for reason in sweep.attempts())
    assert_same_ends(sweep.ends(), expected)


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
def test_a_sweep_that_is_stopped_and_one_that_is_killed_go_on(
    cluster: Callable[[int], Cluster], expected: list[End], tmp_path: Path
) -> None:
    several = cluster(2)
    sweep = begin(tmp_path, "stopped", on(several))
    sweep.wait_for(lambda: sweep.steps(0) > 8)
    sweep.process.terminate()
    said = sweep.process.communicate(timeout=SECONDS)[1]
    assert sweep.process.returncode == 143, said
    at = max(sweep.steps(0), sweep.steps(1))
    assert at > 8
    sweep = begin(tmp_path, "stopped", on(several))
    sweep.wait_for(lambda: max(sweep.steps(0), sweep.steps(1)) > at + 5)
    sweep.process.kill()
    sweep.process.communicate()
    sweep = begin(tmp_path, "stopped", on(several))
    sweep.finished()
    assert_same_ends(sweep.ends(), expected)


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
def test_where_no_disk_is_shared_folders_travel(
    cluster: Callable[[int], Cluster], expected: list[End], tmp_path: Path
) -> None:
    several, outputs = cluster(0), tmp_path / "outputs"
    outputs.mkdir()
    apart = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*apart, f"mount -t tmpfs none {outputs}"], check=False).returncode
    ):
        pytest.skip("a process cannot have a disk of its own here")
    binary = Path(sys.executable).with_name("ray")
    node = f"mount -t tmpfs none {outputs} && exec {binary} start --address={several.address} --num-cpus=1 --block"
    process = subprocess.Popen(
        [*apart, node], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60.0
        while len(several.global_state._live_node_ids()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        sweep = begin(tmp_path, "apart", on(several))
        stop_once_it_is_amid(sweep)
        sweep = begin(tmp_path, "apart", on(several))
        sweep.finished()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    assert_same_ends(sweep.ends(), expected)
    assert not list(outputs.rglob(".arriving*"))


def stop_once_it_is_amid(sweep: Sweeping) -> None:
    """Stop a sweep whose first member has been fetched once: what it has done by then comes back."""
    sweep.wait_for((sweep.folder / "001" / "log.txt").exists)
    sweep.process.terminate()
    sweep.process.communicate(timeout=SECONDS)
    assert sweep.steps(0) > 0
