"""The plan of a sweep: what its members are, read from the words of a command line and a file of `conf/search/`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from omegaconf import DictConfig, OmegaConf

from etude.config.compose import CONF, Composer
from etude.config.schema import Config
from etude.config.values import MACHINE, as_override, public_arguments, within, without_secrets
from etude.errors import ConfigurationError
from etude.schema_errors import in_words
from etude.sweeps.pruners import NoPruner, Pruner
from etude.sweeps.searchers import Grid, Searcher, check_searcher
from etude.sweeps.space import Assignment, SearchParameter, Space
from etude.sweeps.space_reading import fixed_parameter, read_parameter, read_space

OWN = ("sweep", "search", "searcher", "pruner", "hydra")
"""Keys and groups of a sweep's command line that no member sees."""

_NAME = re.compile(r"[^\w.=-]+")
_LONGEST_NAME = 40


class SweepSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """`sweep.…` of a command line.

    Attributes:
        name: Name of its folder inside the experiment's; None: made of what varies.
        trials: So many assignments are tried, unless the searcher is a grid, which tries all.
        seeds: Each assignment is tried with each of these seeds, and judged by the mean; empty: with the configuration's.
        reject: Whether an assignment gets no more seeds when its mean so far is worse than the median of the others.
        seed: Seed of the search.
        retries: So often a member that failed without having got any further is tried again.
        drift: What is done when code or configuration files have changed since the sweep was begun.
    """

    name: str | None = None
    trials: Annotated[int, Meta(ge=1)] = 20
    seeds: list[int] = []
    reject: bool = False
    seed: int = 1
    retries: Annotated[int, Meta(ge=0)] = 2
    drift: Literal["refuse", "allow"] = "refuse"


class StageText(Struct, frozen=True, forbid_unknown_fields=True):
    """A stage as a file of `conf/search/` writes it.

    Attributes:
        words: Keys and groups with their values, such as `experiment: masked_lm/demo`.
        space: Parameters; see `etude.sweeps.space`.
        start: The stage whose runs these start from.
    """

    words: dict[str, Any] = {}
    space: dict[str, Any] = {}
    start: str | None = None


class SearchText(StageText, frozen=True, forbid_unknown_fields=True):
    """A file of `conf/search/`: one space, or several stages of which later ones start from earlier ones."""

    stages: dict[str, StageText] = {}


@dataclass(frozen=True)
class Stage:
    """Members of one kind.

    Attributes:
        name: Its name; empty where there is only one.
        words: Words that all of its members share.
        space: What varies.
        start: The stage whose members these start from; None: of none.
    """

    name: str
    words: tuple[str, ...]
    space: Space
    start: str | None = None


@dataclass(frozen=True)
class PlannedTrial:
    """One assignment to be tried, with each seed.

    Attributes:
        number: Its number, from 0.
        stage: Its stage.
        assignment: Values of its parameters, those of the trial that it starts from included.
        start: The trial that it starts from; None: of none.
    """

    number: int
    stage: Stage
    assignment: Assignment
    start: PlannedTrial | None = None


