"""Trained tokenizers: text comes back, training is a function of its texts, sizes are kept, files are shared."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import ConfigurationError, DataError
from etude.tokenization.base import Tokenizer
from etude.tokenization.trained import BPE, Bytes, Unigram, WordPiece

TEXTS = [
    "Don't open the settings (again): 50 % of them are wrong!",
    "Öffne die Einstellungen nicht, sie sind zu 50 % falsch.",
    'The "device" could not be found; try {name} or %(other)s …',
    "Das Gerät wurde nicht gefunden – prüfe <b>Name</b> & Passwort.",
    "  e-mail: a_b@c.de / 1,234.5 + x = y?\n",
    "the device, the devices, the settings and the setting of the device",
] * 3
Recipe = BPE | Unigram | WordPiece | Bytes
RECIPES: list[Recipe] = [BPE(173), Unigram(173), WordPiece(211), Bytes()]
LOSSLESS: list[Recipe] = [BPE(173), Unigram(173), Bytes()]
ALPHABET = sorted({character for text in TEXTS for character in text} - {"\n"})


@cache
def built(recipe: Recipe) -> Tokenizer:
    return recipe.build(iter(TEXTS))


def spaced(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("recipe", LOSSLESS)
@given(text=st.text(ALPHABET, max_size=43))
def test_decoding_restores_the_text(recipe: Recipe, text: str) -> None:
    tokenizer = built(recipe)
    assert spaced(tokenizer.decode(tokenizer.encode([text]))[0]) == spaced(text)


@given(text=st.text(max_size=31))
def test_bytes_know_every_text(text: str) -> None:
    tokenizer = built(Bytes())
    (ids,) = tokenizer.encode([text])
    assert ids == [5 + byte for byte in text.encode()]
    assert tokenizer.decode([ids]) == [text.strip()]


@pytest.mark.parametrize("text", ["don't", "(a)", "50 %", "a, b.", '"c"', "a - b", "a-b", "¿x?", "1 . 2", "… a"])
@pytest.mark.parametrize("recipe", LOSSLESS)
def test_punctuation_keeps_its_side(recipe: Recipe, text: str) -> None:
    texts = iter([*TEXTS, "¿"])
    tokenizer = recipe.build(texts)
    assert tokenizer.decode(tokenizer.encode([text])) == [text]


@pytest.mark.parametrize("recipe", [BPE(173), Unigram(173)])
def test_no_piece_joins_punctuation_and_letters(recipe: Recipe) -> None:
    for piece in built(recipe).backend.get_vocab(with_added_tokens=True):
        text = piece.removeprefix("▁")
        assert piece in ("<pad>", "<s>", "</s>", "<unk>", "<mask>") or text.isalnum() or not any(map(str.isalnum, text))
        assert "\n" not in piece


@pytest.mark.parametrize("recipe", RECIPES)
def test_special_tokens(recipe: Recipe) -> None:
    tokenizer = built(recipe)
    assert [tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.unknown, tokenizer.mask] == [0, 1, 2, 3, 4]
    (ids,) = tokenizer.encode(["the <mask> of </s> <pad>"])
    assert not {0, 1, 2, 4} & set(ids), "text must not be able to write special ids"
    (plain,) = tokenizer.encode(["the device"])
    assert tokenizer.decode([[1, *plain, 2, 0, 0]]) == ["the device"]
    assert tokenizer.encode(["", " \n "])[0] == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_ids_fill_the_vocabulary(recipe: Recipe) -> None:
    tokenizer = built(recipe)
    assert sorted(tokenizer.backend.get_vocab(with_added_tokens=True).values()) == list(range(tokenizer.vocabulary))
    assert tokenizer.vocabulary <= getattr(recipe, "vocabulary", 261)


def test_wordpiece_splits_as_bert_does() -> None:
    tokenizer = built(WordPiece(211))
    (ids,) = tokenizer.encode(["The Dévices, zzz"])
    pieces = [tokenizer.backend.id_to_token(number) or "" for number in ids]
    assert pieces[0] == "the" and "," in pieces
    assert "".join(piece.removeprefix("##") for piece in pieces).startswith("thedevices,")
    assert tokenizer.decode(tokenizer.encode(["The device, again."])) == ["the device, again."]


def test_unigram_takes_the_parts_that_words_share() -> None:
    stems = ["walk", "talk", "jump", "sing", "play", "read", "cook", "work", "help", "open", "call", "turn"]
    texts = [f"{stem}{end} {stem}" for stem in stems for end in ("ing", "er", "s", "ing")]
    tokenizer = Unigram(53).build(iter(texts))
    (ids,) = tokenizer.encode(["waiting"])
    assert tokenizer.backend.id_to_token(ids[-1]) == "ing"


def test_unigram_takes_words_that_a_space_always_follows() -> None:
    texts = [
        "the hen and the cow and the fox",
        "the owl and the bee and the hen",
        "the fox and the bee and the owl",
    ] * 7
    pieces = Unigram(41).build(iter(texts)).backend.get_vocab(with_added_tokens=True)
    assert {"▁the", "▁and"} <= set(pieces)


def test_unigram_has_only_parts_of_words() -> None:
    """A piece that no word of the pre-tokenizer has would be an id that is never used."""
    texts = [f"{n}% of {n * n}, {n}.{n} it's ½ﬁ. Who's? ({n})" for n in range(97)]
    backend = Unigram(211).build(iter(texts)).backend
    normalizer, splitter = backend.normalizer, backend.pre_tokenizer
    assert normalizer and splitter
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))}
    pieces = backend.get_vocab(with_added_tokens=True).keys() - {"<pad>", "<s>", "</s>", "<unk>", "<mask>"}
    assert [piece for piece in pieces if not any(piece in word for word in words)] == []


def test_unigram_keeps_rare_characters_and_those_of_very_long_words() -> None:
    tokenizer = Unigram(173).build(iter([*TEXTS * 31, "ж", "ю" * 2503]))
    assert tokenizer.unknown not in tokenizer.encode(["ж юю"])[0]


def test_unigram_on_texts_that_sentencepiece_refuses() -> None:
    with pytest.raises(DataError, match=r"sentencepiece cannot train on these texts: .*; take tokenizer=bpe"):
        Unigram(31).build(iter(["\u2585"]))


@pytest.mark.parametrize("recipe", [BPE(173, lowercase=True), Unigram(173, lowercase=True)])
def test_lowercase(recipe: Recipe) -> None:
    tokenizer = recipe.build(iter(TEXTS))
    assert tokenizer.encode(["THE DEVICE"]) == tokenizer.encode(["the device"])


SCRIPT = """
import sys; sys.path.insert(0, sys.argv[1])
from test_trained import RECIPES, built
print(*(built(recipe).fingerprint for recipe in RECIPES))
"""


@pytest.mark.slow
def test_training_is_the_same_in_every_process() -> None:
    """The library's hash maps have another seed in each process."""
    run = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent)]
    outputs = {subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip() for _ in range(2)}
    assert outputs == {" ".join(built(recipe).fingerprint for recipe in RECIPES)}


