"""Languages of tokenizers: where each family writes them, tags of directions, and what is stored of both."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from etude.errors import ConfigurationError, DataError
from etude.tokenization.base import Tokenizer
from etude.tokenization.direction_tags import TaggedRecipe, with_tags
from etude.tokenization.languages import Convention, Languages, family_of, with_prefix
from etude.tokenization.pretrained_tokenizer import PretrainedTokenizer
from etude.tokenization.separate_vocabularies import SeparateVocabularies
from etude.tokenization.trained import BPE, Bytes
from tests.parity.pretrained_families import FAMILIES, write_tokenizer

SOURCE, TARGET, BOS, EOS, TEXT = 7, 8, 1, 2, (5, 6)
IDS = {"en": SOURCE, "de": TARGET}


@pytest.mark.parametrize(
    ("convention", "source", "inputs", "labels", "given"),
    [
        ("codes_first", [7, 5, 6, 2], [1, 8, 5, 6], [8, 5, 6, 2], [1, 8, 5]),
        ("source_code_last", [5, 6, 2, 7], [1, 8, 5, 6], [8, 5, 6, 2], [1, 8, 5]),
        ("codes_last", [5, 6, 2, 7], [8, 5, 6, 2], [5, 6, 2, 8], [8, 5]),
        ("target_tag", [8, 5, 6, 2], [1, 5, 6], [5, 6, 2], [1, 5]),
    ],
)
def test_what_stands_around_the_texts(
    convention: Convention, source: list[int], inputs: list[int], labels: list[int], given: list[int]
) -> None:
    way = Languages(convention, IDS).direction("en-de", "en", "de", BOS, EOS)
    assert (way.source(TEXT), way.inputs(TEXT), way.labels(TEXT), way.given(TEXT[:1])) == (
        source,
        inputs,
        labels,
        given,
    )
    assert way.source_room == len(source) - 2 and way.target_room == len(inputs) - 2 == len(labels) - 2


def test_an_unknown_language_is_answered_with_near_ones() -> None:
    languages = Languages("codes_first", dict.fromkeys(("eng_Latn", "deu_Latn", "dan_Latn", "zho_Hans"), 3))
    for asked, named in (("en", "eng_Latn"), ("deu_Latin", "deu_Latn, eng_Latn, dan_Latn"), ("de_DE", "deu_Latn")):
        with pytest.raises(ConfigurationError, match=f"no language '{asked}'; near ones are {named}$"):
            languages.id_of(asked)
    with pytest.raises(ConfigurationError, match=r"no language 'xx'; it knows dan_Latn, deu_Latn, eng_Latn, zho_Hans$"):
        languages.id_of("xx")


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_languages_of_a_family_are_read_kept_and_never_decoded(tmp_path: Path, kind: str) -> None:
    write_tokenizer(kind, tmp_path)
    recipe = PretrainedTokenizer(str(tmp_path))
    key, tokenizer, names = recipe.key, recipe.build(()), FAMILIES[kind].languages.values()
    if not names:
        assert tokenizer.languages is None and not (tmp_path / "languages.json").exists()
        return
    assert tokenizer.languages is not None
    assert set(names) <= tokenizer.languages.ids.keys() and tokenizer.bos == tokenizer.eos
    codes = [tokenizer.languages.ids[name] for name in names]
    assert tokenizer.decode([codes]) == [""]
    tokenizer.save(tmp_path / "kept")
    again = Tokenizer.load(tmp_path / "kept")
    assert again.languages == tokenizer.languages and again.fingerprint == tokenizer.fingerprint
    bare = Tokenizer(again.backend, again.special)
    assert bare.fingerprint != again.fingerprint
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "BertTokenizer"}))
    assert recipe.key != key and recipe.build(()).languages is None


def test_legacy_behaviour_is_a_part_of_the_key(tmp_path: Path) -> None:
    keys = []
    for kind in ("nllb", "nllb legacy"):
        write_tokenizer(kind, tmp_path)
        keys.append(PretrainedTokenizer(str(tmp_path)).key)
    assert keys[0] != keys[1]


def test_a_class_is_found_in_either_file_or_by_the_model() -> None:
    assert family_of({"tokenizer_class": "NllbTokenizerFast"}, {}) == ("NllbTokenizer", "codes_first")
    assert family_of({}, {"tokenizer_class": "MBart50Tokenizer", "model_type": "mbart"}) == (
        "MBart50Tokenizer",
        "codes_first",
    )
    assert family_of({}, {"model_type": "mbart"}) == ("MBartTokenizer", "codes_last")
    assert family_of({"tokenizer_class": "T5Tokenizer"}, {"model_type": "t5"}) is None


def test_what_is_written_for_transformers_names_both_languages() -> None:
    languages = Languages("source_code_last", IDS, "NllbTokenizer")
    way = languages.direction("", "en", "de", BOS, EOS)
    assert languages.settings(way) == {
        "tokenizer_class": "NllbTokenizer",
        "src_lang": "en",
        "tgt_lang": "de",
        "legacy_behaviour": True,
    }
    assert replace(languages, family="M2M100Tokenizer").settings(way) == {}


def test_tags_stand_behind_the_vocabulary_and_are_no_text(tmp_path: Path) -> None:
    plain, tagged = Bytes().build(()), TaggedRecipe(Bytes(), ("de", "fr")).build(())  # type: ignore[arg-type]
    assert tagged.languages == Languages("target_tag", {"de": plain.vocabulary, "fr": plain.vocabulary + 1})
    assert tagged.vocabulary == plain.vocabulary + 2 and tagged.names([plain.vocabulary]) == ["<2de>"]
    text = "to <2de> and back"
    assert tagged.encode([text]) == plain.encode([text]) and tagged.decode(tagged.encode([text])) == [text]
    tagged.save(tmp_path)
    assert Tokenizer.load(tmp_path).languages == tagged.languages
    assert TaggedRecipe(Bytes(), ("de",)).key != TaggedRecipe(Bytes(), ("fr",)).key


def test_tags_are_in_the_vocabulary_of_the_sources(tmp_path: Path) -> None:
    class Texts:
        def __iter__(self):  # type: ignore[no-untyped-def]
            return iter([])

        def of(self, field: str):  # type: ignore[no-untyped-def]
            return iter(["sun moon"] if field == "source" else ["nus noom rats eert"])

    separate = SeparateVocabularies(BPE, vocabulary=17, source_vocabulary=14).build(Texts())
    targets = separate.vocabulary
    tagged = with_tags(separate, ["de"])
    source = tagged.of("source")
    assert tagged.languages == Languages("target_tag", {"de": source.vocabulary - 1})
    assert source.names([source.vocabulary - 1]) == ["<2de>"] and tagged.vocabulary == targets
    number = source.vocabulary - 1
    assert tagged.decode([[number]]) == [tagged.names([number])[0].replace("▁", "")]  # an ordinary token of targets
    tagged.save(tmp_path)
    assert Tokenizer.load(tmp_path).fingerprint == tagged.fingerprint


def test_an_empty_text_gets_no_prefix() -> None:
    assert with_prefix("into German:", "sun") == "into German: sun"
    assert [with_prefix("into German:", text) for text in ("", " ")] == ["", " "]
    assert with_prefix("", "sun") == "sun"


def test_a_sentencepiece_model_alone_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "m2m_100"}')
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"")
    with pytest.raises(
        DataError,
        match=r"has sentencepiece.bpe.model and no tokenizer.json; give a folder with one",
    ):
        _ = PretrainedTokenizer(str(tmp_path)).key
