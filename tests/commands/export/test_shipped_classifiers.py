"""Each shipped experiment of classification has a pooling that transformers' sequence classifiers have too."""

from __future__ import annotations

from pathlib import Path

import pytest

from etude.config.compose import compose
from tests.conftest import ROOT

EXPERIMENTS = sorted((ROOT / "conf" / "experiment" / "classification").glob("*.yaml"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_a_pipeline_takes_its_export(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    words = ["data.root=FOLDER"] if "data.root=FOLDER" in text else []
    config = compose(f"experiment=classification/{path.stem}", *words)
    assert config.task.arguments["pooling"] in ("first", "pooler")
    norms = config.model.arguments.get("norm")
    assert norms is None or norms["_target_"].endswith("LayerNorm")
