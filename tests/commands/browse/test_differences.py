"""`etude runs diff`: what differs is shown with both values, what is equal is not, scores and costs always."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from etude.atomic import write_json
from etude.cli.main import main
from etude.commands.browse.differences import runs_diff
from etude.runs.folder import DATA, MANIFEST
from tests.commands.browse.conftest import DATA_OF_A_RUN, WriteRun

PROCESSOR = {
    "name": "p",
    "machine": "m",
    "cores": 2,
    "vectors": "AVX2",
    "flags": [],
    "threads": 2,
    "threads_between_operations": 1,
}
TORCH = {
    "deterministic": True,
    "matmul_precision": "highest",
    "default_dtype": "torch.float32",
    "built_with": [],
    "mkl": True,
    "onednn": True,
    "cuda": None,
    "cudnn": None,
    "cudnn_deterministic": False,
    "cudnn_benchmark": False,
    "cudnn_tf32": True,
}


def manifest(**changes: Any) -> dict[str, Any]:
    return {
        "command": [],
        "seed": 1,
        "data": {"fingerprint": "f"},
        "parameters": {"total": 3, "trainable": 3},
        "first_weights": "w",
        "pretrained": {},
        "code": {"commit": "c", "changes": None, "sources": {"etude": "s"}},
        "packages": {"torch": "2.12"},
        "python": "3.11",
        "platform": "Linux",
        "processor": PROCESSOR,
        "accelerators": [],
        "precision": "32-true",
        "torch": TORCH,
        "environment": {},
        **changes,
    }


@pytest.fixture
def pair(write_run: WriteRun) -> tuple[Path, Path]:
    first = write_run("demo/one", "optimizer.lr=1e-3", validations=(0.5, 0.75), test=0.75)
    second = write_run("demo/two", "optimizer.lr=2e-3", "logger=none", validations=(0.25,), test=0.5)
    write_json(first / MANIFEST, manifest())
    changed = manifest(packages={"torch": "2.13"}, processor={**PROCESSOR, "threads": 4}, data={"fingerprint": "g"})
    write_json(second / MANIFEST, changed)
    write_json(second / DATA, {**DATA_OF_A_RUN, "rows": {"train": 8}})
    return first, second


def test_what_differs_is_shown_with_both_values(pair: tuple[Path, Path], outputs: Path) -> None:
    found = json.loads(runs_diff(*pair, outputs, format="json"))
    assert found["runs"] == [str(path) for path in pair]
    assert found["configuration"]["optimizer.lr"] == [0.001, 0.002]
    assert found["configuration"]["logger.wandb.project"] == ["etude", "(none)"]
    assert "model.width" not in found["configuration"]
    assert found["packages"] == {"torch": ["2.12", "2.13"]}
    assert found["hardware"] == {"processor.threads": [2, 4]}
    assert found["data"] == {"fingerprint": ["f", "g"], "rows.train": [9, 8]}
    assert found["scores"] == {"val/loss": [0.25, 0.75], "val/accuracy": [0.75, 0.25], "test/accuracy": [0.75, 0.5]}
    assert found["cost"]["seconds"] == [10.0, 5.0]
    assert not {"code", "settings", "state"} & set(found)


def test_the_other_way_round_it_is_the_same(pair: tuple[Path, Path], outputs: Path) -> None:
    there, back = (json.loads(runs_diff(*paths, outputs, format="json")) for paths in (pair, pair[::-1]))
    assert {part: set(keys) for part, keys in there.items() if part != "runs"} == {
        part: set(keys) for part, keys in back.items() if part != "runs"
    }
    assert back["configuration"]["optimizer.lr"] == [0.002, 0.001]


def test_a_run_differs_in_nothing_from_itself(pair: tuple[Path, Path], outputs: Path) -> None:
    found = json.loads(runs_diff(pair[0], pair[0], outputs, format="json"))
    assert set(found) == {"runs", "scores", "cost"}
    rows = list(csv.reader(io.StringIO(runs_diff(pair[0], pair[0], outputs, format="csv"))))
    assert rows[0] == ["part", "key", "demo/one (1)", "demo/one (2)", "difference"]
    assert {float(row[-1]) for row in rows[1:]} == {0.0}


def test_the_table_shows_scores_side_by_side(
    pair: tuple[Path, Path], outputs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", "diff", "demo/one", str(pair[1]), f"paths.outputs={outputs}"]) == 0
    lines = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert lines[0] == ["part", "key", "demo/one", "demo/two", "difference"]
    assert ["configuration", "optimizer.lr", "0.001", "0.002"] in lines
    assert ["scores", "test/accuracy", "0.7500", "0.5000", "-0.25"] in lines


def test_a_run_that_has_only_begun_can_be_compared(write_run: WriteRun, outputs: Path) -> None:
    first, second = write_run("demo/one", validations=(0.5,), test=0.5), write_run("demo/two")
    found = json.loads(runs_diff(first, second, outputs, format="json"))
    assert found["state"]["state"] == ["finished", "begun"]
    assert found["scores"]["test/accuracy"] == [0.5, None]
    write_json(first / MANIFEST, manifest())
    assert json.loads(runs_diff(first, second, outputs, format="json"))["manifest"] == {"there is one": [True, False]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["demo/one"], "takes two RUNs, not 1"),
        (["demo/one", "demo/one", "demo/one"], "takes two RUNs, not 3"),
        (["demo/one", "demo/tow"], "no run 'demo/tow'"),
        (["demo/one", "demo/one", "sort=run"], "does not take sort=run"),
        (["demo/one", "state=finished"], "does not take state=finished"),
        (["demo/one", "demo/one", "format=latex"], "etude runs diff does not know format=latex"),
    ],
)
@pytest.mark.usefixtures("pair")
def test_wrong_words_are_one_line(
    words: list[str], said: str, outputs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", "diff", *words, f"paths.outputs={outputs}"]) == 78
    error = capfd.readouterr().err
    assert said in error
    assert error.count("\n") == 1
