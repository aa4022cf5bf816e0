"""From the command to the loss: the files that a run enters, in their order, are those that the README lists."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

from etude.models.losses import cross_entropy, labelled_states
from tests.conftest import ROOT

SOURCE = ROOT / "src" / "etude"
MOST = 9


def listed() -> list[str]:
    """The files that the README lists, without the configuration."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^To follow .*?(?=^## )", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    return re.findall(r"^\d+\. `([\w/]+\.py)`", section[0], re.MULTILINE)


def files_on_the_stack(frame: FrameType | None) -> list[str]:
    """The files of etude that the calls on the stack are in, the outermost first, each where it is first entered."""
    files = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(SOURCE):
            files.append(path.relative_to(SOURCE).as_posix())
        frame = frame.f_back
    return list(dict.fromkeys(reversed(files)))


def test_a_run_enters_the_files_that_the_readme_lists(
    overrides: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from etude.cli.main import main

    seen: list[str] = []
    loss = cross_entropy.label_smoothed_cross_entropy

    def watched(*arguments: object, **named: object) -> object:
        if not seen:
            seen.extend(files_on_the_stack(sys._getframe(1)))
        return loss(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(labelled_states, "label_smoothed_cross_entropy", watched)
    words = overrides("translation", "budget=1step", "validate.every=1step", "scheduler.warmup=1step")
    assert main(["train", *words]) == 0
    walked = [*seen, "models/losses/cross_entropy.py"]
    assert walked == listed()
    assert len(walked) <= MOST