@dataclass(frozen=True)
class Member:
    """One run of a sweep.

    Attributes:
        number: Its number, from 0.
        trial: Its trial.
        seed: Its seed, where the sweep gives each trial several.
        start: Number of the member that it starts from; None: of none.
        words: Words of a command line that make its configuration.
    """

    number: int
    trial: PlannedTrial
    seed: int | None
    start: int | None
    words: tuple[str, ...]


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep does.

    Attributes:
        command: The words that it was read from.
        extra: The folder of the user's own configuration groups.
        stages: Kinds of members, in order.
        searcher: What chooses assignments.
        pruner: What ends members early.
        settings: `sweep.…`.
        launcher: Hydra's configuration of the launcher.
        search: Name of the file of `conf/search/`; None: the space is on the command line.
    """

    command: tuple[str, ...]
    extra: Path | None
    stages: tuple[Stage, ...]
    searcher: Searcher
    pruner: Pruner
    settings: SweepSettings
    launcher: Mapping[str, Any] = field(default_factory=dict)
    search: str | None = None

    @cached_property
    def composer(self) -> Composer:
        """Composer of the members' configurations."""
        return Composer(CONF, "train", self.extra)

    @property
    def searched(self) -> bool:
        """Whether what is tried next depends on what came before."""
        return not isinstance(self.searcher, Grid)

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it this sweep and no other, as plain values: neither its length nor the machine."""
        stages = {
            stage.name or "members": {
                "words": sorted(public_arguments([word for word in stage.words if not _is_machine(word)])),
                "space": stage.space.plain(),
                "order": [one.name for one in stage.space.parameters],  # which gives members their numbers
                "start": stage.start,
            }
            for stage in self.stages
        }
        plain: dict[str, Any] = {
            "stages": stages,
            "searcher": msgspec.to_builtins(self.searcher),
            "pruner": msgspec.to_builtins(self.pruner),
            "seeds": self.settings.seeds,
            "reject": self.settings.reject,
            "seed": self.settings.seed,
        }
        return json.loads(json.dumps(without_secrets(plain)))

    @cached_property
    def name(self) -> str:
        """The name that was given, or one made of what varies, the same for the same words."""
        if self.settings.name is not None:
            return self.settings.name
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:8]
        names = dict.fromkeys(one.name.rpartition(".")[2] for stage in self.stages for one in stage.space.parameters)
        said = self.search or "-".join([*names, *(["seed"] if self.settings.seeds else [])])
        return f"{_NAME.sub('-', said)[:_LONGEST_NAME].strip('-.') or 'one'}-{digest}"

    @cached_property
    def experiment(self) -> str:
        """The folder of the sweep inside the folder of all runs: the experiment of its members, if they share one."""
        every = [word for stage in self.stages for word in (*stage.words, *_space_words(stage.space))]
        given = [word for word in every if word.startswith("run.experiment=")]
        chosen = {word for word in every if word.lstrip("+").startswith("experiment=")}
        if len(chosen) > 1 and not given:
            return _NAME.sub("-", (self.search or "several").rpartition("/")[2])
        word = given[:1] or [*chosen][:1]
        tree = self.composer.compose(self.composer.normalized(word)).tree
        return str(tree.run.experiment or tree.hydra.runtime.choices.get("experiment") or "run")

    def grid(self) -> list[PlannedTrial]:
        """Return all trials of a grid: each stage's combinations, with each trial that it starts from and agrees with."""
        trials: list[PlannedTrial] = []
        for stage in self.stages:
            earlier = [trial for trial in trials if trial.stage.name == stage.start] if stage.start else [None]
            for start in earlier:
                for assignment in stage.space.grid():
                    inherited = start.assignment if start else {}
                    if all(assignment.get(name, label) == label for name, label in inherited.items()):
                        trials.append(PlannedTrial(len(trials), stage, {**inherited, **assignment}, start))
        return trials

    def members(self, trial: PlannedTrial) -> Iterator[Member]:
        """Yield the members of a trial: one for each seed."""
        seeds: Sequence[int | None] = self.settings.seeds or [None]
        own = {one.name for one in trial.stage.space.parameters}
        words = trial.stage.space.words({name: label for name, label in trial.assignment.items() if name in own})
        for place, seed in enumerate(seeds):
            seeded = [] if seed is None else [f"seed={seed}"]
            start = None if trial.start is None else trial.start.number * len(seeds) + place
            name = [] if start is None else [f"start={as_override(f'{self.experiment}/{self.name}/{start:03d}')}"]
            yield Member(
                trial.number * len(seeds) + place, trial, seed, start, (*trial.stage.words, *words, *seeded, *name)
            )

    @cached_property
    def _composed(self) -> dict[tuple[int, tuple[str, ...]], Config]:
        return {}

    def compose(self, member: Member) -> Config:
        """Compose and check a member's configuration, once.

        Raises:
            ConfigurationError: If it does not fit; says which member's it is, where there are several.
        """
        key = (member.number, member.words)
        if key not in self._composed:
            self._composed[key] = self._compose(member)
        return self._composed[key]

    def _compose(self, member: Member) -> Config:
        try:
            config = self.composer.compose(self.composer.normalized(member.words)).config()
        except ConfigurationError as error:
            varied = " ".join(member.words[len(member.trial.stage.words) :])
            raise ConfigurationError(f"{error}{f' in the member with {varied}' if varied else ''}") from error
        name = config.run.name or f"{member.number:03d}"
        return config.updated(
            {"run.experiment": f"{self.experiment}/{self.name}", "run.name": name},
            [*config.overrides, f"run.experiment={self.experiment}/{self.name}", f"run.name={name}"],
        )


def equal_names(name: str, members: tuple[int, int]) -> ConfigurationError:
    """Return the error about two members of one name."""
    return ConfigurationError(
        f"members {members[0]} and {members[1]} are both called {name}; leave run.name out, or make it of all that varies"
    )


