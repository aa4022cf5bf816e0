"""Checkpoint averaging: averages of a run's weights are scored, and the best is kept if it beats the best checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from etude.atomic import replace_link
from etude.checkpoints.checkpoint import read_weights, snapshot, write
from etude.checkpoints.integrity import CheckpointBrokenError, checkpoint_folder
from etude.checkpoints.retention import Retention, Saved, newest_scored, saved_checkpoints
from etude.config.schema import CheckpointAverages
from etude.runs.saved_run import SavedRun
from etude.training import launch
from etude.training.build import Experiment
from etude.training.checkpoint_evaluation import score

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A candidate average.

    Attributes:
        name: Name of its checkpoint, such as `step-00012000-mean-last-5`.
        steps: Steps of the checkpoints that are averaged, in ascending order.
    """

    name: str
    steps: tuple[int, ...]


def candidates(average: CheckpointAverages, retention: Retention, saved: Sequence[Saved]) -> list[Candidate]:
    """Return the candidate averages for these checkpoints; sizes that exceed their number are logged and left out."""
    averages = []
    newest = max(newest_scored(saved), default=0)
    ordered = {"last": newest_scored(saved), "best": retention.ranked(saved)}
    for kind, sizes in (("last", average.last), ("best", average.best)):
        for size in sizes:
            steps = ordered[kind][:size]
            if len(steps) < size:
                _log.warning("average.%s=%d: not tried, there are %d validated checkpoints", kind, size, len(steps))
            else:
                name = f"{checkpoint_folder(Path(), newest).name}-mean-{kind}-{size}"
                averages.append(Candidate(name, tuple(sorted(steps))))
    return averages


def mean_weights(folders: Sequence[Path], wanted: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the mean of the checkpoints' weights, computed in float64; integer tensors are those of the last checkpoint.

    Args:
        folders: The checkpoints.
        wanted: As in `read_weights`: where those are sharded, the mean is taken of this rank's slices.

    Returns:
        The tensors by name; tied ones are one tensor.

    Raises:
        CheckpointBrokenError: If a checkpoint is damaged.
    """
    sums = read_weights(folders[0], wanted)
    types = {name: tensor.dtype for name, tensor in sums.items()}
    tied: dict[int, str] = {}
    stored_as = {name: tied.setdefault(id(tensor), name) for name, tensor in sums.items()}
    for folder in folders[1:]:
        weights = read_weights(folder, wanted)
        sums = {
            name: sums[name].double() + weights[name] if weights[name].is_floating_point() else weights[name]
            for name in tied.values()
        }
    means = {
        name: (sums[name] / len(folders)).to(types[name]) if sums[name].is_floating_point() else sums[name]
        for name in tied.values()
    }
    return {name: means[stored] for name, stored in stored_as.items()}


def keep_best_average(
    run: SavedRun, experiment: Experiment, retention: Retention, step: int, companions: Mapping[str, Path]
) -> dict[str, float]:
    """Score the averages of the configuration; the best becomes a checkpoint and `best` if it beats all checkpoints.

    Each average is scored on the validation split by `validate.metric`, as the checkpoints were. The result is a function of
    the checkpoints alone: a run that is killed here repeats it with the same result.

    Args:
        run: The run.
        experiment: The run's experiment, after training; the weights of its task are replaced.
        retention: The run's retention, which compares scores.
        step: Last step of the run.
        companions: Files and folders that are copied into the checkpoint, by their name there.

    Returns:
        The score of the best checkpoint and of each average, by name; empty if there is no average to score.
    """
    folder = run.checkpoints
    saved = saved_checkpoints(folder, step)
    averages = candidates(experiment.config.average, retention, saved)
    best = next(iter(retention.ranked(saved)), None)
    if not averages or best is None:
        return {}
    chosen, scores = checkpoint_folder(folder, best).name, {}
    scores[chosen] = float(dict(saved)[best] or 0.0)
    for candidate in averages:
        value = _score(run, experiment, candidate)
        if value is None:
            continue
        scores[candidate.name] = value
        _log.info(
            "%s: %s %.6g; %s: %.6g", candidate.name, experiment.config.validate.metric, value, chosen, scores[chosen]
        )
        if retention.is_better(value, scores[chosen]):
            chosen = candidate.name
    for candidate in averages:
        if candidate.name == chosen:
            _keep(run, candidate, scores[chosen], companions)
    return scores


def _score(run: SavedRun, experiment: Experiment, candidate: Candidate) -> float | None:
    """Return the score of an average on the validation split; None if one of its checkpoints is broken."""
    task = experiment.task
    try:
        weights = mean_weights(_folders(run, candidate), task.state_dict())
    except CheckpointBrokenError as error:
        _log.warning("%s is not tried: %s", candidate.name, error)
        return None
    task.load_state_dict(weights)
    task.bootstrap = 0
    score(run.path, experiment, "val")
    return task.results[experiment.config.validate.metric.removeprefix("val/")].value


def _keep(run: SavedRun, candidate: Candidate, value: float, companions: Mapping[str, Path]) -> None:
    """Write the checkpoint of an average and link `best` to it."""
    if launch.global_rank() > 0:
        return
    folder = run.checkpoints
    content = {
        "state_dict": mean_weights(_folders(run, candidate)),
        "global_step": candidate.steps[-1],
        "etude": {"score": value, "mean_of": list(candidate.steps)},
    }
    write(snapshot(content), folder / candidate.name, companions)
    replace_link(folder / "best", candidate.name)


def _folders(run: SavedRun, candidate: Candidate) -> list[Path]:
    return [checkpoint_folder(run.checkpoints, step) for step in candidate.steps]
