"""`etude inspect` of trained runs, and what a run keeps of its attention when it ends."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from etude.cli.main import main
from tests.conftest import ROOT

HAND_MADE = ROOT / "tests" / "report" / "alignments.json"


class Tags(HTMLParser):
    """The elements of a page and their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.sources: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.sources += [value or "" for name, value in attrs if name == "src"]


@pytest.fixture
def trained(overrides: Callable[..., list[str]], capfd: pytest.CaptureFixture[str]) -> Callable[..., Path]:
    """Train a small run of a task that keeps samples; returns its folder."""

    def train(task: str, *more: str) -> Path:
        assert (
            main(["train", *overrides(task, "callbacks=default", "budget=2step", "validate.every=2step", *more)]) == 0
        )
        return Path(capfd.readouterr().out.strip())

    return train


def test_a_translation_is_looked_into(trained: Callable[..., Path], capfd: pytest.CaptureFixture[str]) -> None:
    run = trained("translation", "model.max_length=64", "data.max_length=64")
    # What the run kept when it ended is in its report.
    kept = json.loads((run / "attention.json").read_text())
    assert len(kept) == 2
    assert "decoder.0.cross_attention" in (run / "report.html").read_text()

    attack = '<script>alert(1)</script> "&'
    for number, words in enumerate(([attack], ["sun moon", "target=nus = <b>"], ["sun", "nus", "symmetric=true"]), 1):
        assert main(["inspect", str(run), *words]) == 0
        out, error = capfd.readouterr()
        assert Path(out.strip()) == run / "inspections" / str(number) / "attention.html"
        assert "by decoder.0.cross_attention" in error
        assert "←" in error
        page = Path(out.strip()).read_text()
        tags = Tags(page)
        assert tags.names & {"link", "iframe", "object", "b"} == set()
        assert (
            len(re.findall(r"<script(?! type=.application/gzip)", page)) == 1
        )  # the page's own program, which its policy names
        assert not any(name.startswith("on") or name in ("href", "style") for name in tags.attributes)
        assert all(source.startswith("data:image/png;base64,") for source in tags.sources)
        assert not re.search(r"url\(|@import|https?://", page)
    (first,) = json.loads((run / "inspections" / "1" / "attention.json").read_text())
    assert first["text"] == attack
    (second,) = json.loads((run / "inspections" / "2" / "attention.json").read_text())
    assert (second["target"], second["given"]) == ("nus = <b>", True)
    assert [one["name"] for one in second["maps"]] == [
        "encoder.0.attention",
        "decoder.0.self_attention",
        "decoder.0.cross_attention",
    ]

    assert main(["inspect", str(run), f"alignments={HAND_MADE}", "model.x=1"]) == 78
    assert "model.x cannot be changed here" in capfd.readouterr().err
    wrong = run / "wrong.json"
    for content, message in (
        ("[]", "has no pairs; write a list of objects"),
        (
            '[{"source": "a", "target": "b", "sure": "0-1", "possible": ""}]',
            "pair 1 has 1 source and 1 target words, and links 0-1",
        ),
        ('[{"source": "a", "target": "b", "sure": "0", "possible": ""}]', "[0].sure has the wrong form"),
        ('[{"source": "a"}]', "[0].target is missing"),
        ("{", "is not JSON"),
    ):
        wrong.write_text(content)
        assert main(["inspect", str(run), f"alignments={wrong}"]) == 65
        error = capfd.readouterr().err
        assert message in error
        assert error.count("\n") == 1

    pairs = [{"source": "sun moon", "target": "nus noom", "sure": "0-0 1-1", "possible": ""}]
    wrong.write_text(json.dumps(pairs))
    assert main(["inspect", str(run), f"alignments={wrong}"]) == 0
    out, error = capfd.readouterr()
    errors = json.loads(out)
    assert (errors["sentences"], errors["sure"], errors["diagonal"]) == (1, 2, 0)
    assert 0 <= errors["layers"]["decoder.0.cross_attention"]["predicting"]["mean"] <= 1
    assert "alignment error rate" in error


def test_an_encoder_is_looked_into(trained: Callable[..., Path], capfd: pytest.CaptureFixture[str]) -> None:
    run = trained("classification")
    assert main(["inspect", str(run), "great old house"]) == 0
    (seen,) = json.loads(Path(capfd.readouterr().out.strip()).with_suffix(".json").read_text())
    assert seen["target"] is None
    assert [one["name"] for one in seen["maps"]] == ["layers.0.attention"]
    pairs = f"alignments={HAND_MADE}"
    for words, message in (
        (["a", "b"], "has no place in an encoder"),
        ([pairs], "has no place in an encoder"),
        (["a", pairs], "takes a text or alignments=FILE"),
        ([], "takes a text or alignments=FILE"),
        ([" "], "has no tokens"),
        (["a", "symmetric=2"], "neither true nor false"),
    ):
        assert main(["inspect", str(run), *words]) == 78
        error = capfd.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert [path.name for path in (run / "inspections").iterdir()] == ["1"]
