"""Against the sequence classifiers of transformers: pooler and head are read from their files; their outputs are a task's."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from etude.errors import ConfigurationError
from etude.models.base import TextEncoder
from etude.models.layers.dropout import Dropout
from etude.models.pretrained.bert import PretrainedBert
from etude.optim.schedules import Constant
from etude.tasks.classification import Classification
from etude.types import Facts

FACTS = Facts(vocabulary=29, pad=1, bos=0, eos=2, classes=("cold", "mild", "warm"), segments=2)
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
MASK = torch.arange(7) < torch.tensor([[7], [4], [5]])
TOKENS = torch.where(MASK, torch.randint(3, 29, MASK.shape, generator=torch.Generator().manual_seed(1)), 1)
SEGMENTS = ((torch.arange(7) > 2) & MASK).long()

NAMES = {0: "warm", 1: "cold", 2: "mild"}
OURS = [1, 2, 0]
"""The outputs of theirs in the order of our classes."""


def classifier(pooling: Any, name: Path) -> Classification:
    encoder = PretrainedBert(str(name)).build(FACTS, TextEncoder)
    constant: Any = Constant()
    return Classification(FACTS, encoder, partial(torch.optim.Adam, lr=1e-3), constant, pooling=pooling).eval()


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "xlm-roberta", "roberta-prelayernorm"])
def test_their_logits_with_their_weights(tmp_path: Path, kind: str) -> None:
    ids = {"vocab_size": 29, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "id2label": NAMES}
    two = {} if kind == "distilbert" else {"type_vocab_size": 2}
    other = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24} if kind == "distilbert" else {}
    torch.manual_seed(3)
    config = transformers.AutoConfig.for_model(kind, **ids, **SIZES, **two, **other)
    theirs = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(tmp_path)

    ours = classifier("pooler", tmp_path)
    types = {"token_type_ids": SEGMENTS} if two else {}
    with torch.no_grad():
        expected = theirs(input_ids=TOKENS, attention_mask=MASK.long(), **types).logits[:, OURS]
        found = ours.logits(TOKENS, MASK, SEGMENTS)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_dropout_is_where_theirs_is(tmp_path: Path, kind: str) -> None:
    """On embeddings and behind both parts of a layer, and not inside feed-forward layers; attention's is a choice."""
    other = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24} if kind == "distilbert" else {}
    config = transformers.AutoConfig.for_model(kind, vocab_size=29, pad_token_id=1, **SIZES, **other)
    theirs = transformers.AutoModel.from_config(config)
    theirs.save_pretrained(tmp_path)
    places = [name for name, module in theirs.named_modules() if isinstance(module, torch.nn.Dropout)]
    attention = [name for name in places if name.endswith(("self.dropout", "attention.dropout"))]
    for rate, expected in ((0.0, len(places) - len(attention)), (0.2, len(places))):
        facts = Facts(vocabulary=29, pad=1, bos=0, eos=2)
        ours = PretrainedBert(str(tmp_path), 0.1, attention_dropout=rate).build(facts, TextEncoder)
        rates = [module.probability for module in ours.modules() if isinstance(module, Dropout)]
        # DistilBERT alone has none behind its attention.
        assert sum(rate > 0 for rate in rates) == expected + (2 if kind == "distilbert" else 0)


def written(folder: Path, **config: Any) -> Any:
    """Write a BERT with a head, of random weights."""
    sizes = {**SIZES, "vocab_size": 29, "pad_token_id": 1, "type_vocab_size": 2}
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes, **config))
    model.save_pretrained(folder)
    return model


def test_labels_without_names_are_numbers(tmp_path: Path) -> None:
    """As Hugging Face's Trainer leaves them where nobody gave it names."""
    theirs = written(tmp_path, num_labels=3)
    encoder = PretrainedBert(str(tmp_path)).build(FACTS, TextEncoder)
    facts = replace(FACTS, classes=("2", "0", "1"))
    constant: Any = Constant()
    task = Classification(facts, encoder, partial(torch.optim.Adam, lr=1e-3), constant, pooling="pooler")
    assert torch.equal(task.head.weight, theirs.classifier.weight[[2, 0, 1]])
    assert torch.equal(task.head.bias, theirs.classifier.bias[[2, 0, 1]])


def test_a_head_for_other_classes_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = written(tmp_path, id2label={0: "cold", 1: "mild", 2: "hot"})
    with caplog.at_level("INFO"):
        ours = classifier("pooler", tmp_path)
    assert f"{tmp_path} has a head for cold, mild, hot, not for cold, mild, warm: a new one is drawn" in caplog.text
    assert not torch.isin(ours.head.weight, theirs.classifier.weight).any()


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_a_head_behind_a_pooler_is_not_one_without(tmp_path: Path, pooling: str) -> None:
    theirs = written(tmp_path, id2label=NAMES)
    assert not torch.isin(classifier(pooling, tmp_path).head.weight, theirs.classifier.weight).any()


def test_a_head_without_its_tensors_is_refused(tmp_path: Path) -> None:
    written(tmp_path, id2label=NAMES)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["classifier.bias"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ConfigurationError, match=r"as BertForSequenceClassification with 3 outputs, they should have a cl"
    ):
        classifier("pooler", tmp_path)


def test_a_pooler_is_drawn_where_the_files_have_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = transformers.AutoConfig.for_model("bert", vocab_size=29, pad_token_id=1, type_vocab_size=2, **SIZES)
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    with caplog.at_level("INFO"):
        first, again = classifier("pooler", tmp_path), classifier("pooler", tmp_path)
    assert "has no pooler: a new one is drawn" in caplog.text
    assert first.pooler is not None and again.pooler is not None
    assert not torch.equal(first.pooler.dense.weight, again.pooler.dense.weight)
    assert classifier("first", tmp_path).pooler is None


def test_its_operations_are_counted(tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model("bert", vocab_size=29, pad_token_id=1, type_vocab_size=2, **SIZES)
    transformers.BertModel(config).save_pretrained(tmp_path)
    lengths = MASK.sum(dim=1).numpy()
    flops = [classifier(pooling, tmp_path).training_flops(lengths, lengths) for pooling in ("first", "pooler")]
    assert flops[0] is not None and flops[1] is not None
    assert (flops[1] - flops[0]).tolist() == [3 * 2 * 16 * 16] * 3
