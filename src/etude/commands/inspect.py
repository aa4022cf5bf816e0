"""`etude inspect`: what a trained model attends to, for a sentence or, as an error rate, for sentences aligned by hand."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from etude.errors import ConfigurationError, StorageError
from etude.report import inspection_page
from etude.report.alignment_errors import alignment_errors, read_alignments
from etude.report.inspection import Inspection, look, shown_by
from etude.runs.folder import write_json, write_text
from etude.runs.stored import stored_configuration
from etude.training.attention_samples import ATTENTION
from etude.training.restore import load_run

INSPECTIONS = "inspections"
PAGE = "attention.html"
OVERRIDABLE = ("decoding", "trainer", "paths")
"""What may be changed of a run's configuration; `OWN` are the command's."""

OWN = ("text", "target", "symmetric", "alignments", "checkpoint")
_log = logging.getLogger(__name__)


def inspect(run: Path, overrides: Mapping[str, Any]) -> Path | dict[str, Any]:
    """Look at a run's attention to a text, or measure how well it aligns words.

    Args:
        run: The run's folder.
        overrides: `text`, and `target` where the run's own translation is not wanted; or `alignments`, a file as
            `read_alignments` takes it. Besides, `symmetric` (as in `align`), `checkpoint`, and keys below `OVERRIDABLE`.

    Returns:
        The page in RUN/inspections/<n>, beside which is `attention.json`; of alignments, what `alignment_errors` says.

    Raises:
        EtudeError: If there is nothing to look at, or the run does not suit it.
    """
    own = {key: overrides[key] for key in OWN if key in overrides}
    text, file = own.get("text"), own.get("alignments")
    if (text is None) == (file is None):
        raise ConfigurationError(
            'etude inspect takes a text or alignments=FILE: etude inspect RUN "A sentence" (command line)'
        )
    symmetric = own.get("symmetric", False)
    if not isinstance(symmetric, bool):
        raise ConfigurationError(f"symmetric={symmetric} is neither true nor false (command line)")
    values = stored_configuration(run, {key: overrides[key] for key in overrides if key not in own}, OVERRIDABLE)
    task, tokenizer = load_run(run, values, str(own.get("checkpoint", "best")))
    if file is not None:
        errors = alignment_errors(shown_by(task), tokenizer, read_alignments(Path(str(file)).expanduser()), symmetric)
        _show_errors(errors)
        return errors
    target = own.get("target")
    seen = look(task, tokenizer, str(text), None if target is None else str(target), symmetric=symmetric)
    _show(seen)
    folder = _new_folder(run / INSPECTIONS)
    write_json(folder / ATTENTION, [seen.to_json()], indent=None)
    write_text(folder / PAGE, inspection_page(run, [seen]))
    return folder / PAGE


def _new_folder(parent: Path) -> Path:
    """Make the folder of the next number."""
    try:
        parent.mkdir(exist_ok=True)
        number = 1 + max((int(path.name) for path in parent.iterdir() if path.name.isdecimal()), default=0)
        while True:
            try:
                (parent / str(number)).mkdir()
                return parent / str(number)
            except FileExistsError:  # another process looks at the same run
                number += 1
    except OSError as error:
        raise StorageError(f"{parent}: {error.strerror}; make room there, or allow writing") from error


def _show(seen: Inspection) -> None:
    """Say on stderr which word attends to which."""
    console = Console(stderr=True, highlight=False)
    console.print(Text(seen.text), style="bold")
    if seen.target is not None:
        console.print(Text(seen.target))
    console.print(Text(f"by {seen.alignment.by}, the mean of its heads:"), style="dim")
    for line in seen.alignment.arrows():
        console.print(Text(f"  {line}"), soft_wrap=True)


def _show_errors(errors: Mapping[str, Any]) -> None:
    """Show error rates on stderr, in percent."""
    table = Table(box=None, pad_edge=False, title="alignment error rate, %", title_justify="left")
    for name in ("attention", "entropy", "predicting: mean", "best head", "reading: mean", "best head"):
        table.add_column(name, justify="left" if name == "attention" else "right", no_wrap=name == "attention")
    for name, layer in errors["layers"].items():
        rates = [rate for at in ("predicting", "reading") for rate in (layer[at]["mean"], min(layer[at]["heads"]))]
        table.add_row(Text(name), f"{layer['entropy']:.2f}", *(f"{100 * rate:.1f}" for rate in rates))
    table.add_row("(the diagonal)", "", f"{100 * errors['diagonal']:.1f}")
    Console(stderr=True, highlight=False).print(table)
