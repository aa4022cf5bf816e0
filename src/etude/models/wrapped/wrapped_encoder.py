"""Encoders of any architecture in transformers, run by its own code.

Axes: B rows, L positions, N real tokens, M tokens whose hidden states are needed, D model width, E embedding width,
V vocabulary.
"""

from __future__ import annotations

import inspect
import logging
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from etude.errors import ConfigurationError
from etude.hub import PretrainedFiles
from etude.models.base import MaskedLMHead, OutputKind, OutputLayer, TextEncoder
from etude.models.layers.flop_counts import Flops
from etude.models.layers.positions import check_length
from etude.models.pretrained.heads import read_output_layer
from etude.models.pretrained.skeleton import PretrainedSkeleton, files_of_heads
from etude.models.pretrained.weight_files import SPECIAL, check_names, log_unused, read_json
from etude.models.wrapped.files import Loaded, check_vocabulary, config_of, first_module_list, length_limit, load
from etude.models.wrapped.flops import dummy_texts, measured_flops
from etude.models.wrapped.wrapped_attention import record_wrapped
from etude.types import Facts

_log = logging.getLogger(__name__)


class WrappedEncoder(TextEncoder):
    """The encoder of a pretrained model as transformers computes it.

    Dropout is drawn from torch's default generator, which the task seeds for each micro-batch, so that a continued run is
    the same run, as with etude's own models. Linear layers see padding, so that it is slower than a native encoder. Only
    code of the installed transformers runs, and only safetensors are read.

    Args:
        facts: The tokenizer's vocabulary, which must be the weights'.
        files: The pretrained model's config.json and weights.
        dropout: Rate of every dropout in the model, including that of attention; None: as in config.json.
        max_length: Largest number of tokens in a text; None: the model's number of positions.

    Attributes:
        model: The module of transformers, without a pooler.
        files: The pretrained model's files.

    Raises:
        ConfigurationError: If transformers has no such encoder, the weights are not those of their config.json, or the
            tokenizer is another's.
        DataError: If the files are missing or unreadable.
    """

    def __init__(
        self, facts: Facts, files: PretrainedFiles, dropout: float | None = None, max_length: int | None = None
    ) -> None:
        super().__init__()
        self.files, name = files, files.name
        values = read_json(self.files)
        self._config = config_of(values, name, dropout)
        if self._config.is_encoder_decoder:
            raise ConfigurationError(
                f"{name} has model_type = {self._config.model_type!r}, which has a decoder and is for task=translation or "
                "summarization; for this task set another model.name"
            )
        check_vocabulary(facts, values, self.files, SPECIAL)
        self.model = _prepared(_load(self.files, self._config, "AutoModel"))
        self.width = int(self.model.config.hidden_size)
        self.max_length = length_limit(self.model.config, max_length, _positions(self.model), name)

    @property
    def stages(self) -> list[tuple[nn.Module, ...]]:
        """The model's parts from input to output: embeddings, then layer after layer.

        Modules after the last layer belong to its stage. The layers are the first list of modules that is as long as
        config.json says, or else the first list: ALBERT's single group of shared layers is one stage.
        """
        path = first_module_list(self.model, self.model.config.num_hidden_layers)
        below, above = list[nn.Module](), list[nn.Module]()
        owner: nn.Module = self.model
        for part in path.split("."):
            names = [name for name, _ in owner.named_children()]
            for index, (name, child) in enumerate(owner.named_children()):
                if name != part:
                    (below if index < names.index(part) or "embed" in name else above).append(child)
            below.append(nn.ParameterList(owner.parameters(recurse=False)))
            owner = owner.get_submodule(part)
        *lower, last = owner.children()
        return [tuple(below), *((layer,) for layer in lower), (last, *above)]

    @property
    def has_token_types(self) -> bool:
        """Whether the architecture has embeddings for more than one token type."""
        parameters = inspect.signature(self.model.forward).parameters
        return "token_type_ids" in parameters and getattr(self.model.config, "type_vocab_size", 1) > 1

    @property
    def output_weight(self) -> Float[Tensor, "V E"]:
        """The embedding matrix."""
        weight: Tensor = self.model.get_input_embeddings().weight
        return weight

    def forward(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], segments: Int[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B L D"]:
        """Return the last hidden states; zeros at padding. See `TextEncoder.forward`.

        Token type ids are ignored if the architecture has no embeddings for them.
        """
        check_length(mask.cumsum(1)[mask] - 1, self.max_length)
        types = {} if segments is None or not self.has_token_types else {"token_type_ids": segments}
        states: Tensor = self.model(input_ids=tokens, attention_mask=mask.long(), **types).last_hidden_state
        return states.masked_fill(~mask.unsqueeze(2), 0)

    def hidden(
        self,
        tokens: Int[Tensor, "B L"],
        mask: Bool[Tensor, "B L"],
        segments: Int[Tensor, "B L"] | None = None,
        at: Int[Tensor, " M"] | None = None,
    ) -> Float[Tensor, "M D"]:
        """Return the last hidden states at real tokens. See `TextEncoder.hidden`."""
        states: Tensor = self(tokens, mask, segments)[mask]
        return states if at is None else states[at]

    def record_attention(self) -> AbstractContextManager[dict[str, Float[Tensor, "B H L L"]]]:
        """Record attention probabilities; see `record_wrapped`."""
        return record_wrapped(self.model)

    def training_flops(self, lengths: Int[np.ndarray, "N 1"]) -> Flops | None:
        """Count training by `measured_flops`."""
        return measured_flops(
            self.model, lambda texts: self(*dummy_texts(texts[:, 0], self.output_weight)), lengths, self.max_length
        )

    def masked_lm_head(self) -> MaskedLMHead:
        """Return the head in the files, or one that transformers draws; the encoder is replaced by the whole model's.

        Raises:
            ConfigurationError: If the architecture has no such head, or its output matrix is not the embedding.
        """
        whole = _load(files_of_heads(self.files), self._config, "AutoModelForMaskedLM")
        self.model = _prepared(whole.base_model)
        return WrappedHead(whole, self.files.name)

    def output_layer(self, kind: OutputKind) -> OutputLayer | None:
        """Return the output layer in the files, if its outputs are of tokens or spans.

        The output layer of a sequence classifier follows parts that differ from one architecture to the next.
        """
        return read_output_layer(self.files, kind, self.width)


class WrappedHead(MaskedLMHead):
    """The rest of a transformers masked language model without its encoder and its output matrix.

    Args:
        model: The whole model, which is changed: its encoder and its output layer become identities.
        name: The user's name of the model, for messages.

    Attributes:
        output: Name of the output layer in the model.

    Raises:
        ConfigurationError: If logits are not the products of features and embeddings, up to a bias.
    """

    def __init__(self, model: Any, name: str) -> None:
        super().__init__()
        embedding, layer = model.get_input_embeddings().weight, model.get_output_embeddings()
        probe = torch.linspace(-1, 1, model.config.hidden_size).view(1, -1)
        setattr(model, model.base_model_prefix, IdentityEncoder())
        self.rest = model
        try:
            with torch.no_grad():
                expected = self(probe)
                self.output = next(part for part, module in model.named_modules() if module is layer)
                model.set_submodule(self.output, nn.Identity())
                logits = F.linear(self(probe), embedding, layer.bias)
            same = layer.weight is embedding and torch.allclose(logits, expected, atol=1e-4)
        except (AttributeError, RuntimeError, StopIteration, TypeError) as error:
            raise _indivisible(name) from error
        if not same:
            raise _indivisible(name)
        self.bias = nn.Parameter(embedding.new_zeros(len(embedding))) if layer.bias is None else layer.bias
        self.train()

    def forward(self, states: Float[Tensor, "N D"]) -> Float[Tensor, "N E"]:
        """Return the features."""
        features: Tensor = self.rest(input_ids=states.unsqueeze(0)).logits
        return features.squeeze(0)


class IdentityEncoder(nn.Module):
    """The identity in place of an encoder whose hidden states are known."""

    def forward(self, input_ids: Float[Tensor, "1 N D"], *_: Any, **__: Any) -> BaseModelOutput:
        """Return the hidden states, which are passed in place of token ids."""
        return BaseModelOutput(last_hidden_state=input_ids)


def _indivisible(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"the masked language model of {name} is not an encoder, a head, and its embedding once more: it cannot be trained "
        "with task=masked_lm; set another model.name"
    )


def _load(files: PretrainedFiles, config: Any, auto: str) -> Any:
    """Load a model with an encoder; log unused tensors, and refuse an incomplete encoder."""
    loaded = load(files, config, auto)
    _check_encoder(loaded, files)
    return loaded.model


def _prepared(model: Any) -> Any:
    """Return the model in training mode, without its pooler, which no task uses."""
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model.train()


def _check_encoder(loaded: Loaded, files: PretrainedFiles) -> None:
    """Refuse an encoder with missing or extra tensors; log heads and poolers that are unused or newly drawn."""
    model, weights = loaded.model, loaded.weights
    prefix, bare = f"{model.base_model_prefix}.", model.base_model is model
    with_head = any(key.startswith(prefix) for key in weights)
    extra = {key for key in loaded.unexpected if key.startswith(prefix) or not with_head}
    missing = {key for key in loaded.missing if bare or key.startswith(prefix)}
    not_pooler = {key for key in missing | extra if not key.removeprefix(prefix).startswith("pooler.")}
    check_names(extra & not_pooler, missing & not_pooler, files.name)
    drawn = loaded.missing - missing
    if drawn and not isinstance(files, PretrainedSkeleton):
        _log.info("%s has no %s: drawn anew", files.name, ", ".join(sorted(drawn)))
    if bare:
        poolers = {key for key in weights if key.removeprefix(prefix).startswith("pooler.")}
        log_unused(files, (loaded.unexpected - extra) | poolers)


def _positions(model: Any) -> int | None:
    """Return the number of positions in the model's table; None: it has none.

    The tables of models like RoBERTa begin with rows for the ids up to that of padding.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            offset = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - offset
    return None
