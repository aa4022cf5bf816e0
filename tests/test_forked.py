"""A forked process of a test finds imported what takes seconds to import."""

from __future__ import annotations

import re
from pathlib import Path

from tests.forked import CONTEXT

HERE = Path(__file__).parent


def test_a_forked_process_finds_everything_imported() -> None:
    process = CONTEXT.Process(target=exec, args=("import sys; sys.exit('lightning' not in sys.modules)",))
    process.start()
    process.join(120)
    assert process.exitcode == 0


def test_nobody_else_says_what_the_server_imports() -> None:
    asked = re.compile(r"set_forkserver_preload\(|get_context\([\"']forkserver")
    assert [path for path in HERE.rglob("*.py") if asked.search(path.read_text())] == [HERE / "forked.py"]
