"""A tracker whose disk is full is turned off with one line, and the process ends as ever."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

SCRIPT = """
import resource, signal, sys
from pathlib import Path
from etude.console import configure_console
from etude.training.loggers.csv_table import CsvMirror
from etude.training.loggers.mlflow import MLflowMirror
from etude.training.loggers.safe_logger import SafeLogger
from etude.training.loggers.tensorboard import TensorBoardMirror
from etude.training.loggers.trackio import TrackioMirror
from tests.training.loggers.tracked_runs import tracked

kind, folder = sys.argv[1], Path(sys.argv[2])
run = tracked(folder)
mirror = {
    "csv": lambda: CsvMirror(run.folder),
    "mlflow": lambda: MLflowMirror(run, "study", None),
    "tensorboard": lambda: TensorBoardMirror(run),
    "trackio": lambda: TrackioMirror(run, "studies"),
}[kind]()
configure_console()
logger = SafeLogger(mirror)
logger.save()
logger.log_metrics({"train/loss": 0.5}, 1)
logger.finalize("success")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
# A file that would grow beyond this is an error, as on a disk without room.
largest = max(path.stat().st_size for path in folder.rglob("*") if path.is_file())
resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 5000, largest + 5000))
for step in range(2, 3000):
    logger.log_metrics({"train/loss": 0.5, "train/norm": 1.5}, step)
logger.finalize("success")
logger.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "service"),
    [
        ("csv", "The table of logger=csv"),
        ("mlflow", "MLflow"),
        ("tensorboard", "TensorBoard"),
        ("trackio", "Trackio"),
    ],
)
def test_a_full_disk_turns_a_tracker_off_with_one_line(kind: str, service: str, tmp_path: Path) -> None:
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": f"{ROOT}/src:{ROOT}"}
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, kind, str(tmp_path)], capture_output=True, text=True, env=environment, timeout=90
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.startswith(f"{service} is off: ")
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stdout == ""
    assert time.monotonic() - started < 60
