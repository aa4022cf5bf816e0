"""What a dashboard shows, from the files of `conf/dashboard/`: one for each kind of task, of sections that they share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import yaml

from etude.config.compose import CONF
from etude.config.rules import validation_metrics
from etude.config.schema import Config
from etude.config.values import flat
from etude.errors import ConfigurationError
from etude.schema_errors import in_words

FOLDER = CONF / "dashboard"
DEFAULT = "default"
"""Name of the file of tasks without one."""

METRIC = "$metric"
"""Stands for `validate.metric`."""

Content = TypeVar("Content")

Axis = Literal["step", "tokens", "seconds"]


class Panel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One panel, which shows one kind of things.

    Attributes:
        title: Its title.
        lines: Curves of these values.
        pattern: Curves of all values whose names this regular expression matches.
        number: The last value of this name in large letters; of `validate.metric`, the best.
        table: The table of this name.
        media: The pages or images of this name.
        scores: It stands for a panel of curves for each score of the task's validation.
        over: What curves are drawn over.
        logarithmic: Whether the values of curves are drawn on a logarithmic scale.
        needs: A key of the configuration without which the panel would be empty: where it is missing, null or false, it is
            left out.
    """

    title: str
    lines: list[str] = []
    pattern: str = ""
    number: str = ""
    table: str = ""
    media: str = ""
    scores: bool = False
    over: Axis = "step"
    logarithmic: bool = False
    needs: str = ""

    @property
    def names(self) -> list[str]:
        """The names of values, tables and media that it shows."""
        return [*self.lines, *(name for name in (self.number, self.table, self.media) if name)]


class DashboardSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Panels under one heading.

    Attributes:
        name: The heading.
        panels: The panels.
    """

    name: str
    panels: list[Panel]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of a kind of task; a text is the name of a shared section."""

    sections: list[str | DashboardSection]


@dataclass(frozen=True)
class Dashboard:
    """What a dashboard of an experiment shows.

    Attributes:
        title: Its title.
        sections: Its sections; none is empty.
    """

    title: str
    sections: list[DashboardSection]

    @classmethod
    def of(cls, config: Config, title: str, folder: Path = FOLDER) -> Dashboard:
        """Read the dashboard of an experiment.

        Args:
            config: Its configuration.
            title: Title of the dashboard.
            folder: The folder of the files.

        Raises:
            ConfigurationError: If a file is not what it should be; says which, and where.
        """
        name = config.task.target.split(".")[-2]
        path = folder / f"{name}.yaml"
        file = _read(path if path.is_file() else folder / f"{DEFAULT}.yaml", _File)
        read = (
            _read(folder / "sections" / f"{one}.yaml", DashboardSection) if isinstance(one, str) else one
            for one in file.sections
        )
        sections = [DashboardSection(one.name, list(_fitting(one.panels, config))) for one in read]
        return cls(title, [section for section in sections if section.panels])

    @property
    def names(self) -> list[str]:
        """The names of all values, tables and media that it shows."""
        panels = (panel for section in self.sections for panel in section.panels)
        return list(dict.fromkeys(name for panel in panels for name in panel.names))


def _read(path: Path, kind: type[Content]) -> Content:
    advice = "compare it with the other files of conf/dashboard"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        names = ", ".join(sorted(one.stem for one in path.parent.glob("*.yaml")))
        raise ConfigurationError(f"there is no dashboard file {path}; there are: {names}") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{path}: {in_words(str(error), content, kind)}; {advice}") from error


def _fitting(panels: list[Panel], config: Config) -> Iterator[Panel]:
    """Yield the panels that the runs of a configuration have values for, without words that stand for others."""
    for panel in panels:
        if panel.needs and not _has(config, panel.needs):
            continue
        if panel.scores:
            scores = validation_metrics(config.task.values) or (config.validate.metric,)
            yield from (Panel(title=name, lines=[name]) for name in scores if name != "val/loss")
            continue
        metric = config.validate.metric
        lines = [metric if name == METRIC else name for name in panel.lines]
        yield msgspec.structs.replace(panel, lines=lines, number=metric if panel.number == METRIC else panel.number)


def _has(config: Config, key: str) -> bool:
    values: Mapping[str, Any] = flat(config.values)
    return any(
        value not in (None, False) for name, value in values.items() if name == key or name.startswith(f"{key}.")
    )
