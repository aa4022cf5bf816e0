"""Contents of a run's folder for a report, in which any file may be missing or broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from msgspec import UNSET

from etude.report.cost_rows import cost_rows, time_parts
from etude.report.curves import charts_of
from etude.report.evaluated.judged_rows import judged_rows
from etude.report.evaluated.unit_chart import UnitChart, unit_charts
from etude.report.inspection import Inspection
from etude.report.interactive import Drawn
from etude.report.samples import ShownSamples
from etude.report.writing import score
from etude.runs.documents import MergedSource, RunManifest, Start
from etude.runs.folder import (
    ATTENTION,
    CHECKPOINTS,
    CONFIGURATION,
    COST,
    DATA,
    EVALUATIONS,
    MANIFEST,
    OVERRIDES,
    SAMPLES,
    state,
)
from etude.runs.reading import (
    ADVICE,
    read_attention,
    read_cost,
    read_data,
    read_evaluation,
    read_manifest,
    read_overrides,
    read_samples,
)
from etude.runs.record import RECORD, Event, read
from etude.untrusted import BrokenFileError, read_yaml

_Read = TypeVar("_Read")


@dataclass(frozen=True)
class ShownEvaluation:
    """A file of `evaluations/`: scores on a split, with their intervals and signatures.

    Attributes:
        name: Stem of the file's name.
        checkpoint: Name of the evaluated checkpoint; None if it was not recorded.
        examples: Number of rows of the split.
        scores: Scores by name.
        intervals: Confidence intervals by name.
        signatures: Signatures by name, which say how a score was computed.
        details: Further details of the rows; see `etude.tasks.base.Task.details`.
    """

    name: str
    checkpoint: str | None
    examples: int | None
    scores: Mapping[str, float]
    intervals: Mapping[str, Sequence[float]]
    signatures: Mapping[str, str]
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Contents:
    """The contents of a run's folder. What is missing is None or empty; `problems` lists what is broken.

    Attributes:
        run: The folder.
        experiment: The experiment's name.
        status: `finished` or `unfinished`.
        config: The configuration; empty without one.
        config_text: Text of `config.yaml`.
        overrides: Overrides of the command line.
        events: Events of the record.
        evaluations: Evaluations, those of the test split first.
        samples: Samples of the last validation.
        attention: Attention of the model to sample sentences.
        data: Description of the data.
        manifest: Code, packages and machine.
        cost: Costs of training besides steps and time, as names and texts.
        best: Name of the best checkpoint's folder.
        last: Name of the last checkpoint's folder.
        bar: Parts of the training's time, as names and seconds.
        charts_of_rows: Charts of the probabilities of an evaluation, by its name; `read_rows` fills them.
        problems: One line for each file that cannot be read.
    """

    run: Path
    experiment: str
    status: str
    config: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    overrides: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    evaluations: list[ShownEvaluation] = field(default_factory=list)
    samples: ShownSamples | None = None
    attention: list[Inspection] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    manifest: RunManifest | None = None
    cost: list[tuple[str, str]] = field(default_factory=list)
    bar: list[tuple[str, float]] = field(default_factory=list)
    best: str | None = None
    last: str | None = None
    charts_of_rows: dict[str, list[UnitChart]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, run: Path) -> Contents:
        """Read everything in a run's folder."""
        absolute = run.resolve()
        contents = cls(run, f"{absolute.parent.parent.name}/{absolute.parent.name}", _status(run))
        read_or_note = contents._read_or_note
        contents.config_text, contents.config = read_or_note(run / CONFIGURATION, _configuration) or ("", {})
        contents.overrides = read_or_note(run / OVERRIDES, lambda _: read_overrides(run)) or []
        contents.events = read_or_note(run / RECORD, read) or []
        evaluations = [read_or_note(path, _evaluation) for path in sorted((run / EVALUATIONS).glob("*.json"))]
        contents.evaluations = sorted(
            filter(None, evaluations), key=lambda evaluation: (not evaluation.name.startswith("test"), evaluation.name)
        )
        for path in sorted((run / SAMPLES).glob("step-*.jsonl"))[-1:]:
            contents.samples = read_or_note(path, _samples)
        contents.attention = read_or_note(run / ATTENTION, lambda _: _attention(run)) or []
        contents.data = read_or_note(run / DATA, lambda _: read_data(run).plain()) or {}
        contents.manifest = read_or_note(run / MANIFEST, lambda _: read_manifest(run))
        cost = read_or_note(run / COST, lambda _: read_cost(run))
        contents.cost, contents.bar = (cost_rows(cost), time_parts(cost)) if cost else ([], [])
        contents.best, contents.last = (_link(run / CHECKPOINTS / name) for name in ("best", "last"))
        return contents

    def read_rows(self) -> None:
        """Read the rows of the evaluations, and make charts of their probabilities; only the page of one run has them."""
        classes = [str(name) for name in self.data.get("classes") or []]
        for one in self.evaluations:
            rows = self.run / EVALUATIONS / f"{one.name}.jsonl"
            judged = self._read_or_note(rows, partial(judged_rows, details=one.details))
            if judged is not None:
                self.charts_of_rows[one.name] = unit_charts(judged, classes)

    def _read_or_note(self, path: Path, reader: Callable[[Path], _Read]) -> _Read | None:
        """Return the content of a file; None if it is missing, or broken, which is noted in `problems`."""
        if not path.exists():
            return None
        try:
            return reader(path)
        except BrokenFileError as error:
            file = str(error.path).removeprefix(f"{self.run}/")
            subject = "it " if error.is_of_the_file else ""
            self.problems.append(f"{file} cannot be read: {subject}{error.problem}")
        return None

    @property
    def metric(self) -> str:
        """The name of the metric that selects the best checkpoint."""
        return str(self._validate.get("metric", "val/loss"))

    @property
    def _validate(self) -> Mapping[str, Any]:
        section = self.config.get("validate")
        return section if isinstance(section, Mapping) else {}

    def best_validation(self) -> tuple[int, float] | None:
        """Return the step and the value of the best validation, the earlier of equal ones, or None before the first."""
        values = [(event.values[self.metric], event.step) for event in self.events if self.metric in event.values]
        values = [pair for pair in values if np.isfinite(pair[0])]
        if not values:
            return None
        best = max if self._validate.get("mode") == "max" else min
        value, step = best(values, key=itemgetter(0))
        return step, value

    @property
    def parameters(self) -> int | None:
        """Number of parameters of the model."""
        return self.manifest.parameters.total if self.manifest else None

    @property
    def tokens_per_second(self) -> float | None:
        """Trained tokens per second of training, validation included."""
        last = self.events[-1] if self.events else None
        return last.tokens / last.seconds if last and last.seconds > 0 else None

    @property
    def command(self) -> str:
        """The command that began the run; empty if it is unknown."""
        return " ".join(self.manifest.command) if self.manifest else ""

    @property
    def lineage(self) -> list[tuple[str, str]]:
        """The runs and files that the weights come from, as names and texts."""
        return lineage_rows(self.manifest) if self.manifest else []

    @property
    def environment(self) -> dict[str, Any]:
        """The manifest without the command."""
        values = self.manifest.plain() if self.manifest else {}
        return {name: value for name, value in values.items() if name != "command"}

    @property
    def other_facts(self) -> dict[str, Any]:
        """The description of the data without numbers of rows."""
        return {name: value for name, value in self.data.items() if name not in ("rows", "dropped")}

    def charts(self) -> list[Drawn]:
        """Return charts of all values that were recorded more than once, the most important first."""
        return charts_of(self.events, self.metric)


