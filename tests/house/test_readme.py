"""What the README says can be typed, can be typed; and the errors that it shows are the ones that come."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from etude.cli.command_table import COMMANDS
from etude.cli.main import main
from etude.commands.sweep import check_members
from etude.config.compose import CONF, Composer, compose
from etude.sweeps.sweep_plan import read_plan
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [
    block for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL) if not language
]
TYPED = [line.partition("  #")[0].strip() for block in BLOCKS for line in block.splitlines()]
COMPOSED = [line for line in TYPED if re.match(r"etude (train|prepare|bench) ", line)]
SWEEPS = [line for line in TYPED if re.match(r"etude (sweep|check) ", line)]
ON_RUNS = [line for line in TYPED if re.search(r"(^|\| )etude (?!train|prepare|bench|sweep|check)\w+ ", line)]


def words_of(line: str, folder: Path) -> list[str]:
    return [word.replace("FOLDER", str(folder)) for word in shlex.split(line)[1:]]


@pytest.mark.parametrize("line", [line for line in COMPOSED if not re.search("--config-dir|bench compare", line)])
def test_commands_compose(line: str, tmp_path: Path) -> None:
    name, *words = words_of(line, tmp_path)
    multirun = "-m" in words
    composer = Composer(CONF, COMMANDS[name].root or "")
    overrides = composer.normalized([word for word in words if word != "-m" and word not in COMMANDS[name].kinds])
    members = list(composer.members(overrides, multirun))
    assert len(members) == (3 if multirun else 1)
    for member in members:
        compose(*member, command=COMMANDS[name].root or "")


@pytest.mark.parametrize("line", SWEEPS)
def test_sweeps_have_members(line: str, tmp_path: Path) -> None:
    _, *words = words_of(line, tmp_path)
    if words[0] in COMMANDS["sweep"].kinds and words[0] != "wandb":
        assert words[1:2] == ["last"]
        return
    assert check_members(read_plan([word for word in words if word != "wandb"]))


def test_the_readme_shows_commands_of_every_kind() -> None:
    assert len(COMPOSED) > 6
    shown = {re.search(r"etude (\w+)", line)[1] for line in TYPED if re.search(r"etude (\w+)", line)}  # type: ignore[index]
    assert set(COMMANDS) <= shown


SWAPS = re.findall(
    r"^\| ([^|`]+) \| ([^|]*`[^|]*) \|$",
    README.partition("| to change | write |")[2].partition("\n\n")[0],
    re.MULTILINE,
)
COMPANIONS = {
    "data/masking=": ["experiment=masked_lm/text", "data.train=FOLDER"],
    "data/sampling=unigram": ["tokenizer=unigram"],
    "decoding.beams=": ["decoding=beam"],
    "experiment=causal_lm/adapt": ["model.name=FOLDER"],
    "experiment=translation/adapt": ["model.name=FOLDER"],
    "experiment=summarization/adapt": ["model.name=FOLDER"],
    "model=gpt2": ["experiment=causal_lm/adapt", "model.name=FOLDER"],
    "model=huggingface": ["experiment=causal_lm/adapt", "model.name=FOLDER"],
    "model=pretrained": ["experiment=classification/minilm"],
    "finetune=": ["experiment=classification/minilm"],
}
"""What else must be written where a swap stands for itself alone, because its row says it in words."""


def swaps(cell: str) -> Iterator[list[str]]:
    """Yield the overrides that a cell shows: a bare word is another choice of the group before it."""
    key = ""
    for text in re.findall(r"`([^`]*)`(?!\])", cell):
        words = shlex.split(text)
        if "=" not in words[0] and "." not in words[0]:
            words[0] = f"{key}={words[0]}"
        if "=" in words[0]:
            key = words[0].partition("=")[0]
            yield words


@pytest.mark.parametrize(("subject", "cell"), SWAPS, ids=[subject for subject, _ in SWAPS])
def test_swaps_compose(subject: str, cell: str, tmp_path: Path) -> None:
    shown = list(swaps(cell))
    assert shown
    for words in shown:
        companions = next((more for swap, more in COMPANIONS.items() if words[0].startswith(swap)), [])
        names = [word for word in [*companions, *words] if not (word in companions and word.split("=")[0] in words)]
        compose(
            *(
                word.replace("FOLDER_OR_FILE", str(tmp_path)).replace("FOLDER", str(tmp_path)).replace("…", "x")
                for word in names
            )
        )


def test_every_row_of_swaps_is_read() -> None:
    table = README.partition("| to change | write |")[2].partition("\n\n")[0].strip().splitlines()
    assert len(SWAPS) == len(table) - 1 > 15


@pytest.mark.parametrize(("line", "answer"), re.findall(r"^\$ (etude .*)\n(etude: error: .*)$", README, re.MULTILINE))
def test_errors_are_those_that_come(line: str, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(line)[1:]) == 78
    assert capsys.readouterr().err.strip() == answer


def test_files_that_it_names_exist() -> None:
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / path).exists(), path
