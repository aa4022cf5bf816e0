"""A search space: parameters with their values or ranges, from a file of `conf/search/` or from words of a command line.

A parameter is a key of the configuration, a group, or a name for several keys that change together:

    optimizer.lr: {low: 1e-4, high: 1e-2, log: true}         # a range
    model.layers: {low: 2, high: 6, step: 2}                 # whole numbers: 2, 4, 6
    model.dropout: [0.1, 0.2]                                # values
    scheduler: [cosine, constant]                            # choices of a group
    scheduler.warmup: {values: [50step, 100step], when: {scheduler: cosine}}
    labels: {values: {few: {limit.train: 100, budget: 60step}, all: {limit.train: null, budget: 424step}}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

from etude.config.values import as_override, within
from etude.errors import ConfigurationError

Label = None | bool | int | float | str
"""What stands for a value of a parameter, in tables and in the storage of a search."""

Assignment = dict[str, Label]
"""A value for each parameter, by name; a parameter whose condition is not met has none."""


def setting(value: Any) -> str:
    """Return the value of a parameter as text: a number with four significant digits, other values as they are."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Suggester(Protocol):
    """Draws values: what a trial of Optuna does."""

    def suggest_categorical(self, name: str, choices: Sequence[Label]) -> Any:
        """Draw one of several values."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Draw a whole number between two, both included."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Draw a number between two."""


@dataclass(frozen=True)
class Values:
    """One of several values.

    Attributes:
        options: The words that each value stands for, by its label.
    """

    options: Mapping[Label, tuple[str, ...]]

    def grid(self) -> Sequence[Label]:
        """Return all labels."""
        return list(self.options)

    def suggest(self, name: str, trial: Suggester) -> Label:
        """Draw a label."""
        label: Label = trial.suggest_categorical(name, list(self.options))
        return label

    def words(self, name: str, value: Label) -> tuple[str, ...]:
        """Return the words of a command line that give the value."""
        return self.options[value]


