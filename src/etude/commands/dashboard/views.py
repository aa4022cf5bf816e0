"""Views in W&B, the workspace and the report, as objects of wandb-workspaces: made of a description, read nowhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from etude.commands.dashboard.description import Dashboard, Panel
from etude.extras import optional
from etude.training.loggers.tracking import STEP

COLUMNS, HEIGHT = 3, 8
"""Panels beside each other, and the height of one in W&B's units, of which a row has 24."""

EXTRA = "dashboards"


@dataclass(frozen=True)
class Shown:
    """Which runs are shown, and where.

    Attributes:
        entity: Person or team; empty: that of the key.
        project: W&B's project.
        key: What the runs have in common: `Group` or `ID`.
        value: Its value.
        metric: The score by which runs are judged.
        varied: Keys of the configuration that differ between the members of a sweep; empty for other runs.
    """

    entity: str
    project: str
    key: str
    value: str
    metric: str
    varied: Sequence[str] = ()


def require_packages() -> None:
    """Refuse the command where wandb-workspaces is not installed.

    Raises:
        ConfigurationError: If it is not.
    """
    optional("wandb_workspaces.workspaces", "etude dashboard", EXTRA)


def workspace(dashboard: Dashboard, shown: Shown) -> Any:
    """Return the workspace: a view of the project with the dashboard's sections, of the runs that are shown."""
    workspaces = optional("wandb_workspaces.workspaces", "etude dashboard", EXTRA)
    sections = [
        workspaces.Section(name=name, panels=panels, is_open=True) for name, panels in _sections(dashboard, shown)
    ]
    runs = workspaces.RunsetSettings(filters=[workspaces.Metric(shown.key) == shown.value])
    return workspaces.Workspace(
        entity=shown.entity, project=shown.project, name=dashboard.title, sections=sections, runset_settings=runs
    )


def report(dashboard: Dashboard, shown: Shown) -> Any:
    """Return the report: a heading for each section, and its panels of the runs that are shown.

    W&B looks the project up when it is made into JSON, so it takes a key; `report_specification` takes none.
    """
    reports = optional("wandb_workspaces.reports.v2", "etude dashboard", EXTRA)
    where = f"Metric({shown.key!r}) == {shown.value!r}"
    blocks = [reports.TableOfContents()]
    for name, panels in _sections(dashboard, shown):
        runs = reports.Runset(entity=shown.entity, project=shown.project, name=shown.value, filters=where)
        blocks += [reports.H1(name), reports.PanelGrid(runsets=[runs], panels=panels)]
    return reports.Report(
        entity=shown.entity,
        project=shown.project,
        title=dashboard.title,
        description=_description(shown),
        blocks=blocks,
    )


def workspace_specification(dashboard: Dashboard, shown: Shown) -> str:
    """Return the workspace as JSON, as W&B stores it; nothing is asked of a server."""
    return _json(_plain(workspace(dashboard, shown)))


def report_specification(dashboard: Dashboard, shown: Shown) -> str:
    """Return the report as JSON: its headings, its panels as W&B stores them, and which runs they are of."""
    sections = [
        {"heading": name, "panels": [_plain(panel) for panel in panels]} for name, panels in _sections(dashboard, shown)
    ]
    return _json(
        {
            "title": dashboard.title,
            "description": _description(shown),
            "entity": shown.entity,
            "project": shown.project,
            "runs": {shown.key: shown.value},
            "sections": sections,
        }
    )


def _description(shown: Shown) -> str:
    return f"Made by etude dashboard, of the runs whose {shown.key} is {shown.value}."


def _plain(view: Any) -> Any:
    # The form in which wandb-workspaces sends it, for which it has no public name.
    return json.loads(view._to_model().model_dump_json(by_alias=True, exclude_none=True))


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _sections(dashboard: Dashboard, shown: Shown) -> list[tuple[str, list[Any]]]:
    """Return heading and panels of each section; that of a sweep comes first."""
    sections = [(section.name, _placed([_panel(panel) for panel in section.panels])) for section in dashboard.sections]
    return [("Sweep", _placed(_of_sweep(shown))), *sections] if shown.varied else sections


def _placed(panels: list[Any]) -> list[Any]:
    reports = optional("wandb_workspaces.reports.v2", "etude dashboard", EXTRA)
    width = 24 // COLUMNS
    for number, panel in enumerate(panels):
        row, column = divmod(number, COLUMNS)
        panel.layout = reports.Layout(x=column * width, y=row * HEIGHT, w=width, h=HEIGHT)
    return panels


def _panel(panel: Panel) -> Any:
    reports = optional("wandb_workspaces.reports.v2", "etude dashboard", EXTRA)
    if panel.table:
        return reports.WeavePanelSummaryTable(table_name=panel.table)
    if panel.media:
        return reports.MediaBrowser(title=panel.title, media_keys=[panel.media])
    if panel.number:
        return reports.ScalarChart(title=panel.title, metric=reports.SummaryMetric(panel.number))
    return reports.LinePlot(
        title=panel.title,
        x=STEP if panel.over == "step" else panel.over,
        y=list(panel.lines),
        metric_regex=panel.pattern or None,
        log_y=panel.logarithmic or None,
    )


def _of_sweep(shown: Shown) -> list[Any]:
    """Return the panels of a sweep: parallel coordinates of what varies and the score, and what matters for it."""
    reports = optional("wandb_workspaces.reports.v2", "etude dashboard", EXTRA)
    axes = [*map(reports.Config, shown.varied), reports.SummaryMetric(shown.metric)]
    columns = [reports.ParallelCoordinatesPlotColumn(metric=axis) for axis in axes]
    return [
        reports.ParallelCoordinatesPlot(title=f"What gives which {shown.metric}", columns=columns),
        reports.ParameterImportancePlot(with_respect_to=shown.metric),
    ]
