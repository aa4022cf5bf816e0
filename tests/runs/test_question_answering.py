"""Question answering from the command line's configuration to answers: learnt, scored, predicted, killed and continued."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import transformers

from etude.cli.main import main
from etude.config.compose import compose
from etude.training.build import build
from etude.types import QuestionBatch
from tests.runs.conftest import SMALL
from tests.runs.doors import compare, evaluate, export, predict, train
from tests.runs.killing import EXACT, POINTS, Point, assert_same, begin, end, finish, kill_at
from tests.runs.test_exact_loss import assert_cut_alike

NAMES = "ada bob cleo dan eve finn gus hana".split()  # noqa: SIM905
THINGS = "key map ring lamp coin rope bell drum".split()  # noqa: SIM905


def questions(count: int) -> list[dict[str, Any]]:
    """Who has which thing, in passages of several windows; of every fourth question nobody has it."""
    source = random.Random(11)
    rows = []
    for number in range(count):
        names, things = source.sample(NAMES, 5), source.sample(THINGS, 6)
        context = "\r\n".join(f"{name} has the old {thing}" for name, thing in zip(names, things, strict=False))
        asked = 5 if number % 4 == 3 else source.randrange(5)
        answer = {"text": [names[asked]], "answer_start": [context.index(names[asked])]} if asked < 5 else None
        answers = answer or {"text": [], "answer_start": []}
        rows.append(
            {"id": f"q{number}", "question": f"who has the {things[asked]}", "context": context, "answers": answers}
        )
    return rows


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in questions(40)))
    return path


def words(file: Path, folder: Path, *more: str) -> list[str]:
    return [
        *("experiment=null", "task=question_answering", "data=questions", "model=encoder", "tokenizer=wordpiece"),
        *("decoding=none", *SMALL, "model.layers=1", "tokenizer.vocabulary=120"),
        *(f"data.{split}={file}" for split in ("train", "val", "test")),
        *("data.max_length=24", "data.stride=6", "data.max_question=8", "batch={examples:17,tokens:null}"),
        *(f"paths.outputs={folder}/outputs", f"paths.cache={folder}/cache", *more),
    ]


def composed(*overrides: str) -> Any:
    return compose(*overrides)


@pytest.fixture(scope="module")
def run(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learnt the forty questions."""
    learning = (
        *(
            "budget=120step",
            "validate.every=60step",
            "validate.metric=val/f1",
            "validate.mode=max",
            "log.every=30step",
            "callbacks=default",
        ),
        *("model.width=48", "model.layers=2", "model.dropout=0.0", "optimizer.lr=4e-3", "batch.examples=40"),
    )
    overrides = words(file, tmp_path_factory.mktemp("run"), *learning, "run.name=learnt")
    folder = train(composed(*overrides))
    assert folder is not None
    return folder


def predicted(run: Path, lines: list[bytes], **changes: Any) -> list[dict[str, Any]]:
    out = io.StringIO()
    predict(
        run, {k.replace("__", "."): v for k, v in changes.items()}, io.BytesIO(b"".join(x + b"\n" for x in lines)), out
    )
    return [json.loads(line) for line in out.getvalue().splitlines()]


def evaluated(run: Path, name: str = "test") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "evaluations" / f"{name}.jsonl").read_text().splitlines()]


def test_forty_questions_are_learnt_with_those_that_have_no_answer(run: Path, file: Path) -> None:
    scores = json.loads((run / "evaluations" / "test.json").read_text())
    assert scores["examples"] == 40
    assert scores["scores"]["test/f1"] > 90 and scores["scores"]["test/exact_match_no_answer"] > 80
    assert set(scores["intervals"]) >= {"test/f1", "test/exact_match", "test/f1_no_answer"}
    for row, asked in zip(evaluated(run), questions(40), strict=True):
        assert row["name"] == asked["id"] and row["references"] == (asked["answers"]["text"] or [""])
        kept = [(one["start"], one["end"], one["text"], one["score"]) for one in row["answers"]]
        assert all(asked["context"][start:end] == text for start, end, text, _ in kept)
        assert len({(start, end) for start, end, _, _ in kept}) == len(kept) == 5
        assert [score for *_, score in kept] == sorted((score for *_, score in kept), reverse=True)
        assert row["output"] == ("" if row["start"] is None else asked["context"][row["start"] : row["end"]])
    assert "who has the" in (run / "report.html").read_text()
    samples = [json.loads(line) for line in next((run / "samples").glob("*120.jsonl")).read_text().splitlines()]
    assert set(samples[0]) == {"question", "wanted", "answer"}


