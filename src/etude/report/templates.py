"""The templates of the pages: how they are found, and what they can call. They escape all text, which is untrusted."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from etude.report.evaluated import unit_chart
from etude.report.evaluated.confusion import confusion_matrix, largest_confusions
from etude.report.evaluated.tagged import kind_scores, marked_sentences
from etude.report.interactive import program
from etude.report.writing import count, duration, number, score
from etude.sweeps.space import setting


@cache
def environment() -> jinja2.Environment:
    """Return the template environment, which escapes all text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "count": count, "duration": duration, "score": score, "flat": flat}
    environment.filters |= {"setting": setting}
    environment.filters |= {"confusion_matrix": confusion_matrix, "largest_confusions": largest_confusions}
    environment.filters |= {"kind_scores": kind_scores, "marked_sentences": marked_sentences}
    environment.globals |= {"program": program, "unit": unit_chart}
    return environment


def flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested values as rows of a table: dotted names and texts. A list becomes a single text."""
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            rows.append((f"{prefix}{key}", ", ".join(map(str, value)) or "–"))
        else:
            rows.append((f"{prefix}{key}", "–" if value is None else str(value)))
    return rows
