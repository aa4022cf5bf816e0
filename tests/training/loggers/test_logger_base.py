"""A tracker is asked for the logger of a run, the same for the same run; a logger of Lightning's is given the folder."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, Logger

from etude.config.compose import compose
from etude.config.schema import Config, Node
from etude.runs.saved_run import SavedRun
from etude.training.build import build_logger
from etude.training.loggers.base import TrackedRun, Tracker
from etude.training.loggers.tracking import Wandb, WeightsAndBiases


class Notes(Logger):
    """Remembers what it is of."""

    def __init__(self, shelf: int, folder: Path, identity: str) -> None:
        super().__init__()
        self.shelf, self.folder, self._identity = shelf, folder, identity

    @property
    def name(self) -> str:
        return f"{self.folder}, shelf {self.shelf}"

    @property
    def version(self) -> str:
        return self._identity

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None: ...

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None: ...


@dataclass(frozen=True)
class Notebook(Tracker):
    """A service that has a place for each run."""

    shelf: int = 1

    def open(self, run: SavedRun) -> Notes:
        return Notes(self.shelf, run.path, run.identity())


NOTEBOOK = Node({"_target_": f"{__name__}.Notebook", "shelf": 3})


@pytest.fixture(scope="module")
def config() -> Config:
    return compose("experiment=translation/demo", "run.tags=[small]", "run.notes=a try")


def begun(folder: Path, config: Config) -> SavedRun:
    folder.mkdir()
    return SavedRun.begin(folder, config)


def test_a_tracker_opens_the_run_with_its_own_arguments(tmp_path: Path, config: Config) -> None:
    logger = build_logger(NOTEBOOK, begun(tmp_path / "one", config))
    assert (type(logger).__name__, logger.name) == ("Notes", f"{tmp_path / 'one'}, shelf 3")


def test_a_continued_run_is_the_same_run_in_the_service_and_another_run_is_not(tmp_path: Path, config: Config) -> None:
    runs = begun(tmp_path / "one", config), SavedRun.open(tmp_path / "one"), begun(tmp_path / "two", config)
    for node in (NOTEBOOK, Node({"_target_": "etude.training.loggers.tracking.Wandb", "mode": "disabled"})):
        first, continued, other = (build_logger(node, run).version for run in runs)
        assert first == continued != other


def test_a_logger_of_lightning_s_writes_to_the_folder_of_the_run(tmp_path: Path, config: Config) -> None:
    run = begun(tmp_path / "one", config)
    logger = build_logger(Node({"_target_": "lightning.pytorch.loggers.CSVLogger", "name": "csv"}), run)
    assert isinstance(logger, CSVLogger)
    assert (Path(logger.save_dir), logger.name) == (run.path, "csv")


def test_a_tracker_that_opens_nothing_is_none() -> None:
    class Unfinished(Tracker):
        pass

    with pytest.raises(TypeError, match=r"abstract method '?open'?"):
        Unfinished()  # type: ignore[abstract]


def test_the_tracker_of_weights_and_biases_starts_nothing_by_being_opened(tmp_path: Path, config: Config) -> None:
    run = begun(tmp_path / "one", config)
    logger = Wandb(project="studies", mode="offline").open(run)
    assert isinstance(logger, WeightsAndBiases)
    assert (logger.name, logger.version, logger.save_dir) == ("studies", run.identity(), str(run.path))
    assert {path.name for path in run.path.iterdir()} == {"config.yaml", "overrides.yaml", "id"}


@pytest.mark.parametrize(
    ("given", "folder", "name", "group"),
    [(None, "2026", "2026", "translation/demo"), ("rates/007", "rates/007", "rates/007", "translation/demo/rates")],
)
def test_a_run_is_described_to_trackers(given: str | None, folder: str, name: str, group: str, tmp_path: Path) -> None:
    words = [] if given is None else [f"run.name={given}"]
    settings = compose("experiment=translation/demo", "run.tags=[small]", "run.notes=a try", *words)
    path = tmp_path / "translation" / "demo" / folder
    path.mkdir(parents=True)
    run = SavedRun.begin(path, settings.updated({"logger.wandb.api_key": "s3cret"}))
    tracked = TrackedRun.of(run)
    assert (tracked.name, tracked.group, tracked.experiment) == (name, group, "translation/demo")
    assert (tracked.id, tracked.folder, tracked.metric) == (run.identity(), path, settings.validate.metric)
    assert (tuple(tracked.tags), tracked.notes) == (("small",), "a try")
    assert tracked.parameters["model.width"] == settings.model.arguments["width"]
    assert "s3cret" not in tracked.parameters.values()
    assert tracked.started == TrackedRun.of(SavedRun.open(path)).started
