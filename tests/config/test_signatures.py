"""The static reading of signatures agrees with Python's own, and annotations accept what Python's types would."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from etude.config import modules, signatures
from etude.config.annotations import Choice, DictOf, Either, ListOf, Scalar, TupleOf
from etude.config.modules import find_module, resolve
from etude.config.signatures import constant, interpret, signature

CONF = Path(__file__).parents[2] / "conf"
FOREIGN = [
    "torch.nn.LayerNorm",
    "torch.nn.RMSNorm",
    "torch.optim.Adam",
    "torch.optim.RMSprop",
    "lightning.pytorch.loggers.CSVLogger",
]


def targets(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        if "_target_" in tree:
            yield tree["_target_"]
        for value in tree.values():
            yield from targets(value)


TARGETS = sorted({name for path in CONF.rglob("*.yaml") for name in targets(yaml.safe_load(path.read_text()))})


def parameters(made: Any) -> dict[str, inspect.Parameter]:
    """Return what a class or function takes, and what a constructor hands on to the next class by `**`."""
    own = dict(inspect.signature(made).parameters)
    hands_on = isinstance(made, type) and any(p.kind is p.VAR_KEYWORD for p in own.values())
    return {**(parameters(made.__mro__[1]) if hands_on else {}), **own}


@pytest.mark.parametrize("target", [*TARGETS, *FOREIGN])
def test_names_and_defaults_are_those_that_python_sees(target: str) -> None:
    module, _, name = target.rpartition(".")
    expected = parameters(getattr(importlib.import_module(module), name))
    named = {key: p for key, p in expected.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    found = signature(target)
    assert found is not None
    assert {key: parameter.required for key, parameter in found.parameters.items()} == {
        key: parameter.default is parameter.empty for key, parameter in named.items()
    }


STUB = """
from __future__ import annotations
import typing as t
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Optional, Protocol, Union

Pooling = Literal["mean", "first"]

class Base:
    KIND = "base"
    def __init__(self, width: int, *, depth: int = 2) -> None: ...

class Handing(Base):
    def __init__(self, rate: float, **rest) -> None:
        super().__init__(**rest)

class Open(Base):
    def __init__(self, rate: float, **rest) -> None:
        self.rest = rest

class Silent(Base):
    KIND: ClassVar[str] = "silent"

@dataclass(frozen=True)
class First:
    a: int
    b: str = "b"
    SHARED: ClassVar[int] = 3

@dataclass
class Second(First):
    c: list[int] = field(default_factory=list)
    d: int = field(init=False, default=3)

class Maker:
    @classmethod
    def from_text(cls, text: str) -> Maker: ...
    @staticmethod
    def plain(text: str = "x") -> Maker: ...

class Shape(Protocol):
    def area(self) -> float: ...

def make(base: Base, shape: Shape | None = None) -> Silent: ...

