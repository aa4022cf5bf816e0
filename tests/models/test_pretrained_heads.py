"""Pretrained heads give transformers' outputs; heads that the files lack are left as drawn, and files that lie are refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from torch import Tensor

from etude.errors import ConfigurationError, DataError
from etude.hub import FolderFiles
from etude.models.base import BertHead, OutputKind, Pooler
from etude.models.pretrained.encoder_families import ENCODER_FAMILIES
from etude.models.pretrained.heads import ARCHITECTURES, load_masked_lm_head, load_pooler, read_output_layer
from etude.models.pretrained.skeleton import PretrainedSkeleton

WIDTH, VOCABULARY, ROWS = 6, 11, 5
SIZES = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 7}
DISTILBERT_SIZES = {"dim": WIDTH, "n_layers": 1, "n_heads": 2, "hidden_dim": 7}
STATES = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(3))
BERT, TRANSFORM, NORM = (
    ENCODER_FAMILIES["bert"],
    "cls.predictions.transform.dense",
    "cls.predictions.transform.LayerNorm",
)
EMBEDDING, MATRIX = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
BIAS, OTHER_BIAS = "cls.predictions.bias", "cls.predictions.decoder.bias"
HEAD = (f"{TRANSFORM}.weight", f"{TRANSFORM}.bias", f"{NORM}.weight", f"{NORM}.bias", BIAS)


def transformers_model(kind: str, auto: str) -> Any:
    """A model of random weights, in evaluation mode."""
    sizes = DISTILBERT_SIZES if kind == "distilbert" else SIZES
    config = transformers.AutoConfig.for_model(kind, vocab_size=VOCABULARY, pad_token_id=1, num_labels=3, **sizes)
    torch.manual_seed(4)
    model = getattr(transformers, auto).from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def head_logits(model: Any, kind: str) -> Tensor:
    """The logits that transformers' head gives for `STATES`."""
    if kind == "bert":
        return model.cls(STATES)
    if kind == "distilbert":
        return model.vocab_projector(model.vocab_layer_norm(model.activation(model.vocab_transform(STATES))))
    return model.lm_head(STATES)


def written(folder: Path, tensors: Mapping[str, Tensor], **config: Any) -> FolderFiles:
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **config}))
    save_file(dict(tensors), folder / "model.safetensors", {"format": "pt"})
    return FolderFiles(folder, "theirs")


@cache
def head_tensors() -> dict[str, Tensor]:
    """BERT's embedding and head, by the names in its files."""
    generator = torch.Generator().manual_seed(5)
    shapes = dict(zip(HEAD, ([WIDTH, WIDTH], [WIDTH], [WIDTH], [WIDTH], [VOCABULARY]), strict=True))
    shapes[EMBEDDING] = [VOCABULARY, WIDTH]
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def skeleton(folder: Path, tensors: Mapping[str, Tensor], heads: bool, **config: Any) -> PretrainedSkeleton:
    """What a run keeps of a model in the folder."""
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    kept = {"name": str(folder), "version": None, "sha256": {}, "config": config, "tensors": shapes}
    (folder / "pretrained.json").write_text(json.dumps(kept))
    return PretrainedSkeleton(folder / "pretrained.json", heads=heads)


def new_head() -> BertHead:
    torch.manual_seed(6)
    return BertHead(WIDTH, VOCABULARY)


def same_states(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in first.state_dict().items())


def exactly(line: str) -> str:
    return f"^{re.escape(line)}$"


# Masked language models


@pytest.mark.parametrize("kind", ENCODER_FAMILIES)
def test_a_head_gives_the_logits_of_transformers(tmp_path: Path, kind: str) -> None:
    theirs = transformers_model(kind, "AutoModelForMaskedLM")
    theirs.save_pretrained(tmp_path)
    head = BertHead(WIDTH, VOCABULARY, eps=getattr(theirs.config, "layer_norm_eps", 1e-12))
    load_masked_lm_head(head, FolderFiles(tmp_path), ENCODER_FAMILIES[kind])
    with torch.no_grad():
        logits = F.linear(head(STATES), theirs.get_input_embeddings().weight, head.bias)
        expected = head_logits(theirs, kind)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("missing", [names for size in (1, 2, 5) for names in combinations(HEAD, size)])
