"""`etude predict` and `etude evaluate` of small runs: a line for each line, whatever is in it, and every way to search."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.cli.main import main
from etude.config.compose import compose
from etude.errors import ConfigurationError
from tests.runs.conftest import SMALL
from tests.runs.doors import evaluate, predict, train

ODD = [
    b"sun moon star",
    b"",
    b"   ",
    "sun \U0001f31e moon \u2764\ufe0f".encode(),
    "sun\u2028moon\x0bstar\x1clake\x85road".encode(),
    b"sun\x00moon\rstar",
    b"sun \xff\xfe moon",
    "an honest \ufffd".encode(),
    b"sun moon " * 1112,  # 10,008 characters
    b"wind rain",
]


@pytest.fixture(scope="module")
def runs(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two runs that differ in their seed, and one of another vocabulary."""
    folder = tmp_path_factory.mktemp("runs")

    def trained(name: str, *more: str) -> Path:
        words = [
            "experiment=translation/demo",
            *SMALL,
            "data=parallel",
            f"data.root={small_data}",
            "model.encoder_layers=1",
            "model.decoder_layers=1",
            "model.max_length=64",
            "tokenizer.vocabulary=60",
            "batch.tokens=180",
            "decoding.max_length=24",
            "decoding.beams=2",
            f"paths.outputs={folder}",
            f"paths.cache={folder}/cache",
            f"run.name={name}",
            *more,
        ]
        return train(compose(*words))

    return {
        "one": trained("one"),
        "two": trained("two", "seed=2"),
        "other": trained("other", "tokenizer.vocabulary=50"),
    }


def answers(run: Path, lines: list[bytes], **changes: Any) -> list[str]:
    """Return the lines that `etude predict` writes for lines; `__` in a key stands for a dot."""
    out = io.StringIO()
    overrides = {key.replace("__", "."): value for key, value in changes.items()}
    predict(run, overrides, io.BytesIO(b"".join(line + b"\n" for line in lines)), out)
    assert out.getvalue().endswith("\n")
    return out.getvalue()[:-1].split("\n")


SEARCHES = [
    {},
    {"decoding": "greedy"},
    {"decoding": "beam_average", "decoding__beams": 3},
    {"decoding": "sample", "decoding__top_p": 0.9},
]


