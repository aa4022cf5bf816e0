"""Import of the optional packages that exports need."""

from __future__ import annotations

import importlib
from typing import Any

from etude.errors import ConfigurationError


def optional(module: str, to: str) -> Any:
    """Import a package of the extra `export`.

    Raises:
        ConfigurationError: If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ConfigurationError(
            f"to={to} needs {package}: pip install 'etude[export]', or pip install {package}"
        ) from error
