"""A checkpoint as a tree: tensors go to safetensors, all else to JSON, exactly, and nothing is pickled.

JSON has no tuples, no integer keys, no infinities and no tensors. Each is written as a mark, an object whose only key
starts with `$`:

    {"$tensor": "model:encoder.weight"}   a tensor: its file, its name there
    {"$tuple": [0.9, 0.98]}               a tuple
    {"$float": "7ff0000000000000"}        a float that is not finite, by its bits (IEEE 754, big-endian)
    {"$items": [[0, "a"], [1, "b"]]}      a dict with keys that are integers, or that look like marks
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import StorageError
from etude.schema_errors import shown

MODEL = "model"
TRAINING = "training"

DEPTH = 100
"""How deep dicts, lists and tuples are nested in each other at most."""

JSON_DEPTH = 3 * DEPTH
"""How deep that is in JSON: an item of a dict with marks is a list in a list in an object."""


_BITS = re.compile(r"[0-9a-f]{16}")
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Encoded:
    """A tree, taken apart.

    Attributes:
        state: The tree as JSON can hold it, with marks.
        tensors: For each of `model` and `training`, its tensors by name. `model` has those of `state_dict`, under
            their own names. Of a tensor that is sharded over ranks, this rank's slice.
        aliases: For each of the two, the names of tied tensors that are stored under another name: {name: stored}.
    """

    state: Any
    tensors: dict[str, dict[str, Tensor]]
    aliases: dict[str, dict[str, str]]


def encode(tree: Mapping[str, Any], rank: int = 0) -> Encoded:
    """Take a checkpoint apart into JSON and tensors.

    Tensors of the same memory, shape and strides are tied and stored once; other views are stored as tensors of their
    own. All are copied: what is returned shares no memory with the tree, which may change before it is written.

    Args:
        tree: Made of dict (keys str or int), list, tuple, str, int, float, bool, None and dense tensors. An
            OrderedDict counts as a dict.
        rank: This process's rank: tensors that are not sharded are those of the first rank, and left out on others.

    Raises:
        StorageError: If something else is in it; names the place.
    """
    encoder = _Encoder(rank)
    return Encoded(encoder.value(dict(tree), ()), encoder.tensors, encoder.aliases)


class _Encoder:
    """Walks through one tree and collects its tensors."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self.tensors: dict[str, dict[str, Tensor]] = {MODEL: {}, TRAINING: {}}
        self.aliases: dict[str, dict[str, str]] = {MODEL: {}, TRAINING: {}}
        self._stored: dict[tuple[object, ...], str] = {}

    def value(self, value: Any, path: tuple[str | int, ...]) -> Any:
        if len(path) > DEPTH:
            raise StorageError(f"a checkpoint cannot hold {_written(path[:8])}/…, nested more than {DEPTH} levels deep")
        kind = type(value)  # not isinstance: a subclass would come back as something else
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else {"$float": struct.pack(">d", value).hex()}
        if kind is list:
            return [self.value(item, (*path, index)) for index, item in enumerate(value)]
        if kind is tuple:
            return {"$tuple": [self.value(item, (*path, index)) for index, item in enumerate(value)]}
        if kind in (dict, OrderedDict):
            return self._mapping(value, path)
        if kind in (Tensor, nn.Parameter) or _is_sharded(value):
            return {"$tensor": self._tensor(value, path)}
        raise StorageError(
            f"a checkpoint cannot hold {_written(path)}, a {kind.__module__}.{kind.__qualname__}; "
            "return plain values and tensors from state_dict() and on_save_checkpoint()"
        )

    def _mapping(self, mapping: Mapping[Any, Any], path: tuple[str | int, ...]) -> Any:
        for key in mapping:
            if type(key) not in (str, int):
                raise StorageError(f"a checkpoint cannot hold the key {key!r} of {_written(path)}; use str or int keys")
        if all(type(key) is str and not key.startswith("$") for key in mapping):
            return {key: self.value(item, (*path, key)) for key, item in mapping.items()}
        return {"$items": [[key, self.value(item, (*path, key))] for key, item in mapping.items()]}

    def _tensor(self, tensor: Tensor, path: tuple[str | int, ...]) -> str:
        if tensor.layout != torch.strided or tensor.dtype not in _DTYPES or tensor.device.type == "meta":
            raise StorageError(
                f"a checkpoint cannot hold {_written(path)}, a {tensor.layout} tensor of {tensor.dtype} "
                f"on {tensor.device}; make it dense, and of one of {', '.join(_DTYPES.values())}"
            )
        in_model = len(path) == 2 and path[0] == "state_dict"
        file = MODEL if in_model else TRAINING
        name = self._free_name(file, str(path[1]) if in_model else "/".join(map(str, path)))
        own = _own_slice(tensor, path) if _is_sharded(tensor) else tensor
        place = (file, own.device, own.data_ptr(), own.dtype, tensor.shape, tensor.stride())
        stored = self._stored.setdefault(place, name) if own.numel() else name
        if stored != name:
            self.aliases[file][name] = stored
        elif self._rank == 0 or (own is not tensor and own.numel()):
            self.tensors[file][name] = _copied(own)
        return f"{file}:{name}"

    def _free_name(self, file: str, name: str) -> str:
        """Return the name, in valid UTF-8 and changed as long as another tensor, or the format itself, has it."""
        name = name.encode(errors="backslashreplace").decode()
        while name == "__metadata__" or name in self.tensors[file] or name in self.aliases[file]:
            name += "'"
        return name


