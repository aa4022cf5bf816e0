"""A member on a cluster, over a Ray that is a few threads and a node whose disk is another folder."""

from __future__ import annotations

import importlib.metadata
import queue
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from etude.errors import ConfigurationError, StorageError
from etude.signals import TERMINATED
from etude.sweeps.launchers.base import Ending, Job
from etude.sweeps.launchers.ray_member import RayMember, check_node, passed_variables, start_of
from etude.sweeps.launchers.ray_place import RayPlace

pytestmark = pytest.mark.usefixtures("simple")
HERE = {"host": "one", "version": importlib.metadata.version("etude"), "shared": True}


class LostError(Exception):
    """Stands for Ray's error of an actor that died."""


class FarPlace(RayPlace):
    """A place whose disk is a folder: every path begins there."""

    def __init__(self, disk: Path) -> None:
        super().__init__()
        self.disk = disk
        self.lost: str | None = None

    def far(self, path: str) -> str:
        return str(self.disk / path.lstrip("/"))

    def look(self, token: str, content: str) -> dict[str, Any]:
        return super().look(self.far(token), content)

    def run(self, job: Any, environment: Any, directory: str) -> tuple[int, str]:
        ended = super().run({**job, "folder": self.far(job["folder"])}, environment, self.far(directory))
        if self.lost is not None:
            raise LostError(self.lost)
        return ended

    def entries(self, folder: str, without: Sequence[str]) -> Any:
        return super().entries(self.far(folder), without)

    def leave(self, folder: str, names: Sequence[str]) -> None:
        super().leave(self.far(folder), names)

    def arrive(self, folder: str) -> str:
        return super().arrive(self.far(folder))

    def forget(self, folder: str) -> None:
        super().forget(self.far(folder))


class FewThreads:
    """What a member asks of Ray."""

    exceptions = SimpleNamespace(RayActorError=LostError)

    def __init__(self, placed: bool = True) -> None:
        self.pool = ThreadPoolExecutor(4)
        self.placed = placed

    def actor(self, place: RayPlace) -> Any:
        pool, placed = self.pool, self.placed

        class Actor:
            def __getattr__(self, name: str) -> Any:
                def remote(*arguments: Any) -> Future[Any]:
                    return pool.submit(getattr(place, name), *arguments) if placed else Future()

                return SimpleNamespace(remote=remote)

        return Actor()

    def wait(self, references: list[Future[Any]], timeout: float | None) -> tuple[list[Future[Any]], Any]:
        return list(wait_for(references, timeout).done), []

    def get(self, reference: Future[Any]) -> Any:
        return reference.result()

    def kill(self, actor: Any) -> None:
        pass


def ended(
    job: Job, place: RayPlace, shared: bool | None = None, ray: FewThreads | None = None
) -> Ending | ConfigurationError:
    ray, endings = ray or FewThreads(), queue.Queue[Ending | ConfigurationError]()
    RayMember(ray, ray.actor(place), job, shared, endings).start()
    return endings.get(timeout=60)


def far(place: FarPlace, path: Path) -> Path:
    return Path(place.far(str(path)))


def test_on_a_shared_disk_it_runs_where_its_folder_is(job: Callable[..., Job]) -> None:
    assert ended(job(code=3, reason="because"), RayPlace()) == Ending(0, 3, "because")
    assert (job().folder / "began.json").exists()
    assert not list(job().folder.glob(".token*"))


@pytest.mark.parametrize("code", [0, 1])
def test_where_no_disk_is_shared_its_folder_goes_and_comes_back(
    job: Callable[..., Job], tmp_path: Path, code: int
) -> None:
    made, place = (
        job(code=code, writes={"checkpoints/step-2/model": "2", "finished.json": "{}"}),
        FarPlace(tmp_path / "far"),
    )
    (made.folder / "member.json").write_text("mine")
    (made.folder / "checkpoints" / "step-1").mkdir(parents=True)
    (made.folder / "checkpoints" / "step-1" / "model").write_text("1")
    assert ended(made, place) == Ending(0, code)
    assert (made.folder / "checkpoints" / "step-2" / "model").read_text() == "2"
    assert (made.folder / "checkpoints" / "step-1" / "model").read_text() == "1"  # it went there, or it were gone now
    assert (made.folder / "finished.json").exists()
    assert (made.folder / "member.json").read_text() == "mine"
    assert not far(place, made.folder).exists()


