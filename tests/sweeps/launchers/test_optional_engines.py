"""A package that is missing is said in a line, with what installs it."""

from __future__ import annotations

import json
import sys

import pytest

from etude.errors import ConfigurationError
from etude.sweeps.launchers.optional_engines import engine_package


def test_a_package_that_is_there_is_imported() -> None:
    assert engine_package("json", "ray", "ray") is json


def test_one_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigurationError) as refusal:
        engine_package("submitit", "submitit_slurm", "slurm")
    assert str(refusal.value) == (
        "hydra/launcher=submitit_slurm needs submitit: pip install 'etude[slurm]', or pip install submitit"
    )
