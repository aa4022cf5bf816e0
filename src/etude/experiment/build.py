"""The only place where configuration becomes objects. Everything below takes plain arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from torch import nn

from etude.configuration.root import Root
from etude.data.module import Limit, PlannedData
from etude.data.plan import BatchSize
from etude.errors import ConfigurationError, EtudeError
from etude.experiment.machine import Machine
from etude.seeding import mix, seed_all
from etude.store.folder import TOKENIZER, resolve
from etude.tasks.base import Task
from etude.tokenization.tokenizer import Tokenizer
from etude.types import Facts


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

    root: Root
    data: PlannedData
    task: Task
    machine: Machine
    callbacks: list[Callback]


def build(nodes: dict[str, Any], tokenizer: Tokenizer | None = None) -> Experiment:
    """Build the experiment of a configuration.

    Args:
        nodes: The composed and checked configuration as plain values (`etude.configuration.check.plain`).
        tokenizer: The run's tokenizer where it exists already; None: that of the run that it starts from, else made as
            the configuration says.
    """
    root = Root.from_plain(nodes)
    machine: Machine = make(nodes["trainer"])()
    machine.settle()
    data = build_data(root, nodes, machine, tokenizer)
    # Weights are drawn here; every later seed is set by the task.
    seed_all(mix("weights", root.seed))
    task = build_task(nodes, data.facts)
    if root.non_finite is not None:
        task.guard = make(root.non_finite)()
    callbacks = [make(node)() for node in (nodes["callbacks"] or {}).values() if node]
    return Experiment(root, data, task, machine, callbacks)


def build_data(root: Root, nodes: dict[str, Any], machine: Machine, tokenizer: Tokenizer | None = None) -> PlannedData:
    """Build the data module. It is prepared when it is first asked for facts."""
    if tokenizer is None and root.start is not None:
        tokenizer = Tokenizer.load(resolve(root.start, root.paths.outputs) / TOKENIZER)
    return make(nodes["data"])(
        tokenizer=tokenizer if tokenizer is not None else make(nodes["tokenizer"])(),
        seed=root.seed,
        batch=BatchSize(root.batch.tokens, root.batch.examples),
        limit=Limit(root.limit.train, root.limit.val, root.limit.test, overfit=root.limit.overfit),
        cache=root.paths.cache,
        micro_batches=machine.micro_batches,
        workers=machine.workers,
    )


def build_task(nodes: dict[str, Any], facts: Facts) -> Task:
    """Build the model for the facts, the task around it, and what the fine-tuning puts into it."""
    parts = {name: make(nodes[name])() for name in ("scheduler", "decoding") if nodes.get(name)}
    model, make_task = make(nodes["model"])(facts=facts), make(nodes["task"])
    refuse_other_models(make_task, model)
    task: Task = make_task(facts=facts, model=model, optimizer=make(nodes["optimizer"]), **parts)
    if nodes.get("finetune"):
        task.adjust(make(nodes["finetune"])())
    return task


def refuse_other_models(make_task: Callable[..., Task], model: nn.Module) -> None:
    """Hold a model against the annotation of the task: what a pretrained one is, only its files tell.

    Raises:
        ConfigurationError: If it is not of the task's kind.
    """
    kind = getattr(make_task, "func", make_task)
    try:
        wanted = get_type_hints(kind.__init__).get("model")
    except NameError:  # an annotation that only type checkers can read
        return
    if isinstance(wanted, type) and not isinstance(model, wanted):
        raise ConfigurationError(
            f"{kind.__name__} takes a {wanted.__name__}, and the model is a {type(model).__name__}; set another model.name, "
            "model=… or task=…"
        )


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