def test_the_run_that_it_starts_from_goes_along(job: Callable[..., Job], tmp_path: Path) -> None:
    start = tmp_path / "outputs" / "one" / "007"
    (start / "checkpoints" / "step-1").mkdir(parents=True)
    (start / "checkpoints" / "step-1" / "model").write_text("1")
    (start / "config.yaml").write_text("")
    made, place = job(start="one/007"), FarPlace(tmp_path / "far")
    assert start_of(made) == start
    assert ended(made, place) == Ending(0, 0)
    assert (far(place, start) / "checkpoints" / "step-1" / "model").read_text() == "1"


def test_a_folder_that_a_forced_journey_finds_shared_is_not_removed(job: Callable[..., Job]) -> None:
    assert ended(job(), RayPlace(), shared=False) == Ending(0, 0)
    assert (job().folder / "began.json").exists()


def test_a_node_that_cannot_write_is_said(job: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "far").write_text("")
    ending = ended(job(), FarPlace(tmp_path / "far"))
    assert isinstance(ending, Ending)
    assert ending.code == StorageError.exit_code
    assert "paths.outputs" in ending.reason


@pytest.mark.parametrize(("reason", "lost"), [("The node has died", True), ("killed due to Memory pressure", False)])
def test_a_lost_place_is_not_its_fault_unless_it_filled_the_memory(
    job: Callable[..., Job], tmp_path: Path, reason: str, lost: bool
) -> None:
    place = FarPlace(tmp_path / "far")
    place.lost = reason
    ending = ended(job(), place)
    assert isinstance(ending, Ending)
    assert (ending.code, ending.lost) == (-signal.SIGKILL, lost)


def test_stopped_before_it_has_a_place_it_does_not_begin(job: Callable[..., Job]) -> None:
    ray, endings = FewThreads(placed=False), queue.Queue[Ending | ConfigurationError]()
    member = RayMember(ray, ray.actor(RayPlace()), job(), None, endings)
    member.start()
    threading.Timer(0.5, member.send, [signal.SIGTERM]).start()
    ending = endings.get(timeout=20)
    assert isinstance(ending, Ending)
    assert ending.code == TERMINATED
    assert not (job().folder / "began.json").exists()


def test_a_node_that_cannot_run_members_ends_the_sweep(job: Callable[..., Job], tmp_path: Path) -> None:
    assert isinstance(ended(job(prunes=True), FarPlace(tmp_path / "far")), ConfigurationError)


def test_a_node_that_fits_passes(job: Callable[..., Job]) -> None:
    for shared in (None, True, False):
        check_node(HERE, shared, job())
    check_node({**HERE, "shared": False}, None, job())
    check_node(HERE, None, job(prunes=True))


@pytest.mark.parametrize(
    ("found", "shared", "prunes", "said"),
    [
        ({"version": "0.0.1"}, None, False, "node one of the Ray cluster has etude 0.0.1, and this machine has etude "),
        ({"version": None}, None, False, "has no etude"),
        ({"shared": False}, True, False, "does not see"),
        ({"shared": False}, None, True, "pruner=none"),
        ({}, False, True, "pruner=none"),
    ],
)
def test_a_node_that_does_not_is_refused_in_a_line(
    job: Callable[..., Job], found: dict[str, Any], shared: bool | None, prunes: bool, said: str
) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        check_node({**HERE, **found}, shared, job(prunes=prunes))
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_member_gets_the_variables_of_its_tools_alone() -> None:
    given = {"WANDB_MODE": "offline", "ETUDE_CACHE": "/c", "HF_HOME": "/h", "PATH": "/bin", "AWS_SECRET": "s"}
    assert passed_variables(given) == {"WANDB_MODE": "offline", "ETUDE_CACHE": "/c", "HF_HOME": "/h"}


def test_no_start_is_no_folder(job: Callable[..., Job]) -> None:
    assert start_of(job()) is None
    assert start_of(job(start="one/that-is-not")) is None
