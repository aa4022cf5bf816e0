"""Reading of search spaces: from plain values of a file, and from the words of a command line; both come to the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, count
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, QuotedString, RangeSweep

from etude.config.values import as_override
from etude.errors import ConfigurationError
from etude.sweeps.space import Label, Range, SearchParameter, Space, Values, stepped, steps_between

_RANGE_KEYS = frozenset({"low", "high", "log", "step"})

# From files


def read_space(values: Any, place: str) -> Space:
    """Read a space from plain values.

    Args:
        values: A mapping of parameters.
        place: Where it is written, for messages: `search.space`.

    Raises:
        ConfigurationError: If it is not a space: an empty range, a value that stands twice, an unknown key.
    """
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{place} = {values!r}, but it maps parameters to their values: KEY: [1, 2]")
    return Space(tuple(_parameter(str(name), written, f"{place}.{name}") for name, written in values.items()))


def _parameter(name: str, written: Any, place: str) -> SearchParameter:
    if isinstance(written, Sequence) and not isinstance(written, str):
        return SearchParameter(name, _values(name, written, place))
    if not isinstance(written, Mapping):
        raise ConfigurationError(f"{place} = {written!r}; write values, [1, 2], or a range, {{low: 1, high: 2}}")
    rest = {key: value for key, value in written.items() if key != "when"}
    when = _condition(written.get("when"), place)
    if rest.keys() == {"values"}:
        return SearchParameter(name, _values(name, rest["values"], place), when)
    if not {"low", "high"} <= rest.keys() <= _RANGE_KEYS:
        keys = ", ".join(map(str, rest))
        raise ConfigurationError(
            f"{place} has {keys}; write values, or low and high with log or step, and when besides"
        )
    return SearchParameter(name, _range(rest, place), when)


def _condition(written: Any, place: str) -> dict[str, tuple[Label, ...]]:
    if written is None:
        return {}
    if not isinstance(written, Mapping):
        raise ConfigurationError(
            f"{place}.when = {written!r}; write a parameter and its values: {{scheduler: [cosine]}}"
        )
    return {
        str(name): tuple(labels) if isinstance(labels, Sequence) and not isinstance(labels, str) else (labels,)
        for name, labels in written.items()
    }


def _values(name: str, written: Any, place: str) -> Values:
    if isinstance(written, Mapping):
        options: dict[Label, tuple[str, ...]] = {}
        for label, value in written.items():
            _add(options, label, _several(value, f"{place}.{label}"), place)
    elif isinstance(written, Sequence) and not isinstance(written, str):
        options = {}
        for value in written:
            label = value if value is None or isinstance(value, bool | int | float | str) else as_override(value)
            _add(options, label, (f"{name}={as_override(value)}",), place)
    else:
        raise ConfigurationError(f"{place} = {written!r}; write a list of values, or names for sets of keys")
    if not options:
        raise ConfigurationError(f"{place} has no values; write at least one")
    return Values(options)


def _add(options: dict[Label, tuple[str, ...]], label: Label, words: tuple[str, ...], place: str) -> None:
    if words in options.values():
        raise ConfigurationError(f"{place}: {label} stands twice; each value makes a run")
    # 1, 1.0 and true are one key of a mapping, and the texts that take their place may be values too.
    free = chain((label, as_override(label)), (f"{label} ({number})" for number in count(2)))
    options[next(one for one in free if one not in options)] = words


def _several(written: Any, place: str) -> tuple[str, ...]:
    if not isinstance(written, Mapping) or not written:
        raise ConfigurationError(f"{place} = {written!r}; a named value maps keys to values: {{limit.train: 100}}")
    return tuple(f"{key}={as_override(value)}" for key, value in written.items())


def _range(written: Mapping[str, Any], place: str) -> Range:
    numbers = {key: written.get(key) for key in ("low", "high", "step")}
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            if key == "step" and value is None:
                continue
            raise ConfigurationError(f"{place}.{key} = {value!r} is not a number")
    if not isinstance(written.get("log", False), bool):
        raise ConfigurationError(f"{place}.log = {written['log']!r}; write true or false")
    domain = Range(written["low"], written["high"], written.get("log", False), numbers["step"])
    problem: Mapping[str, Callable[[], bool]] = {
        f"goes from {domain.low} to {domain.high}, which holds nothing": lambda: domain.low >= domain.high,
        f"has a step of {domain.step}; write one above 0": lambda: domain.step is not None and domain.step <= 0,
        f"is logarithmic and begins at {domain.low}; write a low above 0": lambda: domain.log and domain.low <= 0,
        "has a step and is logarithmic; write one of the two": lambda: domain.log and domain.step is not None,
    }
    for sentence, applies in problem.items():
        if applies():
            raise ConfigurationError(f"{place} {sentence}")
    if domain.step is None:
        return domain
    # Optuna wants the largest to be one of the numbers.
    last = stepped(domain.low, domain.step, steps_between(domain.low, domain.high, domain.step))
    return Range(domain.low, last, domain.log, domain.step)


# From words of a command line


def read_parameter(override: Override) -> SearchParameter | None:
    """Read the parameter that an override sweeps over; None if it gives one value.

    `a=1,2,3` and `choice(…)` are values; `range(1,8,2)` is 1, 3, 5 and 7; `interval(0,1)` is any number between; `tag(log, …)`
    draws on a logarithmic scale, `tag(int, …)` whole numbers. `shuffle(…)` keeps the order: a sweep that is given again must
    have the same members.

    Raises:
        ConfigurationError: If a range is empty or a value stands twice.
    """
    if not override.is_sweep_override():
        return None
    name, swept = override.get_key_element().lstrip("+"), override.value()
    place = (override.input_line or name).removeprefix("++")
    tags: set[str] = getattr(swept, "tags", set())
    if isinstance(swept, IntervalSweep):
        return SearchParameter(name, _hydra_interval(swept, tags, place))
    if isinstance(swept, RangeSweep):
        return SearchParameter(name, _hydra_range(swept, "log" in tags, place))
    if not isinstance(swept, ChoiceSweep):
        raise ConfigurationError(f"{place}: values of this kind cannot be searched; write {name}=1,2,3 (command line)")
    return SearchParameter(name, _values(name, [unquoted(value) for value in swept.list], place))


def fixed_parameter(override: Override) -> SearchParameter | None:
    """Return an override that gives one value as a parameter that has no other; None if it takes a key away."""
    if override.is_delete() or override.is_sweep_override():
        return None
    name = override.get_key_element().lstrip("+")
    return SearchParameter(name, _values(name, [unquoted(override.value())], name))


def _hydra_interval(swept: IntervalSweep, tags: set[str], place: str) -> Range:
    low, high = (0.0 if end is None else end for end in (swept.start, swept.end))
    if "int" in tags and math.isfinite(low) and math.isfinite(high):
        low, high = math.ceil(low), math.floor(high)
    return _range({"low": low, "high": high, "log": "log" in tags}, place)


def _hydra_range(swept: RangeSweep, log: bool, place: str) -> Range:
    """Return what Hydra's `range(start, stop, step)` names: like Python's, without its stop."""
    start, stop, step = swept.start or 0, swept.stop or 0, swept.step or 1
    if not all(map(math.isfinite, (start, stop, step))) or step <= 0 or stop <= start:
        raise ConfigurationError(f"{place}: the range from {start} to {stop} by {step} holds nothing (command line)")
    index = steps_between(start, stop, step)
    last = stepped(start, step, index if stepped(start, step, index) < stop else index - 1)
    return _range({"low": start, "high": last, "log": True}, place) if log else Range(start, last, False, step)


def unquoted(value: Any) -> Any:
    """Return a value of the command line as YAML would give it."""
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, Mapping):
        return {unquoted(key): unquoted(item) for key, item in value.items()}
    return [unquoted(item) for item in value] if isinstance(value, list) else value