def test_a_head_is_loaded_whole_or_not_at_all(
    tmp_path: Path, missing: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    files = written(tmp_path, {name: tensor for name, tensor in head_tensors().items() if name not in missing})
    head = new_head()
    with caplog.at_level("INFO"):
        load_masked_lm_head(head, files, BERT)
    assert same_states(head, new_head())
    assert caplog.messages == ["theirs has no head of a masked language model: a new one is drawn"]


def test_each_tensor_goes_to_its_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    head, tensors = new_head(), head_tensors()
    with caplog.at_level("INFO"):
        load_masked_lm_head(head, written(tmp_path, tensors), BERT)
    places = ("transform.weight", "transform.bias", "norm.weight", "norm.bias", "bias")
    for name, place in zip(HEAD, places, strict=True):
        assert torch.equal(head.get_parameter(place), tensors[name]), name
    assert not caplog.messages


def test_old_names_of_norms_and_the_other_name_of_the_bias_are_read(tmp_path: Path) -> None:
    old = {f"{NORM}.weight": f"{NORM}.gamma", f"{NORM}.bias": f"{NORM}.beta", BIAS: OTHER_BIAS}
    head = new_head()
    load_masked_lm_head(
        head, written(tmp_path, {old.get(name, name): one for name, one in head_tensors().items()}), BERT
    )
    assert torch.equal(head.norm.weight, head_tensors()[f"{NORM}.weight"])
    assert torch.equal(head.norm.bias, head_tensors()[f"{NORM}.bias"])
    assert torch.equal(head.bias, head_tensors()[BIAS])


def test_of_two_biases_the_first_name_counts(tmp_path: Path) -> None:
    head = new_head()
    load_masked_lm_head(head, written(tmp_path, {**head_tensors(), OTHER_BIAS: torch.ones(VOCABULARY)}), BERT)
    assert torch.equal(head.bias, head_tensors()[BIAS])


def test_an_output_matrix_must_be_the_embedding(tmp_path: Path) -> None:
    tensors = {**head_tensors(), MATRIX: head_tensors()[EMBEDDING].clone()}
    load_masked_lm_head(new_head(), written(tmp_path, tensors), BERT)
    tensors[MATRIX][4, 2] += 1e-6
    line = (
        f"theirs has other values in {MATRIX} than in the embedding, which a native model has in both places; "
        "set model=huggingface"
    )
    with pytest.raises(ConfigurationError, match=exactly(line)):
        load_masked_lm_head(new_head(), written(tmp_path, tensors), BERT)


def test_a_part_of_another_shape_is_named(tmp_path: Path) -> None:
    files = written(tmp_path, {**head_tensors(), BIAS: torch.zeros(VOCABULARY + 1)})
    line = f"the weights of theirs are not its config.json's: {BIAS} give [12], which should be [11]"
    with pytest.raises(ConfigurationError, match=exactly(line)):
        load_masked_lm_head(new_head(), files, BERT)


def test_absent_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match=exactly(f"{tmp_path} has no model.safetensors; it has: config.json")):
        load_masked_lm_head(new_head(), FolderFiles(tmp_path), BERT)


# Poolers


@pytest.mark.parametrize("kind", ENCODER_FAMILIES)
def test_a_pooler_gives_the_states_of_transformers(tmp_path: Path, kind: str) -> None:
    theirs = transformers_model(kind, "AutoModelForSequenceClassification")
    theirs.save_pretrained(tmp_path)
    family = ENCODER_FAMILIES[kind]
    pooler = Pooler(WIDTH, family.pooler.activation)
    load_pooler(pooler, FolderFiles(tmp_path), family)
    with torch.no_grad():
        if kind == "bert":
            expected = theirs.bert.pooler(STATES[:, None])
        elif kind == "distilbert":
            expected = theirs.pre_classifier(STATES).relu()
        else:
            expected = theirs.classifier.dense(STATES).tanh()
        torch.testing.assert_close(pooler(STATES), expected)


