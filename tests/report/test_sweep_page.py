"""The page of a sweep: complete, self-contained, safe on whatever its words and reasons say, and light to write."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from etude.report.sweep_page import SWEEP_REPORT, SweepContents, write_sweep_report
from etude.runs.code_state import packages
from etude.runs.record import RECORD
from etude.sweeps.saved_sweep import SavedSweep
from etude.sweeps.sweep_documents import Attempt, CodeState, MemberDocument, read_member, write_document
from etude.sweeps.sweep_results import SweepResults
from tests.report.pages import assert_runs_only_its_own
from tests.sweeps.test_saved_sweep import begun
from tests.sweeps.written_sweeps import written_sweep

WORDS = ("optimizer.lr=1e-5,1e-4,1e-3,1e-2", "model.dropout=0.1,0.2", "sweep.seeds=[1,2]", "sweep.name=several")


class Page(HTMLParser):
    """Text by tag, attributes, and whether all tags are closed."""

    void = ("meta", "br", "input", "link", "img")

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.source = page.read_text()
        self.feed(self.source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.texts.setdefault(self.open[-1], []).append(data.strip())

    def classes(self, tag: str) -> list[str]:
        return [attributes.get("class") or "" for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SavedSweep:
    """Eight trials of two seeds, of which one trial failed."""
    folder = tmp_path_factory.mktemp("outputs")
    code = CodeState(
        commit="0" * 40, changes=None, sources={"etude": "ab" * 32}, packages={**packages(), "torch": "0.0.1"}
    )
    return written_sweep(folder, *WORDS, fails=lambda job: 71 if job.number in (6, 7) else 0, code=code)


@pytest.fixture(scope="module")
def page(sweep: SavedSweep) -> Page:
    path = write_sweep_report(sweep)
    assert path == sweep.path / SWEEP_REPORT
    return Page(path)


def test_the_page_is_whole_and_needs_nothing_else(page: Page) -> None:
    assert page.open == []
    assert_runs_only_its_own(page.source, page.tags)


def test_all_trials_and_members_are_on_it(page: Page, sweep: SavedSweep) -> None:
    kinds = page.classes("path")
    assert sum(kind.startswith("trial ") for kind in kinds) == 7 and kinds.count("trial best") == 1
    # Members that failed at once have no curve; the two seeds of the best are marked.
    assert sum(kind.startswith("member ") for kind in kinds) == 14 + 1 and kinds.count("member best") == 2
    assert page.classes("svg").count("bar") == 2
    rows = [SweepContents(SweepResults.read(sweep)).trials][0]
    assert [row.is_best for row in rows] == [True] + 7 * [False]
    assert rows[0].values == ["0.001", "0.1"] and rows[0].validation == "0.2515 ± 0.0007"
    assert rows[-1].state == "failed" and rows[-1].validation == "–"
    assert all(text in page.texts["td"] for row in rows for text in (*row.values, row.validation))


def test_it_says_how_members_failed_and_how_to_begin_again(page: Page, sweep: SavedSweep) -> None:
    assert page.texts["td"].count("it was made to fail") == 2
    assert any(text.startswith(": 8 trials, 16 members: ") or "16 members" in text for text in page.texts["p"])
    command = shlex.split(next(text for text in page.texts["pre"] if text.startswith("etude sweep")))
    assert command[2:] == sweep.document.command
    assert any(text.startswith("packages.torch: '0.0.1' -> ") for text in page.texts["code"])
    assert any("the code has changed" in text for text in page.texts["p"])


def test_what_strangers_wrote_stays_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&amp;</style></title>"
    sweep = written_sweep(tmp_path, "optimizer.lr=1e-4,1e-3", "sweep.name=s", fails=lambda job: 71 * (job.number == 0))
    for folder in sweep.folders:
        document = read_member(folder)
        values = {
            **document.plain(),
            "assignment": {evil: evil, "optimizer.lr": document.assignment["optimizer.lr"]},
            "attempts": [Attempt(ended=1.0, code=71, reason=evil, step=0)] if document.attempts else [],
            "stage": evil if document.number else "",
        }
        write_document(folder, MemberDocument(**values))
    page = Page(write_sweep_report(SavedSweep.open(sweep.path)))
    assert page.open == []
    assert_runs_only_its_own(page.source, page.tags)
    assert page.texts["td"].count(evil) >= 2 and f"{evil}={evil}" in page.texts["code"]


def test_a_sweep_of_which_nothing_is_known_yet_has_a_page(tmp_path: Path) -> None:
    page = Page(write_sweep_report(begun(tmp_path / "sweep")))
    assert page.open == []
    assert any("etude sweep resume" in text for text in page.texts["code"])
    assert "No trial has come to its end yet." in page.texts["p"]


def test_of_members_with_different_scores_none_is_marked(tmp_path: Path) -> None:
    page = Page(write_sweep_report(begun(tmp_path / "sweep", metric=None)))
    assert "The members are judged by different scores; none is the best." in page.texts["p"]


def test_a_record_that_cannot_be_read_is_said_and_the_others_are_drawn(tmp_path: Path) -> None:
    sweep = written_sweep(tmp_path, "optimizer.lr=1e-4,1e-3", "sweep.name=s")
    (sweep.path / "000" / RECORD).write_text("nonsense\n{}\n")
    page = Page(write_sweep_report(sweep))
    assert [kind for kind in page.classes("path") if kind.startswith("member ")] == ["member best"]
    assert any("000" in text and RECORD in text for text in page.texts["p"])


def test_the_same_sweep_gives_the_same_page(sweep: SavedSweep, page: Page) -> None:
    assert write_sweep_report(SavedSweep.open(sweep.path)).read_text() == page.source


def test_the_page_loads_no_torch() -> None:
    """The process of a sweep writes it, and stays small."""
    command = "import sys, etude.report.sweep_page; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"False\n", said.stdout)
