"""Token classification: the loss is transformers' own, whole texts are answered whatever their length and their neighbours."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForTokenClassification

from etude.errors import ConfigurationError
from etude.metrics.tagging import SpanF1
from etude.models.base import OutputLayer
from etude.models.encoder import Encoder
from etude.models.layers.residual import PostNorm
from etude.models.pretrained.bert import to_bert
from etude.models.pretrained.encoder_families import BERT
from etude.optim.schedules import Constant
from etude.seeding import seed_all
from etude.tasks.token_classification import TokenClassification
from etude.tokenization.trained import Bytes
from etude.types import IGNORED, Facts, TokenClassificationBatch

CLASSES = ("B-x", "I-x", "O")
TOKENIZER = Bytes().build([])
FACTS = Facts(TOKENIZER.vocabulary, TOKENIZER.pad, TOKENIZER.bos, TOKENIZER.eos, classes=CLASSES)
SHAPE: dict[str, Any] = {"width": 16, "heads": 2, "layers": 2, "feed_forward": 24, "dropout": 0.0, "max_length": 14}


def made(facts: Facts = FACTS, **more: Any) -> TokenClassification:
    seed_all(5)
    encoder = more.pop("model", None) or Encoder(facts, **SHAPE)
    training: dict[str, Any] = {"optimizer": partial(torch.optim.AdamW, lr=1e-3), "scheduler": Constant()}
    return TokenClassification(facts, encoder, **training, **{"head_dropout": 0.0, **more}).eval()


def batch_of(rows: list[list[int]], labels: list[list[int]]) -> TokenClassificationBatch:
    length = max(map(len, rows))
    grids = [
        torch.tensor([row + [fill] * (length - len(row)) for row in table])
        for table, fill in ((rows, FACTS.pad), (labels, IGNORED))
    ]
    mask = torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in rows])
    return TokenClassificationBatch(grids[0], mask, grids[1], 4.0, torch.tensor([0, 1]), torch.tensor([0, 0]))


BATCH = batch_of(
    [[FACTS.bos, 70, 71, 72, FACTS.eos], [FACTS.bos, 90, FACTS.eos]],
    [[IGNORED, 0, IGNORED, 1, IGNORED], [IGNORED, 2, IGNORED]],
)


def test_loss_and_gradients_are_those_of_transformers() -> None:
    task = made(model=Encoder(FACTS, residual=PostNorm, **SHAPE))
    config = BertConfig(
        vocab_size=FACTS.vocabulary,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=14,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=3,
        pad_token_id=FACTS.pad,
        layer_norm_eps=task.model.embedding_norm.eps,  # type: ignore[union-attr]
    )
    peer = BertForTokenClassification(config)
    weights = {f"bert.{name}": tensor for name, tensor in to_bert(task.model, BERT, FACTS.pad).items()}  # type: ignore[arg-type]
    weights |= {f"classifier.{name}": tensor for name, tensor in task.head.state_dict().items()}
    assert not peer.load_state_dict(weights, strict=False).unexpected_keys
    total, count = task.loss(BATCH)
    output = peer(input_ids=BATCH.tokens, attention_mask=BATCH.mask.long(), labels=BATCH.labels)
    assert int(count) == 3
    torch.testing.assert_close(total / count, output.loss)
    torch.testing.assert_close(task.forward(BATCH)[BATCH.mask], output.logits[BATCH.mask])
    (total / count).backward()
    output.loss.backward()
    torch.testing.assert_close(task.head.weight.grad, peer.classifier.weight.grad)


def test_the_loss_by_hand_and_its_rows() -> None:
    task = made()
    with torch.no_grad():
        logits = task.forward(BATCH)
        total, count, rows = task.judge(BATCH, "val")
        smooth, _ = made(label_smoothing=0.1).train().loss(BATCH)
    at = [(0, 1, 0), (0, 3, 1), (1, 1, 2)]
    by_hand = sum(-logits[row, place].log_softmax(0)[label] for row, place, label in at)
    torch.testing.assert_close(total, by_hand)
    assert int(count) == 3 and float(smooth) != pytest.approx(float(total))
    assert [(row["id"], row["sentence"], row["labels"]) for row in rows] == [(0, 0, [0, 1]), (1, 0, [2])]
    best = [int(logits[row, place].argmax()) for row, place, _ in at]
    assert rows[0]["predictions"] + rows[1]["predictions"] == best
    probability = float(logits[1, 1].softmax(0).max())
    assert rows[1]["probabilities"] == [pytest.approx(probability, abs=1e-5)]
    whole = task.concluded(rows, "val")  # both are parts of one sentence
    assert [(row["id"], row["labels"]) for row in whole] == [(0, list(CLASSES))]
    assert TokenClassification.statistics(whole, {"f1": SpanF1("iob2")}, FACTS)["f1"].rows[0, 2] == 1


def test_a_filler_has_a_loss_of_nothing_with_gradients() -> None:
    task = made().train()
    filler = BATCH._replace(labels=torch.full_like(BATCH.labels, IGNORED), ids=torch.tensor([-1, -1]))
    total, count = task.loss(filler)
    total.backward()
    assert float(total.detach()) == int(count) == 0
    assert task.head.weight.grad is not None and float(task.head.weight.grad.abs().sum()) == 0


WORDS = st.lists(st.text(st.sampled_from("abcé"), min_size=1, max_size=20), max_size=9)


@settings(max_examples=12)
@given(texts=st.lists(WORDS, min_size=1, max_size=4))
def test_every_word_is_answered_whatever_its_neighbours(texts: list[list[str]]) -> None:
    task, lines = made(), [" ".join(words) for words in texts]
    together = task.predictions(lines, TOKENIZER)
    for words, line, answer in zip(texts, lines, together, strict=True):
        assert answer == task.predictions([line], TOKENIZER)[0]
        assert [pair.rpartition("/")[0] for pair in answer.text.split(" ") if pair] == words
        sizes = [len(word.encode()) for word in words]
        assert max(sizes, default=0) > 12 or not answer.cut or 12 in sizes  # a space after it has no room
        assert answer.cut or max(sizes, default=0) <= 12
    for line, record in zip(lines, task.answer_records([{"text": line} for line in lines], TOKENIZER), strict=True):
        values = record.values
        assert values["words"] == line.split() and "entities" not in values
        assert all(0 < probability <= 1 for probability in values["probabilities"])


def test_entities_have_their_characters() -> None:
    task = made(scheme="iob2")
    torch.nn.init.zeros_(task.head.weight)
    with torch.no_grad():
        task.head.bias.copy_(torch.tensor([1.0, 0.0, 0.5]))  # every word begins an entity
    (record,) = task.answer_records([{"text": "  aé  b a"}], TOKENIZER)
    assert record.values["entities"] == [
        {"kind": "x", "text": "aé", "start": 2, "end": 4},
        {"kind": "x", "text": "b", "start": 6, "end": 7},
        {"kind": "x", "text": "a", "start": 8, "end": 9},
    ]
    with torch.no_grad():
        task.head.bias.copy_(torch.tensor([0.0, 1.0, 0.5]))  # every word goes on with one that has not begun
    (record,) = task.answer_records([{"text": "a b"}], TOKENIZER)
    assert record.values["tags"] == ["I-x", "I-x"] and record.values["entities"] == []


def test_a_head_of_the_same_classes_is_taken_in_their_order() -> None:
    weight, bias = torch.arange(48.0).reshape(3, 16), torch.arange(3.0)
    encoder = Encoder(FACTS, **SHAPE)
    encoder.output_layer = lambda kind: OutputLayer("theirs", weight, bias, ("O", "B-x", "I-x"))  # type: ignore[method-assign]
    task = made(model=encoder)
    torch.testing.assert_close(task.head.bias.data, torch.tensor([1.0, 2.0, 0.0]))
    torch.testing.assert_close(task.head.weight.data, weight[[1, 2, 0]])
    encoder.output_layer = lambda kind: OutputLayer("theirs", weight, bias, ("a", "b", "c"))  # type: ignore[method-assign]
    assert not torch.equal(made(model=encoder).head.weight.data[0], weight[1])


def test_operations_grow_with_the_words() -> None:
    task = made()
    few, many = task.training_flops(np.array([9, 9]), np.array([2, 5]))  # type: ignore[misc]
    assert many - few >= 3 * 6 * 16 * 3  # forward, and twice that backward, for each word's three logits


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="two classes or more"):
        made(Facts(FACTS.vocabulary, FACTS.pad, FACTS.bos, FACTS.eos, classes=("O",)))
    with pytest.raises(ConfigurationError, match="the tag 'NOUN' is none of iobes"):
        made(Facts(FACTS.vocabulary, FACTS.pad, FACTS.bos, FACTS.eos, classes=("NOUN", "VERB")), scheme="iobes")
    with pytest.raises(ConfigurationError, match="does not compare the outputs of TokenClassification"):
        made(metrics={"f1": object()})
