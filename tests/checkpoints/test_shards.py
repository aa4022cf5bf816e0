"""Slices of tensors in several files: put together, found by row, told between ranks, and refused where they do not fit."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from etude.atomic import Written
from etude.checkpoints.checkpoint import begin, complete, read, read_tensors, snapshot, write_shard
from etude.checkpoints.integrity import CheckpointBrokenError, read_manifest, tensor_file, tensor_files
from etude.checkpoints.shards import Place, Slices, collect, locate, read_slice, read_tensor, report, report_error
from etude.errors import StorageError
from etude.safetensors_header import StoredTensor, read_safetensors_header

HASH = "0" * 64


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8])
def test_rows_are_found_in_whatever_slices(tmp_path: Path, ranks: int) -> None:
    """Any rows of a tensor, cut for any number of ranks, some of which may have none."""
    draw = random.Random(ranks)
    for rows in (1, 2, 7, 16):
        whole = torch.randn(rows, 3)
        paths = []
        for rank, piece in enumerate(whole.chunk(ranks)):
            path = tmp_path / f"{rows}-{rank}.safetensors"
            save_file({"weight": piece.contiguous()}, path)
            paths.append(path)
        slices = locate([read_safetensors_header(path, "") for path in paths])["weight"]
        assert slices.shape == (rows, 3)
        files = [safe_open(path, "pt") for path in paths]
        assert torch.equal(read_tensor(files, "weight", slices, torch.device("cpu"), None), whole)
        for _ in range(20):
            begin_row = draw.randint(0, rows)
            end_row = draw.randint(begin_row, rows)
            assert torch.equal(read_slice(files, "weight", slices, begin_row, end_row), whole[begin_row:end_row])


def stored(dtype: str, *shape: int) -> StoredTensor:
    return StoredTensor(dtype, shape, (0, 0))


def test_slices_that_do_not_fit_are_named() -> None:
    assert locate([{"a": stored("F32")}, {}]) == {"a": Slices((), ((0, 0, 1),))}
    for other in (stored("F16", 2, 3), stored("F32", 2, 4), stored("F32")):
        with pytest.raises(ValueError, match="the slices of a do not fit together"):
            locate([{"a": stored("F32", 2, 3)}, {"a": other}])
    with pytest.raises(ValueError, match="the slices of b do not fit together"):
        locate([{"b": stored("F32")}, {"b": stored("F32")}])


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([], "model.safetensors"),
        (["model.shard-0-of-3.safetensors", "model.shard-2-of-3.safetensors"], "model.shard-1-of-3.safetensors"),
        (["model.shard-0-of-2.safetensors", "model.shard-1-of-3.safetensors"], "model.shard-0-of-3.safetensors"),
        (["model.shard-0-of-999999.safetensors"], "model.shard-1-of-999999.safetensors"),
        (["training.safetensors", "models.safetensors"], "model.safetensors"),
    ],
)
def test_a_missing_file_is_named(names: list[str], problem: str) -> None:
    with pytest.raises(ValueError, match=rf"files\['{problem}'\] is missing"):
        tensor_files("model", names)


def test_files_are_in_the_order_of_the_ranks() -> None:
    names = [tensor_file("model", rank, 11) for rank in range(11)]
    assert tensor_files("model", sorted(names, reverse=True)) == names
    assert tensor_files("model", ["model.safetensors", "other"]) == ["model.safetensors"]


def test_the_first_rank_waits_for_the_others(tmp_path: Path) -> None:
    places = [Place(rank, 3, tmp_path, 10.0) for rank in range(3)]
    files = {1: {"b": Written(1, HASH)}, 2: {"c": Written(2, HASH)}}
    found: dict[str, Written] = {}
    waiting = threading.Thread(target=lambda: found.update(collect(places[0])))
    waiting.start()
    report(places[2], files[2])
    report(places[1], files[1])
    waiting.join(10)
    assert found == files[1] | files[2]
    assert not list(tmp_path.iterdir())


def test_a_rank_that_fails_and_one_that_is_silent_are_named(tmp_path: Path) -> None:
    report_error(Place(1, 2, tmp_path, 1.0), StorageError("no space"))
    with pytest.raises(StorageError, match="rank 1: no space"):
        collect(Place(0, 2, tmp_path, 1.0))
    with pytest.raises(StorageError, match=r"rank 2 has not written its part of .* within 0\.1 s; do all nodes share"):
        report(Place(1, 3, tmp_path, 0.1), {})
        collect(Place(0, 3, tmp_path, 0.1))
    report_error(Place(1, 2, tmp_path / "gone", 1.0), StorageError("no space"))  # nothing more can be done


def test_a_node_without_the_disk_of_the_first_rank_says_so(tmp_path: Path) -> None:
    taken = snapshot({"global_step": 3, "state_dict": {}}, rank=1)
    with pytest.raises(StorageError, match="No such file or directory"):
        write_shard(taken, tmp_path / "step-00000003", Place(1, 2, tmp_path / "elsewhere", 1.0))


def test_whole_tensors_are_written_by_the_first_rank_alone(tmp_path: Path) -> None:
    tree = {
        "global_step": 3,
        "state_dict": {"weight": torch.arange(4.0)},
        "optimizer_states": [{"step": torch.tensor(3.0)}],
    }
    folder = tmp_path / "step-00000003"
    temporary = begin(folder, 3, None)
    assert temporary is not None
    writing = threading.Thread(target=complete, args=(snapshot(tree), folder, Place(0, 2, temporary, 10.0), {}))
    writing.start()
    write_shard(snapshot(tree, rank=1), folder, Place(1, 2, temporary, 10.0))
    writing.join(10)
    files = read_manifest(folder).files
    assert sorted(name for name in files if name.startswith("model")) == [
        tensor_file("model", rank, 2) for rank in (0, 1)
    ]
    assert torch.equal(read_tensors(folder, "model")["weight"], torch.arange(4.0))
    assert read(folder, torch.device("cpu"))["optimizer_states"][0]["step"] == 3
    assert begin(folder, 3, None) is None  # it is there, and whole
    (folder / tensor_file("training", 1, 2)).unlink()
    with pytest.raises(CheckpointBrokenError, match=r"training.shard-1-of-2.safetensors"):
        read(folder, torch.device("cpu"))
