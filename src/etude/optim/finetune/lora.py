"""Low-rank adaptation (Hu et al. 2022): a frozen matrix W becomes W + (α / r) B A, of which B and A train.

Axes: I inputs, O outputs of a linear layer; P of its parts are adapted, each with its own rank R.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from etude.errors import ConfigurationError
from etude.models.layers.attention import SelfAttention
from etude.models.layers.dropout import Dropout
from etude.optim.finetune.base import MODEL, Finetune, head
from etude.optim.finetune.selection import at_once
from etude.optim.parameter_schedule import ParameterSchedule

ADAPTERS = (".lora_a", ".lora_b")
"""Endings of the names of the adapters' parameters."""

FUSED = {"query_key_value": ("query", "key", "value")}
"""Fused linear layers of etude's self-attention, and the parts, of equal size, that their rows consist of.

Other libraries give such names to layers whose rows are in another order: those are treated as single layers.
"""


class LoRALinear(nn.Linear):
    """A linear layer with adapters on some of its parts. Weight and bias are the layer's, under their own names.

    Args:
        linear: The layer.
        parts: Number of equal parts that its outputs consist of.
        adapted: Indices of the parts that get an adapter.
        rank: R, of each adapter.
        alpha: α.
        dropout: Dropout on the adapters' input.
    """

    placement: Float[Tensor, "parts P"]

    def __init__(
        self, linear: nn.Linear, parts: int, adapted: Sequence[int], rank: int, alpha: float, dropout: float
    ) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.scale = alpha / rank
        self.dropout = Dropout(dropout)
        # A as in the authors' code, uniform with variance 1 / 3I; B is zero, so that nothing is added at first.
        self.lora_a = nn.Parameter(linear.weight.new_empty(len(adapted), rank, self.in_features))
        self.lora_b = nn.Parameter(linear.weight.new_zeros(len(adapted), self.out_features // parts, rank))
        nn.init.uniform_(self.lora_a, -1 / math.sqrt(self.in_features), 1 / math.sqrt(self.in_features))
        self.register_buffer("placement", torch.eye(parts)[:, list(adapted)], persistent=False)

    def forward(self, x: Float[Tensor, "*shape I"]) -> Float[Tensor, "*shape O"]:
        """Return W x + b + (α / r) B A x."""
        return F.linear(x, self.weight, self.bias) + F.linear(F.linear(self.dropout(x), self._down), self._up)

    def matrices(self) -> list[tuple[int, bool]]:
        """Return the sizes of W, A and B as factors of products, and whether each trains (see `layers.flop_counts`)."""
        adapted, rank, _ = self.lora_a.shape
        sizes = (
            self.in_features * self.out_features,
            adapted * rank * self.in_features,
            adapted * rank * self.out_features,
        )
        return list(zip(sizes, (self.weight.requires_grad, True, True), strict=True))

    def merged(self) -> nn.Linear:
        """Return a plain layer that computes the same function, up to rounding."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        weight = self.weight.detach() + (self._up @ self._down).detach()
        linear.weight, linear.bias = nn.Parameter(weight, requires_grad=False), self.bias
        return linear.train(self.training)

    @property
    def _down(self) -> Float[Tensor, "PR I"]:
        return self.lora_a.flatten(0, 1)

    @property
    def _up(self) -> Float[Tensor, "O PR"]:
        """The adapters' B, scaled, at the rows of their parts; zeros elsewhere."""
        placed = torch.einsum("sp,por->sopr", self.placement, self.lora_b * self.scale)
        return placed.flatten(2).flatten(0, 1)


class LoRA(Finetune):
    """Adapters in the model's linear layers and the head train.

    Args:
        rank: R.
        alpha: α: the adapters' output is multiplied by α / R.
        dropout: Dropout on the adapters' input.
        modules: Layers that get adapters, by the last part of their names: `query`, `key`, `value` (also where they are
            fused in one layer), `output` of attention, `inner` and `outer` of feed-forward, or any other. None: all
            linear layers of the model.

    Raises:
        ConfigurationError: If rank or alpha is not positive, or no module is named.
    """

    def __init__(
        self,
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        modules: Sequence[str] | None = ("query", "value"),
    ) -> None:
        if rank < 1 or alpha <= 0 or (modules is not None and not modules):
            named = "all" if modules is None else list(modules)
            settings = f"finetune.rank = {rank}, alpha = {alpha:g}, modules = {named}"
            raise ConfigurationError(f"{settings}: write a rank of at least 1, alpha above 0, and some modules")
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.modules = None if modules is None else tuple(modules)

    def prepare(self, task: nn.Module) -> None:
        """Add the adapters to the task's model.

        Raises:
            ConfigurationError: If a name matches no linear layer, there is none, or the rank is higher than a layer's.
        """
        model, matched = task.get_submodule(MODEL), set()
        for name, linear in _linear_layers(model):
            parts = _parts(model, name)
            adapted = [index for index, part in enumerate(parts) if self.modules is None or part in self.modules]
            matched |= {parts[index] for index in adapted}
            if adapted:
                self._check_rank(name, linear, len(parts))
                layer = LoRALinear(linear, len(parts), adapted, self.rank, self.alpha, self.dropout)
                model.set_submodule(name, layer)
        if self.modules is None and not matched:
            raise ConfigurationError(f"finetune=lora: {type(model).__name__} has no linear layers; write finetune=full")
        unmatched = [name for name in self.modules or () if name not in matched]
        if unmatched:
            layers = dict.fromkeys(part for name, _ in _linear_layers(model) for part in _parts(model, name))
            raise ConfigurationError(
                f"finetune.modules: {unmatched[0]} is not a linear layer of {type(model).__name__}; it has {', '.join(layers)}"
            )

    def _check_rank(self, name: str, linear: nn.Linear, parts: int) -> None:
        limit = min(linear.in_features, linear.out_features // parts)
        if self.rank > limit:
            raise ConfigurationError(
                f"finetune.rank = {self.rank} is more than the {limit} of {name}; write at most that"
            )

    def parameter_schedules(self, task: nn.Module) -> dict[str, ParameterSchedule]:
        """Return a schedule for every parameter of the adapters and the head."""
        adapters = [name for name, _ in task.named_parameters() if name.endswith(ADAPTERS)]
        return at_once([*head(task), *adapters])


def merge(module: nn.Module) -> None:
    """Replace every layer with adapters inside a module by a plain layer of the same function, for export."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, LoRALinear):
            module.set_submodule(name, layer.merged())


def _linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    return iter([(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)])


def _parts(model: nn.Module, name: str) -> tuple[str, ...]:
    owner, _, last = name.rpartition(".")
    return FUSED.get(last, (last,)) if isinstance(model.get_submodule(owner), SelfAttention) else (last,)