@dataclass(frozen=True)
class Range:
    """A number between two, both included; whole if they and the step are.

    Attributes:
        low: The smallest.
        high: The largest.
        log: Whether it is drawn evenly on a logarithmic scale.
        step: Only numbers so far apart, counted from the smallest; None: any number, or any whole number.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return all(isinstance(value, int) for value in (self.low, self.high, self.step or 1))

    def grid(self) -> Sequence[Label] | None:
        """Return all numbers; None if there are too many to name."""
        step = self.step or (1 if self.whole and not self.log else None)
        if step is None:
            return None
        return [stepped(self.low, step, index) for index in range(steps_between(self.low, self.high, step) + 1)]

    def suggest(self, name: str, trial: Suggester) -> Label:
        """Draw a number."""
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return float(trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log))

    def words(self, name: str, value: Label) -> tuple[str, ...]:
        """Return the words of a command line that give the value."""
        return (f"{name}={as_override(value)}",)


@dataclass(frozen=True)
class SearchParameter:
    """One dimension of a space.

    Attributes:
        name: A key, a group, or the name of values that set several keys.
        domain: What it may be.
        when: It exists only where these other parameters have one of these labels.
    """

    name: str
    domain: Values | Range
    when: Mapping[str, tuple[Label, ...]] = field(default_factory=dict)

    def exists(self, others: Assignment) -> bool:
        """Return whether the condition is met."""
        return all(name in others and others[name] in labels for name, labels in self.when.items())

    @property
    def is_named(self) -> bool:
        """Whether its values set several keys, none of which is its name."""
        return self.name not in self.keys()

    def words(self) -> tuple[str, ...]:
        """Return the words of its first value."""
        return self.domain.words(self.name, (self.domain.grid() or (None,))[0])

    def keys(self) -> set[str]:
        """Return the keys that it sets."""
        if isinstance(self.domain, Range):
            return {self.name}
        return {word.partition("=")[0].lstrip("+~") for words in self.domain.options.values() for word in words}


@dataclass(frozen=True)
class Space:
    """Parameters in the order in which they are drawn: a condition refers to earlier ones."""

    parameters: tuple[SearchParameter, ...] = ()

    def __post_init__(self) -> None:
        """Refuse parameters that set the same key, and conditions that cannot be met."""
        known: dict[str, SearchParameter] = {}
        for parameter in self.parameters:
            for other in known.values():
                both = _common(parameter.keys(), other.keys())
                if both is not None and not _exclusive(parameter, other):
                    raise ConfigurationError(f"{parameter.name} and {other.name} of the search space both set {both}")
            for name, labels in parameter.when.items():
                _check_condition(parameter.name, name, labels, known)
            known[parameter.name] = parameter

    def grid(self) -> Iterator[Assignment]:
        """Yield every combination, the first parameter changing slowest.

        Raises:
            ConfigurationError: If a parameter is a range that names no values.
        """
        yield from self._extend({}, 0)

    def _extend(self, assignment: Assignment, place: int) -> Iterator[Assignment]:
        if place == len(self.parameters):
            yield assignment
            return
        parameter = self.parameters[place]
        if not parameter.exists(assignment):
            yield from self._extend(assignment, place + 1)
            return
        labels = parameter.domain.grid()
        if labels is None:
            raise ConfigurationError(
                f"{parameter.name} of the search space is a range, which has no end of values; write searcher=tpe or "
                f"searcher=random, or give it a step or values: {parameter.name}=1,2,3"
            )
        for label in labels:
            yield from self._extend({**assignment, parameter.name: label}, place + 1)

    def suggest(self, trial: Suggester) -> Assignment:
        """Draw a value for each parameter that exists."""
        assignment: Assignment = {}
        for parameter in self.parameters:
            if parameter.exists(assignment):
                assignment[parameter.name] = parameter.domain.suggest(parameter.name, trial)
        return assignment

    def words(self, assignment: Assignment) -> list[str]:
        """Return the words of a command line that give an assignment."""
        by_name = {parameter.name: parameter for parameter in self.parameters}
        return [word for name, label in assignment.items() for word in by_name[name].domain.words(name, label)]

    def narrowed(self, given: Sequence[SearchParameter]) -> tuple[Space, set[str], list[str]]:
        """Return the space as a command line leaves it, the names of its parameters that are decided, and words of those.

        Of values that set several keys, the labels that are given stay: `labels=100,500`. A key that is given is no longer
        set by others, and what depends on a value that is not left is dropped.

        Args:
            given: Parameters of the command line; one with a single value fixes it.
        """
        by_name = {one.name: one for one in given}
        left: dict[str, SearchParameter] = {}
        placed: set[str] = set()
        for own in self.parameters:
            when = {name: labels for name, labels in own.when.items() if name in left}
            if len(when) < len(own.when) or not all(_can_be(left[name], labels) for name, labels in when.items()):
                continue
            if own.name in by_name:
                placed.add(own.name)
                domain: Values | Range | None = _chosen(own, by_name[own.name])
            else:
                domain = _stripped(own, by_name)
            if domain is not None:
                left[own.name] = SearchParameter(own.name, domain, when)
        fixed: set[str] = set()
        for name, one in left.items():
            if name in placed and one.when.keys() <= fixed and len(one.domain.grid() or ()) == 1:
                fixed.add(name)
        words = [word for name in left if name in fixed for word in left[name].words()]
        kept = [
            SearchParameter(
                one.name, one.domain, {name: labels for name, labels in one.when.items() if name not in fixed}
            )
            for one in left.values()
            if one.name not in fixed
        ]
        return Space(tuple(kept)), placed, words

    def plain(self) -> dict[str, Any]:
        """Return the space as plain values that are equal for equal spaces."""
        return {one.name: _plain_domain(one) for one in self.parameters}


def _can_be(parameter: SearchParameter, labels: Sequence[Label]) -> bool:
    possible = parameter.domain.grid()
    return possible is None or any(label in possible for label in labels)


def _chosen(own: SearchParameter, given: SearchParameter) -> Values | Range:
    """Return what is given in the place of a parameter: of named values, those of these names."""
    if isinstance(own.domain, Range) or not own.is_named:
        return given.domain
    wanted = {str(label) for label in given.domain.grid() or ()}
    options = {label: words for label, words in own.domain.options.items() if str(label) in wanted}
    if len(options) < len(wanted):
        known = ", ".join(map(str, own.domain.options))
        raise ConfigurationError(f"{own.name} of the search space is one of {known} (command line)")
    return Values(options)


def _stripped(own: SearchParameter, given: Mapping[str, SearchParameter]) -> Values | Range | None:
    """Return what is left of a parameter when some keys are given; None if that is nothing."""
    if isinstance(own.domain, Range) or not own.is_named:
        return own.domain
    options = {
        label: tuple(word for word in words if word.partition("=")[0] not in given)
        for label, words in own.domain.options.items()
    }
    if len(set(options.values())) == len(options):
        return Values(options)
    if not any(options.values()):
        return None
    raise ConfigurationError(
        f"values of {own.name} of the search space differ in nothing but what the command line gives"
    )


def stepped(low: float, step: float, index: int) -> float:
    """Return a number of a range as a person writes it: 0.3, where sums of floats are 0.30000000000000004."""
    if isinstance(low, int) and isinstance(step, int):
        return low + index * step
    return float(Decimal(repr(low)) + index * Decimal(repr(step)))


def steps_between(low: float, high: float, step: float) -> int:
    """Return how many whole steps lead from one number towards another."""
    return int((Decimal(repr(high)) - Decimal(repr(low))) // Decimal(repr(step)))


def _plain_domain(parameter: SearchParameter) -> dict[str, Any]:
    domain = parameter.domain
    if isinstance(domain, Range):
        plain: dict[str, Any] = {"low": domain.low, "high": domain.high, "log": domain.log, "step": domain.step}
    else:
        plain = {"values": [[label, list(words)] for label, words in domain.options.items()]}
    return plain | ({"when": {name: list(labels) for name, labels in parameter.when.items()}} if parameter.when else {})


def _common(keys: set[str], others: set[str]) -> str | None:
    """Return a key that both set, or that one sets as a part of what the other sets."""
    return next(
        (key for key in sorted(keys) if any(within(key, [other]) or within(other, [key]) for other in others)), None
    )


def _exclusive(one: SearchParameter, other: SearchParameter) -> bool:
    """Whether two parameters never exist together, or one is a part of the choice that the other makes."""
    if other.name in one.when or one.name in other.when or _is_part(one, other) or _is_part(other, one):
        return True
    return any(set(one.when[name]).isdisjoint(other.when[name]) for name in one.when.keys() & other.when.keys())


def _is_part(one: SearchParameter, other: SearchParameter) -> bool:
    """Whether a parameter is a key of what the other, a group, chooses: `scheduler.warmup` beside `scheduler=cosine,constant`."""
    chosen = isinstance(other.domain, Values) and all(isinstance(label, str) for label in other.domain.options)
    return chosen and other.keys() == {other.name} and one.name.startswith(f"{other.name}.")


def _check_condition(name: str, other: str, labels: Sequence[Label], known: Mapping[str, SearchParameter]) -> None:
    if other not in known:
        raise ConfigurationError(f"{name} of the search space depends on {other}, which is not a parameter before it")
    possible = known[other].domain.grid()
    unknown = [label for label in labels if possible is not None and label not in possible]
    if unknown:
        raise ConfigurationError(f"{name} of the search space asks for {other}={unknown[0]}, which {other} never is")
