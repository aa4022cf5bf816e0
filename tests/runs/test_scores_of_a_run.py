"""Law 7: what is reported is what is measured, whether it is logged, evaluated, written or predicted."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sacrebleu

from etude.errors import ConfigurationError, DataError
from etude.runs.record import RECORD, read
from tests.runs.doors import evaluate, fit, predict
from tests.runs.killing import begin

LEARNING = (
    "budget=60step",
    "validate.every=20step",
    "checkpoint.every=20step",
    "checkpoint.keep_last=9",
    "callbacks=averaged",
    "optimizer.lr=2e-2",
    "scheduler=constant",
    "batch.tokens=500",
    "model.width=32",
    "model.dropout=0.0",
    "callbacks.ema.decay=0.8",
    "task.label_smoothing=0.0",
    "decoding=beam",
    "decoding.beams=2",
    "decoding.max_length=24",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def runs(folder: Path, composed: Callable[..., Any]) -> Iterator[tuple[Path, Path]]:
    """Two runs that differ in their seed, trained once for all tests here."""
    made = []
    for seed in (1, 2):
        run = folder / f"seed-{seed}"
        if not run.exists():
            fit(begin(run, composed("translation", *LEARNING, f"seed={seed}")))
        made.append(run)
    yield made[0], made[1]


def rows_of(run: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "evaluations" / f"{name}.jsonl").read_text().splitlines()]


def test_the_logged_scores_are_those_of_evaluate_at_each_checkpoint(runs: tuple[Path, Path]) -> None:
    """With averaged weights and beam search; every validation has its checkpoint here."""
    run = runs[0]
    logged = {event.step: event.values for event in read(run / RECORD) if "val/bleu" in event.values}
    assert list(logged) == [20, 40, 60]
    for step, values in logged.items():
        scores = evaluate([run], {"split": "val", "checkpoint": step})["scores"]
        assert scores == {name: value for name, value in values.items() if name.startswith("val/")}
    assert len({values["val/chrf"] for values in logged.values()}) == 3


def test_the_reported_scores_are_those_of_sacrebleu_on_the_written_lines(runs: tuple[Path, Path]) -> None:
    run = runs[0]
    found = evaluate([run], {"split": "test"})
    outputs, references = (
        (run / "evaluations" / f"test.{name}.txt").read_text().splitlines() for name in ("outputs", "references")
    )
    assert len(outputs) == found["examples"] == 19
    for name, metric in {
        "bleu": sacrebleu.metrics.BLEU(),
        "bleu_lowercase": sacrebleu.metrics.BLEU(lowercase=True, tokenize="13a"),
        "chrf": sacrebleu.metrics.CHRF(),
        "ter": sacrebleu.metrics.TER(),
    }.items():
        assert found["scores"][f"test/{name}"] == metric.corpus_score(outputs, [references]).score
        known = str(metric.get_signature())
        assert found["signatures"][f"test/{name}"].replace("|bs:1000|seed:12345", "") == known
    rows = rows_of(run, "test")
    assert [row["output"] for row in rows] == outputs
    assert [row["references"] for row in rows] == [[line] for line in references]
    assert [row["scores"]["chrf"] for row in rows] == [
        round(sacrebleu.sentence_chrf(output, [reference]).score, 2)
        for output, reference in zip(outputs, references, strict=True)
    ]


def test_any_files_are_evaluated_as_they_are_predicted(runs: tuple[Path, Path], tmp_path: Path) -> None:
    """Every line counts: an empty one, one with broken bytes, one longer than the model."""
    lines = [b"sun moon", b"", b"red \xff bird", b"lake " * 400, b"old stone"]
    references = ["nus noom", "", "der drib", "ekal " * 30, "dlo enots"]
    (tmp_path / "lines.en").write_bytes(b"\n".join(lines) + b"\n")
    (tmp_path / "lines.de.gz").write_bytes(gzip.compress("\n".join(references).encode()))
    asked = {"source": str(tmp_path / "lines.en"), "reference": str(tmp_path / "lines.de.gz")}
    found = evaluate([runs[0]], asked)
    answers = io.StringIO()
    predict(runs[0], {}, io.BytesIO(b"\n".join(lines) + b"\n"), answers)
    outputs = (runs[0] / "evaluations" / "lines.en.outputs.txt").read_text()
    assert outputs == answers.getvalue()
    assert found["examples"] == 5
    assert found["left_out_or_changed"] == {
        "had bytes that are not UTF-8 text; broken ones were replaced by U+FFFD": 1,
        "truncated": 1,
    }
    stripped = [line.strip() for line in references]
    assert found["scores"]["lines.en/bleu"] == sacrebleu.corpus_bleu(outputs.splitlines(), [stripped]).score
    assert json.loads((runs[0] / "evaluations" / "lines.en.json").read_text()) == found
    again = evaluate([runs[0]], {**asked, "name": "mine", "batch.tokens": 40, "task.metrics.plus": PLUS})
    assert (runs[0] / "evaluations" / "mine.outputs.txt").read_text() == outputs
    assert again["scores"]["mine/chrf"] == found["scores"]["lines.en/chrf"]
    assert again["scores"]["mine/plus"] != again["scores"]["mine/chrf"]


PLUS = {"_target_": "etude.metrics.translation.ChrF", "word_order": 2}


def test_files_that_cannot_be_evaluated(runs: tuple[Path, Path], tmp_path: Path) -> None:
    run = runs[0]
    contents = {"two": b"a\nb\n", "three": b"a\nb\nc\n", "none": b"", "wide": "ä\nö\n".encode("utf-16"), "test": b"a\n"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)

    def asked(source: str, *references: str, **more: Any) -> dict[str, Any]:
        return {"source": str(tmp_path / source), "reference": [str(tmp_path / name) for name in references], **more}

    for files, message in (
        (asked("two", "three"), r"two has 2 lines but \S+three has 3"),
        (asked("two", "two", "three"), r"two has 2 lines but \S+three has 3"),
        (asked("none", "two"), "none is empty"),
        (asked("two", "absent"), "no such file: .*absent"),
        (asked("wide", "wide"), "wide is not UTF-8 text"),
    ):
        with pytest.raises(DataError, match=message):
            evaluate([run], files)
    for wrong, message in (
        (asked("test", "test"), "'test' of the evaluation is that of a split; write name=OTHER"),
        (asked("two", "two", split="val"), "split=val and source= exclude each other"),
        ({"source": "two"}, "without reference=FILE"),
        ({"name": "mine"}, "without source=FILE"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            evaluate([run], wrong)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({"decoding.beams": 1}, "test-decoding.beams=1"),
        ({"limit.test": 5, "decoding.beams": 3}, "test-decoding.beams=3-limit.test=5"),
        ({"decoding": "greedy"}, "test-decoding=greedy"),
        ({"checkpoint": 20}, "test-checkpoint=20"),
        ({"precision": "bf16-true"}, "test-precision=bf16-true"),
        ({"task.metrics.bleu.lowercase": True}, "test-task.metrics.bleu.lowercase=True"),
    ],
)
def test_other_settings_leave_the_runs_own_evaluation_as_it_is(
    runs: tuple[Path, Path], asked: dict[str, Any], name: str
) -> None:
    run = runs[0]
    evaluate([run], {})
    folder = run / "evaluations"
    before = {path: path.read_bytes() for path in folder.glob("test.*")}
    found = evaluate([run], asked)
    assert {path: path.read_bytes() for path in folder.glob("test.*")} == before
    assert json.loads((folder / f"{name}.json").read_text()) == found
    assert found["settings"] == {key: str(value) if key == "checkpoint" else value for key, value in asked.items()}
    assert len(rows_of(run, name)) == found["examples"]


@pytest.mark.parametrize(
    "asked",
    [
        {"batch.tokens": 60, "trainer": "cpu"},
        {"decoding.beams": 2, "checkpoint": "best"},
        {"task.metrics.plus": PLUS},
    ],
)
def test_what_changes_no_result_is_the_runs_own_evaluation(runs: tuple[Path, Path], asked: dict[str, Any]) -> None:
    run = runs[0]
    own = evaluate([run], {})
    names = {path.name for path in (run / "evaluations").iterdir()}
    found = evaluate([run], asked)
    assert "settings" not in found
    assert {score: found["scores"][score] for score in own["scores"]} == pytest.approx(own["scores"])
    assert {path.name for path in (run / "evaluations").iterdir()} == names


def test_several_runs_are_compared_with_the_first(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluate(runs, {"split": "val", "checkpoint": "last"})
    first, second = (found[str(run)] for run in runs)
    assert "against" not in first
    against = second["against"]
    assert against["run"] == str(runs[0])
    assert against["test"] == "ar:10000|seed:12345"
    assert set(against["p"]) == {"bleu", "bleu_lowercase", "chrf", "ter"}
    assert all(0 < p <= 1 for p in against["p"].values())
    assert against["difference"]["chrf"] == second["scores"]["val/chrf"] - first["scores"]["val/chrf"]
    shown = capsys.readouterr().err
    assert "seed-1 (step-00000060)" in shown
    assert "p=" in shown
    assert first["signatures"]["val/bleu"] in shown


def test_runs_on_other_rows_are_not_compared(
    runs: tuple[Path, Path], composed: Callable[..., Any], tmp_path: Path, small_data: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for path in small_data.iterdir():
        (data / path.name).write_text(path.read_text())
    (data / "val.de").write_text((small_data / "val.de").read_text().upper())
    other = tmp_path / "other"
    fit(begin(other, composed("translation", *LEARNING, "budget=2step", f"data.root={data}")))
    found = evaluate([runs[0], other], {"split": "val", "checkpoint": "last"})
    assert found[str(other)]["against"] == {"run": str(runs[0]), "why_not": "the rows are not the same"}
