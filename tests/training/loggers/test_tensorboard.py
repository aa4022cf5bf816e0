"""TensorBoard reads what a run wrote: scalars once, texts, parameters, and what became of the run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from etude.errors import ConfigurationError
from etude.runs.record import RECORD, Record
from etude.training.loggers.mirror import Ending
from etude.training.loggers.tensorboard import TensorBoard, TensorBoardMirror, markdown
from tests.training.loggers.tracked_runs import STARTED, TABLE, entries, lose, tracked, train


def accumulated(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    return events.Reload()


def scalars(folder: Path) -> list[tuple[int, str, float]]:
    events = accumulated(folder)
    return sorted((one.step, name, one.value) for name in ("train/loss", "val/loss") for one in events.Scalars(name))


def text(folder: Path, name: str) -> str:
    (event,) = accumulated(folder).Tensors(f"{name}/text_summary")
    return str(event.tensor_proto.string_val[0].decode())


def test_a_continued_run_has_every_value_once(tmp_path: Path) -> None:
    run = tracked(tmp_path)
    Record(run.folder / RECORD).close()
    train(run.folder, lambda: TensorBoardMirror(run), 0, 23)
    (file,) = (run.folder / "tensorboard").glob("*tfevents*")
    os.truncate(file, file.stat().st_size * 2 // 3)  # the end of the file was not written, and it breaks in a value
    assert 0 < len(scalars(run.folder)) < 23
    lose(run.folder, 4)
    train(run.folder, lambda: TensorBoardMirror(run), 21, 31).close()
    found = scalars(run.folder)
    assert [one[:2] for one in found] == [one[:2] for one in entries(31)]
    assert [one[2] for one in found] == pytest.approx([one[2] for one in entries(31)], rel=1e-7)  # 32 bits


def test_a_value_has_its_step_and_the_time_of_training(tmp_path: Path) -> None:
    run = tracked(tmp_path)
    mirror = TensorBoardMirror(run)
    mirror.log_metrics({"train/loss": 0.5, "tokens": 70, "seconds": 1.5}, 3)
    mirror.log_metrics({"val/loss": 0.25, "tokens": 70, "seconds": 2.5}, 3)
    mirror.close()
    events = accumulated(run.folder)
    (train_loss,), (val_loss,), (tokens,) = (events.Scalars(name) for name in ("train/loss", "val/loss", "tokens"))
    assert (train_loss.step, train_loss.wall_time, train_loss.value) == (3, STARTED + 1.5, 0.5)
    assert (val_loss.step, val_loss.wall_time, val_loss.value) == (3, STARTED + 2.5, 0.25)
    assert (tokens.step, tokens.value) == (3, 70)


def test_the_run_and_its_tables_are_texts_and_its_configuration_parameters(tmp_path: Path) -> None:
    run = tracked(tmp_path)
    mirror = TensorBoardMirror(run)
    for _ in range(2):  # the second time is a repeated validation
        mirror.log_table("samples", *TABLE, step=4)
    mirror.close()
    assert "| notes | a try \\| of \\*it\\* |" in text(run.folder, "run")
    assert "| tags | small, first |" in text(run.folder, "run")
    assert text(run.folder, "samples").splitlines()[2:] == ["| a\\|b | \\<i\\>c\\</i\\> |", "| d | 3 |"]
    content = accumulated(run.folder).SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    given = HParamsPluginData.FromString(content).session_start_info.hparams
    assert (given["model.width"].number_value, given["optimizer.lr"].number_value) == (7, 1e-3)
    assert (given["optimizer.betas"].string_value, given["data.fast"].string_value) == ("[0.9, 0.98]", "true")


@pytest.mark.parametrize(
    ("ending", "status"),
    [("finished", "STATUS_SUCCESS"), ("failed", "STATUS_FAILURE"), ("killed", "STATUS_FAILURE")],
)
def test_what_became_of_the_run_is_said_and_taken_back_when_it_goes_on(
    ending: Ending, status: str, tmp_path: Path
) -> None:
    run = tracked(tmp_path)
    mirror = TensorBoardMirror(run)
    mirror.log_metrics({"train/loss": 0.5}, 3)
    mirror.conclude(ending)
    mirror.abandon()
    content = accumulated(run.folder).SummaryMetadata("_hparams_/session_end_info").plugin_data.content
    assert HParamsPluginData.FromString(content).session_end_info.status == Status.Value(status)
    assert text(run.folder, "state") == ending
    TensorBoardMirror(run).save()
    assert "state/text_summary" not in accumulated(run.folder).Tags()["tensors"]


def test_cells_mean_themselves() -> None:
    assert markdown(["a"], [["*b* |\n`c`"]]).splitlines()[2] == "| \\*b\\* \\| \\`c\\` |"


def test_it_is_refused_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ConfigurationError, match=r"logger=tensorboard needs tensorboard: pip install 'etude\[tensor"):
        TensorBoard().check()
