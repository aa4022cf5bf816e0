"""The tokenizer of another run, as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from etude.errors import DataError
from etude.tokenization.stored_tokenizer import StoredTokenizer
from etude.tokenization.trained import BPE
from tests.tokenization.test_trained import built


def test_it_is_the_one_that_was_saved_whatever_the_texts_are(tmp_path: Path) -> None:
    first = built(BPE(173))
    first.save(tmp_path)
    recipe = StoredTokenizer(str(tmp_path))
    again = recipe.build(["other", "words"])
    assert again.fingerprint == first.fingerprint and first.fingerprint in recipe.key
    assert again.encode(["the moon"]) == first.encode(["the moon"])


def test_without_one_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no tokenizer in"):
        StoredTokenizer(str(tmp_path / "nowhere")).build([])
