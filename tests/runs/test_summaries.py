"""Summarization is the same task: long sources that are cut, several references, ROUGE."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rouge_score.rouge_scorer import RougeScorer

from etude.configuration.check import plain
from etude.experiment.evaluate import evaluate
from etude.experiment.record import RECORD, read
from etude.experiment.run import fit
from tests.runs.conftest import sentence
from tests.runs.killing import begin


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Documents of sentences, whose summary is the first one; in dev some have two."""
    folder, source = tmp_path / "documents", random.Random(3)
    folder.mkdir()
    for name, rows in (("train.jsonl", 60), ("dev.jsonl", 9)):
        lines = []
        for row in range(rows):
            sentences = [" ".join(sentence(source)) for _ in range(6)]
            summaries = sentences[: 1 + (row % 2 if name.startswith("dev") else 0)]
            lines.append(json.dumps({"source": sentences, "target": summaries}))
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def test_a_run_on_documents_reports_rouge_over_all_references(
    composed: Callable[..., Any], documents: Path, tmp_path: Path
) -> None:
    changes = ("task=summarization", "data=scitldr", "task.metrics.rouge.several=best", "validate.metric=val/rouge_l")
    longest = (
        "data.max_length=32",
        "model.max_length=32",
        "validate.mode=max",
        "validate.every=20step",
        "budget=41step",
    )
    learning = ("optimizer.lr=2e-2", "scheduler=constant", "model.width=32", "model.dropout=0.0", "batch.tokens=500")
    values = plain(composed("translation", *changes, f"++data.root={documents}", *longest, *learning))
    run = begin(tmp_path / "run", values)
    fit(run)
    logged = [event.values["val/rouge_l"] for event in read(run / RECORD) if "val/rouge_l" in event.values]
    found = evaluate([run], {"split": "val", "checkpoint": "last"})
    assert found["scores"]["val/rouge_l"] == logged[-1] > 0
    assert found["left_out_or_changed"]["truncated"] > 0
    rows = [json.loads(line) for line in (run / "evaluations" / "val.jsonl").read_text().splitlines()]
    assert [len(row["references"]) for row in rows] == [1, 2, 1, 2, 1, 2, 1, 2, 1]
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    known = [scorer.score_multi(row["references"], row["output"])["rougeL"].fmeasure for row in rows]
    assert found["scores"]["val/rouge_l"] == pytest.approx(100 * sum(known) / len(known))
    assert not (run / "evaluations" / "val.references.txt").exists()
