"""Where a value was written: the line of the last file that sets it, or the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from etude.config.origins import Origins, Source

ROOT = "seed: 1\nmodel:\n  width: 256\n  name: 'no'\n"
MODEL = "width: 128\nlayers: 2\n"


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    (tmp_path / "model").mkdir()
    (tmp_path / "train.yaml").write_text(ROOT)
    (tmp_path / "model" / "wide.yaml").write_text(MODEL)
    return [
        Source.read(tmp_path / "train.yaml", base=tmp_path),
        Source.read(tmp_path / "model" / "wide.yaml", "model", base=tmp_path),
    ]


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("seed", "train.yaml:1"),
        ("model.width", "model/wide.yaml:1"),
        ("model.layers", "model/wide.yaml:2"),
        ("model.name", "train.yaml:4"),
        ("model.absent", "train.yaml:2"),
        ("absent", "the configuration"),
    ],
)
def test_the_last_file_that_sets_a_key_or_its_parent_wins(sources: list[Source], key: str, place: str) -> None:
    assert Origins((), sources).of(key) == place


@pytest.mark.parametrize("override", ["model.width=1", "++model.width=1", "model={width:1}", "~model.width"])
def test_an_override_wins_over_files(sources: list[Source], override: str) -> None:
    assert Origins([override], sources).of("model.width") == "command line"
    assert Origins([override], sources).of("seed") == "train.yaml:1"


def test_the_choice_of_a_file_is_no_value(sources: list[Source]) -> None:
    assert Origins(["model=wide"], sources).of("model.width") == "model/wide.yaml:1"


def test_a_plain_scalar_is_known_as_it_was_written(sources: list[Source]) -> None:
    origins = Origins(["seed=2"], sources)
    assert origins.scalar("model.width") == "128"
    assert origins.scalar("model.name") is None  # quoted: nobody took it for another type
    assert origins.scalar("seed") is None
