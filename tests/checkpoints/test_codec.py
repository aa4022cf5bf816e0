from __future__ import annotations

import json
import math
import struct
from collections import OrderedDict
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor, nn

from etude.checkpoints.codec import decode, encode, safetensors_bytes
from etude.errors import StorageError

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.complex64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint64,
    torch.uint32,
    torch.uint16,
    torch.uint8,
    torch.bool,
]
SHAPES: list[tuple[int, ...]] = [(), (0,), (3, 0, 2), (1,), (5,), (2, 3), (2, 3, 5)]


def bits(value: Any) -> Any:
    """Return a tree in which everything that must be equal compares equal, and nothing else does."""
    if isinstance(value, Tensor):
        dense = value.detach().resolve_conj().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return ("tensor", str(value.dtype), tuple(value.shape), dense)
    if isinstance(value, dict):
        return ("dict", [(type(key), key, bits(item)) for key, item in value.items()])
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, [bits(item) for item in value])
    if isinstance(value, float):
        return ("float", struct.pack(">d", value))
    return (type(value).__name__, value)


def round_trip(tree: dict[str, Any]) -> Any:
    """Encode, through the text of JSON and the bytes of safetensors, and decode."""
    encoded = encode(tree)
    tensors = {stem: load(b"".join(safetensors_bytes(some))) for stem, some in encoded.tensors.items()}
    for stem, aliases in encoded.aliases.items():
        tensors[stem] |= {name: tensors[stem][stored] for name, stored in aliases.items()}
    return decode(json.loads(json.dumps(encoded.state, allow_nan=False)), tensors)


@st.composite
def any_tensor(draw: st.DrawFn) -> Tensor:
    dtype, shape = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(SHAPES))
    size = math.prod(shape) * torch.empty((), dtype=dtype).element_size()
    content = draw(st.binary(min_size=size, max_size=size))
    if dtype == torch.bool:
        content = bytes(byte % 2 for byte in content)
    if not size:
        return torch.empty(shape, dtype=dtype)
    tensor = torch.frombuffer(bytearray(content), dtype=torch.uint8).clone().view(dtype).reshape(shape)
    return tensor.mT if tensor.ndim > 1 and draw(st.booleans()) else tensor


NAMES = st.one_of(st.text(max_size=5), st.sampled_from(["$tensor", "$items", "/", "a/0", "", "__metadata__"]))
KEYS = st.one_of(NAMES, st.integers())
TREES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), any_tensor()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.lists(inner, max_size=4).map(tuple), st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(NAMES, TREES, max_size=4), st.dictionaries(KEYS, st.one_of(any_tensor(), TREES), max_size=4))
def test_what_comes_back_is_what_went_in_bit_for_bit(rest: dict[str, Any], weights: dict[str, Any]) -> None:
    tree = {**rest, "state_dict": weights}
    assert bits(round_trip(tree)) == bits(tree)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_dtype_and_shape(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.arange(math.prod(shape)) % 2).to(dtype).reshape(shape)
    assert bits(round_trip({"x": tensor})) == bits({"x": tensor})


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, -math.nan, -0.0, 5e-324, 0.1, 1e308])
def test_floats_keep_their_bits(value: float) -> None:
    assert bits(round_trip({"x": [value]})) == bits({"x": [value]})


def test_tied_tensors_are_stored_once_and_come_back_tied() -> None:
    weight = nn.Parameter(torch.randn(7, 5))
    tree = {"state_dict": OrderedDict(a=weight, b=weight.detach(), c=weight.detach().clone())}
    encoded = encode(tree)
    assert set(encoded.tensors["model"]) == {"a", "c"}
    assert encoded.aliases["model"] == {"b": "a"}
    back = round_trip(tree)["state_dict"]
    back["a"][2, 3] = 9
    assert back["b"][2, 3] == 9
    assert back["c"][2, 3] != 9


def test_views_that_only_overlap_are_tensors_of_their_own() -> None:
    whole = torch.arange(30.0).reshape(5, 6)
    tree = {"state_dict": {"whole": whole, "rows": whole[1:3], "columns": whole[:, ::2], "turned": whole.mT}}
    back = round_trip(tree)
    assert bits(back) == bits(tree)
    back["state_dict"]["whole"].zero_()
    assert torch.equal(back["state_dict"]["rows"], whole[1:3])


def test_lazily_conjugated_tensors_are_written_conjugated() -> None:
    tensor = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64).conj()
    assert torch.equal(round_trip({"x": tensor})["x"], torch.tensor([1 - 2j, 3 + 4j], dtype=torch.complex64))


def test_an_ordered_dict_counts_as_a_dict() -> None:
    assert round_trip({"x": OrderedDict(b=1, a=2)}) == {"x": {"b": 1, "a": 2}}


def test_names_that_meet_are_kept_apart() -> None:
    tree = {"a/b": torch.zeros(2), "a": {"b": torch.ones(3), 0: torch.zeros(5)}, "a/0": torch.ones(7)}
    assert bits(round_trip(tree)) == bits(tree)


class Colour(IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({1, 2}, "builtins.set"),
        (Path("x"), "pathlib"),
        (np.float64(0.5), "numpy.float64"),
        (np.zeros(3), "numpy.ndarray"),
        (Colour.RED, "Colour"),
        (b"x", "builtins.bytes"),
        (len, "builtin_function"),
        (torch.zeros(2, 2).to_sparse(), "sparse"),
        (torch.zeros(2, dtype=torch.complex128), "complex128"),
        (torch.zeros(2, device="meta"), "meta"),
    ],
)
def test_an_unknown_type_is_refused_with_its_place(value: Any, named: str) -> None:
    with pytest.raises(StorageError, match=f"callbacks/EMA/2/deep.*{named}") as error:
        encode({"callbacks": {"EMA": [0, 1, {"deep": value}]}})
    assert "\n" not in str(error.value)


def test_an_unknown_key_is_refused_with_its_place() -> None:
    with pytest.raises(StorageError, match=r"\(1, 2\) of a/b"):
        encode({"a": {"b": {(1, 2): 0}}})


@pytest.mark.parametrize("count", [0, 1, 7])
def test_the_bytes_are_those_of_the_library(count: int) -> None:
    tensors = {f"layer.{index}.weight": torch.randn(2, index + 3) for index in range(count)}
    assert b"".join(safetensors_bytes(tensors)) == save(tensors, {"format": "pt"})


def test_equal_tensors_make_equal_bytes_whatever_their_order() -> None:
    tensors = {"b": torch.ones(3, dtype=torch.int8), "a": torch.ones(5), "é": torch.zeros((), dtype=torch.bfloat16)}
    backwards = dict(reversed(tensors.items()))
    assert b"".join(safetensors_bytes(tensors)) == b"".join(safetensors_bytes(backwards))
