"""Headers of safetensors files that lie: about their own size, offsets, types, shapes and names."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from etude.safetensors_header import read_safetensors_header
from etude.untrusted import BrokenFileError


def written(path: Path, header: Any, size: int, *, claimed: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if claimed is None else claimed) + text + bytes(size))
    return path


def tensor(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def refused(path: Path, *words: str) -> None:
    with pytest.raises(BrokenFileError) as caught:
        read_safetensors_header(path, "fetch it again")
    message = str(caught.value)
    assert message.isprintable() and message.startswith(str(path)) and message.endswith("; fetch it again"), message
    for word in words:
        assert word in message, message


@given(
    st.lists(
        st.tuples(
            st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8, torch.complex64]),
            st.lists(st.integers(0, 4), max_size=3),
        ),
        max_size=5,
    )
)
def test_what_the_library_writes_is_true(
    tmp_path_factory: pytest.TempPathFactory, tensors: list[tuple[torch.dtype, list[int]]]
) -> None:
    path = tmp_path_factory.mktemp("header") / "model.safetensors"
    named = {f"t{number}": torch.zeros(shape, dtype=dtype) for number, (dtype, shape) in enumerate(tensors)}
    save_file(named, path, metadata={"format": "pt"})
    found = read_safetensors_header(path, "fetch it again")
    assert {name: list(one.shape) for name, one in found.items()} == {
        name: list(one.shape) for name, one in named.items()
    }


TWO = {"a": tensor("F32", [2], 0, 8), "b": tensor("F16", [2, 2], 8, 16)}


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({**TWO, "b": tensor("F16", [2, 2], 4, 12)}, "['b'].data_offsets begin at byte 4, not 8"),
        ({**TWO, "b": tensor("F16", [2, 2], 9, 17)}, "['b'].data_offsets begin at byte 9, not 8"),
        ({**TWO, "b": tensor("F16", [2, 1], 8, 16)}, "['b'].data_offsets have 8 bytes; its shape needs 4"),
        ({**TWO, "b": tensor("F16", [1 << 40, 1 << 40], 8, 16)}, "['b'].data_offsets have 8 bytes"),
        ({**TWO, "b": tensor("F16", [-2, -2], 8, 16)}, "['b'].shape is not one of a tensor"),
        ({**TWO, "b": tensor("F16", [1 << 70], 8, 16)}, "['b'].shape is not one of a tensor"),
        ({**TWO, "b": tensor("F16", [1] * 1000, 8, 16)}, "['b'].shape is not one of a tensor"),
        ({**TWO, "b": tensor("F16", [0], 8, 8)}, "its tensors have 8 bytes; the file has 16"),
        ({**TWO, "b": tensor("F16", [2, 2], 16, 8)}, "['b'].data_offsets begin at byte 16"),
        ({**TWO, "b": tensor("Q9\n", [2, 2], 8, 16)}, r"['b'].dtype is 'Q9\n', which is none of"),
        ({**TWO, "b": {"dtype": "F16", "shape": [2, 2]}}, "['b'].data_offsets is missing"),
        ({**TWO, "b": tensor("F16", "22", 8, 16)}, "['b'].shape is a text, not a list"),  # type: ignore[arg-type]
        ({**TWO, "b": {**tensor("F16", [4], 8, 16), "at": "/etc/passwd"}}, "['b'].at is not a key"),
        ({**TWO, "__metadata__": {"format": 1}}, "['__metadata__']['format'] is a whole number, not a text"),
        ({**TWO, "__metadata__": []}, "['__metadata__'] is a list, not an object"),
        ([1], "is a list, not an object"),
        (b'{"a": {}, "a": {}}', "has the key 'a' twice"),
        (b"[" * 100_000, "is nested more than 64 levels deep"),
        (b"", "is not JSON"),
        (b"\xff\xff", "is not UTF-8"),
    ],
)
def test_a_header_that_lies_is_one_line(tmp_path: Path, header: Any, said: str) -> None:
    refused(written(tmp_path / "model.safetensors", header, 16), said)


@pytest.mark.parametrize("claimed", [1 << 60, (1 << 64) - 1, 1 << 40, 10_000])
def test_a_header_that_claims_more_than_the_file(tmp_path: Path, claimed: int) -> None:
    refused(written(tmp_path / "a", TWO, 16, claimed=claimed), f"its header claims {claimed:,} bytes; the file has")


def test_a_header_of_gigabytes_in_a_sparse_file_is_not_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a", TWO, 16, claimed=1 << 36)
    os.truncate(path, 1 << 40)
    refused(path, "its header claims 68,719,476,736 bytes")


def test_every_truncation_is_one_line(tmp_path: Path) -> None:
    path = written(tmp_path / "a", TWO, 16)
    content = path.read_bytes()
    assert set(read_safetensors_header(path, "")) == {"a", "b"}
    for length in range(len(content)):
        path.write_bytes(content[:length])
        refused(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    refused(tmp_path / "pipe", "is a named pipe")
    refused(tmp_path / "zeros", "is a device")
