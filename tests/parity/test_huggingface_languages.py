"""Language codes, forced first tokens and prefixes against transformers: ids, losses and translations of each family."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import transformers

from etude.data.base import DataSettings
from etude.data.corpora import DirectionFiles, ParallelFiles
from etude.data.loader import Slice
from etude.data.sizes import BatchSize
from etude.data.translation import TranslationData
from etude.models.base import EncoderDecoder
from etude.models.generation.search import Beam, Greedy, Search
from etude.models.wrapped.huggingface import HuggingFace
from etude.optim.schedules import Constant
from etude.tasks.translation import Translation
from etude.tokenization.languages import with_prefix
from etude.tokenization.pretrained_tokenizer import PretrainedTokenizer
from etude.types import IGNORED, Facts, TranslationBatch
from tests.parity.pretrained_families import FAMILIES, WORDS, made

LONGEST = 8
LINES = {
    "en": ["sun moon star", "tree", "lake road bird song wind"],
    "de": ["nus noom rats", "eert sun", "rain wind"],
    "fr": ["rats noom nus", "eert", "moon moon"],
}
PREFIXES = {"en-de": "into german", "en-fr": "into french "}
OWN = ("m2m100", "nllb", "mbart", "mbart50", "marian")
"""Families whose own tokenizer writes sources and targets as their models read them."""

CODED = [kind for kind, family in FAMILIES.items() if family.languages]


def given(kind: str, tmp_path: Path, decoding: Search | None = None) -> tuple[Any, TranslationData, Translation]:
    """A model of transformers, data of two directions, and the task with the same model."""
    theirs = made(kind, tmp_path / "model")
    for language, lines in LINES.items():
        (tmp_path / f"train.{language}").write_text("".join(f"{line}\n" for line in lines))
    languages = FAMILIES[kind].languages
    data = TranslationData(
        DirectionFiles(str(tmp_path), ["en-de", "en-fr"], {"train": "train"}),
        max_length=30,
        pairs=["en-de", "en-fr"],
        languages=languages or None,
        source_prefix=None if languages else PREFIXES,
        settings=settings(tmp_path),
    )
    model = HuggingFace(str(tmp_path / "model")).build(data.facts, EncoderDecoder)
    schedule: Any = Constant(warmup="1step")
    optimizer = partial(torch.optim.SGD, lr=0.1)
    decoding = decoding or Greedy()
    task = Translation(data.facts, cast(EncoderDecoder, model), optimizer, schedule, decoding, label_smoothing=0.0)
    return theirs, data, task.eval()


def settings(folder: Path) -> DataSettings:
    return DataSettings(
        tokenizer=PretrainedTokenizer(str(folder / "model")), batch=BatchSize(examples=6), cache=folder / "cache"
    )


def batch_of(data: TranslationData) -> TranslationBatch:
    """All pairs, of both directions side by side."""
    rows = torch.tensor([0, 3, 1, 4, 2, 5]).numpy()
    batch = data.splits["train"].batch(Slice(rows, 0, 1.0, filler=False))
    return cast(TranslationBatch, batch)


def labels_of(kind: str, folder: Path, text: str, language: str, plain: list[int]) -> list[int]:
    """What a person gives transformers as labels: of the family's own tokenizer, where it writes languages as they are read."""
    if kind in OWN:
        named = {} if kind == "marian" else {"tgt_lang": FAMILIES[kind].languages[language]}
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **named)
        return list(tokenizer(text_target=text)["input_ids"])
    eos = FAMILIES[kind].config["eos_token_id"]
    codes = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    # Targets of NLLB begin with their language however its tokenizer was told to write sources.
    name = FAMILIES["nllb"].languages[language] if kind == "nllb legacy" else None
    return [*([] if name is None else [codes.convert_tokens_to_ids(name)]), *plain, eos]


