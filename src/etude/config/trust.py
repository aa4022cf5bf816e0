"""Trusted packages: those besides etude whose classes may be instantiated.

Trust comes from the person at the keyboard: on the command line (`trust=[mine]`), in their own configuration files, or in the
environment (`ETUDE_TRUST=mine,other`). A stored run cannot trust anything by its own `trust` key.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from etude.config.modules import find_module
from etude.errors import ConfigurationError

VARIABLE = "ETUDE_TRUST"


_given: dict[str, None] = {}


def trusted() -> tuple[str, ...]:
    """Return the packages trusted in this process: those of the environment, then those passed to `trust`."""
    named = (word.strip() for word in os.environ.get(VARIABLE, "").split(","))
    return tuple(dict.fromkeys([*filter(None, named), *_given]))


def trust(packages: Iterable[str] = ()) -> None:
    """Trust packages in this process, besides those of the environment.

    A trusted package that is not installed is imported from the working directory.

    Raises:
        ConfigurationError: If a name cannot be that of a package.
    """
    before = trusted()
    _given.update(dict.fromkeys(packages))
    for name in trusted():
        if not all(part.isidentifier() for part in name.split(".")):
            _given.pop(name, None)
            raise ConfigurationError(f"trust names {name!r}, which is not the name of a package; write trust=[mine]")
    if trusted() != before:
        find_module.cache_clear()
    if trusted() and not any(isinstance(finder, WorkingDirectory) for finder in sys.meta_path):
        sys.meta_path.append(WorkingDirectory())


def as_packages(value: object) -> Sequence[str]:
    """Return the packages in a value of `trust=…` on the command line: `mine`, or `[mine, other]`.

    Raises:
        ConfigurationError: If the value is neither a name nor a list of names.
    """
    packages = [value] if isinstance(value, str) else value
    if not isinstance(packages, list) or not all(isinstance(name, str) for name in packages):
        raise ConfigurationError(f"trust = {value}, but it is a list of packages; write trust=[mine] (command line)")
    return packages


@contextmanager
def trust_of_the_command() -> Iterator[None]:
    """Limit trust that is given inside the block to the block."""
    before = dict(_given)
    try:
        yield
    finally:
        _given.clear()
        _given.update(before)


class WorkingDirectory(MetaPathFinder):
    """Finder of trusted packages in the working directory, and of nothing else there.

    It comes last, so that a package of the working directory never replaces an installed one.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a trusted package; None for every other module."""
        if path is None and fullname in {name.partition(".")[0] for name in trusted()}:
            return PathFinder.find_spec(fullname, [str(Path.cwd())], target)
        return None
