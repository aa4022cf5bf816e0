"""Experiments from configurations: the only place where configuration becomes objects.

Everything below takes plain arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from torch import nn

from etude.config.annotations import TARGET
from etude.config.schema import Config, Node
from etude.data.base import DataSettings, PlannedData
from etude.errors import ConfigurationError, EtudeError
from etude.models.pretrained.base import PretrainedModel
from etude.models.pretrained.skeleton import PretrainedSkeleton
from etude.runs.folder import resolve
from etude.runs.saved_run import SavedRun
from etude.seeding import mix, seed_all
from etude.tasks.base import Task
from etude.tokenization.base import Tokenizer
from etude.training.callbacks.compilation import Compilation
from etude.training.loggers.base import Tracker
from etude.training.machine import Machine
from etude.types import Facts

HEAD = (TARGET, "pooling")
"""Keys of a task that decide which pretrained weights its head has."""


@dataclass(frozen=True)
class Experiment:
    """The objects that a configuration describes.

    Attributes:
        config: The configuration.
        data: The data module.
        task: The task with its model.
        machine: The machine that trains it.
        callbacks: The experiment's own callbacks.
        warm_start: The run whose weights the task begins with; None: new or pretrained weights, or those of a restored run.
        teacher: What the manifest says of the run that the task learns from; None: it learns from the labels alone.
        compilation: What compiles the layers of the task, a callback of its training; None: they are not compiled.
    """

    config: Config
    data: PlannedData
    task: Task
    machine: Machine
    callbacks: list[Callback]
    warm_start: SavedRun | None = None
    compilation: Compilation | None = None
    teacher: Mapping[str, Any] | None = None

    def trainer(self, folder: Path, **arguments: Any) -> lightning.Trainer:
        """Return a Trainer for this machine, in the experiment's precision, with the arguments of `Machine.trainer`."""
        return self.machine.trainer(folder, precision=self.config.precision, **arguments)


def build(config: Config, tokenizer: Tokenizer | None = None, restored_run: SavedRun | None = None) -> Experiment:
    """Build the experiment of a configuration.

    Args:
        config: The configuration.
        tokenizer: The tokenizer of the run, if it exists already; None: that of the warm start, else a new one.
        restored_run: The run whose weights the task will be given: no pretrained weights are read, and no warm start is made.
    """
    machine: Machine = factory(config.trainer)()
    machine.configure_torch()
    warm_start = None if restored_run is not None else warm_start_run(config)
    if tokenizer is None and warm_start is not None:
        tokenizer = warm_start.tokenizer
    data = build_data(config, machine, tokenizer)
    # Weights are drawn here; every later seed is set by the task.
    seed_all(mix("weights", config.seed))
    task = build_task(config, data.facts, restored_run, warm_start)
    if config.non_finite is not None:
        task.non_finite = factory(config.non_finite)()
    callbacks = [factory(node)() for node in config.callbacks.values()]
    return Experiment(config, data, task, machine, callbacks, warm_start, machine.adapt(task))


def warm_start_run(config: Config) -> SavedRun | None:
    """Open the run that `start` names, if the configuration has a warm start."""
    return None if config.start is None else SavedRun.open(resolve(config.start, config.paths.outputs))


def build_data(config: Config, machine: Machine, tokenizer: Tokenizer | None = None) -> PlannedData:
    """Build the data module, which prepares its data at the first use of its facts.

    Args:
        config: The configuration.
        machine: Number of micro-batches and of worker processes.
        tokenizer: A trained tokenizer; None: that of the configuration.
    """
    settings = DataSettings(
        tokenizer=tokenizer if tokenizer is not None else factory(config.tokenizer)(),
        seed=config.seed,
        batch=config.batch,
        limit=config.limit,
        cache=config.paths.cache,
        micro_batches=machine.slices,
        workers=machine.workers,
    )
    return factory(config.data)(settings=settings)


def build_task(
    config: Config, facts: Facts, restored_run: SavedRun | None = None, warm_start: SavedRun | None = None
) -> Task:
    """Build the model, the task around it, and the modules that fine-tuning adds.

    Args:
        config: The configuration.
        facts: Facts of the data.
        restored_run: The run whose weights the task will be given.
        warm_start: The run whose weights the model will be given, if there is no `restored_run`.
    """
    optional = {"scheduler": config.scheduler, "decoding": config.decoding}
    parts = {name: factory(node)() for name, node in optional.items() if node is not None}
    make_task = factory(config.task)
    model = build_model(config.model, facts, make_task, _saved_skeleton(config, restored_run, warm_start))
    task: Task = make_task(facts=facts, model=model, optimizer=factory(config.optimizer), **parts)
    if config.finetune is not None:
        task.adjust(factory(config.finetune)())
    return task


def _saved_skeleton(
    config: Config, restored_run: SavedRun | None, warm_start: SavedRun | None
) -> PretrainedSkeleton | None:
    """Return the skeleton of a pretrained model that a run saved, if that run's weights replace the pretrained ones."""
    run = restored_run or warm_start
    if run is None or run.skeleton is None:
        return None
    saved, new = run.config.task.values, config.task.values
    same_head = restored_run is not None or all(saved.get(key) == new.get(key) for key in HEAD)
    return PretrainedSkeleton(run.skeleton, heads=same_head)


def build_model(
    node: Node, facts: Facts, make_task: Callable[..., Task], saved: PretrainedSkeleton | None = None
) -> nn.Module:
    """Build the model of a configuration for a task.

    Args:
        node: Node of a module class or of a `PretrainedModel`.
        facts: Facts of the data.
        make_task: The task's class, or a partial application of it.
        saved: Skeleton of the pretrained model that a run saved, used in place of the model's files.

    Raises:
        ConfigurationError: If the task takes another kind of model; only a pretrained model's files tell its kind.
    """
    make_model, task = factory(node), getattr(make_task, "func", make_task)
    interface: type[nn.Module] = getattr(task, "MODEL", nn.Module)  # a factory function has none
    kind = getattr(make_model, "func", make_model)
    model: nn.Module
    if isinstance(kind, type) and issubclass(kind, PretrainedModel):
        model = make_model().build(facts, interface, saved)
    else:
        model = make_model(facts=facts)
    if not isinstance(model, interface):
        raise ConfigurationError(
            f"{task.__name__} takes a model of the kind {interface.__name__}, and this one is a {type(model).__name__}; "
            "set another model.name, model=… or task=…"
        )
    return model


def factory(node: Node) -> Callable[..., Any]:
    """Return the node's class or function with the node's arguments bound; call it with the remaining arguments.

    Raises:
        EtudeError: If a constructor inside the node raises it.
    """
    try:
        return instantiate(dict(node.values), _partial_=True, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, EtudeError):
            raise error.__cause__ from None
        raise


def build_logger(node: Node, run: SavedRun) -> Logger:
    """Build one of a run's loggers: a `Tracker` opens the run, a logger of Lightning's writes to the run's folder."""
    make_logger = factory(node)
    return make_logger().open(run) if _is_tracker(make_logger) else make_logger(save_dir=run.path)


def check_trackers(config: Config) -> None:
    """Refuse trackers that cannot work here.

    Raises:
        ConfigurationError: If a package is missing, or an argument is wrong.
    """
    for node in config.logger.values():
        if _is_tracker(make_tracker := factory(node)):
            make_tracker().check()


def _is_tracker(make_logger: Callable[..., Any]) -> bool:
    kind = getattr(make_logger, "func", make_logger)
    return isinstance(kind, type) and issubclass(kind, Tracker)
