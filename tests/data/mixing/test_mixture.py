"""Laws of a mixture: exact shares, each part as it is alone, and nothing that depends on who asks."""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from etude.data.base import DataSettings, PlannedData
from etude.data.causal_lm import CausalLMData
from etude.data.classification import ClassificationData
from etude.data.conversations.conversation_data import ConversationData
from etude.data.corpora import QuestionFiles
from etude.data.loader import Slice
from etude.data.masked_lm import MaskedLMData
from etude.data.masking import TokenMasking
from etude.data.mixing.mixed_examples import MixedExamples, Numbering
from etude.data.mixing.mixture import MixtureData
from etude.data.mixing.shared_tokenizer import JoinedCorpus
from etude.data.question_answering import QuestionData
from etude.data.readers.sources import Dropped, Row
from etude.data.sizes import BatchSize, Limit
from etude.data.translation import TranslationData
from etude.errors import ConfigurationError, DataError
from etude.tokenization.conversation import Message, as_json
from etude.tokenization.trained import BPE, Bytes


class Words:
    """Rows of random words, with the fields of every task; each corpus has words of its own."""

    def __init__(self, word: str, sizes: dict[str, int], labels: str = "warm cold") -> None:
        self.word, self.sizes, self.labels, self.dropped = word, sizes, labels.split(), Dropped()

    def fingerprint(self) -> str:
        return f"{self.word} {self.sizes} {self.labels}"

    def splits(self) -> tuple[str, ...]:
        return tuple(self.sizes)

    def rows(self, split: str) -> Iterator[Row]:
        source = random.Random(f"{self.word} {split}")
        for number in range(self.sizes[split]):
            text = " ".join([self.word] * source.randint(1, 9) + [str(number)])
            label = self.labels[number % len(self.labels)]
            turns = as_json((Message("user", text), Message("assistant", text[::-1])))
            fields = {"text": text, "source": text, "target": text[::-1], "label": label, "conversation": turns}
            yield Row(fields, f"{number}")


KINDS: dict[str, Callable[..., PlannedData]] = {
    "causal_lm": functools.partial(CausalLMData, max_length=12),
    "masked_lm": functools.partial(MaskedLMData, max_length=12, masking=TokenMasking()),
    "translation": functools.partial(TranslationData, max_length=60),
    "classification": functools.partial(ClassificationData, max_length=60),
    "conversations": functools.partial(ConversationData, max_length=200, packing=False),
}
SIZES = {"sun": {"train": 23, "val": 5}, "rain": {"train": 7, "val": 3, "test": 2}}


def mixture(folder: Path, kind: str = "classification", **arguments: Any) -> MixtureData:
    settings = DataSettings(
        arguments.pop("tokenizer", Bytes()),
        seed=arguments.pop("seed", 1),
        batch=arguments.pop("batch", BatchSize(examples=8, pool=2, shuffle="keyed")),
        limit=arguments.pop("limit", Limit()),
        cache=folder,
    )
    corpora = {word: Words(word, sizes) for word, sizes in SIZES.items()}
    arguments = {"parts": corpora, "weights": {"sun": 1, "rain": 3}, **arguments}
    return MixtureData(arguments.pop("of", KINDS[kind]), **arguments, settings=settings)


