"""A package that is missing is said in a line, with what needs it and what installs it."""

from __future__ import annotations

import json.decoder
import sys

import pytest

from etude.errors import ConfigurationError
from etude.extras import installed, optional


def test_a_package_that_is_there_is_imported() -> None:
    assert optional("json.decoder", "to=onnx", "export") is json.decoder


@pytest.mark.parametrize(
    ("module", "wanted_by", "extra", "package"),
    [("submitit", "hydra/launcher=submitit_slurm", "slurm", "submitit"), ("onnx.helper", "to=onnx", "export", "onnx")],
)
def test_one_that_is_missing_is_named_with_its_extra(
    module: str, wanted_by: str, extra: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigurationError) as refusal:
        optional(module, wanted_by, extra)
    assert str(refusal.value) == f"{wanted_by} needs {package}: pip install 'etude[{extra}]', or pip install {package}"


def test_a_package_is_looked_for_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "this", raising=False)
    installed("this", "logger=mlflow", "mlflow")
    assert "this" not in sys.modules
    monkeypatch.setitem(sys.modules, "this", None)
    with pytest.raises(ConfigurationError) as refusal:
        installed("this", "logger=mlflow", "mlflow")
    assert str(refusal.value) == "logger=mlflow needs this: pip install 'etude[mlflow]', or pip install this"