@pytest.mark.parametrize("missing", ["weight", "bias"])
def test_a_pooler_is_loaded_whole_or_not_at_all(tmp_path: Path, missing: str, caplog: pytest.LogCaptureFixture) -> None:
    tensors = {"weight": torch.ones(WIDTH, WIDTH), "bias": torch.ones(WIDTH)}
    files = written(tmp_path, {f"bert.pooler.dense.{name}": one for name, one in tensors.items() if name != missing})
    pooler = Pooler(WIDTH)
    before = {name: tensor.clone() for name, tensor in pooler.state_dict().items()}
    with caplog.at_level("INFO"):
        load_pooler(pooler, files, BERT)
    assert all(torch.equal(tensor, before[name]) for name, tensor in pooler.state_dict().items())
    assert caplog.messages == ["theirs has no pooler: a new one is drawn"]


# Skeletons


def test_a_head_that_a_run_has_is_not_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Zeros stand for the run's own weights, and nothing is said twice of a head that is not there."""
    head = new_head()
    load_masked_lm_head(head, skeleton(tmp_path, head_tensors(), heads=True), BERT)
    assert not any(tensor.any() for tensor in head.state_dict().values())
    with caplog.at_level("INFO"):
        load_masked_lm_head(new_head(), skeleton(tmp_path, {}, heads=True), BERT)
        load_pooler(Pooler(WIDTH), skeleton(tmp_path, {}, heads=True), BERT)
    assert not caplog.messages


def test_the_head_of_a_run_with_another_task_is_in_the_models_own_files(tmp_path: Path) -> None:
    written(tmp_path, head_tensors())
    head = new_head()
    load_masked_lm_head(head, skeleton(tmp_path, {}, heads=False), BERT)
    assert torch.equal(head.bias, head_tensors()[BIAS])


# Output layers

LAYERS: dict[OutputKind, str] = {"text": "outputs.last", "token": "classifier", "span": "qa_outputs"}


def with_layer(kind: OutputKind, rows: int, **tensors: Tensor) -> dict[str, Tensor]:
    own = {
        "weight": torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(rows)),
        "bias": torch.arange(rows) / 2,
    }
    return {f"{LAYERS[kind]}.{name}": tensor for name, tensor in (own | tensors).items()}


def architecture(kind: OutputKind) -> dict[str, Any]:
    return {"architectures": [f"Bert{ARCHITECTURES[kind]}"]}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_suffixes_are_those_of_transformers(kind: OutputKind) -> None:
    assert isinstance(getattr(transformers, f"Bert{ARCHITECTURES[kind]}"), type)


@pytest.mark.parametrize("kind", ["text", "token"])
def test_outputs_have_the_names_of_config_json_in_the_order_of_their_numbers(tmp_path: Path, kind: OutputKind) -> None:
    labels = {str(number): f"name {number}" for number in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)}
    tensors = with_layer(kind, 11)
    files = written(tmp_path, tensors, id2label=labels, **architecture(kind))
    layer = read_output_layer(files, kind, WIDTH, LAYERS["text"])
    assert layer is not None
    assert layer.names == tuple(f"name {number}" for number in range(11))
    assert layer.model == "theirs"
    assert torch.equal(layer.weight, tensors[f"{LAYERS[kind]}.weight"])
    assert torch.equal(layer.bias, tensors[f"{LAYERS[kind]}.bias"])


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"num_labels": 3}, ("0", "1", "2")),
        ({}, ("0", "1")),
        ({"id2label": {}}, ("0", "1")),
        ({"id2label": {"0": "LABEL_7", "1": "a LABEL_1"}}, ("7", "a LABEL_1")),
        ({"id2label": {"1": "yes", "0": "no"}, "num_labels": 5}, ("no", "yes")),
    ],
)
def test_outputs_without_names_are_numbers(tmp_path: Path, config: dict[str, Any], names: tuple[str, ...]) -> None:
    files = written(tmp_path, with_layer("token", len(names)), **config, **architecture("token"))
    layer = read_output_layer(files, "token", WIDTH)
    assert layer is not None and layer.names == names


