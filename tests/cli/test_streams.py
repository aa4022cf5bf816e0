"""Standard output is for data alone, also where native code or a child process writes to it."""

from __future__ import annotations

import io
import json
import os
import subprocess
from pathlib import Path

import pytest

from etude.cli.streams import data_stream, write_result


@pytest.mark.parametrize(
    ("result", "written"),
    [(Path("a/b"), "a/b\n"), ({"ö": 1.5}, '{"ö": 1.5}\n'), ("a table\n", "a table\n"), (None, ""), (3, "")],
)
def test_each_kind_of_result_is_written_in_its_form(result: object, written: str) -> None:
    data = io.StringIO()
    write_result(result, data)
    assert data.getvalue() == written


def test_only_data_reaches_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    with data_stream() as data:
        print("from a library")
        os.write(1, b"from native code\n")
        subprocess.run(["echo", "from a child"], check=True)
        write_result({"score": 1}, data)
    os.write(1, b"afterwards\n")
    shown = capfd.readouterr()
    assert shown.out == f"{json.dumps({'score': 1})}\nafterwards\n"
    assert {"from a library", "from native code", "from a child"} <= set(shown.err.splitlines())


def test_a_path_that_is_not_utf_8_is_written_byte_for_byte(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with data_stream() as data:
        write_result(Path(os.fsdecode(b"runs/\xff")), data)
    assert capfdbinary.readouterr().out == b"runs/\xff\n"