def _is_sharded(value: Any) -> bool:
    """Whether a value is a DTensor, of which each rank holds a slice: by what it has, since its class takes long to import."""
    return isinstance(value, Tensor) and hasattr(value, "to_local")


def _own_slice(tensor: Any, path: tuple[str | int, ...]) -> Tensor:
    if len(tensor.placements) != 1 or not tensor.placements[0].is_shard(0):
        raise StorageError(
            f"a checkpoint cannot hold {_written(path)}, which is placed as {tensor.placements}: only rows can be sharded here"
        )
    own: Tensor = tensor.to_local()
    return own


def _copied(tensor: Tensor) -> Tensor:
    """Return a copy on the CPU, laid out as it is written: nothing is left to be computed then."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu").copy_(tensor.detach())


def _written(path: tuple[str | int, ...]) -> str:
    return "/".join(map(str, path)) or "the whole"


def decode(state: Any, tensors: Mapping[str, Mapping[str, Tensor]]) -> Any:
    """Put together what `encode` took apart.

    Args:
        state: The tree with marks.
        tensors: For each file, its tensors by name, aliases included.

    Raises:
        ValueError: If it is nothing that `encode` makes, or names a tensor that is missing.
    """
    if isinstance(state, list):
        return [decode(item, tensors) for item in state]
    if not isinstance(state, dict):
        return state
    marks = [key for key in state if key.startswith("$")]
    if not marks:
        return {key: decode(item, tensors) for key, item in state.items()}
    mark = marks[0]
    if len(state) > 1 or mark not in _MARKS:
        raise ValueError(f"'{shown(mark)}' is not a mark that stands alone, of {', '.join(_MARKS)}")
    return _MARKS[mark](state[mark], tensors)


def _decode_tensor(content: Any, tensors: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
    file, _, name = content.partition(":") if isinstance(content, str) else ("", "", "")
    found = tensors.get(file, {}).get(name)
    if found is None:
        raise ValueError(f"$tensor is '{shown(str(content))}', which no file of the checkpoint has")
    return found


def _decode_tuple(content: Any, tensors: Mapping[str, Mapping[str, Tensor]]) -> tuple[Any, ...]:
    if not isinstance(content, list):
        raise ValueError("$tuple is not a list")
    return tuple(decode(item, tensors) for item in content)


def _decode_float(content: Any, tensors: Mapping[str, Mapping[str, Tensor]]) -> float:
    if not isinstance(content, str) or not _BITS.fullmatch(content):
        raise ValueError("$float is not the sixteen hexadecimal digits of a number")
    number: float = struct.unpack(">d", bytes.fromhex(content))[0]
    return number


def _decode_items(content: Any, tensors: Mapping[str, Mapping[str, Tensor]]) -> dict[str | int, Any]:
    pairs: list[Any] = content if isinstance(content, list) else [None]
    if not all(isinstance(pair, list) and len(pair) == 2 and type(pair[0]) in (str, int) for pair in pairs):
        raise ValueError("$items is not a list of keys, texts or whole numbers, with a value each")
    items = {key: decode(item, tensors) for key, item in pairs}
    if len(items) < len(pairs):
        raise ValueError("$items has a key twice")
    return items


_MARKS: dict[str, Callable[[Any, Mapping[str, Mapping[str, Tensor]]], Any]] = {
    "$tensor": _decode_tensor,
    "$tuple": _decode_tuple,
    "$float": _decode_float,
    "$items": _decode_items,
}
"""What reads the content of each mark."""


def safetensors_bytes(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a safetensors file, one tensor at a time.

    The library's own writer wants the whole model a second time in memory or the file's name; this one lets the bytes
    be hashed and written in one pass. The order is by width, then name, so that every tensor is aligned and equal
    tensors make equal files.

    Args:
        tensors: Dense tensors on the CPU, of any shape and strides.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text))
    yield text
    for name in order:
        dense = tensors[name].resolve_conj().resolve_neg().contiguous()
        yield dense.reshape(-1).view(torch.uint8).numpy().data
