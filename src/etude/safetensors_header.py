"""Reading of the header of a safetensors file, checked against the file before a tensor is read."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from etude.schema_errors import shown
from etude.untrusted import ANY_SIZE, BrokenFileError, convert, decode_json, opened

_SIZES = 64  # of a tensor, at most
_HEADER = 100_000_000  # bytes of a safetensors header at most: the library's own limit
_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}


class StoredTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the header of a safetensors file says of a tensor.

    Attributes:
        dtype: The elements' type, as the format calls it: `F32`.
        shape: Its sizes.
        data_offsets: First byte and the one behind the last, counted from the end of the header.
    """

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_safetensors_header(path: Path, advice: str) -> dict[str, StoredTensor]:
    """Return what a safetensors file says of its tensors, after it has been held against the file's size.

    The library checks offsets and sizes too, when it opens the file; not whether it is a regular one, nor whether a
    name occurs twice. No tensor is read.

    Args:
        path: The file.
        advice: What to do about a broken file.

    Raises:
        BrokenFileError: If it cannot be read, or the header is not true; names the tensor.
    """
    with opened(path, advice, most=ANY_SIZE) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(_HEADER, size - 8):
            raise BrokenFileError(path, f"its header claims {length:,} bytes; the file has {size:,}", advice)
        content = file.read(length)
    header = decode_json(content, dict[str, Any], path, advice)
    metadata = header.pop("__metadata__", {})
    convert({"__metadata__": metadata}, dict[str, dict[str, str]], path, advice)
    tensors = convert(header, dict[str, StoredTensor], path, advice)
    problem = _untrue(tensors, size - 8 - length)
    if problem:
        raise BrokenFileError(path, problem, advice)
    return tensors


def _untrue(tensors: Mapping[str, StoredTensor], size: int) -> str | None:
    """Return what cannot be true of tensors that fill so many bytes one behind the other; None if all can."""
    behind = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        begin, end = tensor.data_offsets
        if tensor.dtype not in _BITS:
            return f"['{shown(name)}'].dtype is '{shown(tensor.dtype)}', which is none of {', '.join(_BITS)}"
        if len(tensor.shape) > _SIZES or not all(0 <= length < 1 << 63 for length in tensor.shape):
            return f"['{shown(name)}'].shape is not one of a tensor"
        if begin != behind:
            return f"['{shown(name)}'].data_offsets begin at byte {begin:,}, not {behind:,}, where the one before ends"
        needed = math.prod(tensor.shape) * _BITS[tensor.dtype] // 8
        if end - begin != needed:
            return f"['{shown(name)}'].data_offsets have {end - begin:,} bytes; its shape needs {needed:,}"
        behind = end
    return None if behind == size else f"its tensors have {behind:,} bytes; the file has {size:,} for them"
