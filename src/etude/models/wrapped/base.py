"""Generative models of transformers without their output layer: the base of decoders and encoder-decoders.

Axes: B rows, H heads, Q queries, L keys or positions, D model width, V vocabulary.
"""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from etude.errors import ConfigurationError
from etude.hub import PretrainedFiles
from etude.models.pretrained.weight_files import read_json
from etude.models.wrapped.files import check_vocabulary, config_of, length_limit, load_whole
from etude.models.wrapped.wrapped_attention import record_wrapped
from etude.types import Facts

LOGITS_BIAS = "final_logits_bias"
"""Buffer with a bias that models like BART add to the logits of the output layer."""

REPLACING = (DynamicLayer, DynamicSlidingWindowLayer)
"""Layer caches that replace their tensors and never write into them."""


class WrappedModel(nn.Module, ABC):
    """A pretrained model as transformers computes it, up to the features that enter its output layer.

    Logits are the products of features and `output_weight`, plus `output_bias`, so that etude's losses never hold the
    logits of a whole batch. Anything that the model does to its hidden states before (T5 scales them) is in the features.

    Dropout is drawn from torch's default generator, which the task seeds for each micro-batch, so that a continued run is
    the same run, as with etude's own models. Only code of the installed transformers runs, and only safetensors are read.

    Args:
        facts: The tokenizer's vocabulary, which must be the weights'.
        files: The pretrained model's config.json and weights.
        dropout: Rate of every dropout in the model, including that of attention; None: as in config.json.
        max_length: Largest number of tokens in a text; None: the model's number of positions.

    Attributes:
        model: The module of transformers, whose output field `logits` holds features.
        files: The pretrained model's files.
        matrix: Matrix from features to logits; the embedding, in a tied model.
        bias: Bias of the logits; None: they have none. It is trained if transformers trains it.
        max_length: Largest number of tokens in a text.

    Raises:
        ConfigurationError: If transformers has no such model, the weights are not those of their config.json, the
            tokenizer is another's, or logits are not products of features and a matrix.
        DataError: If the files are missing or unreadable.
    """

    AUTO: ClassVar[str]
    """Name of the Auto class that loads the model."""

    SPECIAL_IDS: ClassVar[Mapping[str, str]]
    """Names of special ids that must agree with the tokenizer's, and their keys in config.json."""

    bias: Float[Tensor, " V"] | None

    def __init__(
        self, facts: Facts, files: PretrainedFiles, dropout: float | None = None, max_length: int | None = None
    ) -> None:
        super().__init__()
        self.files, name = files, files.name
        values = read_json(self.files)
        config = config_of(values, name, dropout)
        self.check_kind(config, name)
        check_vocabulary(facts, values, self.files, self.SPECIAL_IDS)
        self.pad = facts.pad
        self.max_length = length_limit(config, max_length, None, name)
        self.model = load_whole(self.files, config, self.AUTO, facts.vocabulary).eval()
        self._cache_name = cache_name(self.model, name)
        self._detach_output_layer(facts, name)
        with call_order(self.model) as order:
            self.probe(facts, name)
        self._order: Mapping[str, int] = order
        self.train()

    @classmethod
    @abstractmethod
    def check_kind(cls, config: Any, name: str) -> None:
        """Refuse a model of another kind."""

    @abstractmethod
    def probe(self, facts: Facts, name: str) -> Float[Tensor, "... V"]:
        """Return the model's outputs for a few tokens: logits, or features once the output layer is detached.

        Raises:
            ConfigurationError: If the outputs show that the model cannot be used.
        """

    def record_attention(self) -> AbstractContextManager[dict[str, Float[Tensor, "B H Q L"]]]:
        """Record attention probabilities; see `record_wrapped`."""
        return record_wrapped(self.model)

    @abstractmethod
    def stacks(self) -> list[str]:
        """Return the names of the lists of layers, from input to output."""

    def _detach_output_layer(self, facts: Facts, name: str) -> None:
        """Make the model return features in place of logits.

        Raises:
            ConfigurationError: If the logits are not products of features and a matrix.
        """
        layer, buffer = self.model.get_output_embeddings(), getattr(self.model, LOGITS_BIAS, None)
        try:
            expected = self.probe(facts, name)
            self.output = next(part for part, module in self.model.named_modules() if module is layer)
            self.model.set_submodule(self.output, Features(layer.weight))
            if buffer is not None:
                setattr(self.model, LOGITS_BIAS, torch.zeros(1))
            bias = layer.bias if buffer is None else buffer.flatten()
            logits = F.linear(self.probe(facts, name), layer.weight, bias)
            same = torch.allclose(logits, expected, rtol=1e-4, atol=1e-4)
        except (AttributeError, RuntimeError, StopIteration, TypeError) as error:
            raise _indivisible(name) from error
        if not same:
            raise _indivisible(name)
        self.matrix = layer.weight
        if isinstance(bias, nn.Parameter):
            self.register_parameter("bias", bias)
        else:
            self.register_buffer("bias", bias)

    @property
    def output_weight(self) -> Float[Tensor, "V D"]:
        """The matrix from features to logits."""
        return self.matrix

    @property
    def output_bias(self) -> Float[Tensor, " V"] | None:
        """The bias of the logits; None: they have none."""
        return self.bias

    def whole(self) -> Any:
        """Return a copy of the transformers model with its output layer."""
        clone = copy.deepcopy(self)
        rows, width = clone.matrix.shape
        layer = nn.Linear(width, rows, bias=isinstance(clone.bias, nn.Parameter), device="meta")
        layer.weight = clone.matrix
        if isinstance(clone.bias, nn.Parameter):
            layer.bias = clone.bias
        elif clone.bias is not None:
            setattr(clone.model, LOGITS_BIAS, clone.bias[None])
        clone.model.set_submodule(self.output, layer)
        return clone.model

    @property
    def stages(self) -> list[tuple[nn.Module, ...]]:
        """The model's parts from input to output: embeddings, then layer after layer.

        Parameters outside the layers belong to the embeddings if their module was called before the first layer of a
        stack, else to the stack's last layer.
        """
        stacks = self.stacks()
        below, layers = list[nn.Module](), {path: list(self.model.get_submodule(path)) for path in stacks}
        above: dict[str, list[nn.Module]] = {path: [] for path in stacks}
        for name, module in self.model.named_modules():
            own = nn.ParameterList(module.parameters(recurse=False))
            if not len(own) or any(f"{name}.".startswith(f"{path}.") for path in stacks):
                continue
            stack = _stack_of(name, stacks)
            before = self._order.get(name, -1) < self._order.get(f"{stack}.0", len(self._order))
            (below if before else above[stack]).append(own)
        outputs = [tensor for tensor in (self.matrix, self.bias) if isinstance(tensor, nn.Parameter)]
        above[stacks[-1]].append(nn.ParameterList(outputs))
        stages = [tuple(below)]
        for path in stacks:
            *lower, last = layers[path]
            stages += [*((layer,) for layer in lower), (last, *above[path])]
        return stages

    def run_cached(self, cache: Any, **inputs: Any) -> tuple[Float[Tensor, "B L D"], Any]:
        """Run the model on new positions; return their features, and the cache that includes them.

        Args:
            cache: Cache of the previous positions, which is changed; None: there are none.
            **inputs: The model's other arguments.
        """
        outputs = self.model(use_cache=True, **{self._cache_name: cache}, **inputs)
        return outputs.logits, getattr(outputs, self._cache_name)


