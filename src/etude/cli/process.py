"""The import path of a command's process, without the working directory: what lies there runs only where trust names it.

Imports nothing but what Python has loaded before any line of etude runs, since the working directory may come first.
"""

import os
import sys


def forget_working_directory() -> None:
    """Take the working directory off the import path of this process and of those that it starts.

    `python -m etude` puts it first, before the standard library and all installed packages. The folder that etude itself was
    found in stays, but comes last.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120
    here = [entry for entry in sys.path if _is_working_directory(entry)]
    sys.path[:] = [entry for entry in sys.path if entry not in here]
    if _is_working_directory(home):
        sys.path.append(home)


def _is_working_directory(entry: str) -> bool:
    try:
        return entry in ("", ".") or os.path.samefile(entry, ".")  # noqa: PTH121
    except OSError:  # one of them does not exist
        return False