def test_the_threshold_that_val_chose_is_the_one_of_every_split(run: Path) -> None:
    """It is stored with the weights; another one given changes which questions are answered."""
    chosen = evaluate([run], {})["scores"]["test/null_threshold"]
    assert evaluate([run], {"split": "val"})["scores"]["val/null_threshold"] == chosen
    rows = evaluated(run)
    for row in rows:
        assert (row["output"] == "") == (row["null_score"] - row["answers"][0]["score"] > chosen)
    for threshold, answered in ((-1e9, 0), (1e9, 40)):
        evaluate([run], {"task.null_threshold": threshold})
        there = evaluated(run, f"test-task.null_threshold={threshold}")
        assert sum(row["output"] != "" for row in there) == answered
    assert evaluated(run) == rows
    evaluate([run], {})
    assert evaluated(run) == rows


def test_transformers_answers_as_the_run(run: Path, tmp_path: Path) -> None:
    folder = export(run, {"to": "huggingface", "path": str(tmp_path / "exported")})
    proof = json.loads((folder / "export.json").read_text())["proof"]
    assert proof["class"] == "RobertaPreLayerNormForQuestionAnswering"
    assert proof["tokenizer"]["equal"] == proof["logits"]["texts"] > 40
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    right = []
    for row in questions(40):
        for answer in row["answers"]["text"]:
            line = next(line for line in row["context"].split("\r\n") if line.startswith(answer))
            asked = tokenizer(row["question"], line, return_offsets_mapping=True, return_tensors="pt")
            offsets, passage = asked.pop("offset_mapping")[0], asked["token_type_ids"][0] == 1
            with torch.no_grad():
                found = model(**asked)
            first, last = (
                int(scores[0].masked_fill(~passage, -torch.inf).argmax())
                for scores in (found.start_logits, found.end_logits)
            )
            right.append(line[offsets[first][0] : offsets[last][1]] == answer)
    assert len(right) == 30 and sum(right) > 25


def test_two_runs_are_tested_on_the_same_questions_alike_by_evaluate_and_compare(run: Path, file: Path) -> None:
    folder = run.parent.parent.parent
    overrides = words(file, folder, "budget=2step", "validate.every=2step", "run.name=young", "callbacks=none")
    young = train(composed(*overrides))
    assert young is not None
    against = evaluate([run, young], {})[str(young)]["against"]
    assert {"f1", "exact_match", "f1_no_answer"} <= set(against["p"])
    assert against["p"]["f1"] < 0.01
    found: Any = compare([run, young], {"format": "json", "metric": ["f1", "f1_no_answer"]})
    said = found["groups"][1]["against_first"]
    assert said["p"] == {name: {"1": against["p"][name]} for name in ("f1", "f1_no_answer")}
    assert evaluate([run, run], {})[str(run)]["against"]["p"]["f1"] == 1


def test_predict_answers_as_the_evaluation_does_whatever_the_batch_and_the_order(run: Path) -> None:
    asked = [{key: row[key] for key in ("id", "question", "context")} for row in questions(40)]
    lines = [json.dumps(row).encode() for row in asked]
    found = predicted(run, lines)
    assert [row["id"] for row in found] == [row["id"] for row in asked]
    for row, known in zip(found, evaluated(run), strict=True):
        assert (row["answer"], row["start"], row["end"]) == (known["output"], known["start"], known["end"])
        assert row["null_score"] == pytest.approx(known["null_score"], abs=1e-3)
    alone = predicted(run, lines[::-1], batch__examples=1)[::-1]
    for one, other in zip(found, alone, strict=True):
        assert (one["answer"], one["start"]) == (other["answer"], other["start"])
        assert one["score"] == pytest.approx(other["score"], abs=1e-3)


def test_a_line_is_a_record_with_or_without_saying_so_and_keeps_its_keys(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [{"n": n, "question": row["question"], "context": row["context"]} for n, row in enumerate(questions(4))]
    lines = [json.dumps(row).encode() for row in asked]
    found = predicted(run, lines)
    assert found == predicted(run, lines, format="jsonl")
    assert [{key: row[key] for key in asked[0]} for row in found] == asked
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"who\n")))
    assert main(["predict", str(run), "format=json"]) == 78
    assert "a QuestionAnswering reads no lines of text; write format=jsonl" in capsys.readouterr().err


BROKEN = [
    (b'{"question": "a"', "this is not JSON"),
    (b"[]", "this is not an object in JSON"),
    (b"", "this is not JSON"),
    (b'{"question": "who"}', "there is no text under 'context'"),
    (b'{"question": 3, "context": "b"}', "there is no text under 'question'"),
    (b'{"question": " ", "context": "b"}', "question is empty"),
    (b'{"question": "a", "context": "\\ud83d"}', "the text under 'context' has half of a surrogate pair"),
    (b"[" * 100_000, "this is not JSON"),
]


