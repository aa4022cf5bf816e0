"""Heads that come with pretrained weights: of masked language models, poolers, and last layers.

Axes: D model width, O outputs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import ConfigurationError
from etude.hub import PretrainedFiles
from etude.models.base import BertHead, OutputKind, OutputLayer, Pooler
from etude.models.pretrained.encoder_families import EncoderFamily
from etude.models.pretrained.skeleton import PretrainedSkeleton, files_of_heads
from etude.models.pretrained.weight_files import check_shapes, read_json, read_safetensors

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
    given, names = family.plain_names(read_safetensors(files_of_heads(files))), family.head
    bias = next((bias for bias in names.bias if bias in given), names.bias[0])
    parts = {**_linear("transform", names.transform), **_linear("norm", names.norm), "bias": (bias,)}
    if not _load(head, given, parts, files, "head of a masked language model"):
        return
    (embedding,) = family.tensor_names(0)["embedding.weight"]
    matrix = given.get(names.matrix)
    if matrix is not None and not torch.equal(matrix, given[embedding]):
        raise ConfigurationError(
            f"{files.name} has other values in {names.matrix} than in the embedding, which a native "
            "model has in both places; set model=huggingface"
        )


def load_pooler(pooler: Pooler, files: PretrainedFiles, family: EncoderFamily) -> None:
    """Load a pooler as `load_masked_lm_head` loads a head."""
    given = family.plain_names(read_safetensors(files_of_heads(files)))
    _load(pooler, given, _linear("dense", family.pooler.dense), files, "pooler")


def _linear(ours: str, theirs: str) -> dict[str, tuple[str]]:
    return {f"{ours}.{kind}": (f"{theirs}.{kind}",) for kind in ("weight", "bias")}


def _load(
    module: nn.Module, given: Mapping[str, Tensor], parts: Mapping[str, tuple[str]], files: PretrainedFiles, what: str
) -> bool:
    """Load a module's tensors by the files' names of each, if all are there; return whether they are."""
    weights = {ours: given[theirs] for ours, (theirs,) in parts.items() if theirs in given}
    if len(weights) < len(parts):
        if not isinstance(files, PretrainedSkeleton):  # where a run is built again, that has been said
            _log.info("%s has no %s: a new one is drawn", files.name, what)
        return False
    check_shapes(weights, module.state_dict(), parts, files.name)
    module.load_state_dict(weights)
    return True


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
    if isinstance(given, PretrainedSkeleton):
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
