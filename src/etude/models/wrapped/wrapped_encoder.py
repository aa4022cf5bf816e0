"""Encoders of any architecture that transformers has: its own code runs, with etude's tasks around it.

Axes: B texts, L positions, N real tokens, D model width, E width of the embeddings, V vocabulary.
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
from etude.hub import PretrainedFiles, open_pretrained
from etude.models.base import MaskedLMHead, OutputKind, OutputLayer, TextEncoder
from etude.models.layers.flop_counts import Flops
from etude.models.layers.positions import check_length
from etude.models.pretrained.heads import read_output_layer
from etude.models.pretrained.skeleton import PretrainedSkeleton, files_of_heads
from etude.models.pretrained.weight_files import SPECIAL, check_names, read_json, say_left_out
from etude.models.wrapped.wrapped_attention import record_wrapped
from etude.models.wrapped.wrapped_files import Loaded, check_vocabulary, config_of, first_list, load, most_tokens
from etude.models.wrapped.wrapped_flops import counted_flops, texts_of
from etude.types import Facts

_log = logging.getLogger(__name__)


class WrappedEncoder(TextEncoder):
    """The encoder of a pretrained model as transformers computes it.

    Its dropout is drawn from torch's default generator, which the task seeds for each micro-batch, as it does for etude's
    own models: a run that is killed and continued is the same run. Padding takes part in linear layers, so that it is slower
    than a native encoder. No code but that of the installed transformers runs, and only safetensors are read.

    Args:
        facts: The tokenizer's vocabulary, which must be the weights'.
        name: A folder, a package, or a name in the hub, with config.json and model.safetensors.
        dropout: The probability of every dropout in the model, that of attention included; None: as config.json says.
        max_length: The most tokens of a text; None: as many as the model has positions.

    Attributes:
        model: The module of transformers, without a pooler.
        files: Where the weights come from.

    Raises:
        ConfigurationError: If transformers has no such encoder, the weights are not those of their config.json, or the
            tokenizer is another's.
        DataError: If the files are missing or unreadable.
    """

    def __init__(self, facts: Facts, name: str, dropout: float | None = None, max_length: int | None = None) -> None:
        super().__init__()
        self.files = open_pretrained(name)
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
        self.max_length = most_tokens(self.model.config, max_length, _positions(self.model), name)

    @property
    def stages(self) -> list[tuple[nn.Module, ...]]:
        """Embeddings, then layer after layer; what stands after the last layer belongs to it.

        The layers are the first list of modules that is as long as config.json says, or the first at all: ALBERT's one
        group of shared layers is one stage.
        """
        path = first_list(self.model, self.model.config.num_hidden_layers)
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
    def tells_apart(self) -> bool:
        """Whether the architecture has vectors for a second text."""
        takes = inspect.signature(self.model.forward).parameters
        return "token_type_ids" in takes and getattr(self.model.config, "type_vocab_size", 1) > 1

    @property
    def output_weight(self) -> Float[Tensor, "V E"]:
        """The embedding of each id."""
        weight: Tensor = self.model.get_input_embeddings().weight
        return weight

    def forward(
        self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], segments: Int[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B L D"]:
        """Return the last states; zeros at padding.

        Args:
            tokens: Ids.
            mask: True at real tokens.
            segments: Which text of its pair each token belongs to, from 0; None: to the first. An architecture without
                vectors for them does not see them.

        Raises:
            TooLongError: If a text has more than `max_length` real tokens.
        """
        check_length(mask.cumsum(1)[mask] - 1, self.max_length)
        types = {} if segments is None or not self.tells_apart else {"token_type_ids": segments}
        states: Tensor = self.model(input_ids=tokens, attention_mask=mask.long(), **types).last_hidden_state
        return states.masked_fill(~mask.unsqueeze(2), 0)

    def hidden(
        self,
        tokens: Int[Tensor, "B L"],
        mask: Bool[Tensor, "B L"],
        segments: Int[Tensor, "B L"] | None = None,
        at: Int[Tensor, " M"] | None = None,
    ) -> Float[Tensor, "M D"]:
        """Return the last states at real tokens, numbered as in `tokens[mask]`: those `at` the given numbers, or all.

        Takes and raises what `forward` does.
        """
        states: Tensor = self(tokens, mask, segments)[mask]
        return states if at is None else states[at]

    def record_attention(self) -> AbstractContextManager[dict[str, Float[Tensor, "B H L L"]]]:
        """Look inside, as `record_wrapped` says."""
        return record_wrapped(self.model)

    def training_flops(self, lengths: Int[np.ndarray, "N 1"]) -> Flops | None:
        """Count training, as `counted_flops` says."""
        return counted_flops(
            self.model, lambda few: self(*texts_of(few[:, 0], self.output_weight)), lengths, self.max_length
        )

    def masked_lm_head(self) -> MaskedLMHead:
        """Return the head that the files have, or one that transformers draws; the encoder becomes that of the whole model.

        Raises:
            ConfigurationError: If the architecture has no such head, or none whose output matrix is the embedding.
        """
        whole = _load(files_of_heads(self.files), self._config, "AutoModelForMaskedLM")
        self.model = _prepared(whole.base_model)
        return WrappedHead(whole, self.files.name)

    def output_layer(self, kind: OutputKind) -> OutputLayer | None:
        """Return the last layer of the files, where its outputs are of tokens or spans.

        What stands before that of a sequence classifier differs from one architecture to the next.
        """
        return read_output_layer(self.files, kind, self.width)


class WrappedHead(MaskedLMHead):
    """What a masked language model of transformers is besides its encoder and its output matrix.

    Args:
        model: The whole model, which is changed: its encoder gives back what it is given, its output layer too.
        name: What the user called the model, for messages.

    Attributes:
        output: The name of the output layer in the model.

    Raises:
        ConfigurationError: If logits are not the products of features and embeddings, up to a bias.
    """

    def __init__(self, model: Any, name: str) -> None:
        super().__init__()
        embedding, layer = model.get_input_embeddings().weight, model.get_output_embeddings()
        probe = torch.linspace(-1, 1, model.config.hidden_size).view(1, -1)
        setattr(model, model.base_model_prefix, KnownStates())
        self.rest = model
        try:
            with torch.no_grad():
                expected = self(probe)
                self.output = next(part for part, module in model.named_modules() if module is layer)
                model.set_submodule(self.output, nn.Identity())
                given = F.linear(self(probe), embedding, layer.bias)
            divided = layer.weight is embedding and torch.allclose(given, expected, atol=1e-4)
        except (AttributeError, RuntimeError, StopIteration, TypeError) as error:
            raise _indivisible(name) from error
        if not divided:
            raise _indivisible(name)
        self.bias = nn.Parameter(embedding.new_zeros(len(embedding))) if layer.bias is None else layer.bias
        self.train()

    def forward(self, states: Float[Tensor, "N D"]) -> Float[Tensor, "N E"]:
        """Return the features."""
        features: Tensor = self.rest(input_ids=states.unsqueeze(0)).logits
        return features.squeeze(0)


class KnownStates(nn.Module):
    """Stands in the place of an encoder whose states are known: it returns them."""

    def forward(self, input_ids: Float[Tensor, "1 N D"], *_: Any, **__: Any) -> BaseModelOutput:
        """Return the states that stand where ids would."""
        return BaseModelOutput(last_hidden_state=input_ids)


def _indivisible(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"the masked language model of {name} is not an encoder, a head, and its embedding once more: it cannot be trained "
        "with task=masked_lm; set another model.name"
    )


def _load(files: PretrainedFiles, config: Any, auto: str) -> Any:
    """Load a model with an encoder; says which tensors it leaves out, and refuses an encoder that is not complete."""
    loaded = load(files, config, auto)
    _check_encoder(loaded, files)
    return loaded.model


def _prepared(model: Any) -> Any:
    """Return the model in training mode, without the pooler that no task takes."""
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model.train()


def _check_encoder(loaded: Loaded, files: PretrainedFiles) -> None:
    """Refuse an encoder with missing or extra tensors; say which heads and poolers are left out, and which are drawn."""
    model, weights = loaded.model, loaded.weights
    prefix, bare = f"{model.base_model_prefix}.", model.base_model is model
    with_head = any(key.startswith(prefix) for key in weights)
    extra = {key for key in loaded.unexpected if key.startswith(prefix) or not with_head}
    missing = {key for key in loaded.missing if bare or key.startswith(prefix)}
    plain = {key for key in missing | extra if not key.removeprefix(prefix).startswith("pooler.")}
    check_names(extra & plain, missing & plain, files.name)
    drawn = loaded.missing - missing
    if drawn and not isinstance(files, PretrainedSkeleton):
        _log.info("%s has no %s: drawn anew", files.name, ", ".join(sorted(drawn)))
    if bare:
        poolers = {key for key in weights if key.removeprefix(prefix).startswith("pooler.")}
        say_left_out(files, (loaded.unexpected - extra) | poolers)


def _positions(model: Any) -> int | None:
    """Return the rows of the table of positions: RoBERTa's kin counts from after the id of padding. None: no table."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            offset = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - offset
    return None
