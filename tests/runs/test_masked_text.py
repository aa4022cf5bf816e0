"""A run on words masked in spans: it is scored, fills masks and scores sentences from the command line."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from etude.cli.main import main
from etude.runs.folder import resolve
from tests.runs.doors import predict


def test_a_run_on_spans_is_scored_and_answers(
    overrides: Callable[..., list[str]], tmp_path: Path, small_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *overrides("masked_lm", "data/masking=spans", "run.name=one")]) == 0
    run = resolve("masked_lm/demo/one", tmp_path / "outputs")
    capsys.readouterr()
    scores = json.loads((run / "evaluations" / "test.json").read_text())["scores"]
    texts = (small_data / "test.txt").read_text().split("\n\n")
    rows = [json.loads(line) for line in (run / "evaluations" / "test.jsonl").read_text().splitlines()]
    size = sum(len(text.strip().encode()) for text in texts) / (rows[0]["bytes"] / rows[0]["tokens"])
    assert size == pytest.approx(round(size)), "bytes of the text for each of its tokens"
    loss = sum(row["loss"] for row in rows)
    expected = loss / sum(row["bytes"] for row in rows) / math.log(2)
    assert scores["test/bits_per_byte"] == pytest.approx(expected)
    assert scores["test/loss"] == pytest.approx(loss / sum(row["tokens"] for row in rows))

    def answers(lines: bytes, **changes: str) -> list[dict[str, object]]:
        out = io.StringIO()
        predict(run, {"format": "json", **changes}, io.BytesIO(lines), out)
        return [json.loads(line)["outputs"] for line in out.getvalue().splitlines()]

    (filled,) = answers(b"sun <mask> star\n")
    assert len(filled) == 5 and all(one["fillers"] for one in filled)  # type: ignore[index]
    scored = answers(b"sun moon star\n\n", decoding="pseudo_log_likelihood")
    assert scored[0][0]["score"] < 0 == scored[1][0]["score"]  # type: ignore[index]
