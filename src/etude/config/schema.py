"""The configuration, typed: what composition ends in, and the only form of it that anything below the command line sees.

The root and its sections are dataclasses; what lies under a group is a `Node`, typed by the constructor that it names.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from etude.config.annotations import TARGET
from etude.config.values import changes, without_secrets
from etude.data.sizes import BatchSize, Limit
from etude.duration import Duration

NODES = (
    "task",
    "model",
    "data",
    "tokenizer",
    "optimizer",
    "scheduler",
    "finetune",
    "distillation",
    "decoding",
    "trainer",
    "non_finite",
)
"""The root keys that hold one node each."""

MAPPINGS = ("callbacks", "logger")
"""The root keys that hold nodes by name."""

METRICS = "task.metrics"
"""Where a task has the nodes of its metrics, by the names of their scores."""

Precision = Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true"]
"""Lightning's names: the type of the weights (`true`), or of the factors of matrix products alone (`mixed`)."""


@dataclass(frozen=True)
class Node:
    """One object as a configuration describes it.

    Attributes:
        values: `_target_`, the dotted name of what makes the object, and the arguments that are written for it; nested nodes
            are mappings with a `_target_` of their own.
    """

    values: Mapping[str, Any]

    @property
    def target(self) -> str:
        """Dotted name of the class or function."""
        return str(self.values[TARGET])

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments by name."""
        return {name: value for name, value in self.values.items() if name != TARGET}


@dataclass(frozen=True)
class Validation:
    """When the validation split is scored, and which score counts."""

    every: Duration
    """The time between two validations; one more is always made at the end."""
    metric: str
    """The metric that says which checkpoint is best, such as `val/bleu`: one of the task's."""
    mode: Literal["min", "max"]
    """Whether the best is the smallest or the largest."""


@dataclass(frozen=True)
class EarlyStop:
    """When a run ends before its budget is spent."""

    patience: int | None = None
    """After so many validations without a better `validate.metric`; null: never."""
    min_delta: float = 0.0
    """A score that is better by no more than this is not better."""


@dataclass(frozen=True)
class CheckpointAverages:
    """Averages of the weights of checkpoints, tried after training: the best one on the validation split is kept."""

    last: tuple[int, ...] = ()
    """Of so many of the last validated checkpoints, such as [3, 5]: each number is tried."""
    best: tuple[int, ...] = ()
    """Of so many of the best ones, by `validate.metric`."""


@dataclass(frozen=True)
class Checkpoints:
    """When checkpoints are written, and which stay."""

    every: Duration
    """The time between two checkpoints; one more is always written at the end."""
    keep_last: int = 2
    """So many of the newest stay; at least 2, so that one survives a broken one."""
    keep_best: int = 1
    """So many of the best, by `validate.metric`, stay besides."""
    keep_every: Duration | None = None
    """One is written, and stays for good, whenever so many steps, epochs or tokens have passed; null: none."""


@dataclass(frozen=True)
class Log:
    """When values of training are recorded."""

    every: Duration
    """The time between two lines of `metrics.jsonl`."""
    norms: bool = False
    """Whether the norms of each layer's gradient, weights and update are recorded, too."""
    stall_after: float | None = 100.0
    """It is said, and W&B sends an alert, after so many times a usual step (and a minute) without one; null: never."""


@dataclass(frozen=True)
class RunIdentity:
    """What the run is called."""

    experiment: str | None = None
    """The folder of its runs; null: the name of the experiment that was chosen."""
    name: str | None = None
    """The run's folder inside the experiment's; null: the time of its start."""
    tags: tuple[str, ...] = ()
    """Words to find it by."""
    notes: str = ""
    """A sentence about it."""


@dataclass(frozen=True)
class Paths:
    """Where things are written; `~` is the home folder."""

    outputs: Path
    """The folder of all runs."""
    cache: Path
    """The folder of prepared data, which can be deleted at any time."""


