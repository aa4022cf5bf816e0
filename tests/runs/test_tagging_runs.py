"""Token classification from the command line's configuration to answers: learnt, scored, shown, predicted, exported."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from etude.config.compose import compose
from etude.errors import ConfigurationError, DataError
from etude.report.page import report
from tests.runs.conftest import SKY, SMALL, tagged
from tests.runs.doors import evaluate, export, fit, inspect, predict
from tests.runs.killing import begin

HOSTILE = ["<script>alert(1)</script>", "sun", "moon", "&lt;b", '"onload="x']
LEARNING = (
    *("budget=140step", "validate.every=70step", "scheduler=constant", "optimizer.lr=5e-3", "log.every=70step"),
    *(
        "model.dropout=0.0",
        "task.head_dropout=0.0",
        "model.width=32",
        "model.feed_forward=64",
        "checkpoint.every=140step",
    ),
)


def words(data: Path, folder: Path, *more: str) -> list[str]:
    return [
        *("experiment=token_classification/demo", *SMALL, "model.layers=1", "data=tagged_words", "data.scheme=iob2"),
        *("data.max_length=16", "tokenizer.vocabulary=120", "batch.examples=24"),
        *(f"data.{split}={data}/{split}.conll" for split in ("train", "val", "test")),
        *(f"paths.outputs={folder}/outputs", f"paths.cache={folder}/cache", *more),
    ]


@pytest.fixture(scope="module")
def texts(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small data with a hostile sentence in its test."""
    folder = tmp_path_factory.mktemp("tagged")
    for split in ("train", "val", "test"):
        more = tagged(HOSTILE) if split != "val" else ""
        (folder / f"{split}.conll").write_text((small_data / f"{split}.conll").read_text() + more)
    return folder


