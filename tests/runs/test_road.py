"""A road: all its runs from one command, once; and what it says of them."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import statistics
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from etude.errors import ConfigurationError
from etude.experiment.record import RECORD, read
from etude.experiment.report.road import Cell, road_page, road_table
from etude.experiment.run import train
from etude.interrupts import StoppedError
from etude.store.folder import create, write_json
from etude.store.lock import RunLock


@pytest.fixture
def road(overrides: Callable[..., list[str]], composed: Callable[..., Any], small_data: Path) -> Callable[..., Path]:
    """Walks a small road: a pretraining, two starts, two sizes, two seeds."""
    pretrain = [word for word in overrides("masked_lm", "budget=3step") if not word.startswith("paths.")]
    pretrain += [
        f"paths.cache={word.partition('=')[2]}" for word in overrides("masked_lm") if word.startswith("paths.cache")
    ]
    said = [word for word in overrides("classification") if not word.startswith("budget=")]

    def walk(*more: str) -> Path:
        words = [
            *said,
            f"road.pretrain={pretrain}",
            "road.starts.pretrained=[\"start='{pretrained}'\"]",
            "road.starts.scratch=['model.dropout=0.2']",
            "road.labels.20=2step",
            "road.seeds=[1,2]",
            "run.experiment=road/small",
            *more,
        ]
        folder = train(composed("classification", *words[len(said) :]), words)
        assert folder is not None
        return folder

    return walk


@pytest.mark.slow
def test_a_road_is_walked_once(road: Callable[..., Path]) -> None:
    folder = road()
    runs = sorted(path.name for path in folder.iterdir() if path.is_dir())
    forks = [f"{start}-{size}-seed{seed}" for start in ("pretrained", "scratch") for size in ("20",) for seed in (1, 2)]
    assert runs == sorted(["pretrained", *forks])
    for fork in forks:
        asked = 20 if "-20-" in fork else 203
        assert json.loads((folder / fork / "data.json").read_text())["rows"]["train"] == asked
        chain = json.loads((folder / fork / "manifest.json").read_text()).get("start")
        assert (chain is not None) == fork.startswith("pretrained")
        assert json.loads((folder / fork / "finished.json").read_text())["step"] == (2 if asked == 20 else 4)
    found = json.loads((folder / "road.json").read_text())
    assert found["metric"] == "test/accuracy"
    for cell in found["cells"]:
        size = "20" if cell["examples"] == 20 else "all"
        scores = [
            json.loads((folder / f"{cell['start']}-{size}-seed{seed}" / "finished.json").read_text())["scores"][
                "test/accuracy"
            ]
            for seed in (1, 2)
        ]
        assert cell["scores"] == scores
        assert cell["mean"] == pytest.approx(statistics.fmean(scores))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("finished.json")}
    assert road() == folder
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("finished.json")}


def test_a_wrong_start_is_refused_before_anything_is_trained(road: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"model\.widht"):
        road("road.starts.wrong=['model.widht=3']")
    assert not (tmp_path / "outputs").exists()


def test_a_stopped_road_says_how_it_goes_on(
    road: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stopped(*_: object) -> None:
        raise StoppedError(signal.SIGTERM, "stopped by SIGTERM at step 3")

    monkeypatch.setattr("etude.experiment.run.execute", stopped)
    with caplog.at_level("WARNING"), pytest.raises(StoppedError, match="at step 3"):
        road()
    assert caplog.messages[-1] == "the road stopped in run 1 of 5; the same command goes on with it"


def test_a_run_that_another_command_is_at_is_come_back_to(
    road: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Others go before it, and what starts from it waits; so does the whole road, in the end."""
    order: list[str] = []
    place = tmp_path / "outputs/road/small"
    held = RunLock(create(tmp_path / "outputs", "road/small", "pretrained"))

    def trained(run: Path, _lock: RunLock) -> None:
        order.append(run.name)
        write_json(run / "data.json", {"rows": {"train": 20}})
        write_json(run / "finished.json", {"step": 2, "scores": {"test/accuracy": 0.5}})

    def sleep(_: float) -> None:
        order.append("wait")
        held.__exit__(None, None, None)

    monkeypatch.setattr("etude.experiment.run._train_and_report", trained)
    monkeypatch.setattr("etude.experiment.run.with_its_model", lambda values, *_: values)
    monkeypatch.setattr("etude.experiment.road.time", SimpleNamespace(sleep=sleep))
    with held, caplog.at_level("INFO"):
        assert road() == place
    others = [f"scratch-20-seed{seed}" for seed in (1, 2)]
    assert order == [*others, "wait", "pretrained", *(f"pretrained-20-seed{seed}" for seed in (1, 2))]
    assert f"road: {place / 'pretrained'} is in use by process {os.getpid()}" in caplog.messages
    assert json.loads((place / "road.json").read_text())["metric"] == "test/accuracy"


@pytest.mark.slow
def test_two_commands_share_a_road(road: Callable[..., Path]) -> None:
    """Each run is trained by one of them, and both end with the road's results."""
    context = multiprocessing.get_context("fork")
    walkers = [context.Process(target=road) for _ in range(2)]
    for walker in walkers:
        walker.start()
    for walker in walkers:
        walker.join()
    assert [walker.exitcode for walker in walkers] == [0, 0]
    folder = road()
    for run in (path for path in folder.iterdir() if path.is_dir()):
        steps = [event.step for event in read(run / RECORD) if "train/loss" in event.values]
        assert steps == sorted(set(steps)), run
        assert len((run / ".lock").read_text().split()) == 1
    assert len(json.loads((folder / "road.json").read_text())["cells"]) == 2


def test_the_table_and_the_page() -> None:
    cells = [
        Cell("pretrained", 100, (0.6, 0.7)),
        Cell("scratch", 100, (0.5, 0.5)),
        Cell("pretrained", 2000, (0.8, 0.8)),
        Cell("scratch", 2000, (0.7, 0.6)),
    ]
    table = road_table("test/accuracy", cells).splitlines()
    assert table[0] == "test/accuracy, mean ± standard deviation over 2 seeds"
    assert table[2:] == [
        "| examples | pretrained | scratch |",
        "| ---: | ---: | ---: |",
        "| 100 | 0.6500 ± 0.0707 | 0.5000 ± 0.0000 |",
        "| 2,000 | 0.8000 ± 0.0000 | 0.6500 ± 0.0707 |",
    ]
    page = road_page(Path("a<b"), "test/accuracy", cells)
    assert "a&lt;b" in page
    assert page.count('<g class="curve') == 2
    assert page.count("<circle") == 4
