"""Attention maps of a few samples, saved at the end of a run for its report and for trackers."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from etude.atomic import write_json
from etude.errors import ConfigurationError
from etude.report.inspection import Inspection
from etude.report.look import look
from etude.report.page import inspection_page
from etude.runs.folder import ATTENTION, SAMPLES
from etude.runs.saved_run import SavedRun
from etude.tasks.attention_maps import ShowsAttention, UnseenError
from etude.tasks.prediction import choose_direction
from etude.training.loggers.heat_map import caption, heat_map, pad_to_largest
from etude.training.restore import load_run

SHOWN = 2
"""Number of samples whose attention is saved."""

IMAGES = 24
"""Largest number of attentions that are sent as images."""

SAMPLE_WEIGHTS = 100_000
"""Limit on the attention weights of a sample, over all heads together."""

_log = logging.getLogger(__name__)


def save_attention_samples(run: SavedRun, loggers: Iterable[Logger], step: int) -> None:
    """Save the attention of the first samples of the last validation, for the report and for trackers.

    The best checkpoint is loaded into a new model, since that of the training may be sharded over ranks. Nothing is saved if
    the task has no attention maps or the run has no samples. An error is logged and stops nothing.

    Args:
        run: The run.
        loggers: Loggers; those that show pages and tables get the attention page and the table of heads.
        step: Last step of the run.
    """
    files = sorted((run.path / SAMPLES).glob("step-*.jsonl"))
    if not files:
        return
    try:
        inspections = _inspect_samples(run, files[-1])
        if not inspections:
            return
        write_json(run.path / ATTENTION, [inspection.to_json() for inspection in inspections], indent=None)
        page = inspection_page(run.path, inspections)
        for logger in loggers:
            log_page, log_table = (getattr(logger, name, None) for name in ("log_page", "log_table"))
            if log_page is not None and log_table is not None:
                log_page("attention", page, step)
                log_table("heads", *_head_table(inspections[0]), step=step)
            if (log_images := getattr(logger, "log_heat_maps", None)) is not None:
                maps = [attention for inspection in inspections for attention in inspection.maps][:IMAGES]
                images = pad_to_largest([heat_map(one) for one in maps])
                log_images("attention_maps", list(zip(images, map(caption, maps), strict=True)), step)
    except Exception as error:  # the run has its scores: a figure must not make it fail
        _log.warning("no attention is shown of this run: %s", " ".join(str(error).split()))


def _inspect_samples(run: SavedRun, samples: Path) -> list[Inspection]:
    """Inspect the first samples whose attention is within the limit."""
    task = load_run(run)
    inspections: list[Inspection] = []
    if not isinstance(task, ShowsAttention):
        return inspections
    for line in samples.read_text().splitlines():
        sample = json.loads(line)
        text = str(next(iter(sample.values())))  # the first column of a sample is the task's input
        choose_direction(task, sample.get("direction"))
        try:
            inspections.append(look(task, run.tokenizer, text, most=SAMPLE_WEIGHTS))
        except UnseenError:
            raise
        except ConfigurationError as error:
            _log.info("no attention is shown of the sample %.40r: %s", text, error)
        if len(inspections) == SHOWN:
            break
    return inspections


def _head_table(inspection: Inspection) -> tuple[list[str], list[list[Any]]]:
    """Return columns and rows of a table of all heads."""
    rows = [
        {"attention": attention.name, "head": number, **vars(head)}
        for attention in inspection.maps
        for number, head in enumerate(attention.heads, start=1)
    ]
    return list(rows[0]), [list(row.values()) for row in rows]