class Features(nn.Module):
    """The identity in place of an output layer.

    Args:
        weight: The layer's weight, whose type and device some models query.
    """

    def __init__(self, weight: Float[Tensor, "V D"]) -> None:
        super().__init__()
        self.register_buffer("weight", weight.new_empty(0), persistent=False)

    def forward(self, features: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape D"]:
        """Return the features."""
        return features


def _stack_of(name: str, stacks: Sequence[str]) -> str:
    """Return the stack that is a sibling of a module, or else the last stack."""
    beside = [path for path in stacks if name.startswith(f"{path.rpartition('.')[0]}.")]
    return max(beside, key=len) if beside else stacks[-1]


def _indivisible(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"the logits of {name} are not the products of states and an output matrix, up to a bias: it cannot be trained "
        "with model=huggingface; set another model.name"
    )


def cache_name(model: nn.Module, name: str) -> str:
    """Return the name of the model's argument for its cache, which differs between versions of transformers.

    Raises:
        ConfigurationError: If the model has none.
    """
    parameters = inspect.signature(model.forward).parameters
    for argument in ("cache", "past_key_values"):
        if argument in parameters:
            return argument
    raise ConfigurationError(
        f"{type(model).__name__} of {name} keeps no cache of the tokens before: it cannot write texts; set another model.name"
    )


def copy_cache(cache: Any) -> Any:
    """Return an independent copy of a cache, which shares tensors that are never written into; that of None is None."""
    if cache is None:
        return None
    new = copy.copy(cache)
    new.layers = [
        copy.copy(layer) if type(layer) in REPLACING else copy.deepcopy(layer)  # subclasses may write in place
        for layer in cache.layers
    ]
    return new


@contextmanager
def call_order(model: nn.Module) -> Iterator[dict[str, int]]:
    """Record the rank of the first call of each module that is called within the context, by its name."""
    order: dict[str, int] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            order.setdefault(name, len(order))

        return hook

    hooks = [module.register_forward_pre_hook(note(name)) for name, module in model.named_modules()]
    try:
        yield order
    finally:
        for hook in hooks:
            hook.remove()