@pytest.fixture(scope="module")
def run(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    made = begin(folder / "learnt", compose(*words(texts, folder, *LEARNING)))
    fit(made)
    return made


def test_spans_are_learnt_and_scored(run: Path) -> None:
    found = json.loads((run / "evaluations" / "test.json").read_text())
    assert found["scores"]["test/f1"] > 0.75 and found["scores"]["test/accuracy"] > 0.9 and found["examples"] == 20
    low, high = found["intervals"]["test/f1"]
    assert low <= found["scores"]["test/f1"] <= high
    assert found["signatures"]["test/f1"] == (
        "nrefs:1|bs:1000|seed:12345|classes:3|scheme:iob2|mode:strict|average:micro"
    )
    rows = [json.loads(line) for line in (run / "evaluations" / "test.jsonl").read_text().splitlines()]
    assert all(len(row["labels"]) == len(row["predictions"]) == len(row["probabilities"]) for row in rows)
    hits = [wanted == made for row in rows for wanted, made in zip(row["labels"], row["predictions"], strict=True)]
    assert found["scores"]["test/accuracy"] == pytest.approx(sum(hits) / len(hits))
    spans = found["details"]["spans"]["sky"]
    assert spans["right"] <= min(spans["labelled"], spans["predicted"])
    assert evaluate([run], {"batch.examples": 7})["scores"] == pytest.approx(found["scores"])


def answers(run: Path, lines: list[str], **changes: Any) -> list[str]:
    out = io.StringIO()
    predict(run, dict(changes), io.BytesIO("".join(f"{line}\n" for line in lines).encode()), out)
    return out.getvalue().splitlines()


LINES = ["sun moon tree", "", "  tree  star", " ".join(["tree", "sun"] * 40)]


def test_words_and_entities_of_lines_are_answered(run: Path) -> None:
    found = answers(run, LINES)
    assert found[:3] == ["sun/B-sky moon/I-sky tree/O", "", "tree/O star/B-sky"]
    assert found[3].split()[:4] == ["tree/O", "sun/B-sky", "tree/O", "sun/B-sky"] and len(found[3].split()) == 80
    records = [
        json.loads(line) for line in answers(run, [json.dumps({"text": line}) for line in LINES], format="jsonl")
    ]
    assert records[0]["entities"] == [{"kind": "sky", "text": "sun moon", "start": 0, "end": 8}]
    assert records[2]["entities"] == [{"kind": "sky", "text": "star", "start": 8, "end": 12}]
    assert records[1]["words"] == records[1]["entities"] == []
    (outputs,) = (json.loads(line)["outputs"] for line in answers(run, ["sun"], format="json"))
    assert outputs[0]["text"] == "sun/B-sky"


def test_the_report_marks_spans_of_hostile_text(run: Path) -> None:
    details = json.loads((run / "evaluations" / "test.json").read_text())["details"]
    shown = {
        "words": HOSTILE,
        "labels": [[1, 3, "sky<b>"], [4, 5, "x"]],
        "predictions": [[1, 2, "sky<b>"], [9, 99, "x"]],
    }
    stored = run / "evaluations" / "test.json"
    before = stored.read_text()
    stored.write_text(json.dumps({**json.loads(before), "details": {**details, "tagged": [shown]}}))
    page = report(run).read_text()
    stored.write_text(before)
    marked = page.partition("Sentences with the most errors")[2].partition("</table>")[0]
    assert marked.count("<mark") == 5 and "<b>" not in marked and "<script" not in marked and "99" not in marked
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "Spans on test" in page
    assert 'title="sky&lt;b&gt;, missed"' in page and 'title="sky&lt;b&gt;, wrong"' in page
    assert "<small>S <i>wrong</i></small>" in page


def test_attention_is_shown(run: Path) -> None:
    found = inspect(run, {"text": "sun moon tree"})
    assert found["maps"] if isinstance(found, dict) else found


PIPELINE = """
import json, sys
from transformers import pipeline
tag = pipeline("token-classification", model=sys.argv[1])
print(json.dumps([[[one["start"], one["entity"], float(one["score"])] for one in tag(text)] for text in json.loads(sys.argv[2])]))
assert "etude" not in sys.modules
"""


@pytest.mark.slow
def test_a_pipeline_of_transformers_gives_the_runs_probabilities(run: Path, tmp_path: Path) -> None:
    folder = export(run, {"to": "huggingface", "path": str(tmp_path / "exported")})
    proof = json.loads((folder / "export.json").read_text())["proof"]
    assert (
        proof["class"] == "RobertaPreLayerNormForTokenClassification" and proof["logits"]["largest_difference"] < 1e-4
    )
    lines = ["sun moon tree", "old star", "moon"]
    command = [sys.executable, "-I", "-c", PIPELINE, str(folder), json.dumps(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    records = [
        json.loads(line) for line in answers(run, [json.dumps({"text": line}) for line in lines], format="jsonl")
    ]
    for line, record, found in zip(lines, records, json.loads(done.stdout), strict=True):
        starts = {line.index(word): place for place, word in enumerate(record["words"])}
        first = {start: (entity, score) for start, entity, score in found if start in starts}
        for start, place in starts.items():
            if record["tags"][place] == "O":
                assert start not in first
            else:
                assert first[start] == (record["tags"][place], pytest.approx(record["probabilities"][place], abs=1e-4))


def test_wrong_combinations_are_one_line(texts: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no data\.scheme; choose another data=…"):
        compose("experiment=token_classification/demo", "data=reviews")
    with pytest.raises(
        ConfigurationError, match=r"takes TokenClassificationBatch, but data \(ClassificationData\) gives"
    ):
        compose("experiment=classification/demo", "task=token_classification", "task.scheme=null")
    with pytest.raises(ConfigurationError, match="is not a metric of TokenClassification; did you mean val/f1"):
        compose(*words(texts, tmp_path, "validate.metric=val/f2"))
    for scheme, kind, message in (("null", Exception, "scheme"), ("iobes", DataError, r"train\.conll:\d+ has the tag")):
        with pytest.raises(kind, match=message):
            fit(begin(tmp_path / scheme, compose(*words(texts, tmp_path, f"data.scheme={scheme}"))))


def test_parts_of_speech_have_no_spans(texts: Path, tmp_path: Path) -> None:
    more = ("task=token_classification", "data.scheme=null", "validate.metric=val/accuracy", "budget=4step")
    made = begin(tmp_path / "run", compose(*words(texts, tmp_path, *more)))
    fit(made)
    found = json.loads((made / "evaluations" / "test.json").read_text())
    assert {"test/accuracy", "test/macro_f1", "test/loss"} == set(found["scores"]) and "spans" not in found["details"]
    assert "taken for" in report(made).read_text()
    assert SKY[0] in found["details"]["tagged"][0]["words"] or found["details"]["tagged"]


@pytest.mark.slow
@pytest.mark.corpora
@pytest.mark.parametrize(("name", "folder"), [("ewt_pos", "ud-ewt"), ("wnut17", "wnut17")])
def test_published_sets_take_two_steps(corpus_folder: Path, tmp_path: Path, name: str, folder: str) -> None:
    small = (
        *(f"experiment=token_classification/{name}", f"data.root={corpus_folder}/{folder}"),
        *("model=encoder", "model.width=16", "model.heads=2", "model.layers=1", "model.feed_forward=24"),
        *("logger=none", "trainer=cpu", "trainer.progress_bar=false", "callbacks=none", "scheduler.warmup=1step"),
        *("budget=2step", "validate.every=2step", "limit.train=200", "limit.val=30", "limit.test=30"),
        *("tokenizer=bytes", "~tokenizer.name", f"paths.outputs={tmp_path}", f"paths.cache={tmp_path}/cache"),
    )
    config = compose(*small)
    made = begin(tmp_path / "run", config)
    fit(made)
    found = json.loads((made / "evaluations" / "test.json").read_text())
    assert found["examples"] == 30 and config.validate.metric.replace("val/", "test/") in found["scores"]
