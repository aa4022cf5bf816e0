"""A space says the same in YAML and on a command line, names each of its points once, and keeps its conditions."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from etude.config.compose import CONF, Composer
from etude.config.values import as_override
from etude.errors import ConfigurationError
from etude.sweeps.space import Assignment, Range, SearchParameter, Space, Values
from etude.sweeps.space_reading import fixed_parameter, read_parameter, read_space

COMPOSER = Composer(CONF, "train")
TEXT = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=6)
LEAVES = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False) | TEXT
VALUES = LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(st.sampled_from("abc"), LEAVES, max_size=2)
SEVERAL = st.lists(VALUES, min_size=2, max_size=6, unique_by=repr)


class Dice:
    """Draws values as a trial of a search does."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._random.choice(choices)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return self._random.randrange(low, high + 1, step)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return self._random.uniform(low, high)


def read(word: str) -> SearchParameter | None:
    """Read a word of a command line."""
    return read_parameter(COMPOSER.parse(COMPOSER.normalized([word]))[0])


def given_by(words: Sequence[str]) -> list[Any]:
    """What words of a command line set, as Hydra reads them."""
    return [override.value() for override in COMPOSER.parse(words)]


def point(assignment: Assignment) -> tuple[tuple[str, str], ...]:
    """An assignment as something to compare, in which 1, 1.0 and true are three."""
    return tuple((name, repr(label)) for name, label in assignment.items())


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """A space of values and whole ranges, of which later ones depend on earlier ones."""
    parameters: list[SearchParameter] = []
    for place in range(draw(st.integers(1, 4))):
        domain: Values | Range
        if draw(st.booleans()):
            domain = Range(2, 2 + draw(st.integers(1, 3)))
        else:
            written = draw(st.lists(LEAVES, min_size=1, max_size=4, unique_by=repr))
            domain = read_space({f"p{place}": written}, "space").parameters[0].domain
        when = {}
        if draw(st.booleans()) and parameters:
            other = draw(st.sampled_from(parameters))
            labels = list(other.domain.grid() or ())
            when = {other.name: tuple(draw(st.lists(st.sampled_from(labels), min_size=1, max_size=2)))}
        parameters.append(SearchParameter(f"p{place}", domain, when))
    return Space(tuple(parameters))


# What is tried is what was written


@given(values=SEVERAL)
def test_the_words_of_a_value_set_that_value(values: list[Any]) -> None:
    space = read_space({"model.size": values}, "space")
    set_values = [value for one in space.grid() for value in given_by(space.words(one))]
    assert [repr(value) for value in set_values] == [repr(value) for value in values]


@given(values=SEVERAL)
def test_a_command_line_reads_as_yaml_does(values: list[Any]) -> None:
    of_yaml = read_space({"model.size": values}, "space")
    listed = ",".join(map(as_override, values))
    forms = [f"model.size={listed}"] if None in values else [f"model.size={listed}", f"model.size=choice({listed})"]
    for word in forms:  # Hydra's choice() takes no null
        parameter = read(word)
        assert parameter is not None
        assert repr(Space((parameter,))) == repr(of_yaml)


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("a=interval(1,3)", {"low": 1.0, "high": 3.0}),
        ("a=tag(log,interval(1e-4,1e-2))", {"low": 1e-4, "high": 1e-2, "log": True}),
        ("a=tag(int,interval(1,3))", {"low": 1, "high": 3}),
        ("a=int(interval(1,3))", {"low": 1, "high": 3}),
        ("a=tag(int,log,interval(1,64))", {"low": 1, "high": 64, "log": True}),
        ("a=tag(int,interval(0.5,3.5))", {"low": 1, "high": 3}),
        ("a=range(1,8,2)", {"low": 1, "high": 7, "step": 2}),
        ("a=range(0.1,0.5,0.1)", {"low": 0.1, "high": 0.4, "step": 0.1}),
        ("a=range(0,1,0.25)", {"low": 0, "high": 0.75, "step": 0.25}),
        ("a=tag(log,range(1,9))", {"low": 1, "high": 8, "log": True}),
        ("a=50step,'x y',null,[1,2]", ["50step", "x y", None, [1, 2]]),
        ("a=sort(3,1,2)", [1, 2, 3]),
        ("a=shuffle(3,1,2)", [3, 1, 2]),
        ("a=shuffle(range(1,4))", {"low": 1, "high": 3, "step": 1}),
    ],
)
def test_each_form_of_a_command_line_has_its_form_in_yaml(word: str, written: Any) -> None:
    parameter = read(word)
    assert parameter is not None
    assert repr(Space((parameter,))) == repr(read_space({"a": written}, "space"))


