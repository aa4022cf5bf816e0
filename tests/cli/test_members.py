"""What a member of a sweep does in its process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.cli.members import Said, run_member
from etude.config.schema import Config
from etude.errors import DataError
from etude.signals import StoppedError
from etude.sweeps.launchers.base import PRUNING, Job


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    return Job(0, tmp_path, {"seed": 1}, ("seed=1",), (), 1, 1, True).plain()


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException | None], list[Any]]:
    """Have training do nothing but raise an error; returns what was to be trained."""
    given: list[Any] = []

    def prepared(error: BaseException | None) -> list[Any]:
        def train(config: Any) -> None:
            given.append((config, os.environ[PRUNING]))
            if error is not None:
                raise error

        monkeypatch.setattr("etude.cli.members.train", train)
        monkeypatch.setattr(Config, "of", classmethod(lambda cls, values, overrides: (values, overrides)))
        monkeypatch.setenv(PRUNING, "0")
        return given

    return prepared


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, Said(0)),
        (DataError("train.en is empty"), Said(65, "train.en is empty")),
        (StoppedError(signal.SIGTERM, "stopped after step 3"), Said(143, "stopped after step 3")),
        (MemoryError(), Said(71, "out of memory; a training takes less")),
    ],
)
def test_it_says_how_it_ended(
    job: dict[str, Any], trained: Callable[..., list[Any]], error: BaseException | None, said: Said
) -> None:
    given = trained(error)
    found = run_member(job)
    assert found.code == said.code
    assert found.reason.startswith(said.reason)
    assert given == [(({"seed": 1}, ["seed=1"]), "1")]


def test_what_nobody_foresaw_is_one_line_and_a_file_in_its_folder(
    job: dict[str, Any], trained: Callable[..., list[Any]], tmp_path: Path
) -> None:
    trained(ZeroDivisionError("x"))
    found = run_member(job)
    assert found.code == 70
    assert "nothing in etude foresaw this (ZeroDivisionError: x)" in found.reason
    assert len(list(tmp_path.glob("etude-traceback-*"))) == 1
