"""The only place where configuration becomes objects. Everything below takes plain arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from torch import nn

from etude.config.annotations import TARGET
from etude.config.schema import Config
from etude.data.base import PlannedData
from etude.errors import ConfigurationError, EtudeError
from etude.hub import standing_in
from etude.models.pretrained.skeleton import PretrainedSkeleton
from etude.runs.folder import PRETRAINED, resolve
from etude.runs.stored import stored_configuration, stored_tokenizer
from etude.seeding import mix, seed_all
from etude.tasks.base import Task
from etude.tokenization.base import Tokenizer
from etude.training.machine import Machine
from etude.types import Facts

HEAD = (TARGET, "pooling")
"""The keys of a task that decide which pretrained weights its head has."""


@dataclass(frozen=True)
class Experiment:
    """What a configuration describes, built.

    Attributes:
        root: The typed root of the configuration.
        data: The data module, prepared.
        task: The task with its model.
        machine: What it is trained on.
        callbacks: The experiment's own callbacks.
    """

    root: Config
    data: PlannedData
    task: Task
    machine: Machine
    callbacks: list[Callback]


def build(nodes: dict[str, Any], tokenizer: Tokenizer | None = None, run: Path | None = None) -> Experiment:
    """Build the experiment of a configuration.

    Args:
        nodes: The composed and checked configuration as plain values (`etude.config.check.plain`).
        tokenizer: The run's tokenizer where it exists already; None: that of the run that it starts from, else made as
            the configuration says.
        run: The run whose weights the task is given afterwards, so that pretrained ones are not read; None: that which it
            starts from, if any.
    """
    root = Config.from_plain(nodes)
    machine: Machine = make(nodes["trainer"])()
    machine.settle()
    data = build_data(root, nodes, machine, tokenizer)
    # Weights are drawn here; every later seed is set by the task.
    seed_all(mix("weights", root.seed))
    start = resolve(root.start, root.paths.outputs) if run is None and root.start is not None else None
    task = build_task(nodes, data.facts, run, start)
    if root.non_finite is not None:
        task.guard = make(root.non_finite)()
    callbacks = [make(node)() for node in (nodes["callbacks"] or {}).values() if node]
    return Experiment(root, data, task, machine, callbacks)


def build_data(
    root: Config, nodes: dict[str, Any], machine: Machine, tokenizer: Tokenizer | None = None
) -> PlannedData:
    """Build the data module. It is prepared when it is first asked for facts."""
    if tokenizer is None and root.start is not None:
        tokenizer = stored_tokenizer(resolve(root.start, root.paths.outputs))
    return make(nodes["data"])(
        tokenizer=tokenizer if tokenizer is not None else make(nodes["tokenizer"])(),
        seed=root.seed,
        batch=root.batch,
        limit=root.limit,
        cache=root.paths.cache,
        micro_batches=machine.micro_batches,
        workers=machine.workers,
    )


def build_task(nodes: dict[str, Any], facts: Facts, run: Path | None = None, start: Path | None = None) -> Task:
    """Build the model for the facts, the task around it, and what the fine-tuning puts into it.

    Args:
        nodes: The configuration.
        facts: What the data knows.
        run: As in `build`.
        start: The run that it starts from, whose weights the model is given where there is no `run`.
    """
    parts = {name: make(nodes[name])() for name in ("scheduler", "decoding") if nodes.get(name)}
    make_task = make(nodes["task"])
    with standing_in(_kept(nodes, run, start)):
        model = build_model(nodes["model"], facts, make_task)
    task: Task = make_task(facts=facts, model=model, optimizer=make(nodes["optimizer"]), **parts)
    if nodes.get("finetune"):
        task.adjust(make(nodes["finetune"])())
    return task


def _kept(nodes: Mapping[str, Any], run: Path | None, start: Path | None) -> PretrainedSkeleton | None:
    """Return what is kept of the pretrained model whose weights are not needed; None: of none."""
    folder = run or start
    if folder is None or not (folder / PRETRAINED).exists():
        return None
    theirs = stored_configuration(folder)["task"]
    same_head = run is not None or all(theirs.get(key) == nodes["task"].get(key) for key in HEAD)
    return PretrainedSkeleton(folder / PRETRAINED, heads=same_head)


def build_model(node: Mapping[str, Any], facts: Facts, make_task: Callable[..., Task]) -> nn.Module:
    """Build a model of the kind that a task takes: one that may be of several kinds is told which.

    Raises:
        ConfigurationError: If it is of another kind: what a pretrained model is, only its files tell.
    """
    make_model, task = make(node), getattr(make_task, "func", make_task)
    wanted = wanted_model(task)
    told = {"wanted": wanted} if "wanted" in inspect.signature(make_model).parameters else {}
    model: nn.Module = make_model(facts=facts, **told)
    if not isinstance(model, wanted):
        raise ConfigurationError(
            f"{task.__name__} takes a model of the kind {wanted.__name__}, and this one is a {type(model).__name__}; set "
            "another model.name, model=… or task=…"
        )
    return model


def wanted_model(task: Callable[..., Task]) -> type[nn.Module]:
    """Return the class of models that a task takes, by its annotation; where that says nothing, any."""
    try:
        wanted = get_type_hints(task.__init__).get("model")
    except NameError:  # an annotation that only type checkers can read
        return nn.Module
    return wanted if isinstance(wanted, type) and issubclass(wanted, nn.Module) else nn.Module


def make(node: Mapping[str, Any]) -> Callable[..., Any]:
    """Return what the node names, with the node's arguments bound: call it with the rest.

    Raises:
        EtudeError: What a constructor inside the node says.
    """
    try:
        return instantiate(dict(node), _partial_=True, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, EtudeError):
            raise error.__cause__ from None
        raise