@given(low=st.integers(-20, 20), length=st.integers(1, 30), step=st.integers(1, 7))
def test_a_range_names_the_numbers_that_pythons_does(low: int, length: int, step: int) -> None:
    parameter = read(f"a=range({low},{low + length},{step})")
    assert parameter is not None
    assert parameter.domain.grid() == list(range(low, low + length, step))


@given(low=st.integers(-50, 50), count=st.integers(2, 30), step=st.integers(1, 30))
def test_decimals_are_as_a_person_writes_them(low: int, count: int, step: int) -> None:
    written = [(low + index * step) / 100 for index in range(count)]
    space = read_space({"a": {"low": written[0], "high": written[-1], "step": step / 100}}, "space")
    assert [one["a"] for one in space.grid()] == written


def test_a_group_and_named_values_compose_to_what_they_say() -> None:
    space = read_space(
        {
            "scheduler": ["cosine", "constant"],
            "scheduler.warmup": {"values": ["7step"], "when": {"scheduler": "cosine"}},
            "labels": {"values": {"few": {"limit.train": 100, "budget": "60step"}, "all": {"limit.train": None}}},
        },
        "space",
    )
    few, *_, last = space.grid()
    assert (few, last) == (
        {"scheduler": "cosine", "scheduler.warmup": "7step", "labels": "few"},
        {"scheduler": "constant", "labels": "all"},
    )
    words = [*space.words(few), "experiment=translation/demo"]
    tree = COMPOSER.compose(COMPOSER.normalized(words)).tree
    assert tree.hydra.runtime.choices["scheduler"] == "cosine"
    assert (tree.scheduler.warmup, tree.limit.train, tree.budget) == ("7step", 100, "60step")
    assert space.words(last) == ["scheduler=constant", "limit.train=null"]


def test_a_word_with_one_value_is_no_parameter() -> None:
    assert read("a=[1,2]") is None
    assert read("a='1,2'") is None
    assert read("seed=3") is None


# Points


@given(space=spaces())
def test_a_grid_has_each_possible_point_once(space: Space) -> None:
    expected: dict[tuple[tuple[str, str], ...], None] = {}
    for labels in product(*(one.domain.grid() or () for one in space.parameters)):
        assignment: Assignment = {}
        for parameter, label in zip(space.parameters, labels, strict=True):
            if all(name in assignment and assignment[name] in ones for name, ones in parameter.when.items()):
                assignment[parameter.name] = label
        expected[point(assignment)] = None
    assert [point(one) for one in space.grid()] == list(expected)


@given(space=spaces(), seed=st.integers(0, 99))
def test_what_is_drawn_is_a_point_of_the_grid(space: Space, seed: int) -> None:
    assert point(space.suggest(Dice(seed))) in {point(one) for one in space.grid()}


@given(sizes=st.lists(st.integers(1, 4), max_size=4))
def test_without_conditions_a_grid_is_the_product(sizes: list[int]) -> None:
    space = read_space({f"p{place}": list(range(size)) for place, size in enumerate(sizes)}, "space")
    assert len(list(space.grid())) == math.prod(sizes)


def test_the_first_parameter_changes_slowest() -> None:
    grid = read_space({"b": [1, 2], "a": ["x", "y"]}, "space").grid()
    assert [(one["b"], one["a"]) for one in grid] == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]


@pytest.mark.parametrize("values", [[1, 1.0, True, None, "1"], ["1.0", 1, 1.0], ["true", 1, True, "1.0", 1.0]])
def test_values_that_look_alike_stay_apart(values: list[Any]) -> None:
    space = read_space({"a": values}, "space")
    assert len({repr(one["a"]) for one in space.grid()}) == len(values)
    assert [repr(given_by(space.words(one))[0]) for one in space.grid()] == [repr(value) for value in values]


@pytest.mark.parametrize("labels", [["1", "2"], ["2"]])
def test_labels_of_texts_are_not_those_of_numbers(labels: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=f"b of the search space asks for a={labels[0]}, which a never is"):
        read_space({"a": [1, 2], "b": {"values": [0], "when": {"a": labels}}}, "space")


