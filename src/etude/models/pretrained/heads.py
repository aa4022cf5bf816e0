"""Loading of pretrained heads: those of masked language models, poolers, and output layers.

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
from etude.models.pretrained.weight_files import check_shapes, read_native_config, read_safetensors

ARCHITECTURES: dict[OutputKind, str] = {
    "text": "ForSequenceClassification",
    "token": "ForTokenClassification",
    "span": "ForQuestionAnswering",
}
"""Suffixes of transformers' class names, by the kind of their outputs."""

_log = logging.getLogger(__name__)


def load_masked_lm_head(head: BertHead, files: PretrainedFiles, family: EncoderFamily) -> None:
    """Load the head of a masked language model if the files have one, else log that they have none.

    Args:
        head: A new head.
        files: The encoder's files.
        family: Family of the tensors' names.

    Raises:
        ConfigurationError: If the files' head has an output matrix of its own, or parts of another shape.
        DataError: If the files are missing.
    """
    weights, names = family.plain_names(read_safetensors(files_of_heads(files))), family.head
    bias = next((bias for bias in names.bias if bias in weights), names.bias[0])
    parts = {**_linear("transform", names.transform), **_linear("norm", names.norm), "bias": (bias,)}
    if not _load(head, weights, parts, files, "head of a masked language model"):
        return
    (embedding,) = family.tensor_names(0)["embedding.weight"]
    matrix = weights.get(names.matrix)
    if matrix is not None and not torch.equal(matrix, weights[embedding]):
        raise ConfigurationError(
            f"{files.name} has other values in {names.matrix} than in the embedding, which a native "
            "model has in both places; set model=huggingface"
        )


def load_pooler(pooler: Pooler, files: PretrainedFiles, family: EncoderFamily) -> None:
    """Load a pooler; one that the files do not have keeps its drawn weights, with a message in the log.

    Raises:
        ConfigurationError: If a tensor has another shape.
        DataError: If the files are missing.
    """
    weights = family.plain_names(read_safetensors(files_of_heads(files)))
    _load(pooler, weights, _linear("dense", family.pooler.dense), files, "pooler")


def _linear(native: str, other: str) -> dict[str, tuple[str]]:
    return {f"{native}.{kind}": (f"{other}.{kind}",) for kind in ("weight", "bias")}


def _load(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    names: Mapping[str, tuple[str]],
    files: PretrainedFiles,
    title: str,
) -> bool:
    """Load a module's tensors by their names in the files, if all of them exist; return whether they do."""
    state = {native: weights[other] for native, (other,) in names.items() if other in weights}
    if len(state) < len(names):
        if not isinstance(files, PretrainedSkeleton):  # logged already when the run was first built
            _log.info("%s has no %s: a new one is drawn", files.name, title)
        return False
    check_shapes(state, module.state_dict(), names, files.name)
    module.load_state_dict(state)
    return True


def read_output_layer(
    files: PretrainedFiles, kind: OutputKind, width: int, text_layer: str | None = None
) -> OutputLayer | None:
    """Return the output layer in the files of a model with such outputs; None: the model has no such outputs.

    Args:
        files: The encoder's files. A run that is rebuilt, or that starts from a run of the same task, has the head in its
            own weights, so that no layer is read from a skeleton.
        kind: Kind of the outputs.
        width: D.
        text_layer: Name of the output layer of a sequence classifier; None: it is not read.

    Raises:
        ConfigurationError: If a tensor is missing or has another shape.
        DataError: If the files are missing.
    """
    layers = {"text": text_layer, "token": "classifier", "span": "qa_outputs"}
    layer, config = layers[kind], read_native_config(files)
    architectures = [str(name) for name in config.get("architectures") or ()]
    if layer is None or not any(name.endswith(ARCHITECTURES[kind]) for name in architectures):
        return None
    head_files = files_of_heads(files)
    if isinstance(head_files, PretrainedSkeleton):
        return None
    names = ("first", "last") if kind == "span" else _output_names(config)
    tensors, shapes = read_safetensors(head_files), {"weight": (len(names), width), "bias": (len(names),)}
    for name, shape in shapes.items():
        tensor = tensors.get(f"{layer}.{name}")
        if tensor is None or tensor.shape != shape:
            raise ConfigurationError(
                f"the weights of {files.name} are not its config.json's: as {', '.join(architectures)} with "
                f"{len(names)} outputs, they should have a {layer}.{name} of {list(shape)}, and have "
                f"{'none' if tensor is None else list(tensor.shape)}"
            )
    return OutputLayer(files.name, tensors[f"{layer}.weight"], tensors[f"{layer}.bias"], names)


def _output_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the outputs in a config.json; the placeholder `LABEL_0` becomes 0."""
    labels = config.get("id2label") or {str(index): f"LABEL_{index}" for index in range(config.get("num_labels", 2))}
    return tuple(str(labels[index]).removeprefix("LABEL_") for index in sorted(labels, key=int))
