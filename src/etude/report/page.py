"""The report of a run, or of several laid over one another: a self-contained HTML file that needs no network.

All text of a run (samples, names, configurations) is untrusted and escaped by the template engine.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from etude import __version__
from etude.atomic import write_text
from etude.config.values import shown_values, within
from etude.errors import ConfigurationError
from etude.report.attention_pictures import shown_attention
from etude.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart, chart
from etude.report.contents import Contents
from etude.report.curves import overlaid
from etude.report.inspection import Inspection
from etude.report.interactive import Drawn, interactive, page_policy
from etude.report.templates import environment

REPORT = "report.html"
"""Name of the report in the run's folder."""

FRAME = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM}
"""Place of a static chart in its view box."""


ALWAYS_DIFFERENT = ("run", "paths", "logger")
"""Configuration keys, with all below them, in which any two runs may differ."""

LONGEST = 60
"""Letters of what differs that stand beside a run's name."""


def write_pages(runs: Sequence[Path]) -> Path:
    """Write the page of a run, or one page of several (see `report` and `overlay_report`), and return its path."""
    return report(runs[0]) if len(runs) == 1 else overlay_report(runs)


def report(run: Path) -> Path:
    """Write the report of a run, finished or not, into its folder.

    Args:
        run: The run's folder. Any of its files may be missing; the page says which.

    Returns:
        The page's path.

    Raises:
        ConfigurationError: If there is no such folder.
        StorageError: If the page cannot be written.
    """
    run = Path(run)
    if not run.is_dir():
        raise ConfigurationError(f"{run} is not a folder; give the folder of a run, as `etude train` prints it")
    contents = Contents.read(run)
    contents.read_rows()
    charts = contents.charts()
    packed = interactive([run.resolve().name], charts) if charts else None
    page = (
        environment()
        .get_template("page.html.jinja")
        .render(
            contents=contents,
            charts=[static(one) for one in charts],
            frame=FRAME,
            packed=packed,
            policy=page_policy(packed),
            attention=shown_attention(contents.attention),
            version=__version__,
        )
    )
    write_text(run / REPORT, page)
    return run / REPORT


def static(drawn: Drawn) -> Chart:
    """Return the drawing of a chart that needs no program."""
    series = [series for _, series in drawn.curves]
    return chart(drawn.title, series, logarithmic=drawn.logarithmic, exact=drawn.exact)


def inspection_page(run: Path, inspections: Sequence[Inspection]) -> str:
    """Return a page of the attention of a run to some texts.

    Args:
        run: The run's folder.
        inspections: The attention to each text.
    """
    folder = run.resolve()
    name = f"{folder.parent.parent.name}/{folder.parent.name}: {folder.name}"
    template = environment().get_template("inspection.html.jinja")
    return template.render(
        run=folder, name=name, attention=shown_attention(inspections), policy=page_policy(None), version=__version__
    )


def overlay_report(runs: Sequence[Path]) -> Path:
    """Write one page of several runs, finished or not, into the folder that holds them all.

    Args:
        runs: The runs' folders, which may lack any file; the page says which.

    Returns:
        The page's path: the same for the same runs.

    Raises:
        ConfigurationError: If one is no folder.
        StorageError: If the page cannot be written.
    """
    missing = next((run for run in runs if not run.is_dir()), None)
    if missing is not None:
        raise ConfigurationError(f"{missing} is not a folder; give the folder of a run, as `etude train` prints it")
    contents = OverlayContents([Contents.read(run) for run in runs])
    packed = interactive(contents.names, contents.charts) if contents.charts else None
    page = (
        environment()
        .get_template("overlay.html.jinja")
        .render(
            contents=contents,
            charts=[static(one) for one in contents.charts],
            frame=FRAME,
            packed=packed,
            policy=page_policy(packed),
            version=__version__,
        )
    )
    folders = sorted(str(run.resolve()) for run in runs)
    digest = hashlib.sha256("\n".join(folders).encode()).hexdigest()[:8]
    path = Path(os.path.commonpath([run.resolve().parent for run in runs])) / f"report-{digest}.html"
    write_text(path, page)
    return path


class OverlayContents:
    """What the page of several runs shows.

    Args:
        runs: The contents of each run's folder.
    """

    def __init__(self, runs: Sequence[Contents]) -> None:
        self.runs = runs

    @cached_property
    def names(self) -> list[str]:
        """The runs' names, with their experiment where that differs."""
        folders = [one.run.resolve() for one in self.runs]
        if len({folder.parent for folder in folders}) == 1:
            return [folder.name for folder in folders]
        common = os.path.commonpath(folders)
        return [os.path.relpath(folder, common) for folder in folders]

    @cached_property
    def differing(self) -> list[tuple[str, list[str]]]:
        """What differs: keys, each with the value of every run as text; empty where a run does not have the key."""
        configurations = [shown_values(one.config) for one in self.runs]
        keys = dict.fromkeys(key for values in configurations for key in values if not within(key, ALWAYS_DIFFERENT))
        rows = [(key, [values.get(key, "") for values in configurations]) for key in keys]
        return [_shortened(key, values) for key, values in rows if len(set(values)) > 1]

    @cached_property
    def labels(self) -> list[str]:
        """What differs, in short, for each run."""
        texts = [
            " ".join(f"{key.rpartition('.')[2]}={values[number]}" for key, values in self.differing if values[number])
            for number in range(len(self.runs))
        ]
        return [text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…" for text in texts]

    @cached_property
    def scores(self) -> list[tuple[str, list[float | None]]]:
        """Scores of the evaluations, each with the value of every run."""
        found: list[Mapping[str, float]] = [
            {name: value for evaluation in one.evaluations for name, value in evaluation.scores.items()}
            for one in self.runs
        ]
        names = dict.fromkeys(name for scores in found for name in scores)
        return [(name, [scores.get(name) for scores in found]) for name in names]

    @cached_property
    def charts(self) -> list[Drawn]:
        """Charts by title, each with the curves of all runs that have it."""
        return overlaid({number: one.charts() for number, one in enumerate(self.runs)})

    @property
    def problems(self) -> list[str]:
        """What cannot be read, with the run that it is of."""
        return [
            f"{name}: {problem}" for name, one in zip(self.names, self.runs, strict=True) for problem in one.problems
        ]


def _shortened(key: str, values: Sequence[str]) -> tuple[str, list[str]]:
    """Return a key and its values as a person says them: a class by its name, a number by four digits, if they still differ."""
    if key.endswith("._target_"):
        return key.removesuffix("._target_"), [value.strip("'").rpartition(".")[2] for value in values]
    short = [f"{float(value):.4g}" if _is_number(value) else value for value in values]
    return key, short if len(set(short)) == len(set(values)) else list(values)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
