"""A task that etude does not know: a package of its own and YAML, and not a line of `src/` changed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

EXTENSION = ROOT / "tests" / "extension"
NOUNS, VERBS = ["sun", "moon", "star", "tree", "lake"], ["sings", "falls", "burns", "runs", "shines"]


def write_corpus(folder: Path) -> None:
    source = random.Random(3)
    for split, rows in (("train", 240), ("val", 31)):
        lines = ["text\ttags"]
        for _ in range(rows):
            tags = [source.choice(["noun", "verb"]) for _ in range(source.randint(1, 7))]
            words = [source.choice(NOUNS if tag == "noun" else VERBS) for tag in tags]
            lines.append(f"{' '.join(words)}\t{' '.join(tags)}")
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")


def test_a_package_outside_etude_adds_a_task(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    words = [
        *("train", "--config-dir", str(EXTENSION / "conf"), "experiment=tagging/demo", f"data.root={tmp_path}"),
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
        env={**search, "ETUDE_TRUST": "tagger"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run = Path(done.stdout.strip())
    scores = json.loads((run / "evaluations" / "val.json").read_text())
    assert scores["scores"]["val/accuracy"] > 0.95
    assert (run / "report.html").exists()
    predicted = subprocess.run(
        [sys.executable, "-m", "etude", "predict", str(run)],
        env={**search, "ETUDE_TRUST": "tagger"},
        input="sun sings lake\n\nruns\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert predicted.stdout == "noun verb noun\n\nverb\n"