Alias = make
"""


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    package = tmp_path / "signature_stub"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from .inner import Second as Renamed\nfrom signature_stub import inner as deep\nfrom .starred import *\n"
    )
    (package / "starred.py").write_text("from .inner import Silent\nclass Star(Silent): ...\nclass _Hidden: ...\n")
    (package / "inner.py").write_text(STUB)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield "signature_stub"
    modules.find_module.cache_clear()
    signatures.signature.cache_clear()


@pytest.mark.parametrize(
    ("name", "parameters", "is_open"),
    [
        ("inner.Base", {"width": True, "depth": False}, False),
        ("inner.Handing", {"width": True, "depth": False, "rate": True}, False),
        ("inner.Open", {"rate": True}, True),
        ("inner.Silent", {"width": True, "depth": False}, False),
        ("Renamed", {"a": True, "b": False, "c": False}, False),
        ("deep.First", {"a": True, "b": False}, False),
        ("Star", {"width": True, "depth": False}, False),
        ("inner.Maker.from_text", {"text": True}, False),
        ("inner.Maker.plain", {"text": False}, False),
        ("inner.Alias", {"base": True, "shape": False}, False),
    ],
)
def test_each_way_of_writing_a_constructor(stub: str, name: str, parameters: dict[str, bool], is_open: bool) -> None:
    found = signature(f"{stub}.{name}")
    assert found is not None
    assert {key: parameter.required for key, parameter in found.parameters.items()} == parameters
    assert found.open is is_open
    assert stub not in sys.modules


def test_what_is_not_there_is_none(stub: str) -> None:
    assert signature(f"{stub}.inner.Nothing") is None
    assert signature(f"{stub}.nowhere.Base") is None
    assert signature(f"{stub}._Hidden") is None
    assert signature("no_such_package.Base") is None
    assert resolve(f"{stub}.Renamed").dotted == f"{stub}.inner.Second"  # type: ignore[union-attr]


def test_constants_are_inherited_and_overridden(stub: str) -> None:
    assert constant(f"{stub}.inner.Handing", "KIND") == "base"
    assert constant(f"{stub}.inner.Silent", "KIND") == "silent"
    assert constant(f"{stub}.inner.First", "KIND") is None


@pytest.mark.parametrize(
    ("annotation", "accepted", "refused"),
    [
        ("int", [3], [True, 3.0, "3", None]),
        ("float", [3, 0.5], [True, "3", float("nan"), float("inf"), None]),
        ("bool", [True], [1, "yes"]),
        ("str", ["a"], [3, False, None]),
        ("Path", ["a/b"], [3]),
        ("int | None", [3, None], ["3"]),
        ("Optional[int]", [3, None], ["3"]),
        ("Union[int, str]", [3, "3"], [3.5]),
        ("Pooling", ["mean", "first"], ["max", 1]),
        ("Literal[1, 2]", [1], [3, True]),
        ("list[int]", [[1, 2], []], [[1, "2"], 1]),
        ("Sequence[str]", [["a"]], ["a"]),
        ("tuple[float, float]", [[0.9, 1]], [[0.9], [0.9, 1, 2]]),
        ("tuple[int, ...]", [[1, 2, 3]], [["a"]]),
        ("Mapping[str, int]", [{"a": 1}], [{"a": "b"}, [1]]),
        ("t.Dict[str, t.List[int]]", [{"a": [1]}], [{"a": 1}]),
        ("'int'", [3], ["3"]),
        ("Base", [{"_target_": "signature_stub.inner.Silent"}], [3, None, {"_target_": "signature_stub.inner.First"}]),
        ("Base", [{"_target_": "signature_stub.inner.make"}, {"_target_": "signature_stub.inner.Alias"}], ["Base"]),
        ("First | None", [None, {"_target_": "signature_stub.Renamed"}], [{"a": 1}]),
        ("Shape", [{"_target_": "signature_stub.inner.First"}], ["round"]),
        ("Callable[..., Base]", [{"_target_": "signature_stub.inner.Base", "_partial_": True}], ["Base"]),
        (
            "Callable[..., Base]",
            [{"_target_": f"signature_stub.inner.{name}", "_partial_": True} for name in ("Silent", "make")],
            [{"_target_": "signature_stub.inner.First", "_partial_": True}, 3],
        ),
        ("Unknown", [3, "a", None], []),
    ],
)
def test_an_annotation_accepts_its_values_alone(
    stub: str, annotation: str, accepted: list[Any], refused: list[Any]
) -> None:
    module = find_module(f"{stub}.inner")
    assert module is not None
    wanted = interpret(module, ast.parse(annotation, mode="eval").body)
    assert [value for value in accepted if not wanted.accepts(value)] == []
    assert [value for value in refused if wanted.accepts(value)] == []


SCALARS = st.sampled_from(["int", "float", "bool", "str", "null"]).map(Scalar)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=5,
)


@given(left=SCALARS, right=SCALARS, value=VALUES)
def test_a_union_accepts_what_a_member_accepts_and_containers_go_item_by_item(
    left: Scalar, right: Scalar, value: Any
) -> None:
    assert Either((left, right)).accepts(value) == (left.accepts(value) or right.accepts(value))
    assert ListOf(left).accepts([value, value]) == left.accepts(value)
    assert TupleOf((left, right)).accepts([value, value]) == (left.accepts(value) and right.accepts(value))
    assert DictOf(Scalar("str"), left).accepts({"key": value}) == left.accepts(value)
    assert Choice((value,)).accepts(value)
