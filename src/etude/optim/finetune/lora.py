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
"""Ends of the names of what is added."""

FUSED = {"query_key_value": ("query", "key", "value")}
"""Linear layers of etude's self-attention that are several in one: what their rows are, in equal parts.

Other libraries give such names to layers whose rows are in another order: those are taken as one layer.
"""


class LoRALinear(nn.Linear):
    """A linear layer with adapters on some of its parts. Weight and bias are those of the layer, under their own names.

    Args:
        linear: The layer.
        parts: Of how many equal parts its outputs are.
        adapted: Which of them get an adapter.
        rank: R, of each adapter.
        alpha: α.
        dropout: On the adapters' input.
    """

    placement: Float[Tensor, "parts P"]

    def __init__(
        self, linear: nn.Linear, parts: int, adapted: Sequence[int], rank: int, alpha: float, dropout: float
    ) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.scale = alpha / rank
        self.dropout = Dropout(dropout)
        # A as in the authors' code, uniform with variance 1 / 3I; B is zero, so that at first nothing is added.
        self.lora_a = nn.Parameter(linear.weight.new_empty(len(adapted), rank, self.in_features))
        self.lora_b = nn.Parameter(linear.weight.new_zeros(len(adapted), self.out_features // parts, rank))
        nn.init.uniform_(self.lora_a, -1 / math.sqrt(self.in_features), 1 / math.sqrt(self.in_features))
        self.register_buffer("placement", torch.eye(parts)[:, list(adapted)], persistent=False)

    def forward(self, x: Float[Tensor, "*shape I"]) -> Float[Tensor, "*shape O"]:
        """Return W x + b + (α / r) B A x."""
        return F.linear(x, self.weight, self.bias) + F.linear(F.linear(self.dropout(x), self._down), self._up)

    def matrices(self) -> list[tuple[int, bool]]:
        """Return size of W, A and B as they are multiplied by, and whether each trains (see `layers.flop_counts`)."""
        adapted, rank, _ = self.lora_a.shape
        sizes = (
            self.in_features * self.out_features,
            adapted * rank * self.in_features,
            adapted * rank * self.out_features,
        )
        return list(zip(sizes, (self.weight.requires_grad, True, True), strict=True))

    def merged(self) -> nn.Linear:
        """Return a plain layer of the same function, but for rounding."""
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
    """Adapters in the model's linear layers train, and the head.

    Args:
        rank: R.
        alpha: α: what the adapters add is multiplied by α / R.
        dropout: On the adapters' input.
        modules: The layers that get one, by the last part of their names: `query`, `key`, `value` (also where they are
            fused in one layer), `output` of attention, `inner` and `outer` of feed-forward, or any other.

    Raises:
        ConfigurationError: If rank or alpha is not positive, or no module is named.
    """

    def __init__(
        self, rank: int = 8, alpha: float = 16.0, dropout: float = 0.0, modules: Sequence[str] = ("query", "value")
    ) -> None:
        if rank < 1 or alpha <= 0 or not modules:
            given = f"finetune.rank = {rank}, alpha = {alpha:g}, modules = {list(modules)}"
            raise ConfigurationError(f"{given}: write a rank of at least 1, alpha above 0, and some modules")
        self.rank, self.alpha, self.dropout, self.modules = rank, alpha, dropout, tuple(modules)

    def prepare(self, task: nn.Module) -> None:
        """Put the adapters into the task's model.

        Raises:
            ConfigurationError: If one of the names is of no linear layer, or the rank is more than a layer has.
        """
        model, met = task.get_submodule(MODEL), set()
        for name, linear in _linear_layers(model):
            parts = _parts(model, name)
            adapted = [index for index, part in enumerate(parts) if part in self.modules]
            met |= {parts[index] for index in adapted}
            if adapted:
                self._check_rank(name, linear, len(parts))
                layer = LoRALinear(linear, len(parts), adapted, self.rank, self.alpha, self.dropout)
                model.set_submodule(name, layer)
        unmet = [name for name in self.modules if name not in met]
        if unmet:
            known = dict.fromkeys(part for name, _ in _linear_layers(model) for part in _parts(model, name))
            raise ConfigurationError(
                f"finetune.modules: {unmet[0]} is no linear layer of {type(model).__name__}; it has {', '.join(known)}"
            )

    def _check_rank(self, name: str, linear: nn.Linear, parts: int) -> None:
        most = min(linear.in_features, linear.out_features // parts)
        if self.rank > most:
            raise ConfigurationError(
                f"finetune.rank = {self.rank} is more than the {most} of {name}; write at most that"
            )

    def courses(self, task: nn.Module) -> dict[str, ParameterSchedule]:
        """Return a course for every parameter of the adapters and the head."""
        added = [name for name, _ in task.named_parameters() if name.endswith(ADAPTERS)]
        return at_once([*head(task), *added])


def merge(module: nn.Module) -> None:
    """Replace every layer with adapters inside a module by a plain one of the same function: what can be exported."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, LoRALinear):
            module.set_submodule(name, layer.merged())


def _linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    return iter([(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)])


def _parts(model: nn.Module, name: str) -> tuple[str, ...]:
    owner, _, last = name.rpartition(".")
    return FUSED.get(last, (last,)) if isinstance(model.get_submodule(owner), SelfAttention) else (last,)
