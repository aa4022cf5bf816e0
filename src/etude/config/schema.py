"""The root of every configuration, typed. What lies under a group is typed by the constructor that it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from etude.data.sizes import BatchSize, Limit
from etude.duration import Duration

Node = dict[str, Any]
"""What makes one object: `_target_` and the arguments of its constructor."""

NODES = (
    "task",
    "model",
    "data",
    "tokenizer",
    "optimizer",
    "scheduler",
    "finetune",
    "decoding",
    "trainer",
    "logger",
    "non_finite",
)
"""The root keys that hold one node each. `callbacks` holds a mapping of nodes."""


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
    """Everything that a command can count on, whatever the task."""

    seed: int
    """Every random choice follows from it."""
    budget: Duration
    """How long training lasts."""
    batch: BatchSize
    """The global batch of one step."""
    validate: Validation
    """When the validation split is scored, and which score counts."""
    checkpoint: Checkpoints
    """When checkpoints are written, and which stay."""
    log: Log
    """When values of training are recorded."""
    limit: Limit
    """How many examples of each split are used."""
    run: RunIdentity
    """What the run is called."""
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
    """The course of the learning rate."""
    trainer: Node
    """The machine. Changing it never changes the science."""
    start: str | None = None
    """A run that it starts from: with its model, the weights of its best checkpoint and its tokenizer; null: none."""
    finetune: Node | None = None
    """Which parameters train, at what rate and from when; null: all, from the start."""
    decoding: Node | None = None
    """How sequences are searched; null for a task that writes none."""
    logger: Node | None = None
    """A Lightning logger besides the local record; null: none."""
    non_finite: Node | None = None
    """What is done about a loss or gradient that is not finite; null: the run stops."""
    callbacks: Mapping[str, Node | None] = field(default_factory=dict)
    """Lightning callbacks by name; null takes one away."""
    stop: EarlyStop = EarlyStop()
    """When it ends before that."""
    average: CheckpointAverages = CheckpointAverages()
    """Which averages of checkpoints are tried at the end."""
    trust: tuple[str, ...] = ()
    """Packages besides etude whose classes may be instantiated."""

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Config:
        """Give types to a checked configuration, as `etude.config.check.plain` returns it."""
        return cls(
            seed=values["seed"],
            budget=Duration.parse(values["budget"]),
            batch=BatchSize(**values["batch"]),
            validate=Validation(**_timed(values["validate"])),
            checkpoint=Checkpoints(**_timed(values["checkpoint"])),
            log=Log(**_timed(values["log"])),
            limit=Limit(**values["limit"]),
            run=RunIdentity(**{**values["run"], "tags": tuple(values["run"].get("tags", ()))}),
            paths=Paths(**{name: Path(path).expanduser() for name, path in values["paths"].items()}),
            callbacks=values.get("callbacks") or {},
            stop=EarlyStop(**values.get("stop", {})),
            average=CheckpointAverages(**{name: tuple(sizes) for name, sizes in values.get("average", {}).items()}),
            trust=tuple(values.get("trust", ())),
            start=values.get("start"),
            **{name: values[name] for name in NODES if name in values},
        )


def _timed(section: Mapping[str, Any]) -> dict[str, Any]:
    durations = {
        name: Duration.parse(section[name]) for name in ("every", "keep_every") if section.get(name) is not None
    }
    return {**section, **durations}
