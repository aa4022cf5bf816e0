"""Averages of the weights of several checkpoints of a run: which there are, which is best, and its own checkpoint."""

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
from etude.training import launch
from etude.training.build import Experiment
from etude.training.evaluation import score

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """An average that is tried.

    Attributes:
        name: Of its checkpoint, such as `step-00012000-mean-last-5`.
        steps: Whose weights it is the mean of.
    """

    name: str
    steps: tuple[int, ...]


def candidates(average: CheckpointAverages, retention: Retention, saved: Sequence[Saved]) -> list[Candidate]:
    """Return the averages that a run with these checkpoints can try; those of too few checkpoints are named in the log."""
    found = []
    newest = max(newest_scored(saved), default=0)
    ordered = {"last": newest_scored(saved), "best": retention.ranked(saved)}
    for kind, sizes in (("last", average.last), ("best", average.best)):
        for size in sizes:
            steps = ordered[kind][:size]
            if len(steps) < size:
                _log.warning("average.%s=%d: not tried, there are %d validated checkpoints", kind, size, len(steps))
            else:
                name = f"{checkpoint_folder(Path(), newest).name}-mean-{kind}-{size}"
                found.append(Candidate(name, tuple(sorted(steps))))
    return found


def mean_weights(folders: Sequence[Path]) -> dict[str, Tensor]:
    """Return the mean of the checkpoints' weights, taken in float64; what is no real number is that of the last one.

    Raises:
        CheckpointBrokenError: If one of them is not what was written.
    """
    sums = read_weights(folders[0])
    types = {name: tensor.dtype for name, tensor in sums.items()}
    for folder in folders[1:]:
        weights = read_weights(folder)
        sums = {
            name: sums[name].double() + tensor if tensor.is_floating_point() else tensor
            for name, tensor in weights.items()
        }
    return {
        name: (tensor / len(folders)).to(types[name]) if tensor.is_floating_point() else tensor
        for name, tensor in sums.items()
    }


def keep_best_average(
    run: Path, experiment: Experiment, retention: Retention, step: int, companions: Mapping[str, Path]
) -> dict[str, float]:
    """Try the averages that the configuration lists; one that beats the best checkpoint gets a checkpoint and is `best`.

    Each is scored on the validation split by `validate.metric`, as the checkpoints were. A function of the checkpoints
    alone: a run that is killed in it does it again, with the same result.

    Args:
        run: The run's folder.
        experiment: The run's experiment, trained; its task has other weights afterwards.
        retention: Of the run: it knows which of two scores is better.
        step: The last step of the run.
        companions: Files and folders that go into the checkpoint, by their name there.

    Returns:
        The score of the best checkpoint and of each average, by name; empty where no average is tried.
    """
    folder = run / "checkpoints"
    saved = saved_checkpoints(folder, step)
    tried = candidates(experiment.root.average, retention, saved)
    best = next(iter(retention.ranked(saved)), None)
    if not tried or best is None:
        return {}
    chosen, scores = checkpoint_folder(folder, best).name, {}
    scores[chosen] = float(dict(saved)[best] or 0.0)
    for candidate in tried:
        value = _score(run, experiment, candidate)
        if value is None:
            continue
        scores[candidate.name] = value
        _log.info(
            "%s: %s %.6g; %s: %.6g", candidate.name, experiment.root.validate.metric, value, chosen, scores[chosen]
        )
        if retention.is_better(value, scores[chosen]):
            chosen = candidate.name
    for candidate in tried:
        if candidate.name == chosen:
            _keep(run, experiment, candidate, scores[chosen], companions)
    return scores


def _score(run: Path, experiment: Experiment, candidate: Candidate) -> float | None:
    """Return the score of an average on the validation split, or None where one of its checkpoints is broken."""
    try:
        weights = mean_weights(_folders(run, candidate))
    except CheckpointBrokenError as error:
        _log.warning("%s is not tried: %s", candidate.name, error)
        return None
    task = experiment.task
    task.load_state_dict(weights)
    task.bootstrap = 0
    score(run, experiment, "val")
    return task.results[experiment.root.validate.metric.removeprefix("val/")].value


def _keep(
    run: Path, experiment: Experiment, candidate: Candidate, value: float, companions: Mapping[str, Path]
) -> None:
    """Write the checkpoint of an average and point `best` to it."""
    if launch.global_rank() > 0:
        return
    folder, task = run / "checkpoints", experiment.task
    task.load_state_dict(mean_weights(_folders(run, candidate)))
    content = {
        "state_dict": task.state_dict(),  # of the task, since there tied weights are one
        "global_step": candidate.steps[-1],
        "etude": {"score": value, "mean_of": list(candidate.steps)},
    }
    write(snapshot(content), folder / candidate.name, companions)
    replace_link(folder / "best", candidate.name)


def _folders(run: Path, candidate: Candidate) -> list[Path]:
    return [checkpoint_folder(run / "checkpoints", step) for step in candidate.steps]