@dataclass(frozen=True)
class Config:
    """Everything that a command can count on, whatever the task.

    Made by `etude.config.check.checked` of what Hydra composed, or of what a run stored. `values` and `overrides` are what
    is written into a run's folder.
    """

    seed: int
    """Every random choice follows from it."""
    budget: Duration
    """Length of the training."""
    batch: BatchSize
    """The global batch of one step."""
    validate: Validation
    """When the validation split is scored, and which score counts."""
    checkpoint: Checkpoints
    """When checkpoints are written, and which are kept."""
    log: Log
    """When values of training are recorded."""
    limit: Limit
    """How many examples of each split are used."""
    run: RunIdentity
    """The run's name and how to find it."""
    paths: Paths
    """Where things are written."""
    task: Node
    """The loss and the metrics: makes a `LightningModule`."""
    model: Node
    """The network."""
    data: Node
    """The corpus and its batches: makes a `LightningDataModule`."""
    tokenizer: Node
    """How text becomes ids."""
    optimizer: Node
    """Makes a torch optimizer of parameters."""
    scheduler: Node
    """The learning rate schedule."""
    trainer: Node
    """The machine. Changing it never changes the science."""
    precision: Precision = "32-true"
    """Precision of the computation: a choice of the experiment, whatever the machine."""
    start: str | None = None
    """A run to start from: with its model, the weights of its best checkpoint and its tokenizer; null: none."""
    finetune: Node | None = None
    """Which parameters train, at what rate and from when; null: all, from the start."""
    distillation: Node | None = None
    """The run whose probabilities are learned besides the labels; null: the labels alone."""
    decoding: Node | None = None
    """How sequences are searched; null for a task that writes none."""
    non_finite: Node | None = None
    """What is done about a loss or gradient that is not finite; null: the run stops."""
    callbacks: Mapping[str, Node] = field(default_factory=dict)
    """Lightning callbacks by name; null takes one away."""
    logger: Mapping[str, Node] = field(default_factory=dict)
    """Trackers by name, besides the local record; null takes one away."""
    stop: EarlyStop = EarlyStop()
    """When training ends before the budget is spent."""
    average: CheckpointAverages = CheckpointAverages()
    """Which averages of checkpoints are tried at the end."""
    trust: tuple[str, ...] = ()
    """Packages besides etude whose classes may be instantiated."""
    values: Mapping[str, Any] = field(init=False, repr=False, compare=False, default_factory=dict)
    """The same as plain values, as a run stores it."""
    overrides: tuple[str, ...] = field(init=False, compare=False, default=())
    """The words that were written on the command line, such as `seed=2`."""

    @classmethod
    def of(cls, values: Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
        """Type plain values that have been checked, as `etude.config.check.plain` returns them."""
        mappings: dict[str, Any] = {
            group: {name: Node(node) for name, node in (values.get(group) or {}).items() if node} for group in MAPPINGS
        }
        nodes: dict[str, Any] = {name: Node(values[name]) for name in NODES if values.get(name) is not None}
        optional: dict[str, Any] = {name: values[name] for name in ("precision", "start") if name in values}
        config = cls(
            seed=values["seed"],
            budget=Duration.parse(values["budget"]),
            batch=BatchSize(**values["batch"]),
            validate=Validation(**_timed(values["validate"])),
            checkpoint=Checkpoints(**_timed(values["checkpoint"])),
            log=Log(**_timed(values["log"])),
            limit=Limit(**values["limit"]),
            run=RunIdentity(**{**values["run"], "tags": tuple(values["run"].get("tags", ()))}),
            paths=Paths(**{name: Path(path).expanduser() for name, path in values["paths"].items()}),
            stop=EarlyStop(**values.get("stop", {})),
            average=CheckpointAverages(**{name: tuple(sizes) for name, sizes in values.get("average", {}).items()}),
            trust=tuple(values.get("trust", ())),
            **optional,
            **nodes,
            **mappings,
        )
        object.__setattr__(config, "values", values)
        object.__setattr__(config, "overrides", tuple(overrides))
        return config

    def updated(self, updates: Mapping[str, Any], overrides: Sequence[str] | None = None) -> Config:
        """Return the configuration with other values of some dotted keys, which are not checked.

        Args:
            updates: New values by dotted key, such as `trainer.devices`; a key that does not exist is added.
            overrides: Command line that the result records; None: the same.
        """
        values = copy.deepcopy(dict(self.values))
        for key, value in updates.items():
            *parents, name = key.split(".")
            place = values
            for parent in parents:
                place = place[parent]
            place[name] = value
        return Config.of(values, self.overrides if overrides is None else overrides)

    def changes_to(self, other: Config) -> dict[str, str]:
        """Return how another configuration differs, secrets left out: `256 -> 512` by dotted key, in order."""
        return changes(without_secrets(self.values), without_secrets(other.values))


def _timed(section: Mapping[str, Any]) -> dict[str, Any]:
    durations = {
        name: Duration.parse(section[name]) for name in ("every", "keep_every") if section.get(name) is not None
    }
    return {**section, **durations}
