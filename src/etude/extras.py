"""Import of packages that not everybody needs, and that an extra of etude installs."""

from __future__ import annotations

import importlib
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
        package = module.partition(".")[0]
        raise ConfigurationError(
            f"{wanted_by} needs {package}: pip install 'etude[{extra}]', or pip install {package}"
        ) from error