def test_names_of_outputs_belong_to_numbers(tmp_path: Path) -> None:
    files = written(tmp_path, with_layer("token", 2), id2label={"a": "x", "b": "y"}, **architecture("token"))
    with pytest.raises(DataError, match=r"config\.json of theirs: a key of id2label has the wrong form; "):
        read_output_layer(files, "token", WIDTH)


def test_the_outputs_of_spans_are_first_and_last(tmp_path: Path) -> None:
    files = written(tmp_path, with_layer("span", 2), id2label={"0": "a", "1": "b", "2": "c"}, **architecture("span"))
    layer = read_output_layer(files, "span", WIDTH)
    assert layer is not None and layer.names == ("first", "last")


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("other", ARCHITECTURES)
def test_a_layer_of_another_kind_is_not_read(tmp_path: Path, kind: OutputKind, other: OutputKind) -> None:
    every = {name: tensor for one in ARCHITECTURES for name, tensor in with_layer(one, 2).items()}
    found = read_output_layer(written(tmp_path, every, **architecture(other)), kind, WIDTH, LAYERS["text"])
    assert (found is not None) == (kind == other)


@pytest.mark.parametrize(
    "config", [{}, {"architectures": None}, {"architectures": []}, {"architectures": ["BertModel"]}]
)
def test_a_model_without_outputs_has_no_layer(tmp_path: Path, config: dict[str, Any]) -> None:
    files = written(tmp_path, with_layer("token", 2), **config)
    assert read_output_layer(files, "token", WIDTH) is None


def test_a_layer_of_texts_is_read_only_where_its_name_is_known(tmp_path: Path) -> None:
    assert read_output_layer(written(tmp_path, with_layer("text", 2), **architecture("text")), "text", WIDTH) is None


@pytest.mark.parametrize("heads", [True, False])
def test_a_layer_comes_from_the_models_own_files_or_not_at_all(tmp_path: Path, heads: bool) -> None:
    tensors = with_layer("token", 2)
    written(tmp_path, tensors, **architecture("token"))
    layer = read_output_layer(skeleton(tmp_path, tensors, heads, **architecture("token")), "token", WIDTH)
    assert (layer is None) == heads
    assert layer is None or torch.equal(layer.weight, tensors["classifier.weight"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.pop("classifier.weight"), "classifier.weight of [3, 6], and have none"),
        (lambda tensors: tensors.pop("classifier.bias"), "classifier.bias of [3], and have none"),
        (lambda tensors: tensors.update(with_layer("token", 4)), "classifier.weight of [3, 6], and have [4, 6]"),
        (
            lambda tensors: tensors.update({"classifier.weight": torch.zeros(3, WIDTH + 1)}),
            "classifier.weight of [3, 6], and have [3, 7]",
        ),
        (
            lambda tensors: tensors.update({"classifier.bias": torch.zeros(3, 1)}),
            "classifier.bias of [3], and have [3, 1]",
        ),
    ],
)
def test_a_layer_that_is_not_what_config_json_says_is_named(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], Any], words: str
) -> None:
    tensors = {"bert.tensor": torch.zeros(1), **with_layer("token", 3)}
    change(tensors)
    files = written(tmp_path, tensors, num_labels=3, **architecture("token"))
    line = (
        "the weights of theirs are not its config.json's: as BertForTokenClassification with 3 outputs, "
        f"they should have a {words}"
    )
    with pytest.raises(ConfigurationError, match=exactly(line)):
        read_output_layer(files, "token", WIDTH)


def test_a_config_of_other_types_is_refused(tmp_path: Path) -> None:
    files = written(tmp_path, with_layer("token", 2), id2label={"0": 3}, **architecture("token"))
    with pytest.raises(DataError, match=r"^config\.json of theirs: id2label\['0'\] is a whole number, not a text"):
        read_output_layer(files, "token", WIDTH)