@pytest.mark.parametrize("kind", [*OWN, "nllb legacy"])
def test_sources_are_written_as_the_tokenizer_writes_them(tmp_path: Path, kind: str) -> None:
    _, data, _ = given(kind, tmp_path)
    batch, family = batch_of(data), FAMILIES[kind]
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "model", src_lang=family.languages["en"])
    lines = [(line, code) for line in LINES["en"] for code in ("de", "fr")]
    if kind == "marian":  # a person writes its codes
        expected = theirs([f">>{code}<< {line}" for line, code in lines])["input_ids"]
    else:
        expected = theirs([line for line, _ in lines])["input_ids"]
        code = theirs.convert_tokens_to_ids("__en__" if kind == "m2m100" else family.languages["en"])
        assert all(ids[0 if kind in ("m2m100", "nllb", "mbart50") else -1] == code for ids in expected)
    assert [row[mask].tolist() for row, mask in zip(batch.source, batch.source_mask, strict=True)] == expected


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_loss_is_that_of_the_models_own_labels(tmp_path: Path, kind: str) -> None:
    theirs, data, task = given(kind, tmp_path)
    batch = batch_of(data)
    assert batch.directions is not None
    languages = [("de", "fr")[number] for number in batch.directions.tolist()]
    texts = [LINES[language][row // 2] for row, language in enumerate(languages)]
    plain = data.tokenizer.encode(texts)
    wanted = [
        labels_of(kind, tmp_path / "model", text, language, ids)
        for text, language, ids in zip(texts, languages, plain, strict=True)
    ]
    longest = max(map(len, wanted))
    labels = torch.tensor([[*ids, *[IGNORED] * (longest - len(ids))] for ids in wanted])
    assert torch.equal(batch.labels, labels)
    with torch.no_grad():
        total, count = task.loss(batch)
        expected = theirs(input_ids=batch.source, attention_mask=batch.source_mask.long(), labels=labels).loss
    torch.testing.assert_close(total / count, expected, rtol=1e-5, atol=1e-5)
    assert int(count) == int((labels != IGNORED).sum())


@pytest.mark.parametrize("kind", ["m2m100", "marian", "nllb"])
def test_rows_that_no_id_has_are_cut_off(tmp_path: Path, kind: str) -> None:
    """M2M100 has eight."""
    made(kind, tmp_path, more=8)
    tokenizer = PretrainedTokenizer(str(tmp_path)).build(())
    facts = Facts(tokenizer.vocabulary, tokenizer.pad, tokenizer.bos, tokenizer.eos)
    model: Any = HuggingFace(str(tmp_path)).build(facts, EncoderDecoder)
    assert model.output_weight.shape[0] == tokenizer.vocabulary


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("beams", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_translations_are_those_of_generate_with_another_language_in_each_row(
    tmp_path: Path, kind: str, beams: int
) -> None:
    search: Search = Greedy(max_length=LONGEST)
    if beams > 1:
        search = Beam(beams=beams, length_penalty=0.0, max_length=LONGEST)
    theirs, data, task = given(kind, tmp_path, search)
    batch, eos = batch_of(data), data.facts.eos
    found = task.translate(batch.source, batch.source_mask, directions=batch.directions)
    rest = {"length_penalty": 0.0, "early_stopping": "never"} if beams > 1 else {}
    assert batch.directions is not None
    for row, number in enumerate(batch.directions.tolist()):
        way, size = data.facts.all_directions[number], int(batch.source_mask[row].sum())
        forced = {"forced_bos_token_id": way.before_target[0]} if way.before_target else {}
        (ids,) = theirs.generate(
            input_ids=batch.source[row : row + 1, :size],
            attention_mask=torch.ones(1, size, dtype=torch.long),
            decoder_start_token_id=way.start,
            num_beams=beams,
            do_sample=False,
            max_new_tokens=LONGEST + len(forced),
            **forced,
            **rest,
        ).tolist()
        expected = ids[1 + len(forced) :]
        assert list(found[row][0].tokens) == (expected[: expected.index(eos)] if eos in expected else expected), row
    assert len({hypotheses[0].tokens for hypotheses in found}) > 2


@pytest.mark.parametrize("kind", ["m2m100", "mbart", "t5"])
def test_a_text_is_predicted_as_a_row_of_the_data_is(tmp_path: Path, kind: str) -> None:
    _, data, task = given(kind, tmp_path, Greedy(max_length=LONGEST))
    batch = batch_of(data)
    found = task.translate(batch.source, batch.source_mask, directions=batch.directions)
    for number, name in enumerate(("en-de", "en-fr")):
        task.choose_direction(name)
        answers = task.predictions([*LINES["en"], ""], data.tokenizer)
        rows = [hypotheses[0] for hypotheses in found[number::2]]
        assert [answer.text for answer in answers] == [*data.decode([row.tokens for row in rows]), ""]


@pytest.mark.parametrize("kind", ["t5", "mt5"])
def test_a_prefix_stands_before_each_source(tmp_path: Path, kind: str) -> None:
    _, data, task = given(kind, tmp_path)
    batch = batch_of(data)
    read = data.tokenizer.encode([with_prefix(PREFIXES["en-fr"].strip(), LINES["en"][2])])[0]
    assert batch.source[5].tolist() == [*read, data.facts.eos] and data.text("train", "source", 5) == LINES["en"][2]
    assert task.facts.all_directions[1].prefix == "into french"


def test_one_direction_is_written_by_its_two_keys(tmp_path: Path) -> None:
    made("nllb", tmp_path / "model")
    for language in ("en", "de"):
        (tmp_path / f"train.{language}").write_text(f"{WORDS[0]}\n")
    corpus = ParallelFiles(str(tmp_path), "en", "de", {"train": "train"})
    codes = {"source_language": "eng_Latn", "target_language": "deu_Latn"}
    data = TranslationData(corpus, max_length=20, **codes, settings=settings(tmp_path))  # type: ignore[arg-type]
    (way,) = data.facts.directions
    ids = data.tokenizer.backend.token_to_id
    assert way.name == "eng_Latn-deu_Latn" and data.parts_of("train") == {}
    assert (way.before_source, way.before_target) == ((ids("eng_Latn"),), (ids("deu_Latn"),))
    batch = data.splits["train"].batch(Slice(torch.tensor([0]).numpy(), 0, 1.0, filler=False))
    assert batch.directions is None and batch.inputs[0, :2].tolist() == [data.facts.eos, ids("deu_Latn")]
