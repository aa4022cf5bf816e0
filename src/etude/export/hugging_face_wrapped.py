"""Encoders that transformers ran, back in its own files with the task's head."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import transformers
from torch import Tensor

from etude.errors import ConfigurationError
from etude.export.hugging_face_encoder import HuggingFaceEncoder, encoder_of
from etude.export.hugging_face_files import write_tokenizer
from etude.export.proof import Examples
from etude.models.huggingface_encoder import WrappedEncoder, WrappedHead
from etude.models.huggingface_files import quiet
from etude.tasks.base import Task
from etude.tasks.classification import Classification
from etude.tasks.masked_lm import MaskedLM


class HuggingFaceWrapped(HuggingFaceEncoder):
    """Its own `save_pretrained`, and the tokenizer's files; proved as native encoders are."""

    def write(self, examples: Examples, folder: Path) -> None:
        """Write the model into an empty folder."""
        task, encoder = examples.task, cast(WrappedEncoder, encoder_of(examples.task))
        auto = "AutoModelForMaskedLM" if isinstance(task, MaskedLM) else "AutoModelForTokenClassification"
        with quiet():
            model = _new(auto, _config(task, encoder))
            _fill(model, _weights(task, encoder, model.base_model_prefix))
            model.save_pretrained(folder)
        write_tokenizer(folder, examples.tokenizer, encoder.max_length, starts=True)


def _new(auto: str, config: Any) -> Any:
    try:
        return getattr(transformers, auto).from_config(config)
    except ValueError as error:
        raise ConfigurationError(f"transformers has no {auto} of {config.model_type}: it cannot be exported") from error


def _config(task: Task, encoder: WrappedEncoder) -> Any:
    """Return the config of the pretrained model, with the run's classes."""
    config, classes = copy.deepcopy(encoder.model.config), task.facts.classes
    if classes:
        config.id2label = dict(enumerate(classes))
        config.label2id = {name: index for index, name in enumerate(classes)}
    return config


def _weights(task: Task, encoder: WrappedEncoder, prefix: str) -> dict[str, Tensor]:
    """Return the run's weights by the names of a model with a head."""
    weights = {f"{prefix}.{name}": tensor for name, tensor in encoder.model.state_dict().items()}
    if isinstance(task, Classification):
        return weights | {f"classifier.{name}": tensor for name, tensor in task.head.state_dict().items()}
    head = cast(WrappedHead, cast(MaskedLM, task).head)
    output = {f"{head.output}.weight": encoder.output_weight, f"{head.output}.bias": head.bias}
    return weights | head.rest.state_dict() | output


def _fill(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Load the weights.

    Raises:
        ConfigurationError: If the class has other parts.
    """
    wanted = model.state_dict()
    strange = sorted(
        name for name in wanted.keys() | weights.keys() if _shape(wanted.get(name)) != _shape(weights.get(name))
    )
    if strange:
        raise ConfigurationError(
            f"{type(model).__name__} and this run differ in {', '.join(strange[:4])}: it cannot be exported"
        )
    model.load_state_dict(weights)


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)