def test_a_broken_line_gets_its_own_line_back_and_is_counted(
    run: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    good = b'{"question": "who has the map", "context": "\xf0\x9f\x8c\x9e ada has the map \xff"}'
    lines = [line for broken, _ in BROKEN for line in (broken, good)]
    with caplog.at_level("WARNING"):
        found = predicted(run, lines, batch__examples=3)
    assert [row["error"] for row in found[::2]] == [says for _, says in BROKEN]
    assert found[8] == {"question": 3, "context": "b", "error": BROKEN[4][1]}
    keys = {"question", "context", "answer", "start", "end", "score", "null_score", "answers"}
    assert all(set(row) == keys for row in found[1::2])
    assert "8 of 16 lines could not be read; their answers say why" in caplog.text
    assert "8 of 16 lines had bytes that are not UTF-8" in caplog.text
    blank = predicted(run, [json.dumps({"question": "who", "context": "\u200b\u00ad."}).encode()])
    assert "error" not in blank[0]
    assert main(["export", str(run), "to=onnx"]) == 78
    assert "this run is QuestionAnswering; write to=huggingface" in capsys.readouterr().err


@pytest.mark.parametrize(("world", "micro_batches"), [(2, 1), (1, 4), (2, 3), (1, 64)])
def test_gradients_do_not_depend_on_how_a_batch_is_cut(
    file: Path, tmp_path: Path, world: int, micro_batches: int
) -> None:
    experiment = build(composed(*words(file, tmp_path, "model.dropout=0.0")))
    assert_cut_alike(experiment, world, micro_batches)


def test_the_loss_is_the_mean_of_both_ends_at_what_may_be_chosen(file: Path, tmp_path: Path) -> None:
    experiment = build(composed(*words(file, tmp_path)))
    task = experiment.task.eval()
    batch = cast(QuestionBatch, next(iter(experiment.data.val_dataloader())))
    total, count = task.loss(batch)
    expected = 0.0
    scores = task.head(task.model(batch.tokens, batch.mask, torch.zeros_like(batch.tokens)))  # type: ignore[operator]
    for row in range(len(batch.ids)):
        real, front = int(batch.mask[row].sum()), int(batch.fronts[row])
        segments = (torch.arange(real) >= front).long()[None]
        text = batch.tokens[row : row + 1, :real]
        alone = task.head(task.model(text, torch.ones_like(text, dtype=torch.bool), segments))[0]  # type: ignore[operator]
        places = [0, *range(front, real - 1)]
        for side, labels in enumerate((batch.starts, batch.ends)):
            expected -= float(alone[places, side].log_softmax(0)[places.index(int(labels[row]))]) / 2
    assert int(count) == len(batch.ids)
    assert float(total) == pytest.approx(expected, rel=1e-4)
    assert scores.shape[-1] == 2


@pytest.mark.slow
def test_killed_it_is_the_same_run(file: Path, tmp_path: Path) -> None:
    exact = [word for word in EXACT if not word.startswith("trainer.")]
    values = composed(*words(file, tmp_path, *exact, "validate.metric=val/f1", "validate.mode=max"))
    whole, killed = begin(tmp_path / "whole", values), begin(tmp_path / "killed", values)
    finish(whole)
    for what in ("when a validation is scored", "while a checkpoint is written", "in the last evaluation"):
        assert kill_at(killed, Point(POINTS[what][0], POINTS[what][1][-1])), what
    finish(killed)
    assert_same(end(killed), end(whole))


@pytest.mark.slow
@pytest.mark.corpora
def test_squad_trains_two_steps(corpus_folder: Path, tmp_path: Path) -> None:
    overrides = [
        *(
            "experiment=question_answering/squad",
            f"data.root={corpus_folder / 'squad'}",
            "model=encoder",
            "tokenizer=bytes",
        ),
        *("~tokenizer.name", *SMALL, "model.layers=1", "model.max_length=512", "budget=2step", "validate.every=2step"),
        *(
            "limit.train=40",
            "limit.val=9",
            "limit.test=9",
            f"paths.outputs={tmp_path}",
            f"paths.cache={tmp_path}/cache",
        ),
    ]
    folder = train(composed(*overrides))
    assert folder is not None
    assert json.loads((folder / "evaluations" / "test.json").read_text())["examples"] == 9


def test_other_data_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "experiment=classification/demo", "task=question_answering"]) == 78
    assert len(capsys.readouterr().err.splitlines()) == 1
