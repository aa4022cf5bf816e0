"""Export of wrapped encoders to transformers, in their own class with the task's head."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import transformers
from torch import Tensor

from etude.commands.export.huggingface_encoder import HuggingFaceEncoder, write_encoder_tokenizer
from etude.commands.export.huggingface_heads import class_ending, encoder_of, head_config, output_layer
from etude.commands.export.proof import ProofTexts
from etude.errors import ConfigurationError
from etude.models.wrapped.files import quiet
from etude.models.wrapped.wrapped_encoder import WrappedEncoder, WrappedHead
from etude.tasks.base import Task
from etude.tasks.masked_lm import MaskedLM
from etude.tasks.pooled import Pooled
from etude.tasks.question_answering import QuestionAnswering
from etude.tasks.token_classification import TokenClassification


class HuggingFaceWrapped(HuggingFaceEncoder):
    """Writes a wrapped encoder with its own `save_pretrained`; the proof is that of native encoders."""

    def write(self, examples: ProofTexts, folder: Path) -> None:
        """Write the model into an empty folder."""
        task, encoder = examples.task, cast(WrappedEncoder, encoder_of(examples.task))
        if isinstance(task, Pooled) and task.pooler is not None:
            raise ConfigurationError(
                "task.pooling=pooler with model=huggingface cannot be exported: the classifiers of transformers have other "
                "parts there; train with model=pretrained, or with task.pooling=first"
            )
        with quiet():
            model = _new(f"AutoModel{class_ending(task)}", _config(task, encoder))
            _fill(model, _weights(task, encoder, model.base_model_prefix))
            model.save_pretrained(folder)
        write_encoder_tokenizer(folder, examples)


def _new(auto: str, config: Any) -> Any:
    try:
        return getattr(transformers, auto).from_config(config)
    except ValueError as error:
        raise ConfigurationError(f"transformers has no {auto} of {config.model_type}: it cannot be exported") from error


def _config(task: Task, encoder: WrappedEncoder) -> Any:
    """Return the config of the pretrained model with the entries of the task's head."""
    config = copy.deepcopy(encoder.model.config)
    for key, value in head_config(task).items():
        setattr(config, key, value)
    return config


def _weights(task: Task, encoder: WrappedEncoder, prefix: str) -> dict[str, Tensor]:
    """Return the run's weights by their names in a model with a head."""
    weights = {f"{prefix}.{name}": tensor for name, tensor in encoder.model.state_dict().items()}
    if isinstance(task, Pooled):
        return weights | {f"classifier.{name}": tensor for name, tensor in output_layer(task).items()}
    if isinstance(task, TokenClassification):
        return weights | {f"classifier.{name}": tensor for name, tensor in task.head.state_dict().items()}
    if isinstance(task, QuestionAnswering):
        return weights | {f"qa_outputs.{name}": tensor for name, tensor in task.head.state_dict().items()}
    head = cast(WrappedHead, cast(MaskedLM, task).head)
    output = {f"{head.output}.weight": encoder.output_weight, f"{head.output}.bias": head.bias}
    return weights | head.rest.state_dict() | output


def _fill(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Load the weights into the model.

    Raises:
        ConfigurationError: If names or shapes differ.
    """
    expected = model.state_dict()
    different = sorted(
        name for name in expected.keys() | weights.keys() if _shape(expected.get(name)) != _shape(weights.get(name))
    )
    if different:
        raise ConfigurationError(
            f"{type(model).__name__} and this run differ in {', '.join(different[:4])}: it cannot be exported"
        )
    model.load_state_dict(weights)


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)