def _status(run: Path) -> str:
    return "finished" if state(run) == "finished" else "unfinished"


def _link(link: Path) -> str | None:
    return link.resolve().name if link.exists() else None


def _configuration(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the configuration as text and as plain values, whether or not this version of etude could run it."""
    text = read_yaml(path, ADVICE)
    values = yaml.safe_load(text)
    if not isinstance(values, dict):
        raise BrokenFileError(path, "is not a mapping", ADVICE)
    return text, values


def _evaluation(path: Path) -> ShownEvaluation:
    document = read_evaluation(path.parents[1], path.stem)
    return ShownEvaluation(
        name=path.stem,
        checkpoint=document.checkpoint,
        examples=document.examples,
        scores=document.scores,
        intervals=document.intervals,
        signatures=document.signatures,
        details=document.details.plain(),
    )


def _samples(path: Path) -> ShownSamples:
    number = path.stem.removeprefix("step-")
    if not number.isdecimal():
        raise BrokenFileError(path, "is not named by a step, such as step-00000100.jsonl", ADVICE)
    step = int(number)
    return ShownSamples.of(step, read_samples(path.parents[1], step))


def _attention(run: Path) -> list[Inspection]:
    return [Inspection.from_json(document.plain()) for document in read_attention(run)]


def lineage_rows(manifest: RunManifest) -> list[tuple[str, str]]:
    """Return what a manifest says of pretrained weights, of the run's start, its teacher, and the runs that it is the mean of.

    Empty where a model began with new weights and learned from labels alone.
    """
    rows = list[tuple[str, str]]()
    if manifest.pretrained.name is not UNSET:
        version = f" {manifest.pretrained.version}" if manifest.pretrained.version else ""
        rows.append(("Pretrained weights", f"{manifest.pretrained.name}{version}"))
    if manifest.merged is not None:
        rows += [("Mean of weights", _source(source, manifest.merged.metric)) for source in manifest.merged.sources]
    elif manifest.start is not None:
        rows.append(("Began with", _ancestry(manifest.start)))
    if manifest.teacher is not None:
        rows.append(("Teacher", _ancestry(manifest.teacher)))
    return rows


def _ancestry(start: Start) -> str:
    """Return a run and its checkpoint, and those that it began with itself."""
    own = f"{start.checkpoint} of {start.run}"
    return own if start.start is None else f"{own}, which began with {_ancestry(start.start)}"


def _source(source: MergedSource, metric: str) -> str:
    alone = "" if source.score is None else f"; {metric} {score(source.score)} by itself"
    return f"{_ancestry(source)}{alone}{'' if source.kept else '; left out, since the mean is better without it'}"
