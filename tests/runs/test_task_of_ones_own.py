"""A task that etude does not know: a package of its own and YAML, and not a line of `src/` changed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

EXTENSION = ROOT / "tests" / "extension"
BRIGHT, DARK = ["sun", "moon", "star", "fire", "noon"], ["night", "cave", "shade", "coal", "fog"]


def write_corpus(folder: Path) -> None:
    """Pairs of texts, of which the one with more bright words is better."""
    source = random.Random(3)
    for split, rows in (("train", 240), ("val", 31)):
        lines = ["better\tworse"]
        for _ in range(rows):
            few, many = sorted(source.sample(range(6), 2))
            texts = [source.choices(BRIGHT, k=bright) + source.choices(DARK, k=5 - bright) for bright in (many, few)]
            lines.append("\t".join(" ".join(source.sample(text, 5)) for text in texts))
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")


@pytest.mark.slow
def test_a_package_outside_etude_adds_a_task(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    words = [
        *("train", "--config-dir", str(EXTENSION / "conf"), "experiment=ranking/demo", f"data.root={tmp_path}"),
        *(f"paths.outputs={tmp_path}/outputs", f"paths.cache={tmp_path}/cache", "logger=none", "trainer=cpu"),
    ]
    search = {
        "PYTHONPATH": f"{EXTENSION}:{ROOT / 'src'}",
        "OMP_NUM_THREADS": "1",
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-m", "etude", *words],
        env={**search, "ETUDE_TRUST": "ranker"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run = Path(done.stdout.strip())
    scores = json.loads((run / "evaluations" / "val.json").read_text())
    assert scores["scores"]["val/in_order"] > 0.9
    assert (run / "report.html").exists()
    predicted = subprocess.run(
        [sys.executable, "-m", "etude", "predict", str(run)],
        env={**search, "ETUDE_TRUST": "ranker"},
        input="sun moon fire\nfog star cave\nnight coal\n",
        capture_output=True,
        text=True,
        check=True,
    )
    worths = [float(line) for line in predicted.stdout.splitlines()]
    assert len(worths) == 3 and worths == sorted(worths, reverse=True)
