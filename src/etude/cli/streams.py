"""Standard output is for data. Whatever else is written while a command works lands on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

_OUT, _ERROR = 1, 2


@contextmanager
def data_stream() -> Iterator[TextIO]:
    """Give the standard output to the command's data alone; libraries and children that write there reach stderr.

    The file descriptor itself is moved, since native code and child processes do not ask `sys.stdout`.
    """
    sys.stdout.flush()
    saved = os.dup(_OUT)
    os.dup2(_ERROR, _OUT)
    try:
        with redirect_stdout(sys.stderr), os.fdopen(os.dup(saved), "w", encoding="utf-8") as data:
            yield data
    finally:
        sys.stderr.flush()
        os.dup2(saved, _OUT)
        os.close(saved)


def write_result(result: Any, data: TextIO) -> None:
    """Write what a command returned: a path as a line, a mapping as one line of JSON, a text as it is, nothing for None."""
    if isinstance(result, Mapping):
        data.write(json.dumps(result, ensure_ascii=False) + "\n")
    elif isinstance(result, Path):
        data.write(f"{result}\n")
    elif isinstance(result, str):
        data.write(result)
    data.flush()


def drop_output() -> None:
    """Let what is still to be written to a reader that has gone away vanish, so that Python exits quietly."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _OUT)
    os.close(nowhere)