# Words instead of files


def fixed(word: str) -> SearchParameter:
    parameter = fixed_parameter(OverridesParser.create().parse_override(word))
    assert parameter is not None
    return parameter


NARROWED = read_space(
    {
        "scheduler": ["cosine", "constant"],
        "scheduler.warmup": {"values": ["3step", "4step"], "when": {"scheduler": "cosine"}},
        "labels": {"values": {"few": {"limit.train": 1, "budget": "1step"}, "all": {"limit.train": 2}}},
    },
    "space",
)


@pytest.mark.parametrize(
    ("words", "placed", "points"),
    [
        ([], set(), 6),
        (["scheduler=cosine"], {"scheduler"}, 4),
        (["scheduler=constant"], {"scheduler"}, 2),  # the warm-up depends on what is not left
        (["scheduler=linear"], {"scheduler"}, 2),
        (["scheduler.warmup=7step", "scheduler=cosine"], {"scheduler.warmup", "scheduler"}, 2),
        (["labels=few"], {"labels"}, 3),
        (["labels=few", "scheduler=cosine"], {"labels", "scheduler"}, 2),
        (["budget=9step"], set(), 6),
        (["model.width=3"], set(), 6),
    ],
)
def test_words_take_the_place_of_parameters(words: list[str], placed: set[str], points: int) -> None:
    space, found, decided = NARROWED.narrowed([fixed(word) for word in words])
    assert found == placed
    assert not placed & {one.name for one in space.parameters}
    assert len(decided) == sum({"labels": 2}.get(name, 1) for name in placed)
    assert len(list(space.grid())) == points
    written = {word.partition("=")[0] for point in space.grid() for word in space.words(point)}
    assert not written & {word.partition("=")[0] for word in words}


def test_several_names_of_values_can_be_chosen() -> None:
    space, _, _ = NARROWED.narrowed([read_parameter_of("labels=few,all")])
    assert len(list(space.grid())) == 6
    with pytest.raises(ConfigurationError, match=r"labels of the search space is one of few, all \(command line\)"):
        NARROWED.narrowed([fixed("labels=none")])


def test_values_that_differ_in_what_is_given_alone_are_refused() -> None:
    space = read_space({"a": {"values": {"x": {"b": 1, "c": 1}, "y": {"b": 2, "c": 1}}}}, "space")
    with pytest.raises(ConfigurationError, match="values of a of the search space differ in nothing but what"):
        space.narrowed([fixed("b=3")])
    assert space.narrowed([fixed("b=3"), fixed("c=3")])[0].parameters == ()


def read_parameter_of(word: str) -> SearchParameter:
    parameter = read(word)
    assert parameter is not None
    return parameter


def test_a_group_and_a_key_of_its_choices_vary_together() -> None:
    parameters = [read("scheduler=cosine,constant"), read("scheduler.warmup=3step,4step")]
    assert len(list(Space(tuple(one for one in parameters if one)).grid())) == 4


def test_the_plain_form_tells_spaces_apart() -> None:
    written: list[Mapping[str, Any]] = [
        {"a": [1, 2]},
        {"a": [2, 1]},
        {"a": [1, 2.0]},
        {"a": {"low": 1, "high": 2}},
        {"a": {"low": 1, "high": 2, "log": True}},
        {"a": [1, 2], "b": [1]},
        {"a": [1, 2], "b": {"values": [1], "when": {"a": 1}}},
        {"a": {"values": {"1": {"b": 1}, "2": {"b": 2}}}},
    ]
    assert len({repr(read_space(one, "space").plain()) for one in written}) == len(written)


# Errors of one line