@pytest.mark.parametrize("recipe", RECIPES)
def test_saved_loaded_and_read_by_transformers(recipe: Recipe, tmp_path: Path) -> None:
    tokenizer = built(recipe)
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode(TEXTS) == tokenizer.encode(TEXTS)
    other = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    text = "the device, again"
    assert other(text, add_special_tokens=False)["input_ids"] == tokenizer.encode([text])[0]
    assert other(text)["input_ids"] == [1, *tokenizer.encode([text])[0], 2]
    assert (other.pad_token_id, other.mask_token_id) == (0, 4)


def test_load_without_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"no tokenizer in {tmp_path}"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("recipe", [BPE(83), Unigram(83), WordPiece(149)])
def test_vocabulary_as_asked(recipe: BPE | Unigram | WordPiece) -> None:
    assert recipe.build(iter(TEXTS)).vocabulary == recipe.vocabulary


@pytest.mark.parametrize("recipe", [BPE(4999), Unigram(4999), WordPiece(4999)])
def test_vocabulary_larger_than_the_texts_fill(recipe: BPE | Unigram | WordPiece) -> None:
    assert recipe.build(iter(TEXTS)).vocabulary < recipe.vocabulary


@pytest.mark.parametrize("recipe", [BPE(31), Unigram(31), WordPiece(31)])
def test_vocabulary_smaller_than_the_alphabet(recipe: Recipe) -> None:
    with pytest.raises(ConfigurationError, match=r"tokenizer\.vocabulary=31 cannot hold the \d+ special tokens"):
        recipe.build(iter(TEXTS))


@pytest.mark.parametrize("recipe", [BPE(31), Unigram(31), WordPiece(31)])
def test_no_text(recipe: Recipe) -> None:
    with pytest.raises(DataError, match="no text to train a tokenizer on"):
        recipe.build(iter(["", "  "]))


def test_keys_tell_settings_apart() -> None:
    recipes: list[Recipe] = [BPE(31), BPE(37), BPE(31, True), Unigram(31), WordPiece(31), WordPiece(31, False), Bytes()]
    assert len({recipe.key for recipe in recipes}) == len(recipes)
