"""The plain values of a stored configuration are those that the whole check reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from etude.config.compose import compose
from etude.config.stored import stored_configuration, stored_values
from etude.errors import DataError
from etude.runs.folder import CONFIGURATION
from etude.runs.saved_run import SavedRun

TRICKY = ["'run.notes=\"2026-11-29\"'", "run.tags=['1e3','012','null','yes']", "optimizer.lr=1e-7", "run.name='1:30'"]


@pytest.mark.parametrize(
    "words",
    [[], ["seed=3", "logger=none"], TRICKY, ["experiment=classification/demo"]],
    ids=["plain", "none", "tricky", "other"],
)
def test_values_are_those_of_the_whole_check(words: list[str], tmp_path: Path) -> None:
    SavedRun.begin(tmp_path, compose(*[word.strip("'") if word.startswith("'run") else word for word in words]))
    assert stored_values(tmp_path / CONFIGURATION) == stored_configuration(tmp_path / CONFIGURATION).values


@pytest.mark.parametrize(
    "text", ["a: [", "- 1\n", "", "seed: 1\n", "sede: 1\n", "task: {_target_: 3}\n", "validate: 3\n"]
)
def test_another_file_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / CONFIGURATION).write_text(text)
    with pytest.raises(DataError, match=r"config\.yaml"):
        stored_values(tmp_path / CONFIGURATION)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    SavedRun.begin(tmp_path, compose())
    (tmp_path / "run" / CONFIGURATION).symlink_to(tmp_path / CONFIGURATION)
    with pytest.raises(DataError, match="leads out"):
        stored_values(tmp_path / "run" / CONFIGURATION)
