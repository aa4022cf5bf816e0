"""What all tests share."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from etude.config.trust import trust_of_the_command

ROOT = Path(__file__).parents[1]

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_configure() -> None:
    """Two test processes share two cores; and no test may talk to a dashboard.

    Here, and not where this module is read: the commands of cards are typed with the environment of a reader.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["WANDB_MODE"] = "disabled"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-golden", action="store_true", help="write tests/runs/golden_losses.json anew")
    parser.addoption("--write-notebooks", action="store_true", help="write notebooks/*.ipynb anew, with their outputs")


def pytest_collection_finish() -> None:
    """What is there before the first test stays: the collector, which took a third of the time, need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 20)


def pytest_sessionfinish() -> None:
    """What is there after the last test is not looked at any more: pytest would collect it five times before it ends."""
    gc.freeze()


def corpora() -> Path:
    """The folder of the development corpora, which need not exist."""
    return Path(os.environ.get("ETUDE_CORPORA", ROOT.parent / "shared" / "data"))


@pytest.fixture
def corpus_folder() -> Path:
    """The folder of the development corpora; skips the test where there is none."""
    folder = corpora()
    if not folder.is_dir():
        pytest.skip(f"needs the development corpora: {folder} is absent; set ETUDE_CORPORA")
    return folder


@pytest.fixture(autouse=True)
def trust_ends_with_the_test() -> Iterator[None]:
    """No test trusts what another one did."""
    with trust_of_the_command():
        yield
