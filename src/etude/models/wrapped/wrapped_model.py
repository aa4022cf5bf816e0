"""Models of transformers that write texts, their output layer taken out: what decoders and encoder-decoders share.

Axes: B texts, H heads, Q positions that attend, L positions attended to, D model width, V vocabulary.
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
from etude.hub import open_pretrained
from etude.models.pretrained.weight_files import read_json
from etude.models.wrapped.wrapped_attention import record_wrapped
from etude.models.wrapped.wrapped_files import check_vocabulary, config_of, load_whole, most_tokens
from etude.types import Facts

ADDED = "final_logits_bias"
"""What BART's kin adds to its logits besides the output layer."""

GROWING = (DynamicLayer, DynamicSlidingWindowLayer)
"""Caches of a layer that put new tensors in the place of old ones, and never write into them."""


class WrappedModel(nn.Module, ABC):
    """A pretrained model as transformers computes it, up to the features that its output layer takes.

    Logits are the products of features and `output_weight`, plus `output_bias`, so that etude's losses never hold the
    logits of a whole batch. Whatever the model does to its states before that (T5 scales them) is in the features.

    Its dropout is drawn from torch's default generator, which the task seeds for each micro-batch, as it does for etude's
    own models: a run that is killed and continued is the same run. No code but that of the installed transformers runs,
    and only safetensors are read.

    Args:
        facts: The tokenizer's vocabulary, which must be the weights'.
        name: A folder, a package, or a name in the hub, with config.json and model.safetensors.
        dropout: The probability of every dropout in the model, that of attention included; None: as config.json says.
        max_length: The most tokens of a text; None: as many as the model has positions.

    Attributes:
        model: The module of transformers; what it calls logits are features.
        files: Where the weights come from.
        matrix: From features to logits: of a tied model, its embeddings.
        bias: Added to the logits; None: nothing. It trains where it does so in transformers.
        max_length: The most tokens of a text.

    Raises:
        ConfigurationError: If transformers has no such model, the weights are not those of their config.json, the
            tokenizer is another's, or logits are no products of features and a matrix.
        DataError: If the files are missing or unreadable.
    """

    AUTO: ClassVar[str]
    """The Auto class that loads it."""

    SPECIAL_IDS: ClassVar[Mapping[str, str]]
    """Special ids that must be the tokenizer's, and what config.json calls them."""

    bias: Float[Tensor, " V"] | None

    def __init__(self, facts: Facts, name: str, dropout: float | None = None, max_length: int | None = None) -> None:
        super().__init__()
        self.files = open_pretrained(name)
        values = read_json(self.files)
        config = config_of(values, name, dropout)
        self.check_kind(config, name)
        check_vocabulary(facts, values, self.files, self.SPECIAL_IDS)
        self.pad = facts.pad
        self.max_length = most_tokens(config, max_length, None, name)
        self.model = load_whole(self.files, config, self.AUTO, facts.vocabulary).eval()
        self._cache_name = cache_name(self.model, name)
        self._take_output_layer(facts, name)
        with called(self.model) as order:
            self.try_out(facts, name)
        self._order: Mapping[str, int] = order
        self.train()

    @classmethod
    @abstractmethod
    def check_kind(cls, config: Any, name: str) -> None:
        """Refuse a model of another kind."""

    @abstractmethod
    def try_out(self, facts: Facts, name: str) -> Float[Tensor, "... V"]:
        """Return what the model makes of a few tokens, in place of logits.

        Raises:
            ConfigurationError: If the features show that the model cannot be used.
        """

    def record_attention(self) -> AbstractContextManager[dict[str, Float[Tensor, "B H Q L"]]]:
        """Look inside, as `record_wrapped` says."""
        return record_wrapped(self.model)

    @abstractmethod
    def stacks(self) -> list[str]:
        """Return the names of the lists of layers, from the input to the output."""

    def _take_output_layer(self, facts: Facts, name: str) -> None:
        """Leave features in the place of logits.

        Raises:
            ConfigurationError: If the logits are no products of features and a matrix.
        """
        layer, added = self.model.get_output_embeddings(), getattr(self.model, ADDED, None)
        try:
            expected = self.try_out(facts, name)
            self.output = next(part for part, module in self.model.named_modules() if module is layer)
            self.model.set_submodule(self.output, Features(layer.weight))
            if added is not None:
                setattr(self.model, ADDED, torch.zeros(1))
            bias = layer.bias if added is None else added.flatten()
            found = F.linear(self.try_out(facts, name), layer.weight, bias)
            divided = torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
        except (AttributeError, RuntimeError, StopIteration, TypeError) as error:
            raise _indivisible(name) from error
        if not divided:
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
        """What is added to the logits; None: nothing."""
        return self.bias

    def whole(self) -> Any:
        """Return a copy of the model as transformers has it, with its output layer."""
        copied = copy.deepcopy(self)
        rows, width = copied.matrix.shape
        layer = nn.Linear(width, rows, bias=isinstance(copied.bias, nn.Parameter), device="meta")
        layer.weight = copied.matrix
        if isinstance(copied.bias, nn.Parameter):
            layer.bias = copied.bias
        elif copied.bias is not None:
            setattr(copied.model, ADDED, copied.bias[None])
        copied.model.set_submodule(self.output, layer)
        return copied.model

    @property
    def stages(self) -> list[tuple[nn.Module, ...]]:
        """Its parts from the input to the output: embeddings, then layer after layer.

        What is computed before the first layer of a stack belongs to the embeddings, what is computed after a layer to
        that layer: the modules tell in which order they were called.
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
        found = [tuple(below)]
        for path in stacks:
            *lower, last = layers[path]
            found += [*((layer,) for layer in lower), (last, *above[path])]
        return found

    def run_cached(self, cache: Any, **given: Any) -> tuple[Float[Tensor, "B L D"], Any]:
        """Run the model on new positions; return their features, and the cache with them.

        Args:
            cache: Of the positions before, which is changed; None: there are none.
            given: What the model takes besides.
        """
        outputs = self.model(use_cache=True, **{self._cache_name: cache}, **given)
        return outputs.logits, getattr(outputs, self._cache_name)


class Features(nn.Module):
    """Stands in the place of an output layer, and returns what it is given.

    Args:
        weight: The layer's, whose type and device some models ask for.
    """

    def __init__(self, weight: Float[Tensor, "V D"]) -> None:
        super().__init__()
        self.register_buffer("weight", weight.new_empty(0), persistent=False)

    def forward(self, features: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape D"]:
        """Return the features."""
        return features


def _stack_of(name: str, stacks: Sequence[str]) -> str:
    """Return the stack that a module stands beside; of one that stands beside none, the last."""
    beside = [path for path in stacks if name.startswith(f"{path.rpartition('.')[0]}.")]
    return max(beside, key=len) if beside else stacks[-1]


def _indivisible(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"the logits of {name} are not the products of states and an output matrix, up to a bias: it cannot be trained "
        "with model=huggingface; set another model.name"
    )


def cache_name(model: nn.Module, name: str) -> str:
    """Return the argument by which a model takes its cache, which later versions of transformers call otherwise.

    Raises:
        ConfigurationError: If it has none.
    """
    taken = inspect.signature(model.forward).parameters
    for argument in ("cache", "past_key_values"):
        if argument in taken:
            return argument
    raise ConfigurationError(
        f"{type(model).__name__} of {name} keeps no cache of the tokens before: it cannot write texts; set another model.name"
    )


def copied(cache: Any) -> Any:
    """Return a cache that goes its own way from here on; tensors are copied where they are written into. None is none."""
    if cache is None:
        return None
    new = copy.copy(cache)
    new.layers = [
        copy.copy(layer) if type(layer) in GROWING else copy.deepcopy(layer)  # subclasses may write
        for layer in cache.layers
    ]
    return new


@contextmanager
def called(model: nn.Module) -> Iterator[dict[str, int]]:
    """Give, by the names of the modules that are called inside, the place of their first call."""
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
