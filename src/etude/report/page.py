"""The report of a run: a self-contained HTML file that needs no network and runs no program.

All text of a run (samples, names, configurations) is untrusted and escaped by the template engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from etude import __version__
from etude.atomic import write_text
from etude.errors import ConfigurationError
from etude.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from etude.report.contents import Contents
from etude.report.inspection import Inspection
from etude.report.templates import environment

REPORT = "report.html"
"""Name of the report in the run's folder."""

_FRAME = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM}


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
    page = (
        environment()
        .get_template("page.html.jinja")
        .render(contents=contents, charts=contents.charts(), frame=_FRAME, version=__version__)
    )
    write_text(run / REPORT, page)
    return run / REPORT


def inspection_page(run: Path, inspections: Sequence[Inspection]) -> str:
    """Return a page of the attention of a run to some texts.

    Args:
        run: The run's folder.
        inspections: The attention to each text.
    """
    folder = run.resolve()
    name = f"{folder.parent.parent.name}/{folder.parent.name}: {folder.name}"
    template = environment().get_template("inspection.html.jinja")
    return template.render(run=folder, name=name, inspections=inspections, version=__version__)