@pytest.mark.parametrize("search", SEARCHES)
def test_a_line_for_each_line_whatever_the_batch_and_the_order(
    runs: dict[str, Path], search: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        together = answers(runs["one"], ODD, **search)
    assert len(together) == len(ODD)
    assert all(len(line.splitlines()) <= 1 for line in together)
    assert together[1] == together[2] == ""
    said = [record.getMessage() for record in caplog.records if record.name == "etude.commands.predict"]
    assert said[0] == "1 of 10 lines had bytes that are not UTF-8; they were replaced by U+FFFD"
    assert said[1] == "1 of 10 lines had more tokens than the model reads; a part of each was left out"
    alone = answers(runs["one"], ODD[::-1], batch__examples=1, **search)
    assert alone[::-1] == together


def test_the_threads_are_those_that_are_asked_for_and_change_no_answer(runs: dict[str, Path]) -> None:
    before, lines = torch.get_num_threads(), [b" ".join(ODD[:1] * (1 + line % 7)) for line in range(40)]
    try:
        alone = answers(runs["one"], lines, trainer__threads=1)
        assert torch.get_num_threads() == 1
        torch.set_num_threads(2)
        assert answers(runs["one"], lines) == alone and torch.get_num_threads() == 2
        with pytest.raises(ConfigurationError, match=r"trainer.threads=0: at least one computes"):
            answers(runs["one"], lines, trainer__threads=0)
    finally:
        torch.set_num_threads(before)


def test_json_holds_all_outputs_best_first_and_what_was_stopped(
    runs: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        lines = answers(runs["one"], ODD, format="json", decoding__beams=3, decoding__n_best=3, decoding__max_length=3)
    rows = [json.loads(line) for line in lines]
    assert rows[4]["text"] == "sun\u2028moon\x0bstar\x1clake\x85road"
    assert rows[1]["outputs"] == [{"text": "", "score": 0.0, "finished": True}]
    stopped = 0
    for row in (rows[0], *rows[3:]):
        scores = [output["score"] for output in row["outputs"] if output["finished"]]
        assert len(row["outputs"]) == 3 and scores == sorted(scores, reverse=True)
        stopped += not row["outputs"][0]["finished"]
    if stopped:
        assert f"{stopped} of 10 lines have an answer that was stopped at its length limit" in caplog.text
    best = answers(runs["one"], ODD, decoding__beams=3, decoding__max_length=3)
    assert best == [" ".join(row["outputs"][0]["text"].splitlines()) for row in rows]


def test_samples_are_those_of_the_text_and_the_seed(runs: dict[str, Path]) -> None:
    changes: dict[str, Any] = {"decoding": "sample", "decoding__samples": 3, "format": "json"}
    first = answers(runs["one"], [b"sun moon star", b"wind rain"], **changes)
    assert first == answers(runs["one"], [b"wind rain", b"sun moon star"], **changes)[::-1]
    assert first != answers(runs["one"], [b"sun moon star", b"wind rain"], decoding__seed=7, **changes)
    assert len({output["text"] for output in json.loads(first[0])["outputs"]}) > 1


def test_an_evaluation_has_the_outputs_of_predict(runs: dict[str, Path], small_data: Path) -> None:
    run, lines = runs["one"], (small_data / "test.en").read_bytes().splitlines()
    for search, name in (({}, "test"), ({"decoding": "sample"}, "test-decoding=sample")):
        evaluate([run], search)
        rows = [json.loads(line) for line in (run / "evaluations" / f"{name}.jsonl").read_text().splitlines()]
        assert [row["output"] for row in rows] == answers(run, lines, **search)


def test_an_ensemble_is_evaluated_and_predicts(runs: dict[str, Path]) -> None:
    one, two = runs["one"], runs["two"]
    alone = evaluate([one], {})
    before = (one / "evaluations" / "test.json").read_bytes()
    both = evaluate([one], {"ensemble": [str(two)]})
    assert both["ensemble"] == [str(two)]
    assert json.loads((one / "evaluations" / "test-ensemble.json").read_text()) == both
    assert (one / "evaluations" / "test.json").read_bytes() == before
    # -log of a mean of probabilities is at most the mean of their -log.
    losses = [evaluate([run], {})["scores"]["test/loss"] for run in (one, two)]
    assert both["scores"]["test/loss"] < sum(losses) / 2
    assert both["scores"]["test/loss"] != alone["scores"]["test/loss"]
    swapped = evaluate([two], {"ensemble": [str(one)]})
    assert swapped["scores"]["test/loss"] == pytest.approx(both["scores"]["test/loss"], abs=1e-6)
    lines = [b"sun moon star", b"wind rain"]
    assert answers(one, lines, ensemble=[str(two)]) == answers(two, lines, ensemble=[str(one)])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["decoding.beams=0"], "decoding.beams = 0"),
        (["decoding.n_best=3"], "decoding.n_best = 3 is more than decoding.beams = 2; write decoding.beams=3"),
        (
            ["decoding=sample", "decoding.top_p=0"],
            "decoding.top_p = 0 is out of range; write more than 0 and at most 1",
        ),
        (["decoding.top_p=1.5", "decoding=sample"], "decoding.top_p = 1.5"),
        (["decoding=sample", "decoding.temperature=0"], "decoding.temperature = 0 is out of range; write more than 0"),
        (["decoding=sample", "decoding.min_p=-1"], "decoding.min_p=-1 is out of range; write 0 to 1"),
        (["decoding.top_p=0.5"], "choose as well decoding=sample, which has it"),
        (["decoding=bean"], "did you mean decoding=beam?"),
        (["decoding=none"], "decoding is null"),
        (["decoding.min_length=24"], "leaves no room below decoding.max_length = 24"),
        (["format=yaml"], "format=yaml is not one of text, json"),
        (["ensemble=[OTHER]"], "has another vocabulary than"),
        (["ensemble=ONE"], "is in it twice"),
        (["ensemble=3"], "ensemble=3 names no runs"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    words = [word.replace("OTHER", str(runs["other"])).replace("ONE", str(runs["one"])) for word in words]
    assert main(["predict", str(runs["one"]), *words]) == 78
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("etude: error: ") and says in line


@pytest.mark.parametrize(
    "words", [["predict"], ["inspect", "a text"], ["evaluate"], ["export", "to=huggingface"], ["replay", "step=1"]]
)
def test_a_run_without_a_checkpoint_is_one_line(
    overrides: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """What is left of a run whose data was wrong."""
    given = overrides("translation", "run.name=begun", f"data.root={tmp_path}/nowhere")
    assert main(["train", *given]) == 65
    (run,) = tmp_path.rglob("begun")
    capsys.readouterr()
    command, *more = words
    assert main([command, str(run), *more]) == 78
    why = "ended before anything was trained" if command == "replay" else "has no checkpoint yet"
    assert capsys.readouterr().err == f"etude: error: {run} {why}; first: etude resume {run}\n"


def test_line_n_is_answered_before_line_n_plus_one_is_written(runs: dict[str, Path]) -> None:
    command = [sys.executable, "-m", "etude", "predict", str(runs["one"])]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ}
    ) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        read: Callable[[], bytes] = process.stdout.readline
        written = []
        for line in ODD:
            process.stdin.write(line + b"\n")
            process.stdin.flush()
            written.append(read())
            assert written[-1].endswith(b"\n")
        process.stdin.close()
        assert read() == b""
        assert process.wait() == 0
        said = process.stderr.read().decode()
    assert [line.decode()[:-1] for line in written] == answers(runs["one"], ODD)
    assert "1 of 10 lines had bytes that are not UTF-8" in said
