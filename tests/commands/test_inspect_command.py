"""`etude inspect` of runs whose weights are drawn: a page of the attention to a text, or the error rate of its alignments."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from etude.calling_process import undisturbed
from etude.commands.inspect import CHANGEABLE, INSPECTIONS, PAGE, inspect
from etude.errors import ConfigurationError, DataError, EtudeError, StorageError
from etude.report.alignment_errors import alignment_errors, read_alignments
from etude.report.inspection import Inspection
from etude.report.look import attention_task, look
from etude.runs.reading import read_attention
from etude.runs.saved_run import SavedRun
from etude.training.restore import load_run
from tests.commands.test_evaluate_command import drawn_run, small_classification, small_translation

PAIRS = [
    {"source": "sun moon star", "target": "nus noom", "sure": "0-0 1-1", "possible": "2-1"},
    {"source": "tree", "target": "eert", "sure": "0-0", "possible": ""},
    {"source": "lake sun tree moon star", "target": "ekal nus eert noom", "sure": "0-0 1-1 2-2 3-3", "possible": ""},
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a translator and a classifier, and their data."""
    folder = tmp_path_factory.mktemp("made")
    drawn_run(folder / "runs" / "translator", small_translation(folder))
    drawn_run(folder / "runs" / "classifier", small_classification(folder))
    return folder


@pytest.fixture
def translator(made: Path, tmp_path: Path) -> SavedRun:
    return copied(made, tmp_path, "translator")


@pytest.fixture
def classifier(made: Path, tmp_path: Path) -> SavedRun:
    return copied(made, tmp_path, "classifier")


@pytest.fixture(autouse=True)
def same_process() -> Iterator[None]:
    with undisturbed():
        yield


def copied(made: Path, folder: Path, name: str) -> SavedRun:
    shutil.copytree(made / "runs" / name, folder / name, symlinks=True)
    return SavedRun.open(folder / name)


def page(run: SavedRun, **asked: Any) -> Path:
    found = inspect(run, **asked)
    assert isinstance(found, Path)
    return found


def kept(run: SavedRun, **asked: Any) -> Inspection:
    """Return the inspection that is stored beside the page."""
    (stored,) = read_attention(page(run, **asked).parent)
    return Inspection.from_json(stored.plain())


def refusal(run: SavedRun, kind: type[EtudeError] = ConfigurationError, **asked: Any) -> str:
    """Return the line that an inspection ends in."""
    with pytest.raises(kind) as error:
        inspect(run, **asked)
    return str(error.value)


def aligned(folder: Path) -> Path:
    (folder / "pairs.json").write_text(json.dumps(PAIRS))
    return folder / "pairs.json"


# Laws


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("target", [None, "nus noom"])
def test_what_is_kept_is_what_is_seen(translator: SavedRun, target: str | None, symmetric: bool) -> None:
    seen = look(load_run(translator), translator.tokenizer, "sun moon star", target, symmetric=symmetric)
    found = kept(translator, text="sun moon star", target=target, symmetric=symmetric)
    assert found == seen
    assert found.given is (target is not None)
    sizes = {one.name: (len(one.heads), len(one.rows), len(one.columns)) for one in found.maps}
    assert list(sizes) == [
        "encoder.0.attention",
        *(f"decoder.{layer}.{kind}_attention" for layer in (0, 1) for kind in ("self", "cross")),
    ]
    assert all(sum(row) == pytest.approx(1, abs=1e-3) for one in found.maps for head in one.weights for row in head)


def test_error_rates_are_those_of_the_task_and_nothing_is_written(translator: SavedRun, tmp_path: Path) -> None:
    path = aligned(tmp_path)
    task = attention_task(load_run(translator))
    for symmetric in (False, True):
        expected = alignment_errors(task, translator.tokenizer, read_alignments(path), symmetric)
        assert inspect(translator, alignments=path, symmetric=symmetric) == expected
    assert (expected["sentences"], expected["sure"], expected["possible"]) == (3, 7, 8)
    assert list(expected["layers"]) == ["decoder.0.cross_attention", "decoder.1.cross_attention"]
    assert not (translator.path / INSPECTIONS).exists()


def test_each_inspection_has_the_next_number_whatever_else_lies_there(translator: SavedRun) -> None:
    folder = translator.path / INSPECTIONS
    assert page(translator, text="sun") == folder / "1" / PAGE
    assert page(translator, text="sun") == folder / "2" / PAGE
    shutil.rmtree(folder / "1")
    (folder / "7").mkdir()
    (folder / "notes 9").mkdir()
    (folder / "11.txt").touch()
    assert page(translator, text="moon") == folder / "8" / PAGE


