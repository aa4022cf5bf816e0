"""A vocabulary for each side: each is trained on its own texts, and has its own size."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from etude.errors import ConfigurationError, EtudeError
from etude.tokenization.separate_vocabularies import SeparateVocabularies
from etude.tokenization.trained import BPE

TEXTS = {
    "source": ["the cat sat on the mat", "the dog sat"] * 3,
    "target": ["η γάτα κάθισε", "ο σκύλος κάθισε"] * 3,
}


class Pairs:
    """Latin sources and Greek targets."""

    def __iter__(self) -> Iterator[str]:
        for texts in TEXTS.values():
            yield from texts

    def of(self, field: str) -> Iterator[str]:
        return iter(TEXTS[field])


def test_each_side_has_its_vocabulary() -> None:
    tokenizer = SeparateVocabularies(BPE, vocabulary=60, source_vocabulary=40).build(Pairs())
    assert tokenizer.vocabulary <= 60
    source = tokenizer.of("source")
    assert source is not tokenizer.of("target")
    assert source.vocabulary <= 40
    assert tokenizer.decode(tokenizer.encode(["η γάτα κάθισε"])) == ["η γάτα κάθισε"]
    assert source.decode(source.encode(["the dog sat"])) == ["the dog sat"]
    assert tokenizer.decode(tokenizer.encode(["the"])) != ["the"]  # no Latin letter is in it


def test_without_a_size_of_their_own_sources_have_that_of_the_targets() -> None:
    recipe = SeparateVocabularies(BPE, vocabulary=60)
    assert recipe.source == recipe.target == BPE(vocabulary=60)
    assert recipe.key != SeparateVocabularies(BPE, vocabulary=60, source_vocabulary=59).key


def test_a_vocabulary_that_cannot_hold_the_characters_is_refused() -> None:
    with pytest.raises(EtudeError) as refused:
        SeparateVocabularies(BPE, vocabulary=60, source_vocabulary=8).build(Pairs())
    assert isinstance(refused.value, ConfigurationError)