def read_by(data: MixtureData, epoch: int) -> list[tuple[str, int, int]]:
    """Part, epoch of the part and example of everything that an epoch reads, step after step."""
    examples, plan = data.splits["train"], data.plan(epoch)
    numbers = np.concatenate([plan.examples(step) for step in range(plan.steps)])
    assert len(set(numbers.tolist())) == len(numbers)
    names = list(data.parts)
    found = zip(*(column.tolist() for column in examples.numbering.read(numbers, epoch)), strict=True)
    return [(names[part], own, example) for part, own, example in found]


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_has_exact_shares_and_no_part_repeats_before_it_is_through(tmp_path: Path, kind: str) -> None:
    data = mixture(tmp_path, kind)
    size = {name: len(part.splits["train"].counts) for name, part in data.parts.items()}
    assert data.epoch_examples == -(-sum(size.values()) // 4) * 4
    read = Counter[tuple[str, int, int]]()
    for epoch in range(4):
        found = read_by(data, epoch)
        assert Counter(name for name, _, _ in found) == {"sun": len(found) // 4, "rain": 3 * len(found) // 4}
        read.update(found)
    assert max(read.values()) == 1
    for name in data.parts:
        of_epochs = Counter(epoch for part, epoch, _ in read if part == name)
        last = max(of_epochs)
        assert of_epochs == {**dict.fromkeys(range(last), size[name]), last: of_epochs[last]}


@pytest.mark.parametrize(
    "batch", [BatchSize(examples=8, pool=1, shuffle="keyed"), BatchSize(tokens=300, pool=2, shuffle="keyed")]
)
def test_a_pool_has_the_shares_of_the_weights_up_to_a_block(tmp_path: Path, batch: BatchSize) -> None:
    data = mixture(tmp_path, batch=batch, epoch_examples=200)
    for pool in data.plan(1).parts():
        parts = data.splits["train"].numbering.read(pool.order, 1).parts
        assert abs(int((parts == 0).sum()) - len(parts) / 4) < 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_a_mixed_batch_is_the_row_of_its_part(tmp_path: Path, kind: str) -> None:
    data = mixture(tmp_path, kind)
    examples: MixedExamples = data.splits["train"]
    for epoch in (0, 2):
        numbers = data.plan(epoch).examples(1)
        mixed = examples.batch(Slice(numbers, epoch, 5.0, filler=False))
        assert mixed.ids.tolist() == numbers.tolist()
        named = examples.numbering.read(numbers, epoch)
        assert len(set(named.parts)) == 2
        for place, (part, own, example) in enumerate(zip(*named, strict=True)):
            alone = (
                list(data.parts.values())[part]
                .splits["train"]
                .batch(Slice(np.array([example]), int(own), 5.0, filler=False))
            )
            for name in set(mixed._fields) - {"ids", "step_count", "documents"}:
                expected, found = getattr(alone, name), getattr(mixed, name)
                if expected is not None:
                    row = expected[0]
                    np.testing.assert_array_equal(found[place][: row.numel()] if row.dim() else found[place], row)


def test_the_loss_is_divided_by_what_the_parts_count(tmp_path: Path) -> None:
    data = mixture(tmp_path, "causal_lm")
    plan, examples = data.plan(1), data.splits["train"]
    for step in range(plan.steps):
        batch = examples.batch(Slice(plan.examples(step), 1, plan.count(step), filler=False))
        assert int((batch.labels != -100).sum()) == plan.count(step)


@pytest.mark.parametrize(
    "batch", [BatchSize(examples=8, pool=2, shuffle="keyed"), BatchSize(tokens=90, pool=3, shuffle="keyed")]
)
def test_what_came_before_is_known_without_reading_it(tmp_path: Path, batch: BatchSize) -> None:
    data = mixture(tmp_path, batch=batch)
    lengths, steps, tokens, read = (
        data.splits["train"].lengths,
        data.clock.steps_per_epoch,
        0,
        Counter[tuple[str, int]](),
    )
    for epoch in range(5):
        assert data.plan(epoch).steps == steps
        assert data.tokens_at(epoch * steps) == tokens
        before = Counter[tuple[str, int]]()
        for numbers, times in data.read_before(epoch):
            for part, example in zip(*np.array(data.splits["train"].numbering.read(numbers, 0))[[0, 2]], strict=True):
                before[list(data.parts)[part], example] += times
        assert before == read
        tokens += sum(int(lengths[data.plan(epoch).examples(step)].sum()) for step in range(steps))
        read.update((name, example) for name, _, example in read_by(data, epoch))


def test_the_order_is_a_function_of_the_seed_and_of_nothing_else(tmp_path: Path) -> None:
    one, other, third = (mixture(tmp_path, seed=seed) for seed in (1, 1, 2))
    assert read_by(one, 3) == read_by(other, 3) != read_by(third, 3)
    plan = other.plan(2)
    for step in reversed(range(plan.steps)):
        slices = [plan.examples(step, rank, 2, micro, 3) for micro in range(3) for rank in range(2)]
        np.testing.assert_array_equal(np.concatenate(slices), one.plan(2).examples(step))


def test_a_numbering_is_a_bijection_in_every_epoch() -> None:
    numbering = Numbering([5, 3, 1], [7, 4, 2])
    assert numbering.times.tolist() == [3, 2, 2]
    for epoch in range(6):
        numbers = np.arange(numbering.starts[-1])
        found = numbering.read(numbers, epoch)
        np.testing.assert_array_equal(numbering.of(*found, epoch), numbers)
    assert [numbering.range_of(part) for part in range(3)] == [range(15), range(15, 21), range(21, 23)]


def test_parts_are_evaluated_one_after_the_other(tmp_path: Path) -> None:
    data = mixture(tmp_path)
    assert data.parts_of("val") == {"sun": range(5), "rain": range(5, 8)}
    assert data.parts_of("test") == {"rain": range(2)}
    batches = list(data.val_dataloader())
    assert [set(batch.ids.tolist()) for batch in batches] == [set(range(5)), set(range(5, 8))]
    assert data.text("val", "text", 6) == data.parts["rain"].text("val", "text", 1)
    assert data.text("test", "text", 1) == data.parts["rain"].text("test", "text", 1)
    assert data.fields("test") == ["text"]
    data.evaluated = "other"
    with pytest.raises(DataError, match="no split 'other'"):
        data.test_dataloader()


@pytest.mark.parametrize("kind", ["classification", "conversations"])
def test_one_tokenizer_reads_the_texts_of_all_parts(tmp_path: Path, kind: str) -> None:
    data = mixture(tmp_path, kind, tokenizer=BPE(vocabulary=110))
    assert {part.tokenizer.fingerprint for part in data.parts.values()} == {data.tokenizer.fingerprint}
    assert all(len(data.tokenizer.encode([word])[0]) == 1 for word in ("sun", "rain"))
    joined = JoinedCorpus({word: Words(word, sizes) for word, sizes in SIZES.items()})
    assert joined.splits() == ("train", "val", "test")
    assert [len(list(joined.rows(split))) for split in joined.splits()] == [30, 8, 2]
    assert joined.fingerprint() != JoinedCorpus({"sun": Words("sun", SIZES["sun"])}).fingerprint()


def test_it_is_described_by_its_parts(tmp_path: Path) -> None:
    data = mixture(tmp_path, limit=Limit(train=11))
    described = data.describe()
    assert described["rows"] == {"train": 11 + 7, "val": 8, "test": 2}
    assert described["epoch_examples"] == 20
    assert described["parts"] == {
        "sun": {"rows": {"train": 11, "val": 5}, "share": 0.25, "times_an_epoch": 5 / 11},
        "rain": {"rows": {"train": 7, "val": 3, "test": 2}, "share": 0.75, "times_an_epoch": 15 / 7},
    }
    assert mixture(tmp_path, weights=None, temperature=1.0).draws.places.tolist() == [767, 233]


def test_bytes_per_token_are_those_of_all_parts(tmp_path: Path) -> None:
    data = mixture(tmp_path, "masked_lm")
    rows = [part.prepared.splits["val"] for part in data.parts.values()]
    text_bytes = sum(len(text.encode()) for one in rows for text in {*one.texts["text"]})
    tokens = sum(one.tokens["text"].values.size for one in rows)
    assert data.bytes_per_token("val") == pytest.approx(text_bytes / tokens)


def test_references_are_those_of_the_part(tmp_path: Path) -> None:
    data = mixture(tmp_path, "translation")
    assert data.references("val", 5) == [data.parts["rain"].text("val", "target", 0)]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "stored": ({"batch": BatchSize(examples=8, pool=2)}, r"write batch\.shuffle=keyed batch\.pool=50"),
    "without a pool": ({"batch": BatchSize(examples=8, shuffle="keyed")}, r"write batch\.shuffle=keyed batch\.pool=50"),
    "without parts": ({"parts": {}}, r"data\.parts is empty"),
    "a name": ({"parts": {"a/b": Words("a", SIZES["sun"])}, "weights": {"a/b": 1}}, "'a/b', which is no name"),
    "no weights": ({"weights": None}, r"neither is given; write 'data\.weights=\{sun: 1, rain: 1\}'"),
    "both": ({"temperature": 1.0}, "both are given"),
    "other names": ({"weights": {"sun": 1}}, r"data\.weights is of sun, but data\.parts are sun, rain"),
    "no weight": ({"weights": {"sun": 1, "rain": 0}}, r"data\.weights\.rain=0 is less than 1"),
    "temperature": ({"weights": None, "temperature": 0.0}, r"data\.temperature=0\.0 is not positive"),
    "epoch": ({"epoch_examples": 9}, r"data\.epoch_examples=9 is not a multiple of 4.*write 12"),
    "small": (
        {"weights": None, "temperature": 0.1},
        r"data\.temperature=0\.1 leaves data\.parts\.rain less than one example",
    ),
    "classes": (
        {"parts": {"sun": Words("sun", SIZES["sun"]), "rain": Words("rain", SIZES["rain"], "wet dry")}},
        r"data\.parts\.rain has other classes.* than data\.parts\.sun",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_fit_together_is_one_line(tmp_path: Path, wrong: str) -> None:
    arguments, message = WRONG[wrong]
    with pytest.raises(ConfigurationError, match=message) as caught:
        mixture(tmp_path, **arguments).plan(0)
    assert "\n" not in str(caught.value)


def test_data_whose_batches_are_no_rows_is_refused(tmp_path: Path) -> None:
    line = '{"id": "1", "question": "who", "context": "he did", "answers": {"text": ["he"], "answer_start": [0]}}\n'
    (tmp_path / "a.jsonl").write_text(line)
    corpus = QuestionFiles(train=str(tmp_path / "a.jsonl"), val=str(tmp_path / "a.jsonl"), test=None)
    of = functools.partial(QuestionData, max_length=40, stride=5, max_question=9)
    with pytest.raises(ConfigurationError, match="QuestionData cannot be mixed"):
        mixture(tmp_path / "cache", of=of, parts={"a": corpus}, weights={"a": 1}).plan(0)


def test_a_filler_counts_for_nothing(tmp_path: Path) -> None:
    data = mixture(tmp_path)
    batch = data.splits["train"].batch(Slice(data.plan(0).examples(0)[:1], 0, 5.0, filler=True))
    assert batch.ids.tolist() == [-1] and torch.equal(batch.labels, torch.tensor([-100]))
