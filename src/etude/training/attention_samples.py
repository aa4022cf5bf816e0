"""The attention to a few samples that a run keeps when it ends, for its report and for dashboards."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from etude.errors import ConfigurationError
from etude.report import inspection_page
from etude.report.inspection import Inspection, look
from etude.runs.folder import write_json
from etude.tasks.attention_maps import ShowsAttention, UnseenError
from etude.training.restore import load_run

ATTENTION = "attention.json"
SAMPLES = 2
"""Sample sentences whose attention a run keeps when it ends."""

SAMPLE_WEIGHTS = 100_000
"""Weights of all heads together that it keeps of each."""

_log = logging.getLogger(__name__)


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