def read_plan(words: Sequence[str], extra: Path | None = None) -> SweepPlan:
    """Read a plan from the words of a command line.

    Args:
        words: As after `etude sweep`: `search=NAME`, keys with one value, and keys that are swept over.
        extra: A folder of the user's own configuration groups.

    Raises:
        ConfigurationError: If the space is none, or the searcher cannot search it.
    """
    own = [word for word in words if _root(word) in OWN]
    rest = [word for word in words if _root(word) not in OWN]
    composer = Composer(CONF, "sweep", extra)
    tree = composer.compose(composer.normalized(own)).tree
    settings = _converted(tree, "sweep", SweepSettings)
    text = _converted(tree, "search", SearchText) if tree.get("search") is not None else SearchText()
    fixed, given, swept = _read_words(composer, rest)
    plan = SweepPlan(
        command=tuple(words),
        extra=extra,
        stages=tuple(_stages(text, fixed, given, swept)),
        searcher=_converted(tree, "searcher", Searcher),
        pruner=_converted(tree, "pruner", Pruner),
        settings=settings,
        launcher=OmegaConf.to_container(tree.hydra.launcher, resolve=True),  # type: ignore[arg-type]
        search=tree.hydra.runtime.choices.get("search") if tree.get("search") is not None else None,
    )
    _check_plan(plan)
    return plan


def _check_plan(plan: SweepPlan) -> None:
    if plan.searched and len(plan.stages) > 1:
        raise ConfigurationError("stages are tried by searcher=grid: which runs a stage starts from has to be known")
    if (plan.searched or not isinstance(plan.pruner, NoPruner)) and not plan.stages[-1].space.parameters:
        raise ConfigurationError("there is nothing to search: write search=NAME, or 'optimizer.lr=interval(1e-4,1e-2)'")
    for stage in plan.stages:
        check_searcher(plan.searcher, stage.space)
        sets_seed = any(_root(word) == "seed" for word in (*stage.words, *_space_words(stage.space)))
        if plan.settings.seeds and sets_seed:
            raise ConfigurationError(
                f"seed and sweep.seeds={plan.settings.seeds} both set the seed; write one of the two"
            )
    if len(set(plan.settings.seeds)) < len(plan.settings.seeds):
        raise ConfigurationError(f"sweep.seeds={plan.settings.seeds}: a seed stands twice, and would count twice")


def _read_words(
    composer: Composer, words: Sequence[str]
) -> tuple[list[str], list[SearchParameter], list[SearchParameter]]:
    """Return the words that give one value, all words as parameters, and of these the ones that sweep."""
    fixed, given, swept = [], [], []
    normal = composer.normalized(words)
    for word, override in zip(normal, composer.parse(normal), strict=True):
        parameter = read_parameter(override)
        if parameter is not None:
            swept.append(parameter)
        else:
            fixed.append(word.removeprefix("++"))
            parameter = fixed_parameter(override)
        given += [] if parameter is None else [parameter]
    return fixed, given, swept


def _stages(
    text: SearchText, fixed: Sequence[str], given: Sequence[SearchParameter], swept: Sequence[SearchParameter]
) -> Iterator[Stage]:
    """Yield the stages: what the command line says replaces what the file says."""
    if text.stages and text.space:
        raise ConfigurationError("search.space stands beside search.stages; write a space in each stage")
    decided = {word.partition("=")[0].lstrip("+~") for word in fixed} | {one.name for one in swept}
    spaces = {
        name: read_space(stage.space, f"search.stages.{name}.space" if name else "search.space")
        for name, stage in (text.stages or {"": text}).items()
    }
    # The name of a set of values is no key of a configuration: it is for the stages that have it.
    named = {one.name for space in spaces.values() for one in space.parameters if one.is_named}
    earlier: list[str] = []
    for name, stage in (text.stages or {"": text}).items():
        if stage.start is not None and stage.start not in earlier:
            raise ConfigurationError(f"search.stages.{name}.start={stage.start} is not a stage before it")
        space, placed, chosen = spaces[name].narrowed(given)
        written = {**text.words, **stage.words}
        words = [f"{key}={as_override(value)}" for key, value in written.items() if key not in decided]
        words += [*chosen, *(word for word in fixed if word.partition("=")[0] not in placed | named)]
        rest = [one for one in swept if one.name not in placed | named]
        yield Stage(name, tuple(words), Space((*space.parameters, *rest)), stage.start)
        earlier.append(name)


def _converted(tree: DictConfig, key: str, kind: Any) -> Any:
    values = OmegaConf.to_container(tree[key], resolve=True) if OmegaConf.is_config(tree[key]) else tree[key]
    try:
        return msgspec.convert(values, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{key}: {in_words(str(error), values, kind)} (conf/{key} or command line)") from error


def _root(word: str) -> str:
    return re.split(r"[./=@:]", word.lstrip("+~"), maxsplit=1)[0]


def _is_machine(word: str) -> bool:
    key = word.partition("=")[0].lstrip("+~").replace("/", ".")
    return within(key, MACHINE)


def _space_words(space: Space) -> list[str]:
    """Return every word that a parameter with values can give."""
    return [
        word
        for one in space.parameters
        for label in (one.domain.grid() or ())
        for word in one.domain.words(one.name, label)
    ]
