"""An example is one row of ids, one state and one line of outputs, whatever its neighbours are; a pretrained head is kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from itertools import permutations
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from etude.errors import ConfigurationError, DataError
from etude.models.base import MaskedLMHead, OutputKind, OutputLayer, TextEncoder
from etude.models.encoder import Encoder
from etude.models.model_flops import encoder_flops
from etude.optim.schedules import Constant
from etude.tasks.attention_maps import encoder_attention
from etude.tasks.pooled import Pooled
from etude.tasks.prediction import AnswersRecords
from etude.tasks.running_sums import Row
from etude.tokenization.trained import Bytes
from etude.types import ClassificationBatch, Facts

WIDTH, OUTPUTS, LONGEST = 6, 5, 12
BYTES = Bytes().build(iter(()))
FACTS = Facts(BYTES.vocabulary, BYTES.pad, BYTES.bos, BYTES.eos)
PAIRS = Facts(BYTES.vocabulary, BYTES.pad, BYTES.bos, BYTES.eos, segments=2)
B, E = BYTES.bos, BYTES.eos


def ids(text: str) -> list[int]:
    return [byte + 5 for byte in text.encode()]


class Looked(TextEncoder):
    """Looks every token up, and keeps what it was given."""

    def __init__(self, layer: OutputLayer | None = None) -> None:
        super().__init__()
        self.width, self.max_length = WIDTH, LONGEST
        self.embedding = nn.Embedding(BYTES.vocabulary, WIDTH)
        self.layer, self.kinds = layer, list[str]()
        self.given: list[tuple[Tensor, Tensor, Tensor | None]] = []

    @property
    def stages(self) -> list[tuple[nn.Module, ...]]:
        return [(self.embedding,)]

    @property
    def has_token_types(self) -> bool:
        return False

    @property
    def output_weight(self) -> Tensor:
        return self.embedding.weight

    def forward(self, tokens: Tensor, mask: Tensor, segments: Tensor | None = None) -> Tensor:
        self.given.append((tokens, mask, segments))
        return cast(Tensor, self.embedding(tokens)) * mask[:, :, None]

    def hidden(self, tokens: Tensor, mask: Tensor, segments: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        states = self(tokens, mask, segments)[mask]
        return states if at is None else cast(Tensor, states[at])

    def masked_lm_head(self) -> MaskedLMHead:
        raise NotImplementedError

    def output_layer(self, kind: OutputKind) -> OutputLayer | None:
        self.kinds.append(kind)
        return self.layer


class Outputs(Pooled):
    """Answers with the outputs themselves."""

    def loss(self, batch: ClassificationBatch) -> tuple[Tensor, Tensor]:
        return self.forward(batch).sum(), torch.tensor(len(batch.tokens))

    def judge(self, batch: ClassificationBatch, split: str) -> tuple[Tensor, Tensor, list[Row]]:
        return *self.loss(batch), self.answers(batch)

    def sample(self, row: Row, split: str) -> dict[str, str]:
        return self.texts_of(row, split)

    def describe_outputs(self, outputs: Tensor) -> list[tuple[str, dict[str, Any]]]:
        return [(f"{row[0]:.6f}", {"outputs": row}) for row in outputs.tolist()]


def task_of(facts: Facts = FACTS, model: TextEncoder | None = None, outputs: int = OUTPUTS, **more: Any) -> Outputs:
    torch.manual_seed(3)
    schedule: Any = Constant()
    encoder = Looked() if model is None else model
    return Outputs(facts, encoder, partial(torch.optim.SGD, lr=0.1), schedule, outputs, **more).eval()


def real_encoder(facts: Facts) -> Encoder:
    torch.manual_seed(2)
    encoder = Encoder(facts, WIDTH, 2, 2, 7, 0.1, LONGEST)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.5)
    return encoder


def looked(task: Outputs) -> Looked:
    assert isinstance(task.model, Looked)
    return task.model


def outputs_of(task: Outputs, records: Sequence[dict[str, str]]) -> Tensor:
    return torch.tensor([answer.values["outputs"] for answer in task.answer_records(records, BYTES)])


def exactly(line: str) -> str:
    return f"^{re.escape(line)}$"


# States and outputs


@pytest.mark.parametrize("pooling", ["mean", "first", "pooler"])
def test_outputs_by_hand(pooling: Any) -> None:
    task = task_of(pooling=pooling)
    tokens = torch.tensor([[B, 7, 9, E], [B, 8, E, 0]])
    mask = torch.tensor([[True] * 4, [True, True, True, False]])
    table = looked(task).embedding.weight
    states = torch.stack(
        [table[[B, 7, 9, E]].mean(0), table[[B, 8, E]].mean(0)] if pooling == "mean" else [table[B]] * 2
    )
    if pooling == "pooler":
        assert task.pooler is not None
        states = torch.tanh(states @ task.pooler.dense.weight.T + task.pooler.dense.bias)
    expected = states @ task.head.weight.T + task.head.bias
    with torch.no_grad():
        torch.testing.assert_close(task.pooled(tokens, mask), states)
        torch.testing.assert_close(task.logits(tokens, mask), expected)
        batch = ClassificationBatch(tokens, mask, torch.zeros(2), 2.0, torch.tensor([4, -1]))
        assert torch.equal(task(batch), task.logits(tokens, mask))
    assert [row["id"] for row in task.answers(batch)] == [4, -1]
    assert torch.equal(torch.tensor([row["outputs"] for row in task.answers(batch)]), task(batch))


@pytest.mark.parametrize(("pooling", "kind"), [("mean", "token"), ("first", "token"), ("pooler", "text")])
def test_a_head_behind_a_pooler_is_one_of_texts(pooling: Any, kind: str) -> None:
    task = task_of(pooling=pooling)
    assert task.output_kind == kind and looked(task).kinds == [kind]
    assert (task.pooler is not None) == (kind == "text")


@pytest.mark.parametrize(
    ("own", "given_back"), [(torch.bfloat16, torch.float32), (torch.float32,) * 2, (torch.float64,) * 2]
)
def test_outputs_are_in_single_precision_at_least(own: torch.dtype, given_back: torch.dtype) -> None:
    task = task_of().to(own)
    assert task.logits(torch.tensor([[B, 9, E]]), torch.ones(1, 3, dtype=torch.bool)).dtype == given_back


def test_dropout_is_on_the_pooled_state_in_training_alone() -> None:
    task, tokens = task_of(head_dropout=0.5), torch.tensor([[B, 9, 8, E]])
    mask = torch.ones_like(tokens, dtype=torch.bool)
    kept = task.pooled(tokens, mask)
    dropped = task.train().pooled(tokens.expand(50, -1), mask.expand(50, -1))
    assert set((dropped / kept).round(decimals=4).flatten().tolist()) == {0.0, 2.0}


# Rows of ids

WORD = st.text("abcü ", max_size=9)


@pytest.mark.parametrize("pooling", ["mean", "first", "pooler"])
@given(records=st.lists(st.fixed_dictionaries({"text": WORD, "pair": WORD}), min_size=1, max_size=6), draw=st.data())
def test_neighbours_and_their_order_change_nothing(pooling: Any, records: list[dict[str, str]], draw: Any) -> None:
    task = task_of(PAIRS, real_encoder(PAIRS), pooling=pooling)
    order = draw.draw(st.permutations(range(len(records))))
    together = outputs_of(task, records)
    torch.testing.assert_close(
        outputs_of(task, [records[index] for index in order]), together[order], rtol=1e-4, atol=1e-5
    )
    alone = torch.cat([outputs_of(task, [record]) for record in records])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


def test_texts_are_framed_and_padded() -> None:
    task = task_of()
    answers = task.answer_records(
        [{"text": "ab"}, {"text": ""}, {"text": "abcdefghij"}, {"text": "abcdefghijk"}], BYTES
    )
    ((tokens, mask, segments),) = looked(task).given
    long = [B, *ids("abcdefghij"), E]
    assert tokens.tolist() == [[B, *ids("ab"), E] + [0] * 8, [B, E] + [0] * 10, long, long]
    assert mask.sum(1).tolist() == [4, 2, LONGEST, LONGEST] and segments is None
    assert [answer.cut for answer in answers] == [False, False, False, True]


def test_texts_of_a_pair_have_their_segments() -> None:
    task = task_of(PAIRS)
    pairs = [("ab", "c"), ("", ""), ("abcde", "fghi"), ("abcdefgh", "ijk"), ("abcdef", "ghijkl")]
    answers = task.answer_records([{"text": first, "pair": second} for first, second in pairs], BYTES)
    ((tokens, mask, segments),) = looked(task).given
    kept = [*pairs[:3], ("abcdef", "ijk"), ("abcde", "ghij")]
    rows = [[B, *ids(first), E, *ids(second), E] for first, second in kept]
    assert [row[real].tolist() for row, real in zip(tokens, mask, strict=True)] == rows
    assert segments is not None
    for row, real, (first, second) in zip(segments, mask, kept, strict=True):
        assert row[real].tolist() == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert [answer.cut for answer in answers] == [False, False, False, True, True]


def test_lines_are_answered_as_records_are() -> None:
    for facts, lines in (
        (FACTS, ["ab", "", "a\tb", "abcdefghijk"]),
        (PAIRS, ["ab\tc", "\t", "a\tb\tc", "abcdefgh\tijk"]),
    ):
        task = task_of(facts, real_encoder(facts))
        records = [
            dict(zip(task.fields, line.split("\t", 1) if facts is PAIRS else [line], strict=True)) for line in lines
        ]
        answers, predictions = task.answer_records(records, BYTES), task.predictions(lines, BYTES)
        assert [one.text for one in predictions] == [f"{answer.values['outputs'][0]:.6f}" for answer in answers]
        assert len({one.text for one in predictions}) == 4
        assert [one.cut for one in predictions] == [answer.cut for answer in answers] == [False] * 3 + [True]
        assert all(output.score is None and output.finished for one in predictions for output in one.outputs)


def test_nothing_is_answered_by_nothing() -> None:
    assert task_of().predictions([], BYTES) == []
    assert task_of().answer_records([], BYTES) == []


def test_a_line_of_a_pair_needs_a_tab() -> None:
    line = f"the line {'x' * 60!r} has no tab, but this run reads pairs: write text, tab, pair; or format=jsonl"
    with pytest.raises(DataError, match=exactly(line)):
        task_of(PAIRS).predictions(["a\tb", "x" * 70], BYTES)


def test_records_have_the_fields_of_their_texts() -> None:
    single, pair = task_of(), task_of(PAIRS)
    assert (single.fields, pair.fields) == (("text",), ("text", "pair"))
    assert isinstance(single, AnswersRecords)


def test_the_texts_of_a_row_are_those_that_were_read() -> None:
    task = task_of(PAIRS)

    class Data:
        clock = None

        def text(self, split: str, field: str, example: int) -> str:
            return f"{split} {field} {example}"

    task.trainer = SimpleNamespace(datamodule=Data())  # type: ignore[assignment]
    assert task.texts_of({"id": 3}, "val") == {"text": "val text 3", "pair": "val pair 3"}


# The operations of training


@pytest.mark.parametrize(("pooling", "after"), [("mean", OUTPUTS), ("first", OUTPUTS), ("pooler", OUTPUTS + WIDTH)])
def test_the_head_and_the_pooler_are_computed_once_for_an_example(pooling: Any, after: int) -> None:
    task, lengths = task_of(model=real_encoder(FACTS), pooling=pooling), np.array([3, 9, 12, 4])
    below = encoder_flops(task.model, lengths, lengths if pooling == "mean" else None)
    found = task.training_flops(lengths, np.ones(4, np.int64))
    assert below is not None and found is not None
    assert (found - below.total).tolist() == [3 * 2 * WIDTH * after] * 4


def test_the_operations_of_an_unknown_encoder_are_unknown() -> None:
    assert task_of().training_flops(np.array([3]), np.array([1])) is None


# Attention


def test_the_attention_to_a_text_and_to_a_pair() -> None:
    single, pair = task_of(model=real_encoder(FACTS)), task_of(PAIRS, real_encoder(PAIRS))
    assert single.look_inside("abc", None, BYTES).source == [B, *ids("abc"), E]
    assert pair.look_inside("abc", None, BYTES).source == [B, *ids("abc"), E]
    seen = pair.look_inside("abc", "de", BYTES)
    assert seen.source == [B, *ids("abc"), E, *ids("de"), E] and seen.target is None
    assert [one.weights.shape for one in seen.maps] == [(2, 8, 8)] * 2
    unmarked = encoder_attention(pair.model, seen.source, None)
    assert not torch.equal(unmarked.maps[0].weights, seen.maps[0].weights)  # the segments count


@pytest.mark.parametrize(
    ("facts", "text", "target", "line"),
    [
        (FACTS, "abc", "de", "the target 'de' has no place in an encoder; leave it out (command line)"),
        (FACTS, "", None, "the text '' has no tokens; give a sentence (command line)"),
        (PAIRS, "abc", "", "the pair '' has no tokens; give a sentence (command line)"),
        (
            FACTS,
            "a" * 11,
            None,
            "the text has 11 tokens, but the model reads 10 of a text; give a shorter one (command line)",
        ),
        (
            PAIRS,
            "a" * 9,
            "b",
            "the text has 9 tokens, but the model reads 8 of a text; give a shorter one (command line)",
        ),
        (
            PAIRS,
            "a" * 7,
            "bbb",
            "the pair has 3 tokens, but the model reads 2 of a text; give a shorter one (command line)",
        ),
    ],
)
def test_what_cannot_be_looked_into_is_one_line(facts: Facts, text: str, target: str | None, line: str) -> None:
    with pytest.raises(ConfigurationError, match=exactly(line)):
        task_of(facts, real_encoder(facts)).look_inside(text, target, BYTES)


# A pretrained head

CLASSES = ("cold", "mild", "warm")


def layer_of(names: tuple[str, ...]) -> OutputLayer:
    """A layer whose row of each name is that name's length and first letter."""
    numbers = torch.tensor([[float(len(name)), float(ord(name[0]))] for name in names])
    return OutputLayer("theirs", numbers.repeat(1, WIDTH // 2), numbers[:, 1], names)


@pytest.mark.parametrize("names", permutations(CLASSES))
def test_a_head_for_the_same_classes_is_kept_in_our_order(
    names: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    facts = Facts(BYTES.vocabulary, 0, 1, 2, classes=CLASSES)
    with caplog.at_level("INFO"):
        task = task_of(facts, Looked(layer_of(names)), outputs=3)
    assert torch.equal(task.head.weight, layer_of(CLASSES).weight)
    assert torch.equal(task.head.bias, layer_of(CLASSES).bias)
    assert caplog.messages == ["the head is that of theirs"]


@pytest.mark.parametrize(
    ("names", "classes", "said"),
    [
        (("cold", "mild", "hot"), CLASSES, "cold, mild, hot, not for cold, mild, warm"),
        (("cold", "warm"), CLASSES, "cold, warm, not for cold, mild, warm"),
        (("cold", "cold", "mild"), CLASSES, "cold, cold, mild, not for cold, mild, warm"),
        (("0",), (), "0, not for a number"),
    ],
)
def test_a_head_for_other_classes_is_left_out(
    names: tuple[str, ...], classes: tuple[str, ...], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    facts = Facts(BYTES.vocabulary, 0, 1, 2, classes=classes)
    with caplog.at_level("INFO"):
        task = task_of(facts, Looked(layer_of(names)), outputs=len(classes) or 1)
    plain = task_of(facts, Looked(), outputs=len(classes) or 1)
    assert torch.equal(task.head.weight, plain.head.weight) and torch.equal(task.head.bias, plain.head.bias)
    assert caplog.messages == [f"theirs has a head for {said}: a new one is drawn"]
    assert task.rows_of(layer_of(names)) is None
