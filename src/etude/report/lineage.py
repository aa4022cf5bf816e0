"""The runs and files that a run's weights come from, as rows of a table."""

from __future__ import annotations

from msgspec import UNSET

from etude.report.writing import score
from etude.runs.documents import MergedSource, RunManifest, Start


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
