"""Merging: one model whose weights are the mean of those of several runs (Wortsman et al. 2022, "Model soups")."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from torch import Tensor

from etude.checkpoints.checkpoint import read_weights
from etude.errors import ConfigurationError
from etude.optim.finetune.lora import ADAPTERS
from etude.runs.saved_run import SavedRun
from etude.training.build import Experiment
from etude.training.checkpoint_averaging import mean_weights
from etude.training.checkpoint_evaluation import score
from etude.training.trainer import retention
from etude.training.warm_start import describe_source

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ingredient:
    """A run that may be merged.

    Attributes:
        run: The run.
        checkpoint: Its checkpoint whose weights are taken.
    """

    run: SavedRun
    checkpoint: Path


@dataclass(frozen=True)
class Merging:
    """Which runs a mean is of.

    Attributes:
        kept: The ingredients that it is of, by their places, in ascending order.
        scores: The score of each ingredient by itself; None where it was not scored, or is not finite.
    """

    kept: tuple[int, ...]
    scores: tuple[float | None, ...]

    def described(self, ingredients: Sequence[Ingredient]) -> list[dict[str, Any]]:
        """Return the ingredients as a manifest names them."""
        return [
            {**describe_source(one.run, one.checkpoint), "score": alone, "kept": place in self.kept}
            for place, (one, alone) in enumerate(zip(ingredients, self.scores, strict=True))
        ]


Scorer = Callable[[Sequence[Ingredient]], float | None]
"""Returns the score of the mean of some ingredients on the validation split; None if it is not finite."""

IsBetter = Callable[[float, float], bool]
"""Whether the first score is strictly better than the second."""


def uniform(ingredients: Sequence[Ingredient], scored: Scorer, is_better: IsBetter) -> Merging:
    """Take all; nothing is scored."""
    return Merging(tuple(range(len(ingredients))), (None,) * len(ingredients))


def greedy(ingredients: Sequence[Ingredient], scored: Scorer, is_better: IsBetter) -> Merging:
    """Take the best, and then each that does not make the mean worse, the better ones first (recipe 1 of the paper).

    The mean is never worse on the validation split than the best ingredient. Of equal ingredients the earlier comes first.

    Raises:
        ConfigurationError: If none has a finite score.
    """
    alone = tuple(scored([one]) for one in ingredients)
    finite = {place: value for place, value in enumerate(alone) if value is not None}
    if not finite:
        raise ConfigurationError("none of the runs has a finite score on the validation split; write method=mean")
    order: list[int] = []
    for place, value in finite.items():
        after = next((at for at, other in enumerate(order) if is_better(value, finite[other])), len(order))
        order.insert(after, place)
    kept, best = [order[0]], finite[order[0]]
    for place in order[1:]:
        with_it = scored([ingredients[other] for other in sorted([*kept, place])])
        if with_it is not None and not is_better(best, with_it):
            kept, best = [*kept, place], with_it
    return Merging(tuple(sorted(kept)), alone)


METHODS: Mapping[str, Callable[[Sequence[Ingredient], Scorer, IsBetter], Merging]] = {"mean": uniform, "greedy": greedy}
"""How the runs that are merged are chosen, by name."""


def scorer(folder: Path, experiment: Experiment) -> Scorer:
    """Return what scores means by `validate.metric`, as validations were scored; the weights of the task are replaced.

    Args:
        folder: Folder for the trainer.
        experiment: The experiment of the first run.
    """
    metric = experiment.config.validate.metric

    def scored(ingredients: Sequence[Ingredient]) -> float | None:
        task = experiment.task
        task.load_state_dict(mean_weights([one.checkpoint for one in ingredients]))
        task.bootstrap = 0
        score(folder, experiment, "val")
        value = float(task.results[metric.removeprefix("val/")].value)
        _log.info("%s %.6g: %s", metric, value, ", ".join(str(one.run.path) for one in ingredients))
        return value if isfinite(value) else None

    return scored


def better(experiment: Experiment) -> IsBetter:
    """Return what compares scores by `validate.mode`."""
    return retention(experiment.config, experiment.data.clock).is_better


def check_ingredients(ingredients: Sequence[Ingredient]) -> None:
    """Refuse runs whose weights have no mean: of another task, vocabulary, classes or shape than the first.

    Raises:
        ConfigurationError: If one does not fit.
    """
    first = ingredients[0].run
    shapes = _shapes(ingredients[0])
    for one in ingredients[1:]:
        run = one.run
        if run.config.task.target != first.config.task.target:
            tasks = [other.config.task.target.rpartition(".")[2] for other in (run, first)]
            raise ConfigurationError(
                f"{run.path} has learned another task than {first.path} ({tasks[0]}, not {tasks[1]})"
            )
        if run.tokenizer.fingerprint != first.tokenizer.fingerprint:
            raise ConfigurationError(
                f"{run.path} has another vocabulary than {first.path}; merge runs that were trained with the same tokenizer"
            )
        if run.facts != first.facts:
            raise ConfigurationError(
                f"{run.path} has other classes or labels than {first.path}; merge runs of data with the same"
            )
        other = _shapes(one)
        differing = {name for name in shapes.keys() | other.keys() if shapes.get(name) != other.get(name)}
        if differing:
            name = min(differing)
            raise ConfigurationError(
                f"{run.path} has another shape than {first.path}: {len(differing)} tensors differ, such as {name} "
                f"({other.get(name, 'absent')}, not {shapes.get(name, 'there')}); merge runs of one model"
            )


def _shapes(ingredient: Ingredient) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights.

    Raises:
        ConfigurationError: If there are adapters among them: the product of means is no mean of products.
    """
    weights: dict[str, Tensor] = read_weights(ingredient.checkpoint)
    adapters = [name for name in weights if name.endswith(ADAPTERS)]
    if adapters:
        raise ConfigurationError(
            f"{ingredient.run.path} has adapters ({adapters[0]}), whose means are not those of the models; start a run from "
            "its export, and merge that"
        )
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}
