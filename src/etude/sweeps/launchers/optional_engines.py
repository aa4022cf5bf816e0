"""Import of the optional packages that bring members to a cluster."""

from __future__ import annotations

import importlib
from typing import Any

from etude.errors import ConfigurationError


def engine_package(module: str, launcher: str, extra: str) -> Any:
    """Import the package of a launcher.

    Args:
        module: Its name, which is also that of the package.
        launcher: The choice of `hydra/launcher` that needs it.
        extra: The extra of etude that installs it.

    Raises:
        ConfigurationError: If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            f"hydra/launcher={launcher} needs {module}: pip install 'etude[{extra}]', or pip install {module}"
        ) from error
