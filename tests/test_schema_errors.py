"""The sentence about values that are not of a type: it begins with the field that a person has to look at."""

from __future__ import annotations

import copy
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Meta

from etude.schema_errors import in_words, shown

Size = Annotated[int, Meta(ge=0)]
Pair = Annotated[list[float], Meta(min_length=2, max_length=2)]


class Part(msgspec.Struct, forbid_unknown_fields=True):
    size: Size
    name: str | None


class Whole(msgspec.Struct, forbid_unknown_fields=True):
    step: int
    files: dict[str, Part]
    ends: Pair
    link: tuple[int, str]
    words: list[str]
    flags: dict[str, dict[str, list[bool]]]
    score: int | float | str | None
    is_: dict[str, float] = msgspec.field(name="is", default={})

    def __post_init__(self) -> None:
        if self.step > 100:
            raise ValueError("step is more than the hundred that there are")


SOUND: dict[str, Any] = {
    "step": 5,
    "files": {"a": {"size": 1, "name": None}, "b.c": {"size": 2, "name": "two"}, "d": {"size": 3, "name": ""}},
    "ends": [0.5, 2],
    "link": [1, "x"],
    "words": ["sun", "moon", "star"],
    "flags": {"on": {"p": [], "q": [True, False, True]}, "off": {}},
    "score": "nan",
    "is": {"half": 0.5},
}
ABSENT = object()


def complaint(values: Any, kind: Any) -> str:
    """Return what msgspec says of values, which must not be of the type."""
    with pytest.raises(msgspec.ValidationError) as error:
        msgspec.convert(values, kind, strict=True)
    return str(error.value)


def sentence(values: Any, kind: Any) -> str:
    """Return the sentence about values; they are not changed."""
    return in_words(complaint(values, kind), copy.deepcopy(values), kind)


