"""Every token of every document is predicted exactly once: in the blocks of any epoch, and in windows of any stride."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.data.base import DataSettings
from etude.data.causal_lm import Blocks, CausalLMData, Documents, DocumentTexts, DocumentWindows
from etude.data.corpora import OneText
from etude.data.loader import Slice
from etude.data.prepare import Split, prepare
from etude.data.sizes import BatchSize, Limit, ShuffleName
from etude.errors import ConfigurationError, DataError
from etude.tokenization.trained import Bytes
from etude.types import IGNORED, Facts
from tests.data.given_texts import GivenTexts

FACTS = Facts(vocabulary=261, pad=0, bos=1, eos=2, mask=4)
BOS, EOS = FACTS.bos, FACTS.eos


def documents_of(sizes: Sequence[int]) -> GivenTexts:
    """Documents of given lengths, each of a character of its own, in every split."""
    texts = ["".join(chr(33 + (number * 7 + place) % 90) for place in range(size)) for number, size in enumerate(sizes)]
    return GivenTexts(texts, texts)


@lru_cache(maxsize=1)
def cache() -> Path:
    return Path(tempfile.mkdtemp(prefix="etude-test-"))


def split_of(sizes: Sequence[int]) -> Split:
    return prepare(
        documents_of(sizes), Bytes(), text_fields=("text",), max_length=1 << 40, overflow="truncate", cache=cache()
    ).splits["train"]


SHUFFLES = st.sampled_from(["stored", "keyed"])
SIZES = st.lists(st.integers(1, 23), min_size=1, max_size=6)


def predicted(examples: Documents, split: Split, epoch: int) -> Counter[tuple[int, int]]:
    """(document, prediction) -> how often it counts; each is checked against the document."""
    found: Counter[tuple[int, int]] = Counter()
    for example in range(len(examples.lengths)):
        pieces = examples.pieces(example, epoch)
        batch = examples.batch(Slice(np.array([example]), epoch, 1, filler=False))
        assert batch.tokens.shape == (1, examples.lengths[example])
        assert int((batch.labels != IGNORED).sum()) == examples.counts[example]
        assert (batch.documents is None) == (len(pieces) == 1)
        place = 0
        for number, piece in enumerate(pieces):
            ids = [BOS, *split.tokens["text"][piece.document].tolist(), EOS]
            end = place + piece.stop - piece.begin
            assert batch.tokens[0, place:end].tolist() == ids[piece.begin : piece.stop]
            labels = batch.labels[0, place:end].tolist()
            context = piece.start - piece.begin
            assert labels == [IGNORED] * context + ids[piece.start + 1 : piece.stop + 1]
            if batch.documents is not None:
                assert set(batch.documents[0, place:end].tolist()) == {number}
            found.update((piece.document, prediction) for prediction in range(piece.start, piece.stop))
            place = end
    return found


def each_once(sizes: Sequence[int]) -> Counter[tuple[int, int]]:
    return Counter((document, prediction) for document, size in enumerate(sizes) for prediction in range(size + 1))


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(1, 30), st.integers(0, 3), st.integers(0, 3), SHUFFLES)
def test_blocks_predict_everything_once_in_every_epoch(
    sizes: list[int], max_length: int, seed: int, epoch: int, shuffle: ShuffleName
) -> None:
    split = split_of(sizes)
    blocks = Blocks(DocumentTexts.of(split), FACTS, max_length, seed, shuffle)
    assert predicted(blocks, split, epoch) == each_once(sizes)
    assert (blocks.lengths[:-1] == max_length).all()
    assert 1 <= blocks.lengths[-1] <= max_length


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(1, 30), st.data())
def test_windows_predict_everything_once_for_any_stride(sizes: list[int], max_length: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, max_length))
    split = split_of(sizes)
    windows = DocumentWindows(DocumentTexts.of(split), FACTS, max_length, stride)
    assert predicted(windows, split, 0) == each_once(sizes)
    for example in range(len(windows.lengths)):
        (piece,) = windows.pieces(example, 0)
        assert piece.begin == 0 or piece.stop - piece.begin == max_length
        assert piece.start - piece.begin >= min(piece.start, max_length - stride)


@settings(max_examples=30, deadline=None)
@given(SIZES, st.integers(1, 30), st.integers(0, 3))
def test_the_bytes_of_an_epoch_are_those_of_the_documents(sizes: list[int], max_length: int, epoch: int) -> None:
    split = split_of(sizes)
    for examples in (
        Blocks(DocumentTexts.of(split), FACTS, max_length, 1, "stored"),
        DocumentWindows(DocumentTexts.of(split), FACTS, max_length, max_length),
    ):
        everything = Slice(np.arange(len(examples.lengths)), epoch, 1, filler=False)
        assert int(examples.batch(everything).text_bytes.sum()) == sum(sizes)


@pytest.mark.parametrize("shuffle", ["stored", "keyed"])
def test_blocks_are_a_function_of_seed_and_epoch_alone(shuffle: ShuffleName) -> None:
    split = split_of([23, 5, 17, 9])
    blocks, others = (Blocks(DocumentTexts.of(split), FACTS, 10, seed, shuffle) for seed in (1, 2))

    def all_of(examples: Blocks, epoch: int) -> list[object]:
        return [examples.pieces(example, epoch) for example in range(len(examples.lengths))]

    first = all_of(blocks, 0)
    assert all_of(blocks, 1) != first
    assert all_of(others, 0) != first
    assert all_of(blocks, 0) == first
    assert [blocks.pieces(example, 0) for example in reversed(range(len(first)))] == first[::-1]


def test_one_text_is_cut_elsewhere_in_each_epoch() -> None:
    blocks = Blocks(DocumentTexts.of(split_of([200])), FACTS, 20, 1, "stored")
    cuts = {blocks.pieces(0, epoch)[0].start for epoch in range(12)}
    assert len(cuts) > 6
    assert cuts <= set(range(20))


def test_a_row_beside_a_shorter_one_and_a_filler() -> None:
    windows = DocumentWindows(DocumentTexts.of(split_of([3, 8])), FACTS, 20, 20)
    batch = windows.batch(Slice(np.array([1, 0]), 0, 77, filler=False))
    assert batch.tokens.shape == (2, 9)
    assert batch.mask.sum(dim=1).tolist() == [9, 4]
    assert (batch.labels[1, 4:] == IGNORED).all()
    assert (batch.step_count, batch.ids.tolist(), batch.text_bytes.tolist()) == (77, [1, 0], [8, 3])
    filler = windows.batch(Slice(np.array([1]), 0, 77, filler=True))
    assert (filler.labels == IGNORED).all()
    assert (filler.ids.tolist(), filler.text_bytes.tolist()) == ([-1], [0])


def data_module(corpus: object, max_length: int = 16, stride: int | None = None, **limits: int) -> CausalLMData:
    return CausalLMData(
        corpus,  # type: ignore[arg-type]
        max_length,
        stride,
        settings=DataSettings(Bytes(), seed=1, batch=BatchSize(examples=3), limit=Limit(**limits), cache=cache()),  # type: ignore[arg-type]
    )


def test_a_limit_is_one_of_documents() -> None:
    data = data_module(documents_of([30, 5, 9]), val=2)
    assert data.describe()["documents"] == {"train": 3, "val": 2}
    assert data.splits["val"].counts.sum() == 31 + 6
    assert data.splits["train"].counts.sum() == 31 + 6 + 10


def test_the_text_of_an_example_is_what_is_read() -> None:
    data = data_module(documents_of([30, 5]))
    text = next(documents_of([30]).rows("val")).fields["text"]
    assert data.text("val", "text", 0) == text[:15]
    assert {len(data.text("train", "text", 0, epoch)) for epoch in range(3)} <= {13, 14, 15, 16}
    assert data.text("train", "text", 0, 0) != data.text("train", "text", 0, 1)


@pytest.mark.parametrize("stride", [0, 17])
def test_a_stride_that_leaves_tokens_out_is_refused(stride: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"data.stride={stride} is not from 1 to data.max_length=16"):
        data_module(documents_of([3]), stride=stride)


def test_one_text_is_divided_at_its_end_and_kept_as_it_is(tmp_path: Path) -> None:
    text = "  One\r\n\r\ntwo three\n" * 11 + "ü"
    (tmp_path / "book.txt").write_bytes(text.encode())
    corpus = OneText(str(tmp_path), "book.txt", held_out=0.25)
    parts = [row.fields["text"] for split in corpus.splits() for row in corpus.rows(split)]
    assert "".join(parts) == text
    assert len(parts[0]) == int(len(text) * 0.75)
    assert corpus.fingerprint() != OneText(str(tmp_path), "book.txt", held_out=0.5).fingerprint()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file: .*book.txt"),
        (b"", "book.txt is empty"),
        (b"\xff\xfe\x00a", "is not UTF-8 text"),
        (b"a\n", "2 characters, too few to hold out 0.1"),
    ],
)
def test_a_text_that_is_none_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "book.txt").write_bytes(content)
    corpus = OneText(str(tmp_path), "book.txt")
    with pytest.raises(DataError, match=said):
        list(corpus.rows("train"))


def test_no_folder_and_no_share_are_refused() -> None:
    with pytest.raises(DataError, match=r"write data.root=FOLDER"):
        list(OneText(None, "input.txt").rows("train"))
    with pytest.raises(ConfigurationError, match=r"held_out=1.0 is not between 0 and 1"):
        OneText("folder", "input.txt", held_out=1.0)
