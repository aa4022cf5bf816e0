"""Import of packages that not everybody needs, and that an extra of etude installs."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from etude.errors import ConfigurationError


def optional(module: str, wanted_by: str, extra: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: Its dotted name.
        wanted_by: The word of a command line that needs it, such as `to=onnx`.
        extra: The extra of etude that installs the package.

    Raises:
        ConfigurationError: If the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _missing(module.partition(".")[0], wanted_by, extra) from error


def installed(package: str, wanted_by: str, extra: str) -> None:
    """Refuse what needs a package that is not installed, without importing it.

    Args:
        package: Name of the package.
        wanted_by: The word of a command line that needs it, such as `logger=mlflow`.
        extra: The extra of etude that installs the package.

    Raises:
        ConfigurationError: If the package is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise _missing(package, wanted_by, extra)


def _missing(package: str, wanted_by: str, extra: str) -> ConfigurationError:
    return ConfigurationError(f"{wanted_by} needs {package}: pip install 'etude[{extra}]', or pip install {package}")
