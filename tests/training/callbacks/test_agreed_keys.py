"""Ranks that logged other keys are refused alike, whatever the keys are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed

from etude.errors import ConfigurationError
from etude.training.callbacks.agreed_keys import require_equal_keys
from tests.training.test_rank_watch import in_ranks

CASES: dict[str, list[list[str]]] = {
    "equal": [["val/a", "val/b"], ["val/b", "val/a", "val/a"], ["val/a", "val/b"]],
    "none": [[], [], []],
    "more on one": [["val/a"], ["val/a"], ["val/a", "val/c"]],
    "fewer on one": [["val/a", "val/b"], ["val/a"], ["val/a", "val/b"]],
    "others": [["val/a"], ["val/b"], ["val/c"]],
}
SAID = {
    "more on one": "'val/c' was logged by rank 2 and not by rank 0, 1;",
    "fewer on one": "'val/b' was logged by rank 0, 2 and not by rank 1;",
    "others": "'val/a' was logged by rank 0 and not by rank 1, 2;",
}


def compare(rank: int, folder: Path) -> None:
    said = {}
    for name, keys in CASES.items():
        try:
            require_equal_keys(keys[rank], torch.device("cpu"))
        except ConfigurationError as error:
            said[name] = str(error)
    (folder / f"{rank}.json").write_text(json.dumps(said))
    torch.distributed.barrier()


def test_ranks_refuse_other_keys_alike(tmp_path: Path) -> None:
    assert in_ranks(compare, 3, tmp_path) == [0, 0, 0]
    for rank in range(3):
        said = json.loads((tmp_path / f"{rank}.json").read_text())
        assert said.keys() == SAID.keys()
        assert all(said[name].startswith(start) for name, start in SAID.items()), said


def test_many_ranks_are_not_all_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(found: list[list[str]], own: list[str]) -> None:
        found[:] = [own, *([[]] * 9)]

    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor, operation: tensor.fill_(1))
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 10)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    with pytest.raises(ConfigurationError, match="by rank 0 and not by rank 1, 2, 3, 4 and others;"):
        require_equal_keys(["a"], torch.device("cpu"))
