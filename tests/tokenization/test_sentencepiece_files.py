"""The tokenizers of M2M100 and MarianMT beside those of transformers, from the same files, and files that are broken."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from etude.commands.export.huggingface_files import write_tokenizer
from etude.errors import DataError
from etude.tokenization.base import Tokenizer
from etude.tokenization.pretrained_tokenizer import PretrainedTokenizer
from etude.tokenization.sentencepiece_files import merges
from etude.tokenization.separate_vocabularies import SeparateVocabularies
from etude.tokenization.trained import BPE
from tests.parity.pretrained_families import write_m2m100, write_marian

TEXTS = [
    "The sun rises over the lake, and the birds sing their songs.",
    "Die Sonne geht über dem See auf; die Vögel singen ihre Lieder.",
    "Le soleil se lève sur le lac, et les oiseaux chantent.",
    "太阳 从 湖面 上 升起",
    "two moons, three stars - and 4,000 trees!",
]
SPECIAL = re.compile(r"</?s>|<pad>|<unk>|__\w+__|\ue000|^>>.*<<")
"""Texts that transformers takes for tokens, and etude for text."""


@pytest.fixture(scope="module", params=["m2m100", "marian", "marian bpe"])
def both(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[Any, Tokenizer]:
    folder, coverage = tmp_path_factory.mktemp("tokenizer"), {"character_coverage": 0.98}
    if request.param == "m2m100":
        theirs: Any = write_m2m100(folder, TEXTS, 150, **coverage)
        theirs.tgt_lang = "de"
    else:
        kind: dict[str, Any] = {"model_type": "bpe"} if "bpe" in request.param else {}
        theirs = write_marian(folder, TEXTS, [text[::-1] for text in TEXTS], 100, **coverage, **kind)
    return theirs, PretrainedTokenizer(str(folder)).build(())


@given(
    parts=st.lists(
        st.sampled_from(
            [*" ".join(TEXTS).split(" "), "", "  ", "\t", "\u3000", "ﬁ", "½", "A\u0301", "☀", "\u200b", "▁"]
        )
        | st.text(max_size=5),
        max_size=12,
    ),
    joint=st.sampled_from(["", " "]),
    field=st.sampled_from(["source", "target"]),
)
@example(parts=["\x85"], joint="", field="source")
@settings(max_examples=300, deadline=None)
def test_texts_get_the_ids_and_the_text_of_transformers(
    both: tuple[Any, Tokenizer], parts: list[str], joint: str, field: str
) -> None:
    theirs, ours = both
    text = joint.join(parts)
    if SPECIAL.search(text):
        return
    expected = theirs(**{"source": {"text": text}, "target": {"text_target": text}}[field]).input_ids
    if isinstance(theirs, transformers.M2M100Tokenizer):
        assert expected.pop(0) == theirs.get_lang_id({"source": "en", "target": "de"}[field])
    (found,) = ours.of(field).encode([text])
    # Of divisions into the same pieces in another order, which are equally probable, either may be chosen.
    assert [*found, ours.eos] == expected or sorted([*found, ours.eos]) == sorted(expected)
    assert ours.decode([found]) == [theirs.decode(found, skip_special_tokens=True)]


def test_a_character_of_the_other_side_has_its_id(tmp_path: Path) -> None:
    theirs = write_marian(tmp_path, ["sun moon"], ["süß moon"], 20)
    source = PretrainedTokenizer(str(tmp_path)).build(()).of("source")
    (found,) = source.encode(["moün"])
    assert source.unknown not in found and [*found, source.eos] == theirs("moün").input_ids


def test_one_tokenizer_divides_sources_and_decodes_targets(both: tuple[Any, Tokenizer]) -> None:
    _, tokenizer = both
    joint = tokenizer.for_both()
    assert tokenizer.shares_ids and joint.of("source") is joint and joint.languages == tokenizer.languages
    assert joint.encode(TEXTS) == tokenizer.of("source").encode(TEXTS)
    targets = tokenizer.encode(TEXTS)
    assert joint.decode(targets) == tokenizer.decode(targets)
    trained = SeparateVocabularies(partial(BPE, lowercase=True), 40).build(Sides())
    assert not trained.shares_ids and trained.for_both() is trained


def test_what_is_exported_divides_sources_and_targets_as_before(both: tuple[Any, Tokenizer], tmp_path: Path) -> None:
    _, tokenizer = both
    (tmp_path / "model.safetensors").touch()
    write_tokenizer(tmp_path, tokenizer.for_both(), 99, after=(tokenizer.eos,))
    one = PretrainedTokenizer(str(tmp_path))
    before = one.key
    if tokenizer.for_both() is not tokenizer:
        write_tokenizer(tmp_path / "target", tokenizer.for_targets(), 99, after=(tokenizer.eos,))
        assert one.key != before
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "target")
        assert theirs(TEXTS)["input_ids"] == [[*ids, tokenizer.eos] for ids in tokenizer.encode(TEXTS)]
    read = one.build(())
    for field in ("source", "target"):
        assert read.of(field).encode(TEXTS) == tokenizer.of(field).encode(TEXTS)
    (tmp_path / "target").mkdir(exist_ok=True)
    (tmp_path / "target" / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match=re.escape(f"the target/tokenizer.json of {tmp_path} cannot be read")):
        one.build(())


class Sides:
    """Texts of two sides."""

    def __iter__(self) -> Iterator[str]:
        return iter(TEXTS)

    def of(self, field: str) -> Iterator[str]:
        return iter(TEXTS[:2] if field == "source" else TEXTS[2:])


def test_languages_are_those_of_transformers(both: tuple[Any, Tokenizer]) -> None:
    theirs, ours = both
    assert ours.languages is not None
    if isinstance(theirs, transformers.M2M100Tokenizer):
        assert ours.languages.ids == theirs.lang_code_to_id
    else:
        assert [f">>{code}<<" for code in ours.languages.ids] == sorted(theirs.supported_language_codes)
        way = ours.languages.direction("en-de", "en", "de", ours.bos, ours.eos)
        assert way.source(ours.of("source").encode([TEXTS[0]])[0]) == theirs(f">>de<< {TEXTS[0]}").input_ids


def test_all_pairs_that_make_up_a_piece() -> None:
    ids = {piece: number for number, piece in enumerate(["b", "a", "ab", "abc", "bc", "c"])}
    assert merges({"bc": -2.0, "abc": -1.0, "a": -3.0, "cd": 0.0}, ids) == [("a", "bc"), ("ab", "c"), ("b", "c")]


def test_the_key_is_that_of_both_files(tmp_path: Path) -> None:
    write_m2m100(tmp_path, TEXTS, 100)
    recipe = PretrainedTokenizer(str(tmp_path))
    key = recipe.key
    assert key == recipe.key
    ids = json.loads((tmp_path / "vocab.json").read_text())
    ids["e"], ids["s"] = ids["s"], ids["e"]
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    assert recipe.key != key


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("sentencepiece.bpe.model", b"", "is no sentencepiece model"),
        ("sentencepiece.bpe.model", b"\x08\x96\x01", "is no sentencepiece model"),
        ("vocab.json", b"[1]", "vocab.json of "),
        ("vocab.json", b'{"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 4}', "has not every id from 0 on"),
        ("vocab.json", b'{"<s>": 0, "<pad>": 1, "</s>": 2, "unk": 3}', "has not every id from 0 on, or not <s>"),
        (
            "tokenizer_config.json",
            b'{"language_codes": "elvish"}',
            "names language_codes 'elvish'; transformers has m2m100",
        ),
    ],
)
def test_broken_files_are_one_line(tmp_path: Path, file: str, content: bytes, said: str) -> None:
    write_m2m100(tmp_path, TEXTS, 100)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        PretrainedTokenizer(str(tmp_path)).build(())
    assert "\n" not in str(caught.value)


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    write_m2m100(tmp_path, TEXTS, 50, model_type="char", character_coverage=0.98)
    with pytest.raises(DataError, match="is neither byte-pair encoding nor unigram"):
        PretrainedTokenizer(str(tmp_path)).build(())


def test_a_piece_without_an_id_is_divided(tmp_path: Path) -> None:
    write_marian(tmp_path, TEXTS, TEXTS, 100)
    tokenizer = PretrainedTokenizer(str(tmp_path)).build(())
    (whole,) = tokenizer.encode([TEXTS[0]])
    ids = json.loads((tmp_path / "vocab.json").read_text())
    lost = next(token for token, number in ids.items() if number in whole and len(token) > 2)
    ids["unread"] = ids.pop(lost)
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    again = PretrainedTokenizer(str(tmp_path)).build(())
    (divided,) = again.encode([TEXTS[0]])
    assert len(divided) > len(whole) and again.decode([divided]) == tokenizer.decode([whole])
