"""The attention to the first samples is that of the best checkpoint, and whatever is wrong with it stops nothing."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from etude.atomic import write_json
from etude.checkpoints.checkpoint import snapshot, write
from etude.checkpoints.integrity import checkpoint_folder
from etude.config.compose import compose
from etude.report.look import look
from etude.runs.reading import read_attention
from etude.runs.saved_run import SavedRun
from etude.tasks.attention_maps import Attention, UnseenError
from etude.tasks.base import Task
from etude.tokenization.base import Tokenizer
from etude.tokenization.trained import Bytes
from etude.training import attention_samples
from etude.training.attention_samples import SHOWN, save_attention_samples
from etude.training.build import build_task
from etude.types import Facts

BYTES = Bytes().build(iter(()))
FACTS = Facts(BYTES.vocabulary, BYTES.pad, BYTES.bos, BYTES.eos, BYTES.mask, ("cold", "warm"))
CONFIG = compose(
    "experiment=classification/demo",
    *("data=table", "data.train=a.tsv", "data.val=b.tsv", "trainer=cpu", "logger=none"),
    *("model.width=15", "model.heads=3", "model.feed_forward=24", "model.layers=2", "model.max_length=19"),
)
TASK = build_task(CONFIG, FACTS).eval()
BEST, LAST = 4, 9
MAPS, HEADS = 2, 3


class Shows(CSVLogger):
    """A tracker that shows pages and tables."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.pages: list[tuple[str, str, int]] = []
        self.tables: list[tuple[str, list[str], list[list[Any]], int]] = []

    def log_page(self, key: str, page: str, step: int) -> None:
        self.pages.append((key, page, step))

    def log_table(self, key: str, columns: list[str], data: list[list[Any]], step: int) -> None:
        self.tables.append((key, columns, data, step))


class OnlyTables(CSVLogger):
    """A tracker that shows tables and no pages."""

    def log_table(self, *arguments: Any, **more: Any) -> None:
        raise AssertionError("the table was given without the page")


class OnlyPages(CSVLogger):
    """A tracker that shows pages and no tables."""

    def log_page(self, *arguments: Any) -> None:
        raise AssertionError("the page was given without the table")


class Failing(Shows):
    """A tracker that fails."""

    def log_page(self, key: str, page: str, step: int) -> None:
        raise OSError("no such\n  server")


def weights(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {name: torch.randn(tensor.shape, generator=generator) for name, tensor in TASK.state_dict().items()}


@pytest.fixture
def run(tmp_path: Path) -> SavedRun:
    """A run with two checkpoints, of which the first is the best."""
    folder = tmp_path / "classification" / "demo" / "one"
    folder.mkdir(parents=True)
    run = SavedRun.begin(folder, CONFIG)
    BYTES.save(folder / "tokenizer")
    write_json(folder / "facts.json", FACTS.to_json())
    for step in (BEST, LAST):
        content = {"state_dict": weights(step), "global_step": step}
        write(snapshot(content), checkpoint_folder(run.checkpoints, step), {})
    (run.checkpoints / "best").symlink_to(f"step-{BEST:08d}")
    return run


def write_samples(run: SavedRun, texts: Iterable[str], step: int = LAST) -> None:
    (run.path / "samples").mkdir(exist_ok=True)
    lines = [json.dumps({"words": text, "label": "warm", "text": "not read"}) + "\n" for text in texts]
    (run.path / f"samples/step-{step:08d}.jsonl").write_text("".join(lines))


def shown(run: SavedRun) -> list[str]:
    return [inspection.text for inspection in read_attention(run.path)]


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == attention_samples.__name__]


@pytest.fixture(autouse=True)
def every_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, attention_samples.__name__)


# What is saved


def test_it_is_the_attention_of_the_best_checkpoint_to_the_first_samples(run: SavedRun) -> None:
    texts = ["ab c", "d efg", "h"]
    write_samples(run, ["of an earlier validation"], step=BEST)
    write_samples(run, texts)
    save_attention_samples(run, [], LAST)
    TASK.load_state_dict(weights(BEST))
    expected = [look(TASK, BYTES, text).to_json() for text in texts[:SHOWN]]
    found = [inspection.plain() for inspection in read_attention(run.path)]
    assert found == json.loads(json.dumps(expected))
    TASK.load_state_dict(weights(LAST))
    assert found[0]["maps"] != json.loads(json.dumps(look(TASK, BYTES, texts[0]).to_json()["maps"]))