def test_another_process_that_takes_the_number_first_is_no_obstacle(
    translator: SavedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = translator.path / INSPECTIONS
    for taken in ("1", "2", "3"):
        (folder / taken).mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", lambda _: iter(()))  # as if they were made right after this process looked
        found = page(translator, text="sun")
    assert found == folder / "4" / PAGE
    assert not any((folder / "1").iterdir())


# Examples


def test_another_checkpoint_is_another_attention(translator: SavedRun) -> None:
    best, last = kept(translator, text="sun moon"), kept(translator, text="sun moon", checkpoint="last")
    assert best == kept(translator, text="sun moon", checkpoint=3)
    assert last == kept(translator, text="sun moon", checkpoint=8)
    assert last.maps[0].weights != best.maps[0].weights


def test_a_shorter_output_may_be_asked_for(translator: SavedRun) -> None:
    own = kept(translator, text="sun moon star")
    short = kept(translator, text="sun moon star", changes={"decoding.max_length": 2})
    rows, fewer = (len(one.maps[-1].rows) for one in (own, short))
    assert fewer <= 3 < rows
    assert short.maps[0] == own.maps[0]


def test_an_encoder_attends_to_its_own_text(classifier: SavedRun) -> None:
    found = kept(classifier, text="sun moon")
    assert [one.name for one in found.maps] == ["layers.0.attention"]
    assert (found.target, found.given) == (None, False)
    assert found.alignment.source == found.alignment.target == ["sun", "moon"]
    assert sorted(found.alignment.links) == [(0, 1), (1, 0)]  # of two words, each attends to the other


def test_a_number_is_a_text_as_well(classifier: SavedRun) -> None:
    assert kept(classifier, text=42).text == "42"


def test_what_attends_to_what_is_shown(translator: SavedRun, capsys: pytest.CaptureFixture[str]) -> None:
    found = kept(translator, text="[bold]sun[/bold] moon", target="nus")
    out, shown = capsys.readouterr()
    lines = [line.rstrip() for line in shown.splitlines()]
    assert out == ""
    assert lines == [
        "[bold]sun[/bold] moon",
        "nus",
        f"by {found.alignment.by}, the mean of its heads:",
        *(f"  {arrow}" for arrow in found.alignment.arrows()),
    ]
    assert len(found.alignment.arrows()) == 1


def test_the_page_shows_the_run_and_escapes_the_text(translator: SavedRun) -> None:
    text = page(translator, text='<script>alert("x")</script>', target="nus").read_text()
    assert str(translator.path) in text
    assert (
        len(re.findall(r"<script(?! type=.application/gzip)", text)) == 1
    )  # the page's own program, which its policy names
    assert "<script>alert" not in text and "&lt;script&gt;" in text


def test_error_rates_are_shown_in_percent(
    translator: SavedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    errors: Any = inspect(translator, alignments=str(aligned(tmp_path)))
    title, header, *rows = (line.split() for line in capsys.readouterr().err.splitlines())
    assert " ".join(title) == "alignment error rate, %"
    assert " ".join(header) == "attention entropy predicting: mean best head reading: mean best head"
    for row, (name, layer) in zip(rows, errors["layers"].items(), strict=False):
        kinds = [layer[at] for at in ("predicting", "reading")]
        rates = [rate for kind in kinds for rate in (kind["mean"], min(kind["heads"]))]
        assert row == [name, f"{layer['entropy']:.2f}", *(f"{100 * rate:.1f}" for rate in rates)]
    heads = [layer[at]["heads"] for layer in errors["layers"].values() for at in ("predicting", "reading")]
    assert any(len(set(rates)) > 1 for rates in heads)  # one of two is the best
    assert rows[2:] == [["(the", "diagonal)", f"{100 * errors['diagonal']:.1f}"]]


def test_the_names_of_error_rates_are_whole_in_a_terminal_of_80_columns(
    translator: SavedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    inspect(translator, alignments=str(aligned(tmp_path)))
    assert "predicting:" in capsys.readouterr().err


# What is refused


def test_a_text_or_a_file_is_needed_and_not_both(classifier: SavedRun, tmp_path: Path) -> None:
    said = 'etude inspect takes a text or alignments=FILE: etude inspect RUN "A sentence" (command line)'
    assert refusal(classifier) == said
    assert refusal(classifier, text="sun", alignments=aligned(tmp_path)) == said
    assert refusal(classifier, target="nus") == said


@pytest.mark.parametrize("symmetric", [1, "yes", None])
def test_symmetric_is_true_or_false(classifier: SavedRun, symmetric: Any) -> None:
    assert refusal(classifier, text="sun", symmetric=symmetric) == (
        f"symmetric={symmetric} is neither true nor false (command line)"
    )


def test_what_an_inspection_may_change_is_said(classifier: SavedRun) -> None:
    assert refusal(classifier, text="sun", changes={"model.width": 8}) == (
        f"model.width cannot be changed here; what can: {', '.join(CHANGEABLE)} (command line)"
    )


def test_a_checkpoint_that_is_not_there_is_named_with_those_that_are(classifier: SavedRun) -> None:
    assert refusal(classifier, text="sun", checkpoint=4) == (
        f"{classifier.path} has no checkpoint '4'; there are: step-00000003, step-00000008"
    )


@pytest.mark.parametrize("asked", [{"text": "sun", "target": "nus"}, {"alignments": "pairs.json"}])
def test_an_encoder_has_no_place_for_a_target(classifier: SavedRun, tmp_path: Path, asked: dict[str, Any]) -> None:
    asked = {**asked, **({"alignments": aligned(tmp_path)} if "alignments" in asked else {})}
    assert "has no place in an encoder" in refusal(classifier, **asked)


def test_a_file_that_cannot_be_read_is_named(translator: SavedRun, tmp_path: Path) -> None:
    path = tmp_path / "absent.json"
    said = refusal(translator, DataError, alignments=path)
    assert said.startswith(f"{path} cannot be read: No such file or directory; write a list of objects such as ")


def test_a_refused_inspection_leaves_nothing(classifier: SavedRun) -> None:
    for asked in ({}, {"text": " "}, {"text": "sun", "target": "nus"}, {"text": "sun", "changes": {"seed": 2}}):
        refusal(classifier, **asked)
    assert not (classifier.path / INSPECTIONS).exists()


def test_a_place_that_cannot_be_written_is_one_line(classifier: SavedRun) -> None:
    place = classifier.path / INSPECTIONS
    place.write_text("")
    assert refusal(classifier, StorageError, text="sun") == (f"{place}: File exists; make room there, or allow writing")
