"""The directions of a configuration, and the rows of several."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etude.data.base import DataSettings
from etude.data.corpora.parallel.direction_files import DirectionFiles
from etude.data.corpora.parallel.parallel_files import ParallelFiles
from etude.data.directions.prefixed_sources import PrefixedSources
from etude.data.directions.wanted_directions import WantedDirection, WantedDirections, sides_of
from etude.data.loader import Slice
from etude.data.sizes import BatchSize, Limit
from etude.data.subword_regularization import BPEDropout
from etude.data.translation import TranslationData
from etude.errors import ConfigurationError, DataError
from etude.tokenization.base import Tokenizer
from etude.tokenization.trained import BPE
from etude.types import IGNORED

SPLITS = {"train": "train", "val": "val"}
PAIRS = ["en-de", "en-fr", "de-en"]
LINES = 11


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, first in (("train", 1), ("val", 30)):
        for language in ("en", "de", "fr"):
            lines = (f"{language} {'one two ' * (number % 4 + 1)}{number}" for number in range(first, first + LINES))
            (tmp_path / f"{split}.{language}").write_text("".join(f"{line.strip()}\n" for line in lines))
    return tmp_path


def data_of(folder: Path, *, limit: Limit | None = None, **more: Any) -> TranslationData:
    corpus = DirectionFiles(str(folder), more.get("pairs", PAIRS), SPLITS)
    settings = DataSettings(
        BPE(vocabulary=70), batch=BatchSize(examples=4), limit=limit or Limit(), cache=folder / "cache"
    )
    return TranslationData(corpus, 40, **{"pairs": PAIRS, **more}, settings=settings)


@pytest.mark.parametrize("name", ["ende", "-de", "en-", "en-de-fr", ""])
def test_what_is_no_pair_is_one_line(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"data.pairs has '{re.escape(name)}', which is no SOURCE-TARGET"):
        sides_of(name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WantedDirections.of_one("en", None, None), "data.source_language=en is given without data.target"),
        (lambda: WantedDirections.of_one(None, "de", None), "data.target_language=de is given without data.source"),
        (lambda: WantedDirections.of_one(None, None, {"en-de": "x"}), "a mapping, which is for data.pairs"),
        (lambda: WantedDirections.of_pairs([], None, None), "empty or names a pair twice"),
        (lambda: WantedDirections.of_pairs(["en-de", "en-de"], None, None), "empty or names a pair twice"),
        (lambda: WantedDirections.of_pairs(["en-de"], {"fr": "fra"}, None), "data.languages.fr is in no pair.*en, de"),
        (lambda: WantedDirections.of_pairs(["en-de"], None, "x"), r"one text for several pairs; write '\{en-de: …\}'"),
        (lambda: WantedDirections.of_pairs(["en-de", "de-en"], None, {"en-de": "x"}), "give each pair a prefix: de-en"),
    ],
)
def test_keys_that_do_not_fit_together_are_one_line(make: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_languages_and_prefixes_are_those_of_the_pairs() -> None:
    wanted = WantedDirections.of_pairs(["en-de", "de-en"], {"de": "deu"}, {"en-de": "a ", "de-en": ""})
    assert wanted.each == (WantedDirection("en-de", "en", "deu", "a"), WantedDirection("de-en", "deu", "en", ""))
    assert wanted.prefixes == {"en-de": "a"}


def test_each_row_is_read_in_its_direction(folder: Path) -> None:
    data = data_of(folder)
    parts = data.parts_of("train")
    assert parts == {"en-de": range(11), "en-fr": range(11, 22), "de-en": range(22, 33)}
    assert [data.text("train", field, 13) for field in ("source", "target")] == [
        "en one two one two one two one two 3",
        "fr" + " one two" * 4 + " 3",
    ]
    batch = data.splits["train"].batch(Slice(np.array([2, 13, 24]), 0, 1.0, filler=False))
    assert batch.directions.tolist() == [0, 1, 2]
    assert data.tokenizer.names(batch.source[:, 0].tolist()) == ["<2de>", "<2fr>", "<2en>"]
    targets = [row[row != IGNORED].tolist() for row in batch.labels]
    assert data.decode(targets) == [data.text("train", "target", row) for row in (2, 13, 24)]
    assert data.splits["train"].lengths[13].tolist() == [int(batch.source_mask[1].sum()), len(targets[1])]
    assert data.facts.vocabulary == data.tokenizer.vocabulary and data.prepared.classes == ()
    assert data.describe()["directions"]["en-fr"] == {"train": 11, "val": 11}


def test_no_batch_of_an_evaluation_has_two_directions(folder: Path) -> None:
    data = data_of(folder, limit=Limit(val=10))
    parts = data.parts_of("val")
    assert sum(map(len, parts.values())) == 10 and len(parts) == 3
    plan, seen = data.evaluation_plan("val"), []
    for step in range(plan.steps):
        rows = plan.examples(step).tolist()
        seen += rows
        assert sum(any(row in part for row in rows) for part in parts.values()) == 1
        assert plan.count(step) == data.splits["val"].counts[rows].sum()
    assert sorted(seen) == list(range(10))
    overfit = data_of(folder, limit=Limit(train=6, overfit=True))
    assert overfit.parts_of("val") == overfit.parts_of("train")


def test_the_denominator_counts_what_is_sampled(folder: Path) -> None:
    data = data_of(folder, sampling=BPEDropout(0.3, 0.3))
    counts = data.counts(1)
    assert callable(counts)
    rows = np.arange(33)
    batch = data.splits["train"].batch(Slice(rows, 1, 1.0, filler=False))
    assert counts(rows).tolist() == (batch.labels != IGNORED).sum(1).tolist()


def test_prefixes_stand_in_what_is_read_and_not_in_what_is_shown(folder: Path) -> None:
    prefixes = {"en-de": "into German:", "en-fr": "into French:", "de-en": ""}
    data = data_of(folder, source_prefix=prefixes)
    assert data.tokenizer.languages is None
    batch = data.splits["train"].batch(Slice(np.array([0, 11, 22]), 0, 1.0, filler=False))
    read = data.decode(batch.source.tolist())
    shown = [data.text("train", "source", row) for row in (0, 11, 22)]
    assert read == [f"into German: {shown[0]}", f"into French: {shown[1]}", shown[2]]
    rows = list(PrefixedSources(DirectionFiles(str(folder), PAIRS, SPLITS), prefixes).rows("val"))
    assert rows[0].fields["source"].startswith("into German: en ") and rows[-1].fields["source"].startswith("de ")


def test_order_and_content_of_directions_are_in_the_fingerprint(folder: Path) -> None:
    prints = {DirectionFiles(str(folder), pairs, SPLITS).fingerprint() for pairs in (PAIRS, PAIRS[::-1], PAIRS[:2])}
    (folder / "val.fr").write_text("other\n" * LINES)
    assert len(prints | {DirectionFiles(str(folder), PAIRS, SPLITS).fingerprint()}) == 4


def test_a_file_that_is_missing_or_too_short_is_one_line(folder: Path) -> None:
    (folder / "val.fr").unlink()
    with pytest.raises(DataError, match=r"no val.fr or val.fr.gz in .*data.corpus.splits.val=NAME"):
        DirectionFiles(str(folder), PAIRS, SPLITS).fingerprint()
    (folder / "val.fr").write_text("fr one\n")
    with pytest.raises(DataError, match=r"val.en has 11 lines but .*val.fr has 1"):
        list(DirectionFiles(str(folder), PAIRS, SPLITS).rows("val"))


def test_a_tokenizer_that_is_there_must_have_the_tags(folder: Path) -> None:
    tagged = data_of(folder).tokenizer
    other = DataSettings(tagged, batch=BatchSize(examples=4), cache=folder / "cache")
    corpus = DirectionFiles(str(folder), ["fr-de"], SPLITS)
    assert TranslationData(corpus, 40, pairs=["fr-de"], settings=other).facts.directions[0].name == "fr-de"
    wrong = TranslationData(corpus, 40, pairs=["fr-de"], languages={"de": "it"}, settings=other)
    with pytest.raises(ConfigurationError, match=r"data.pairs has fr-de: .* no language 'it'; it knows de, en, fr"):
        _ = wrong.facts
    with pytest.raises(ConfigurationError, match=r"the tokenizer writes languages .* say which: data.source_language="):
        _ = TranslationData(corpus, 40, settings=other).facts
    plain = DataSettings(Tokenizer(tagged.backend, tagged.special), batch=BatchSize(examples=4), cache=folder / "cache")
    with pytest.raises(ConfigurationError, match="has neither language codes nor tags of directions"):
        _ = TranslationData(corpus, 40, pairs=["fr-de"], settings=plain).facts


def test_keys_that_mean_nothing_are_one_line(folder: Path) -> None:
    given = DataSettings(BPE(vocabulary=70), cache=folder / "cache")
    plain = ParallelFiles(str(folder), "en", "de", SPLITS)
    with pytest.raises(
        ConfigurationError, match=r"rows of ParallelFiles name no direction; write data=directions data.root"
    ):
        TranslationData(plain, 40, pairs=["en-de"], settings=given)
    with pytest.raises(
        ConfigurationError, match=r"data.languages=.* means nothing beside data.pairs=null; leave it out"
    ):
        TranslationData(plain, 40, languages={"en": "eng_Latn"}, settings=given)
    with pytest.raises(
        ConfigurationError, match=r"data.target_language=de means nothing beside data.pairs; leave it out"
    ):
        data_of(folder, target_language="de")


def test_directions_that_are_mixed_are_one_line(folder: Path) -> None:
    data = data_of(folder, pairs=["de-en", "en-fr", "en-de"])
    data.corpus = DirectionFiles(str(folder), PAIRS, SPLITS)
    with pytest.raises(
        DataError, match=r"rows of DirectionFiles stand in another order than the directions of data.pairs"
    ):
        _ = data.splits