def with_value(place: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """Return the sound values with another value at a place, or with none there."""
    values = copy.deepcopy(SOUND)
    here: Any = values
    for key in place[:-1]:
        here = here[key]
    here[place[-1]] = value
    if value is ABSENT:
        del here[place[-1]]
    return values


# Laws of texts


@given(st.text())
@example("\x1b[2J\u202e\ud800\n")
@example("x" * 80)
@example("x" * 81)
def test_a_text_of_a_stranger_steers_no_terminal_and_hides_only_its_end(text: str) -> None:
    found = shown(text)
    assert found.isprintable()
    assert found.endswith("…") or len(text) <= 80
    kept = found.removesuffix("…") if len(text) > 80 else found
    assert kept == "".join(one if one.isprintable() else repr(one)[1:-1] for one in text[:80])


@given(st.text(st.characters(exclude_categories=["C", "Z"]), max_size=80))
def test_a_short_text_that_can_be_read_is_shown_as_it_is(text: str) -> None:
    assert shown(text) == text


# Laws of sentences

NESTED = dict[str, list[dict[str, Size]]]
KEYS = st.text(max_size=9) | st.sampled_from(["a.b", "[0]", "[...]", "` - at `$.x`", "$", "'", ""])
SIZES = st.dictionaries(KEYS, st.integers(0, 9), min_size=1, max_size=5)
LISTS = st.dictionaries(KEYS, st.lists(SIZES, min_size=1, max_size=3), min_size=1, max_size=7)


@given(LISTS, st.data())
def test_one_wrong_value_anywhere_is_named_by_its_place(values: dict[str, list[dict[str, Any]]], data: Any) -> None:
    first = data.draw(st.sampled_from(list(values)))
    number = data.draw(st.integers(0, len(values[first]) - 1))
    last = data.draw(st.sampled_from(list(values[first][number])))
    wrong, said = data.draw(
        st.sampled_from([("7", "is a text, not a whole number"), (-1, "is a number that is not >= 0")])
    )
    values[first][number][last] = wrong
    place = f"['{shown(first)}'][{number}]['{shown(last)}']"
    assert sentence(values, NESTED) == f"{place} {said}"


@given(LISTS, st.data())
def test_of_several_wrong_values_one_is_named(values: dict[str, list[dict[str, Any]]], data: Any) -> None:
    places = [(first, n, last) for first, rows in values.items() for n, row in enumerate(rows) for last in row]
    for first, number, last in data.draw(st.lists(st.sampled_from(places), min_size=1)):
        values[first][number][last] = None
    wrong = [(first, n, last) for first, n, last in places if values[first][n][last] is None]
    named = [f"['{shown(first)}'][{n}]['{shown(last)}'] is null, not a whole number" for first, n, last in wrong]
    assert sentence(values, NESTED) in named


ANY = st.recursive(
    st.none() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)


@given(
    st.text(),
    st.dictionaries(KEYS, ANY, max_size=4),
    st.sampled_from(["", "$", "$[...]", "$[...].a[0]", "$.a.b[7].c", "$[2]"]),
)
@example("Object contains unknown field `a", {"a` - at `$.b": 1}, "$.b")
def test_a_place_that_the_values_do_not_have_is_no_traceback(error: str, values: Any, place: str) -> None:
    said = in_words(f"{error} - at `{place}`" if place else error, values, NESTED)
    assert said.startswith(error) or error in said


def test_a_key_that_looks_like_a_place_in_a_list_is_no_traceback() -> None:
    said = sentence({**SOUND, "x` - at `$.words[...]": 1}, Whole)
    assert "is not a key that this version of etude writes" in said


@given(st.integers(0, 40), st.integers(1, 40))
def test_a_key_is_found_among_any_number_of_others(before: int, after: int) -> None:
    kind = dict[str, int]
    values = {**{f"b{number}": number for number in range(before)}, "wrong": "x"}
    values |= {f"a{number}": number for number in range(after)}
    assert sentence(values, kind) == "['wrong'] is a text, not a whole number"


# Examples


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("step",), "5", "step is a text, not a whole number"),
        (("step",), 5.5, "step is a number, not a whole number"),
        (("step",), True, "step is true or false, not a whole number"),
        (("step",), ABSENT, "step is missing"),
        (("files",), [], "files is a list, not an object"),
        (("files", "b.c"), None, "files['b.c'] is null, not an object"),
        (("files", "b.c", "size"), -1, "files['b.c'].size is a number that is not >= 0"),
        (("files", "d", "name"), ABSENT, "files['d'].name is missing"),
        (("files", "a", "name"), 7, "files['a'].name is a whole number, not a text or null"),
        (("files", "\x1b[2J", ), {}, "files['\\x1b[2J'].size is missing"),
        (("ends",), [0.5], "ends has a length that is not >= 2"),
        (("ends",), [0.5, 1, 2], "ends has a length that is not <= 2"),
        (("ends", 1), "x", "ends[1] is a text, not a number"),
        (("link",), [1], "link has 1 value, not 2"),
        (("link", 1), 3, "link[1] is a whole number, not a text"),
        (("flags", "on", "q", 2), 0, "flags['on']['q'][2] is a whole number, not true or false"),
        (("flags", "off"), [], "flags['off'] is a list, not an object"),
        (("score",), True, "score is true or false, not a whole number or a number or a text or null"),
        (("is", "half"), None, "is['half'] is null, not a number"),
        (("step",), 101, "step is more than the hundred that there are"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit(place: tuple[str | int, ...], value: Any, said: str) -> None:
    assert sentence(with_value(place, value), Whole) == said


def test_sound_values_are_sound() -> None:
    assert msgspec.to_builtins(msgspec.convert(SOUND, Whole, strict=True)) == {**SOUND, "link": (1, "x")}


@pytest.mark.parametrize(("place", "field"), [((), ""), (("files", "d"), "files['d'].")])
@pytest.mark.parametrize("key", ["newer", "step size", "a\nb"])
def test_a_key_of_another_version_is_said_to_be_one(place: tuple[str, ...], field: str, key: str) -> None:
    said = sentence(with_value((*place, key), 1), Whole)
    written = key.replace("\n", "\\n")
    assert said == (
        f"{field}{written} is not a key that this version of etude writes: another version made it, or it was edited"
    )


@pytest.mark.parametrize(("values", "said"), [([], "is a list, not an object"), (None, "is null, not an object")])
def test_of_the_whole_no_field_is_named(values: Any, said: str) -> None:
    assert sentence(values, Whole) == said


def test_what_has_no_words_of_its_own_still_begins_with_the_field() -> None:
    hashes = dict[str, Annotated[str, Meta(pattern="^[0-9a-f]+$")]]
    assert sentence({"a": "0f", "b": "z"}, hashes) == "['b'] has the wrong form"
    assert sentence({"a": "low"}, dict[str, Literal["min", "max"]]) == "['a']: Invalid enum value 'low'"
    assert in_words("something new", {}, Whole) == "something new"


def test_a_place_that_the_values_do_not_have_ends_where_they_do() -> None:
    assert in_words("Expected `int`, got `str` - at `$.gone[3].x`", {"gone": [1]}, Whole) == (
        "gone[3].x is a text, not a whole number"
    )
