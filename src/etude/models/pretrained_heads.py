"""Heads that come with pretrained weights: of masked language models, poolers, and last layers.

Axes: D model width, O outputs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from etude.errors import ConfigurationError
from etude.models.encoder_families import EncoderFamily, HeadNames
from etude.models.kept import KeptFiles, files_of_heads
from etude.models.text_encoder import BertHead, OutputKind, OutputLayer, Pooler
from etude.models.weights import check_shapes, read_json, read_safetensors
from etude.pretrained_files import PretrainedFiles

ARCHITECTURES: dict[OutputKind, str] = {
    "text": "ForSequenceClassification",
    "token": "ForTokenClassification",
    "span": "ForQuestionAnswering",
}
"""The ends of the names that transformers' classes with such outputs have."""

_log = logging.getLogger(__name__)


def load_masked_lm_head(head: BertHead, files: PretrainedFiles, family: EncoderFamily) -> None:
    """Load the head of a masked language model, where the files have one; say so where they have none.

    Args:
        head: New.
        files: Of the encoder.
        family: Whose names the tensors have.

    Raises:
        ConfigurationError: If the files' has an output matrix of its own, or parts of another shape.
        DataError: If the files are missing.
    """
    given = family.plain_names(read_safetensors(files_of_heads(files)))
    weights = _masked_lm_weights(given, family.head)
    if weights is None:
        _say_new(files, "head of a masked language model")
        return
    (embedding,) = family.tensor_names(0)["embedding.weight"]
    matrix = given.get(family.head.matrix)
    if matrix is not None and not torch.equal(matrix, given[embedding]):
        raise ConfigurationError(
            f"{files.name} has other values in {family.head.matrix} than in the embedding, which a native "
            "model has in both places; set model=huggingface"
        )
    check_shapes(weights, head.state_dict(), {ours: (ours,) for ours in weights}, files.name)
    head.load_state_dict(weights)


def _masked_lm_weights(weights: Mapping[str, Tensor], names: HeadNames) -> dict[str, Tensor] | None:
    """Return the weights of a `BertHead` by its own names; None where they are not all there."""
    parts = {"transform": names.transform, "norm": names.norm}
    theirs = {f"{ours}.{kind}": f"{part}.{kind}" for ours, part in parts.items() for kind in ("weight", "bias")}
    theirs["bias"] = next((bias for bias in names.bias if bias in weights), names.bias[0])
    found = {ours: weights[part] for ours, part in theirs.items() if part in weights}
    return found if len(found) == len(theirs) else None


def load_pooler(pooler: Pooler, files: PretrainedFiles, family: EncoderFamily) -> None:
    """Load a pooler, where the files have one; say so where they have none.

    Args:
        pooler: New.
        files: Of the encoder.
        family: Whose names the tensors have.

    Raises:
        ConfigurationError: If the files' is of another shape.
        DataError: If the files are missing.
    """
    given = family.plain_names(read_safetensors(files_of_heads(files)))
    parts = {f"dense.{kind}": (f"{family.pooler.dense}.{kind}",) for kind in ("weight", "bias")}
    if not all(theirs in given for (theirs,) in parts.values()):
        _say_new(files, "pooler")
        return
    weights = {ours: given[theirs] for ours, (theirs,) in parts.items()}
    check_shapes(weights, pooler.state_dict(), parts, files.name)
    pooler.load_state_dict(weights)


def _say_new(files: PretrainedFiles, what: str) -> None:
    """Where a run is built again, that has been said."""
    if not isinstance(files, KeptFiles):
        _log.info("%s has no %s: a new one is drawn", files.name, what)


def read_output_layer(
    files: PretrainedFiles, kind: OutputKind, width: int, of_texts: str | None = None
) -> OutputLayer | None:
    """Return the last layer of files that are those of a model with such outputs; None: they are not.

    Args:
        files: Of the encoder. A run that is built again, or that starts from one with the same task, has its head in its
            own weights: of what was kept, no layer is read.
        kind: Of the outputs.
        width: D.
        of_texts: The layer's name in a sequence classifier; None: it is not read.

    Raises:
        ConfigurationError: If a tensor is missing or of another shape.
        DataError: If the files are missing.
    """
    parts = {"text": of_texts, "token": "classifier", "span": "qa_outputs"}
    part, config = parts[kind], read_json(files)
    architectures = [str(name) for name in config.get("architectures") or ()]
    if part is None or not any(name.endswith(ARCHITECTURES[kind]) for name in architectures):
        return None
    given = files_of_heads(files)
    if isinstance(given, KeptFiles):
        return None
    names = ("first", "last") if kind == "span" else _names(config)
    tensors, shapes = read_safetensors(given), {"weight": (len(names), width), "bias": (len(names),)}
    for name, shape in shapes.items():
        found = tensors.get(f"{part}.{name}")
        if found is None or found.shape != shape:
            raise ConfigurationError(
                f"the weights of {files.name} are not its config.json's: as {', '.join(architectures)} with "
                f"{len(names)} outputs, they should have a {part}.{name} of {list(shape)}, and have "
                f"{'none' if found is None else list(found.shape)}"
            )
    return OutputLayer(files.name, tensors[f"{part}.weight"], tensors[f"{part}.bias"], names)


def _names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a config.json calls the outputs; `LABEL_0`, which stands for no name, is 0."""
    given = config.get("id2label") or {str(index): f"LABEL_{index}" for index in range(config.get("num_labels", 2))}
    return tuple(str(given[index]).removeprefix("LABEL_") for index in sorted(given, key=int))
