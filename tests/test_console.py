"""What a person reads on stderr: etude's lines as they are, once, and of libraries only the warnings that apply."""

from __future__ import annotations

import importlib.util
import logging
import re
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from etude.console import KNOWN, QUIET, configure_console

LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
HEARD = {
    "The number of training batches (7) is smaller than the logging interval Trainer(log_every_n_steps=50).": False,
    "The 'val_dataloader' does not have many workers which may be a bottleneck.": False,
    "`isinstance(treespec, LeafSpec)` is deprecated, use `isinstance(treespec, TreeSpec)` instead": False,
    "It is recommended to use `self.log('val/bleu', ..., sync_dist=True)` when logging on epoch level": False,
    "Checkpoint directory /runs/x/checkpoints exists and is not empty.": False,
    "OptimState8bit does not implement _stable_hash_for_caching. For PT2-compatible tensor subclasses, it is": False,
    "The validation has a number of training batches": True,
    "lr_scheduler.step() was called before optimizer.step()": True,
}
"""Warnings of libraries, and whether a person sees them."""


@pytest.fixture(autouse=True)
def kept() -> Iterator[None]:
    """Give loggers and filters of warnings back as they were."""
    logger = logging.getLogger("etude")
    before = (logger.handlers[:], logger.propagate, logger.level)
    levels = {name: logging.getLogger(name).level for name in QUIET}
    with warnings.catch_warnings():
        yield
    logger.handlers[:], logger.propagate = before[0], before[1]
    logger.setLevel(before[2])
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@cache
def sources(*packages: str) -> str:
    """The source text of installed packages, of which nothing is imported."""
    found = [importlib.util.find_spec(name) for name in packages]
    folders = [Path(spec.origin).parent for spec in found if spec and spec.origin]
    assert len(folders) == len(packages)
    return "".join(path.read_text(encoding="utf-8") for folder in folders for path in sorted(folder.rglob("*.py")))


@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("level", LEVELS)
def test_rank_0_says_what_it_does_and_the_others_only_what_is_wrong(
    level: int, rank: int, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_console(rank)
    logging.getLogger("etude.training.fit").log(level, "step %d", 5)
    said = level >= (logging.INFO if rank == 0 else logging.WARNING)
    assert capsys.readouterr() == ("", "step 5\n" if said else "")


def test_who_says_nothing_of_ranks_is_rank_0(capsys: pytest.CaptureFixture[str]) -> None:
    configure_console()
    logging.getLogger("etude").info("begun")
    assert capsys.readouterr().err == "begun\n"


@pytest.mark.parametrize("text", ["", "50 % of {x}, %s", "[bold]x[/bold]", "a\nb", "ü ← –"])
def test_a_line_is_shown_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_console()
    logging.getLogger("etude.runs").warning(text)
    assert capsys.readouterr().err == f"{text}\n"


def test_a_line_is_shown_once_however_often_the_console_is_configured(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for rank in (2, 0, 0):
        configure_console(rank)
    logging.getLogger("etude.runs").info("once")
    assert capsys.readouterr().err == "once\n"
    assert not caplog.records  # the root's handlers, which somebody else has set up, do not repeat it


def test_the_last_configuration_counts_and_writes_to_the_stream_of_its_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    configure_console(0)
    with (tmp_path / "stderr").open("w") as stream, monkeypatch.context() as patch:
        patch.setattr("sys.stderr", stream)
        configure_console(1)
        logging.getLogger("etude").info("not said by rank 1")
        logging.getLogger("etude").warning("said by rank 1")
    assert (tmp_path / "stderr").read_text() == "said by rank 1\n"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", QUIET)
def test_libraries_that_report_at_every_start_are_heard_when_it_matters(name: str) -> None:
    logging.getLogger(name).setLevel(logging.INFO)
    configure_console()
    enabled = [level for level in LEVELS if logging.getLogger(name).isEnabledFor(level)]
    assert enabled == [level for level in LEVELS if level >= QUIET[name]]
    assert logging.INFO < QUIET[name] <= logging.ERROR


def test_other_libraries_keep_their_levels() -> None:
    logging.getLogger("somebody.else").setLevel(logging.INFO)
    before = logging.getLogger().level
    configure_console()
    assert logging.getLogger("somebody.else").level == logging.INFO
    assert logging.getLogger().level == before


@pytest.mark.parametrize("text", HEARD)
def test_warnings_that_do_not_apply_are_not_shown_and_all_others_are(text: str) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        configure_console()
        warnings.warn(text, UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in seen] == [text] * HEARD[text]


def test_each_pattern_has_an_example_above() -> None:
    hidden = [text for text, heard in HEARD.items() if not heard]
    matching = [[text for text in hidden if re.match(pattern, text)] for pattern in KNOWN]
    assert matching == [[text] for text in hidden]


@pytest.mark.parametrize("pattern", KNOWN)
def test_libraries_still_say_what_is_hidden(pattern: str) -> None:
    assert re.search(
        pattern.removeprefix(".*").removesuffix(".*"), sources("lightning", "torch.utils", "torch._functorch")
    ), f"nothing says {pattern!r} any more; take it off KNOWN"
