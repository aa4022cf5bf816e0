"""Back-translated pairs: a tag before synthetic sources, and nothing else that is not in the files."""

from __future__ import annotations

from pathlib import Path

import pytest

from etude.data.corpora import BackTranslated, ParallelFiles
from etude.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.source").write_text("a small house\n\nthe moon\n")
    (tmp_path / "train.target").write_text("ein kleines Haus\nein Wort\nder Mond\n")
    return tmp_path


def pairs(corpus: ParallelFiles) -> list[tuple[str, str]]:
    return [(row.fields["source"], row.fields["target"]) for row in corpus.rows("train")]


def test_each_source_is_tagged_and_empty_ones_are_left_out_and_counted(folder: Path) -> None:
    corpus = BackTranslated(str(folder))
    assert corpus.splits() == ("train",)
    assert pairs(corpus) == [("<bt> a small house", "ein kleines Haus"), ("<bt> the moon", "der Mond")]
    assert dict(corpus.dropped) == {"empty": 1}


def test_without_a_tag_they_are_pairs_like_any_others(folder: Path) -> None:
    plain = ParallelFiles(str(folder), "source", "target", {"train": "train"})
    assert pairs(BackTranslated(str(folder), tag=None)) == pairs(plain)


def test_content_tag_and_sides_are_in_the_fingerprint(folder: Path) -> None:
    prints = {
        BackTranslated(str(folder)).fingerprint(),
        BackTranslated(str(folder), tag=None).fingerprint(),
        BackTranslated(str(folder), tag="<x>").fingerprint(),
        BackTranslated(str(folder), source="target", target="source").fingerprint(),
    }
    (folder / "train.source").write_text("a house\n\nthe moon\n")
    assert len({*prints, BackTranslated(str(folder)).fingerprint()}) == 5


def test_files_that_do_not_belong_together_are_refused(folder: Path) -> None:
    (folder / "train.target").write_text("ein Haus\n")
    with pytest.raises(DataError, match=r"has 3 lines but .* has 1"):
        pairs(BackTranslated(str(folder)))
