"""A run that an error ends says why, until it is continued; one that a signal ends does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from etude.errors import DataError
from etude.runs.failure import failure_noted
from etude.runs.folder import FAILURE
from etude.runs.reading import read_failure
from etude.signals import StoppedError


def test_an_error_is_noted_and_passed_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone"), failure_noted(tmp_path):
        raise DataError("the data is gone")
    assert (read_failure(tmp_path).code, read_failure(tmp_path).reason) == (65, "the data is gone")


def test_the_note_goes_with_the_next_attempt(tmp_path: Path) -> None:
    with pytest.raises(DataError), failure_noted(tmp_path):
        raise DataError("the data is gone")
    with failure_noted(tmp_path):
        assert not (tmp_path / FAILURE).exists()
    assert not (tmp_path / FAILURE).exists()


def test_a_signal_is_no_failure(tmp_path: Path) -> None:
    with pytest.raises(StoppedError), failure_noted(tmp_path):
        raise StoppedError(15, "stopped")
    assert not (tmp_path / FAILURE).exists()


def test_a_folder_that_is_gone_does_not_hide_the_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone"), failure_noted(tmp_path / "nowhere"):
        raise DataError("the data is gone")
