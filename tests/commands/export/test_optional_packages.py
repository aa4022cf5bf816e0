"""An optional package is imported when it is asked for, or one line says what to install."""

from __future__ import annotations

import json

import pytest

from etude.commands.export.optional_packages import optional
from etude.errors import ConfigurationError


def test_a_package_that_is_there_is_imported() -> None:
    assert optional("json", "onnx") is json


def test_a_package_that_is_not_there_is_one_line() -> None:
    with pytest.raises(ConfigurationError, match=r"^to=onnx needs absent_package: pip install 'etude\[export\]'"):
        optional("absent_package.inner", "onnx")
