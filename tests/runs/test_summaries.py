"""Summarization is the same task: long sources that are cut, several references, ROUGE."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.runs.record import RECORD, read
from tests.runs.conftest import sentence
from tests.runs.doors import evaluate, fit
from tests.runs.killing import begin, finish

SUMMARIES = ("task=summarization", "data=scitldr", "validate.metric=val/rouge_l", "validate.mode=max")


def documents(folder: Path, train: int, dev: int, sentences: int) -> Path:
    """Documents of so many sentences, whose summary is the first one; in dev some have two."""
    source = random.Random(3)
    folder.mkdir()
    for name, rows in (("train.jsonl", train), ("dev.jsonl", dev)):
        lines = []
        for row in range(rows):
            texts = [" ".join(sentence(source)) for _ in range(sentences)]
            summaries = texts[: 1 + (row % 2 if name.startswith("dev") else 0)]
            lines.append(json.dumps({"source": texts, "target": summaries}))
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def test_a_run_on_documents_reports_rouge_over_all_references(composed: Callable[..., Any], tmp_path: Path) -> None:
    root = documents(tmp_path / "documents", train=60, dev=9, sentences=6)
    changes = ("task.metrics.rouge.several=best", f"++data.root={root}")
    longest = ("data.max_length=32", "model.max_length=32", "validate.every=20step", "budget=41step")
    learning = ("optimizer.lr=2e-2", "scheduler=constant", "model.width=32", "model.dropout=0.0", "batch.tokens=500")
    values = composed("translation", *SUMMARIES, *changes, *longest, *learning)
    run = begin(tmp_path / "run", values)
    fit(run)
    logged = [event.values["val/rouge_l"] for event in read(run / RECORD) if "val/rouge_l" in event.values]
    found = evaluate([run], {"split": "val", "checkpoint": "last"})
    assert found["scores"]["val/rouge_l"] == logged[-1] > 0
    assert found["left_out_or_changed"]["truncated"] > 0
    rows = [json.loads(line) for line in (run / "evaluations" / "val.jsonl").read_text().splitlines()]
    assert [len(row["references"]) for row in rows] == [1, 2, 1, 2, 1, 2, 1, 2, 1]
    from rouge_score.rouge_scorer import RougeScorer  # takes seconds, in each process that collects

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    known = [scorer.score_multi(row["references"], row["output"])["rougeL"].fmeasure for row in rows]
    assert found["scores"]["val/rouge_l"] == pytest.approx(100 * sum(known) / len(known))
    assert not (run / "evaluations" / "val.references.txt").exists()


@pytest.mark.slow
def test_memory_grows_with_the_length_of_sources_not_with_its_square(
    composed: Callable[..., Any], tmp_path: Path
) -> None:
    """Trained on, validated with five beams, and reported; eight heads' attention to 8,000 tokens would be 2 GB a layer."""
    costs = []
    for sentences in (3, 500):
        root = documents(tmp_path / f"documents-{sentences}", train=4, dev=2, sentences=sentences)
        lengths = ("data.max_length=20000", "model.max_length=20000", "batch.tokens=20000", "model.heads=8")
        search = ("decoding=beam", "decoding.beams=5", "decoding.max_length=8")
        steps = ("budget=2step", "validate.every=2step", f"++data.root={root}")
        run = begin(tmp_path / f"{sentences}", composed("translation", *SUMMARIES, *lengths, *search, *steps))
        finish(run)
        costs.append(json.loads((run / "cost.json").read_text()))
    short, long = costs
    assert long["tokens"] > 2 * 2 * 8000  # two steps of two documents
    assert long["peak_memory_mb"] - short["peak_memory_mb"] < 300
