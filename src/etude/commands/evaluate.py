"""`etude evaluate`: the scores of runs on a split or on any files, and whether they differ by more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etude.commands.score_table import show_scores
from etude.errors import ConfigurationError
from etude.report.significance import Judged, differences
from etude.runs.stored import for_one_process, stored_configuration
from etude.tokenization.base import Tokenizer
from etude.training.build import build
from etude.training.evaluated_files import FILES, AskedFiles
from etude.training.evaluation import evaluate_checkpoint
from etude.training.other_settings import other_settings
from etude.training.restore import find_checkpoint, load_members

OVERRIDABLE = ("batch", "decoding", "trainer", "limit", "paths", "task.metrics", "task.null_threshold")
"""What an evaluation may change of a run's configuration; the keys of `OWN` are its own."""

OWN = ("split", "checkpoint", "ensemble", *FILES)
"""What an evaluation is asked besides."""


def evaluate(runs: Sequence[Path], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate the best checkpoint of each run, and compare the runs with the first one.

    Args:
        runs: Folders of runs.
        overrides: Dotted keys and values: `split`, `checkpoint` (`best`, `last` or a step); or, instead of a split,
            `source`, `reference` (one file or several) and perhaps `name`; `ensemble` (other runs, whose checkpoints join
            that of the one run); and keys of the run's configuration below `OVERRIDABLE`.

    Returns:
        What `evaluations/<split>.json` says; for several runs, by their folder, with what differs from the first.
    """
    own = {key: value for key, value in overrides.items() if key in OWN}
    if "ensemble" in own and len(runs) > 1:
        raise ConfigurationError(f"ensemble={own['ensemble']} joins one RUN, not {len(runs)}; name one (command line)")
    which, files = str(own.get("checkpoint", "best")), AskedFiles.of(own)
    changed = {key: overrides[key] for key in overrides if key not in own}
    found: dict[str, Any] = {}
    judged: list[Judged] = []
    for run in runs:
        values = stored_configuration(run, changed, OVERRIDABLE)
        settings = other_settings(run, values, changed, which)
        values = for_one_process(values, changed)
        values = files.instead(values, changed) if files else values
        experiment = build(values, Tokenizer.load(run / "tokenizer"), run)
        members = load_members(own.get("ensemble"), run, experiment.root.paths.outputs, which)
        checkpoint = find_checkpoint(run, which)
        found[str(run)] = evaluate_checkpoint(
            run, experiment, checkpoint, own.get("split"), members=members, files=files, settings=settings
        )
        judged.append(Judged.of(experiment.task))
    for run, other in zip(runs[1:], judged[1:], strict=True):
        found[str(run)]["against"] = {"run": str(runs[0]), **differences(judged[0], other)}
    show_scores(found)
    return found[str(runs[0])] if len(runs) == 1 else found