@pytest.mark.parametrize(
    ("unsuitable", "why"),
    [
        ("", "'': the text '' has no tokens; give a sentence (command line)"),
        (
            "x" * 50,
            f"'{'x' * 39}: the text has 50 tokens, but the model reads 17 of a text; give a shorter one (command line)",
        ),
    ],
)
def test_a_sample_that_does_not_suit_is_passed_over_and_said(
    run: SavedRun, caplog: pytest.LogCaptureFixture, unsuitable: str, why: str
) -> None:
    write_samples(run, ["ab", unsuitable, "cd", "ef"])
    save_attention_samples(run, [], LAST)
    assert shown(run) == ["ab", "cd"]
    assert messages(caplog) == [f"no attention is shown of the sample {why}"]


def test_a_sample_with_too_many_weights_is_passed_over(
    run: SavedRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two maps of three heads: the attention to n letters between bos and eos is 6 (n + 2)² weights."""
    monkeypatch.setattr(attention_samples, "SAMPLE_WEIGHTS", MAPS * HEADS * 5**2)
    write_samples(run, ["abcd", "abc"])
    save_attention_samples(run, [], LAST)
    assert shown(run) == ["abc"]
    assert messages(caplog) == [
        "no attention is shown of the sample 'abcd': the attention to 6 tokens is 216 weights, more than 150; "
        "give a shorter text"
    ]


# Trackers


def test_trackers_get_the_page_and_a_table_of_the_heads_of_the_first_sample(run: SavedRun, tmp_path: Path) -> None:
    write_samples(run, ["ab c", "d efg", "h"])
    tracker = Shows(tmp_path)
    save_attention_samples(run, [CSVLogger(tmp_path), OnlyTables(tmp_path), OnlyPages(tmp_path), tracker], 12)
    ((key, page, step),) = tracker.pages
    assert (key, step) == ("attention", 12)
    assert "ab c" in page and "d efg" in page and "classification/demo: one" in page
    ((key, columns, rows, step),) = tracker.tables
    assert (key, step) == ("heads", 12)
    assert columns == ["attention", "head", "entropy", "distance", "diagonal", "previous", "next", "first", "last"]
    first, _ = read_attention(run.path)
    assert rows == [
        [one.name, number, *head.plain().values()]
        for one in first.maps
        for number, head in enumerate(one.heads, start=1)
    ]
    assert len(rows) == MAPS * HEADS


def test_a_tracker_that_fails_leaves_the_attention_saved(
    run: SavedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_samples(run, ["ab c"])
    save_attention_samples(run, [Failing(tmp_path)], LAST)
    assert shown(run) == ["ab c"]
    assert messages(caplog) == ["no attention is shown of this run: no such server"]


# Nothing to save


def saves_nothing(run: SavedRun, folder: Path) -> None:
    tracker = Shows(folder)
    save_attention_samples(run, [tracker], LAST)
    assert not (run.path / "attention.json").exists()
    assert not tracker.pages and not tracker.tables


def test_without_samples_no_model_is_loaded(
    run: SavedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(attention_samples, "load_run", None)
    saves_nothing(run, tmp_path)
    assert messages(caplog) == []


def test_samples_none_of_which_suits_leave_nothing(run: SavedRun, tmp_path: Path) -> None:
    write_samples(run, ["", "x" * 50])
    saves_nothing(run, tmp_path)


def test_a_task_without_attention_leaves_nothing_and_says_nothing(
    run: SavedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_samples(run, ["ab c"])
    monkeypatch.setattr(attention_samples, "load_run", lambda run: nn.Identity())
    saves_nothing(run, tmp_path)
    assert messages(caplog) == []


def test_a_model_that_has_nothing_to_show_is_asked_once(
    run: SavedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    class Unseen(nn.Identity):
        def look_inside(self, text: str, target: str | None, tokenizer: Tokenizer) -> Attention:
            asked.append(text)
            raise UnseenError("nothing to look at; set another model.name")

    write_samples(run, ["ab c", "d", "e"])
    monkeypatch.setattr(attention_samples, "load_run", lambda run: Unseen())
    saves_nothing(run, tmp_path)
    assert asked == ["ab c"]
    assert messages(caplog) == ["no attention is shown of this run: nothing to look at; set another model.name"]


def test_any_error_is_one_line_and_the_run_goes_on(
    run: SavedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(run: SavedRun) -> Task:
        raise RuntimeError("several\n\tlines")

    write_samples(run, ["ab c"])
    with monkeypatch.context() as patch:
        patch.setattr(attention_samples, "load_run", broken)
        saves_nothing(run, tmp_path)
    (run.path / f"samples/step-{LAST:08d}.jsonl").write_text("no JSON\n")
    saves_nothing(run, tmp_path)
    assert messages(caplog) == [
        "no attention is shown of this run: several lines",
        "no attention is shown of this run: Expecting value: line 1 column 1 (char 0)",
    ]
