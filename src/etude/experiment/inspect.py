"""`etude inspect`: what a trained model attends to, for a sentence or, as an error rate, for sentences aligned by hand."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from rich.console import Console
from rich.table import Table
from rich.text import Text

from etude.errors import ConfigurationError, StorageError
from etude.experiment.alignments import alignment_errors, read_alignments
from etude.experiment.inspection import Inspection, look, shown_by
from etude.experiment.report import inspection_page
from etude.experiment.restored import load_run
from etude.experiment.stored import stored_configuration
from etude.store.folder import write_json, write_text
from etude.tasks.attention import ShowsAttention, UnseenError

INSPECTIONS = "inspections"
ATTENTION = "attention.json"
PAGE = "attention.html"
OVERRIDABLE = ("decoding", "trainer", "paths")
"""What may be changed of a run's configuration; `OWN` are the command's."""

OWN = ("text", "target", "symmetric", "alignments", "checkpoint")
SAMPLES = 2
"""Sample sentences whose attention a run keeps when it ends."""

SAMPLE_WEIGHTS = 100_000
"""Weights of all heads together that it keeps of each."""

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


def inspect_samples(run: Path, loggers: Iterable[Logger], step: int) -> None:
    """Keep the attention to the first samples of the last validation, for the report and for dashboards.

    The best checkpoint is read into a model of its own, since that of the training may lie in parts on several ranks. A
    run whose task shows no attention, or that keeps no samples, has none. Whatever goes wrong is told and stops nothing.

    Args:
        run: The run's folder.
        loggers: Get the page and the table of heads, where they show such.
        step: That the run has come to.
    """
    files = sorted((run / "samples").glob("step-*.jsonl"))
    if not files:
        return
    try:
        seen = _look_at_samples(run, files[-1])
        if not seen:
            return
        write_json(run / ATTENTION, [one.to_json() for one in seen], indent=None)
        page = inspection_page(run, seen)
        for logger in loggers:
            log_page, log_table = (getattr(logger, name, None) for name in ("log_page", "log_table"))
            if log_page is not None and log_table is not None:
                log_page("attention", page, step)
                log_table("heads", *_heads(seen[0]), step=step)
    except Exception as error:  # the run is over; its scores are worth more than its pictures
        _log.warning("no attention is shown of this run: %s", " ".join(str(error).split()))


def _look_at_samples(run: Path, samples: Path) -> list[Inspection]:
    """Look at the first samples that are not too long for it."""
    task, tokenizer = load_run(run)
    seen: list[Inspection] = []
    if not isinstance(task, ShowsAttention):
        return seen
    for line in samples.read_text().splitlines():
        text = str(next(iter(json.loads(line).values())))  # a sample's first column is what the task was given
        try:
            seen.append(look(task, tokenizer, text, most=SAMPLE_WEIGHTS))
        except UnseenError:
            raise
        except ConfigurationError as error:
            _log.info("no attention is shown of the sample %.40r: %s", text, error)
        if len(seen) == SAMPLES:
            break
    return seen


def _heads(seen: Inspection) -> tuple[list[str], list[list[Any]]]:
    """Return columns and rows of a table of all heads."""
    rows = [
        {"attention": one.name, "head": number, **vars(head)}
        for one in seen.maps
        for number, head in enumerate(one.heads, start=1)
    ]
    return list(rows[0]), [list(row.values()) for row in rows]


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
