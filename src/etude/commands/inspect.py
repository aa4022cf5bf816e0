"""`etude inspect`: the attention of a trained model to a text, or its alignment error rate on hand-aligned sentences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from etude.atomic import write_json, write_text
from etude.errors import ConfigurationError, StorageError
from etude.report.alignment_errors import alignment_errors, read_alignments
from etude.report.inspection import Inspection
from etude.report.look import attention_task, look
from etude.report.page import inspection_page
from etude.runs.folder import ATTENTION
from etude.runs.saved_run import SavedRun
from etude.tasks.prediction import choose_direction
from etude.training.restore import load_run

INSPECTIONS = "inspections"
PAGE = "attention.html"
CHANGEABLE = ("decoding", "trainer", "paths")
"""Configuration keys, with all below them, that an inspection may change."""


def inspect(
    run: SavedRun,
    *,
    text: Any = None,
    target: Any = None,
    alignments: Any = None,
    symmetric: Any = False,
    checkpoint: Any = "best",
    direction: Any = None,
    changes: Mapping[str, Any] | None = None,
) -> Path | dict[str, Any]:
    """Write a page of a run's attention to a text, or measure how well its attention aligns words.

    Args:
        run: The run.
        text: The text that the model reads.
        target: Its translation, or the second text of a pair; None: the run's own translation.
        alignments: Instead of a text, a file in the format of `read_alignments`.
        symmetric: Whether to align symmetrically, as in `align`.
        checkpoint: `best`, `last` or a step's number.
        direction: Of a run that translates in several directions, the name of one, such as `en-fr`.
        changes: Values of configuration keys at or below `CHANGEABLE`.

    Returns:
        Path of the page in RUN/inspections/<n>, beside `attention.json`; for alignments, the result of `alignment_errors`.

    Raises:
        EtudeError: If there is nothing to inspect, or the task does not show its attention.
    """
    if (text is None) == (alignments is None):
        raise ConfigurationError(
            'etude inspect takes a text or alignments=FILE: etude inspect RUN "A sentence" (command line)'
        )
    if not isinstance(symmetric, bool):
        raise ConfigurationError(f"symmetric={symmetric} is neither true nor false (command line)")
    task = load_run(run, run.changed(changes or {}, CHANGEABLE), str(checkpoint))
    choose_direction(task, direction)
    if alignments is not None:
        pairs = read_alignments(Path(str(alignments)).expanduser())
        errors = alignment_errors(attention_task(task), run.tokenizer, pairs, symmetric)
        _show_errors(errors)
        return errors
    inspection = look(task, run.tokenizer, str(text), None if target is None else str(target), symmetric=symmetric)
    _show(inspection)
    folder = _new_folder(run.path / INSPECTIONS)
    write_json(folder / ATTENTION, [inspection.to_json()], indent=None)
    write_text(folder / PAGE, inspection_page(run.path, [inspection]))
    return folder / PAGE


def _new_folder(parent: Path) -> Path:
    """Make a folder named by the next free number."""
    try:
        parent.mkdir(exist_ok=True)
        number = 1 + max((int(path.name) for path in parent.iterdir() if path.name.isdecimal()), default=0)
        while True:
            try:
                (parent / str(number)).mkdir()
                return parent / str(number)
            except FileExistsError:  # another process inspects the same run
                number += 1
    except OSError as error:
        raise StorageError(f"{parent}: {error.strerror}; make room there, or allow writing") from error


def _show(inspection: Inspection) -> None:
    """Print to stderr which word attends to which."""
    console = Console(stderr=True, highlight=False, force_jupyter=False)
    console.print(Text(inspection.text), style="bold")
    if inspection.target is not None:
        console.print(Text(inspection.target))
    console.print(Text(f"by {inspection.alignment.by}, the mean of its heads:"), style="dim")
    for line in inspection.alignment.arrows():
        console.print(Text(f"  {line}"), soft_wrap=True)


def _show_errors(errors: Mapping[str, Any]) -> None:
    """Print error rates to stderr, in percent."""
    table = Table(box=None, pad_edge=False, title="alignment error rate, %", title_justify="left")
    for name in ("attention", "entropy", "predicting: mean", "best head", "reading: mean", "best head"):
        first, longest = name == "attention", max(len(word) for word in name.split())
        table.add_column(name, justify="left" if first else "right", no_wrap=first, min_width=longest)
    for name, layer in errors["layers"].items():
        rates = [rate for at in ("predicting", "reading") for rate in (layer[at]["mean"], min(layer[at]["heads"]))]
        table.add_row(Text(name), f"{layer['entropy']:.2f}", *(f"{100 * rate:.1f}" for rate in rates))
    table.add_row("(the diagonal)", "", f"{100 * errors['diagonal']:.1f}")
    Console(stderr=True, highlight=False, force_jupyter=False).print(table)