def refused(action: Any, *texts: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        action()
    said = str(caught.value)
    assert "\n" not in said
    for text in texts:
        assert text in said


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ([], "has no values"),
        ({"values": {}}, "has no values"),
        ([1, 2, 1], "1 stands twice"),
        (["x", "x"], "x stands twice"),
        ({"values": {"few": {"b": 1}, "same": {"b": 1}}}, "same stands twice"),
        ({"low": 2, "high": 1}, "goes from 2 to 1, which holds nothing"),
        ({"low": 1, "high": 1}, "which holds nothing"),
        ({"low": 1, "high": math.inf}, ".high = inf is not a number"),
        ({"low": math.nan, "high": 1}, ".low = nan is not a number"),
        ({"low": True, "high": 3}, ".low = True is not a number"),
        ({"low": 0, "high": 1, "log": True}, "is logarithmic and begins at 0"),
        ({"low": 1, "high": 2, "log": "no"}, ".log = 'no'; write true or false"),
        ({"low": 1, "high": 2, "log": True, "step": 1}, "has a step and is logarithmic"),
        ({"low": 1, "high": 2, "step": 0}, "has a step of 0"),
        ({"low": 1, "high": 2, "steps": 1}, "has low, high, steps; write values, or low and high"),
        ({"low": 1}, "has low; write values, or low and high"),
        ("cosine", "= 'cosine'; write values, [1, 2], or a range"),
        ({"values": "cosine"}, "= 'cosine'; write a list of values"),
        ({"values": {"few": 3}}, ".few = 3; a named value maps keys to values"),
        ({"values": [1], "when": "b"}, ".when = 'b'; write a parameter and its values"),
    ],
)
def test_a_domain_that_is_none_is_one_line_that_names_it(written: Any, text: str) -> None:
    refused(lambda: read_space({"model.dropout": written}, "search.space"), "search.space.model.dropout", text)


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("model.dropout=1,1", "1 stands twice"),
        ("model.dropout=x,'x'", "x stands twice"),
        ("model.dropout=0.1,0.10", "0.1 stands twice"),
        ("model.dropout=interval(1,1)", "goes from 1.0 to 1.0, which holds nothing"),
        ("model.dropout=interval(2,1)", "which holds nothing"),
        ("model.dropout=interval(0,inf)", ".high = inf is not a number"),
        ("model.dropout=interval(nan,1)", ".low = nan is not a number"),
        ("model.dropout=tag(int,interval(0,inf))", ".high = inf is not a number"),
        ("model.dropout=tag(log,interval(0,1))", "is logarithmic and begins at 0.0"),
        ("model.dropout=tag(log,range(0,9))", "is logarithmic and begins at 0"),
        ("model.dropout=range(3,3)", "the range from 3 to 3 by 1 holds nothing"),
        ("model.dropout=range(3,1)", "holds nothing"),
        ("model.dropout=range(0,inf)", "holds nothing"),
        ("model.dropout=glob(*)", "values of this kind cannot be searched; write model.dropout=1,2,3"),
    ],
)
def test_a_word_that_sweeps_over_nothing_is_one_line_that_names_it(word: str, text: str) -> None:
    refused(lambda: read(word), "model.dropout", text)
    with pytest.raises(ConfigurationError) as caught:
        read(word)
    assert not str(caught.value).startswith("+")


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ([1], "maps parameters to their values"),
        ({"a": {"values": {"x": {"b": 1}}}, "b": [1, 2]}, "b and a of the search space both set b"),
        ({"a": {"values": {"x": {"b.c": 1}}}, "b": [1, 2]}, "b and a of the search space both set b"),
        ({"b": [1], "a": {"values": [1], "when": {"c": 1}}}, "a of the search space depends on c"),
        ({"a": {"values": [1], "when": {"b": 1}}, "b": [1]}, "depends on b, which is not a parameter before it"),
        ({"a": [1, 2], "b": {"values": [1], "when": {"a": [2, 3]}}}, "asks for a=3, which a never is"),
    ],
)
def test_parameters_that_do_not_fit_together_are_one_line(written: Any, text: str) -> None:
    refused(lambda: read_space(written, "search.space"), text)


def test_conditions_that_exclude_each_other_let_two_parameters_set_one_key() -> None:
    space = read_space(
        {
            "optimizer": ["adam", "sgd"],
            "gentle": {"values": {"one": {"optimizer.lr": 0.1}}, "when": {"optimizer": "adam"}},
            "steep": {"values": {"one": {"optimizer.lr": 1.0}}, "when": {"optimizer": "sgd"}},
        },
        "space",
    )
    assert [space.words(one)[-1] for one in space.grid()] == ["optimizer.lr=0.1", "optimizer.lr=1.0"]


def test_a_range_without_end_has_no_grid() -> None:
    refused(
        lambda: list(read_space({"a": {"low": 0.0, "high": 1.0}}, "space").grid()), "a of the search space is a range"
    )
    assert Range(1, 4, log=True).grid() is None
    assert Range(1, 4).grid() == [1, 2, 3, 4]
    assert not Range(1, 4.0).whole
