"""Classifiers and masked language models as transformers loads them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from etude.commands.export.huggingface_encoder import HuggingFaceEncoder
from etude.commands.export.huggingface_heads import encode_rows, encoder_of, whole_rows
from etude.commands.export.huggingface_wrapped import HuggingFaceWrapped
from etude.commands.export.proof import MismatchError, ProofTexts
from etude.errors import ConfigurationError
from etude.hub import open_pretrained
from etude.models.base import TextEncoder
from etude.models.encoder import Encoder
from etude.models.layers.positions import Learned, Rotary, Sinusoidal
from etude.models.layers.residual import PostNorm, PreNorm
from etude.models.pretrained.bert import PretrainedBert
from etude.models.pretrained.esm import check_for_esm
from etude.models.wrapped.huggingface import HuggingFace
from etude.models.wrapped.wrapped_encoder import WrappedEncoder
from etude.optim.schedules import Constant
from etude.tasks.classification import Classification
from etude.tasks.masked_lm import MaskedLM
from etude.tasks.multilabel import Multilabel
from etude.tasks.question_answering import QuestionAnswering
from etude.tasks.regression import Regression
from etude.tasks.token_classification import TokenClassification
from etude.tokenization.base import Tokenizer
from etude.tokenization.windows import Windows
from etude.types import Facts

KIND = HuggingFaceEncoder()


def given(
    kind: Any,
    tokenizer: Tokenizer,
    texts: list[str],
    residual: Any,
    positions: Any = Learned,
    pairs: bool = False,
    **rest: Any,
) -> Any:
    torch.manual_seed(4)
    special = (tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.mask)
    numbers = {"center": 2.5, "scale": 1.7} if kind is Regression else {"classes": ("cold", "mild", "warm")}
    facts = Facts(tokenizer.vocabulary, *special, segments=2 if pairs else 1, **numbers)
    encoder: Any
    if isinstance(residual, Path):
        sizes = {"hidden_size": 22, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 31}
        ids = {"pad_token_id": tokenizer.pad, "bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos}
        other = {"max_position_embeddings": 64, "embedding_size": 22, "num_labels": 5}
        config = transformers.ElectraConfig(vocab_size=tokenizer.vocabulary, **ids, **sizes, **other)
        transformers.ElectraModel(config).save_pretrained(residual)
        encoder = WrappedEncoder(facts, open_pretrained(str(residual)))
    else:
        width = 22 if positions in (Learned, Sinusoidal) else 24  # rotary positions need an even head width
        encoder = Encoder(facts, width, 2, 3, 31, 0.1, 64, positions=positions, residual=residual)
    if kind is QuestionAnswering:
        rest["windows"] = Windows(max_length=64, stride=8, max_question=16)
    task = kind(facts, encoder, partial(torch.optim.Adam, lr=1e-3), Constant(), **rest)
    for parameter in task.parameters():
        torch.nn.init.normal_(parameter, std=0.35)
    return ProofTexts(task.eval(), tokenizer, texts, texts[::-1] if pairs else [])


CASES: list[tuple[Any, dict[str, Any], str]] = [
    (Classification, {"pooling": "mean"}, "ForTokenClassification"),
    (Classification, {"pooling": "first"}, "ForSequenceClassification"),
    (Classification, {"pooling": "pooler"}, "ForSequenceClassification"),
    (Classification, {"pooling": "pooler", "pairs": True}, "ForSequenceClassification"),
    (Multilabel, {"pooling": "pooler"}, "ForSequenceClassification"),
    (Multilabel, {"pooling": "mean"}, "ForTokenClassification"),
    (Regression, {"pooling": "pooler", "pairs": True}, "ForSequenceClassification"),
    (Regression, {"pooling": "mean", "pairs": True}, "ForTokenClassification"),
    (QuestionAnswering, {"pairs": True}, "ForQuestionAnswering"),
    (TokenClassification, {}, "ForTokenClassification"),
    (MaskedLM, {}, "ForMaskedLM"),
]


SINGLE = [case for case in CASES if "pairs" not in case[1]]


@pytest.mark.parametrize(
    ("residual", "name", "positions", "kind", "rest", "ending"),
    [
        *[(PreNorm, "RobertaPreLayerNorm", Learned, *case) for case in CASES],
        *[(PostNorm, "Bert", Learned, *case) for case in CASES],
        *[(PreNorm, "Esm", partial(Rotary, base=500), *case) for case in SINGLE],
    ],
)
def test_transformers_computes_the_same(
    tokenizer: Tokenizer,
    texts: list[str],
    tmp_path: Path,
    residual: Any,
    name: str,
    positions: Any,
    kind: Any,
    rest: Any,
    ending: str,
) -> None:
    examples = given(kind, tokenizer, texts, residual, positions, **rest)
    KIND.write(examples, tmp_path)
    proof = KIND.prove(examples, tmp_path)
    assert proof["class"] == name + ending
    assert proof["logits"]["largest_difference"] < 1e-4
    assert proof["tokenizer"]["equal"] == len(texts)


@pytest.mark.parametrize(
    ("kind", "rest", "ending"),
    [
        (kind, rest, "ForTokenClassification" if kind is Classification else ending)
        for kind, rest, ending in CASES
        if rest.get("pooling") != "pooler" and kind is not MaskedLM
    ],
)
def test_a_wrapped_encoder_computes_the_same(
    tokenizer: Tokenizer, texts: list[str], tmp_path: Path, kind: Any, rest: Any, ending: str
) -> None:
    examples = given(kind, tokenizer, texts, tmp_path / "model", **rest)
    HuggingFaceWrapped().write(examples, tmp_path / "exported")
    proof = HuggingFaceWrapped().prove(examples, tmp_path / "exported")
    assert proof["class"] == f"Electra{ending}"
    assert proof["logits"]["largest_difference"] < 1e-4


HEADS = [case[:2] for case in CASES if case[0] is not MaskedLM]
WRAPPED_HEADS = [(kind, rest) for kind, rest in HEADS if rest.get("pooling") != "pooler"]


@pytest.mark.parametrize(
    ("residual", "kind", "rest"),
    [
        *[(residual, *head) for residual in (PreNorm, PostNorm) for head in HEADS],
        *[("electra", *head) for head in WRAPPED_HEADS],
    ],
)
def test_what_is_written_is_read_again(
    tokenizer: Tokenizer, texts: list[str], tmp_path: Path, residual: Any, kind: Any, rest: Any
) -> None:
    """Encoder, pooler and head: a task that begins with the folder has the outputs of the one that was written.

    What was written of a first state has a pooler that passes it on.
    """
    wrapped, folder = residual == "electra", tmp_path / "exported"
    examples = given(kind, tokenizer, texts, tmp_path / "model" if wrapped else residual, **rest)
    folder.mkdir()
    (HuggingFaceWrapped() if wrapped else KIND).write(examples, folder)
    task = examples.task
    made = HuggingFace(str(folder)) if wrapped else PretrainedBert(str(folder))
    encoder = made.build(task.facts, TextEncoder)
    more = (
        {"windows": task.windows} if kind is QuestionAnswering else {key: rest[key] for key in rest if key != "pairs"}
    )
    if rest.get("pooling") == "first" and not wrapped:
        more["pooling"] = "pooler"
    again = kind(task.facts, encoder, partial(torch.optim.Adam, lr=1e-3), Constant(), **more).eval()
    batch = encode_rows(task, whole_rows(examples)[:5])
    last = batch.starts if kind is QuestionAnswering else batch.segments
    with torch.no_grad():
        outputs = [
            one.logits(one.model(batch.tokens, batch.mask))
            if kind is TokenClassification
            else one.logits(batch.tokens, batch.mask, last)
            for one in (again, task)
        ]
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("residual", [PreNorm, PostNorm])
def test_the_pipelines_of_transformers_say_what_the_run_says(
    tokenizer: Tokenizer, texts: list[str], tmp_path: Path, residual: Any
) -> None:
    for kind in (Classification, Regression):
        examples = given(kind, tokenizer, texts, residual, pairs=True, pooling="pooler")
        folder = tmp_path / kind.__name__
        folder.mkdir()
        KIND.write(examples, folder)
        classify = transformers.pipeline("text-classification", str(folder))
        records = [{"text": first, "pair": second} for first, second in zip(texts, texts[::-1], strict=True)]
        for record, ours in zip(records, examples.task.answer_records(records, tokenizer), strict=True):
            theirs = classify({"text": record["text"], "text_pair": record["pair"]})
            if kind is Classification:
                assert theirs["label"] == ours.values["label"]
            assert theirs["score"] == pytest.approx(ours.values.get("value", ours.values.get("probability")), abs=1e-4)


def test_a_changed_weight_is_found(tokenizer: Tokenizer, texts: list[str], tmp_path: Path) -> None:
    examples = given(Classification, tokenizer, texts, PreNorm)
    KIND.write(examples, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["classifier.out_proj.bias"][1] += 0.01
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MismatchError, match=r"logits differ by 1.00e-02"):
        KIND.prove(examples, tmp_path)


@pytest.mark.parametrize("residual", [PreNorm, PostNorm])
def test_positions_that_no_class_has_are_refused(
    tokenizer: Tokenizer, texts: list[str], tmp_path: Path, residual: Any
) -> None:
    examples = given(MaskedLM, tokenizer, texts, residual, Sinusoidal)
    with pytest.raises(ConfigurationError, match=r"Sinusoidal.*train with model/positions=learned"):
        KIND.write(examples, tmp_path)


def test_what_esm_has_not_is_refused(tokenizer: Tokenizer, texts: list[str], tmp_path: Path) -> None:
    pairs = given(Classification, tokenizer, texts, PreNorm, Rotary, pairs=True)
    with pytest.raises(
        ConfigurationError, match=r"^Esm, .* does not tell the texts of a pair apart; .*positions=learned"
    ):
        KIND.write(pairs, tmp_path)
    single = encoder_of(given(Classification, tokenizer, texts, PreNorm, Rotary).task)
    assert isinstance(single, Encoder)
    check_for_esm(single, "gelu")
    with pytest.raises(ConfigurationError, match=r"has no activation but gelu, and this one relu; train with"):
        check_for_esm(single, "relu")
