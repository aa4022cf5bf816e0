"""What a member and its sweep say to each other while it trains: files in the member's folder.

After each validation the member writes `reports/<index>.json`, and waits for `reports/<index>.answer.json`. An answer stays:
a member that is killed and continued is answered as before, so that it ends at the same step.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from etude.atomic import make_folder, write_json
from etude.runs.documents import Document
from etude.untrusted import read_json

REPORTS = "reports"
_ADVICE = "remove the folder of this member, and it begins anew"


class ValidationReport(Document, frozen=True):
    """The score of a validation.

    Attributes:
        index: Number of the validation in the run, from 1.
        step: Steps done.
        value: The score.
    """

    index: Annotated[int, Meta(ge=1)]
    step: int
    value: float


class Answer(Document, frozen=True):
    """What the sweep says to it.

    Attributes:
        ends: Whether the member is to end.
    """

    ends: bool


def write_report(run: Path, report: ValidationReport) -> None:
    """Report a validation, unless it was reported before."""
    path = _report(run, report.index)
    if not path.exists():
        make_folder(path.parent)
        write_json(path, report.plain(), indent=None)


def read_answer(run: Path, index: int) -> bool | None:
    """Return whether the run is to end after a validation; None while there is no answer."""
    path = _answer(run, index)
    return read_json(path, Answer, _ADVICE).ends if path.exists() else None


def open_reports(run: Path) -> Iterator[ValidationReport]:
    """Yield the reports of a run that have no answer, in order."""
    # Numbers may be missing: a validation whose score is no number is not reported.
    names = {path.name for path in (run / REPORTS).glob("*.json")}
    told = {int(name.partition(".")[0]) for name in names if name.endswith(".answer.json")}
    for index in sorted({int(name.partition(".")[0]) for name in names} - told):
        yield read_json(_report(run, index), ValidationReport, _ADVICE)


def answer(run: Path, index: int, ends: bool) -> None:
    """Answer a report."""
    write_json(_answer(run, index), Answer(ends=ends).plain(), indent=None)


def _report(run: Path, index: int) -> Path:
    return run / REPORTS / f"{index}.json"


def _answer(run: Path, index: int) -> Path:
    return run / REPORTS / f"{index}.answer.json"
