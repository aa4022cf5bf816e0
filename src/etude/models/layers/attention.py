"""Scaled dot-product attention (Vaswani et al. 2017, section 3.2): as fast as there is, and to look inside.

Axes: B examples, H heads, Q queries, L keys, K head width, N real tokens, M those asked for, D = H K model width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from etude.errors import ConfigurationError
from etude.models.layers.dropout import Dropout
from etude.models.layers.key_value_cache import KeyValueCache
from etude.models.layers.relative_positions import Relative
from etude.models.layers.unpad import Unpadding

Mask = Bool[Tensor, "#B 1 #Q L"]
"""True where a query may attend to a key."""

Bias = Float[Tensor, "#B H #Q L"]
"""Added to the score of a query and a key."""

LONGEST_PLAIN = 96
"""Keys up to which training takes less time on a CPU by plain products than by torch's fused attention.

From 8 keys to 96, they take 0.4 to 0.9 of its time. Without gradients the fused kernel stays: transformers has it too, whose
logits exports are held against, and for a single query, as in decoding, it is faster.
"""


def attend(
    query: Float[Tensor, "B H Q K"],
    key: Float[Tensor, "B H L K"],
    value: Float[Tensor, "B H L K"],
    mask: Mask | None = None,
    causal: bool = False,
    bias: Bias | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "B H Q K"]:
    """Compute softmax(query keyᵀ / √K + bias) value, in the way that is fastest.

    Args:
        query: What each position looks for.
        key: What each position is found by.
        value: What each position gives.
        mask: True where a query may attend to a key; None: everywhere. A query that may attend nowhere gets zeros.
        causal: Query i attends to keys 0 to i only, besides what the mask says.
        bias: Added to the scores; None: nothing.
        dropout: Probability of a probability to be set to zero, by torch's own kernel, which on a CPU is slow.

    On a CPU, what has 16 bits is trained in single precision, and the result rounded.
    """
    if query.device.type == "cpu" and torch.is_grad_enabled():
        if query.dtype.itemsize < torch.float32.itemsize:
            # torch's backward pass takes six times as long with 16 bits as with 32.
            with torch.autocast("cpu", enabled=False):
                exact = attend(query.float(), key.float(), value.float(), mask, causal, bias, dropout)
            return exact.to(query.dtype)
        if key.shape[2] <= LONGEST_PLAIN and not dropout:
            return attention_weights(query, key, mask, causal, bias) @ value
    if causal and not (mask is None and bias is None):
        mask, causal = _allowed(query, key, mask, causal), False
    if bias is not None:
        mask = bias.to(query.dtype) if mask is None else _scores_added(bias, mask, query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal, dropout_p=dropout)


def attention_weights(
    query: Float[Tensor, "B H Q K"],
    key: Float[Tensor, "B H L K"],
    mask: Mask | None = None,
    causal: bool = False,
    bias: Bias | None = None,
) -> Float[Tensor, "B H Q L"]:
    """Compute the probabilities softmax(query keyᵀ / √K + bias) that `attend` multiplies by, in float32 or better.

    Args:
        query: As in `attend`.
        key: As in `attend`.
        mask: As in `attend`.
        causal: As in `attend`.
        bias: As in `attend`.

    Returns:
        Rows that sum to 1; zeros for a query that may attend nowhere.
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    scores = (query.to(exact) / math.sqrt(query.shape[-1])) @ key.to(exact).mT
    allowed = _allowed(query, key, mask, causal)
    if allowed is None:
        return (scores if bias is None else scores + bias).softmax(dim=-1)
    nowhere = ~allowed.any(dim=-1, keepdim=True)
    if not nowhere.any():
        return scores.add_(_scores_added(bias, allowed, exact)).softmax(dim=-1)
    # A row of -inf alone would have no softmax, nor a gradient.
    scores.add_(_scores_added(bias, allowed | nowhere, exact))
    return scores.softmax(dim=-1).masked_fill(nowhere, 0.0)


def _allowed(query: Tensor, key: Tensor, mask: Tensor | None, causal: bool) -> Tensor | None:
    """Return where a query may attend to a key, by the mask and by causality; None: everywhere."""
    if not causal:
        return mask
    before = causal_mask(query, key)
    return before if mask is None else mask & before


def _scores_added(bias: Bias | None, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the bias, or zeros, with -inf where the mask is False: one tensor to add to the scores."""
    added = torch.zeros_like(mask, dtype=dtype) if bias is None else bias.to(dtype)
    return added.masked_fill(~mask, -math.inf)


def causal_mask(query: Float[Tensor, "B H Q K"], key: Float[Tensor, "B H L K"]) -> Bool[Tensor, "Q L"]:
    """Return True where key j does not come after query i: j ≤ i."""
    return torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril_()


class Attend(nn.Module):
    """`attend` as a module: the place where `record_attention` looks on.

    Args:
        causal: As in `attend`.
        dropout: Probability of a probability to be set to zero in training (Vaswani et al. 2017's code). On a CPU the
            probabilities are then written down, all B H Q L of them, for the `Dropout` that all of a model uses.
    """

    def __init__(self, causal: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.causal = causal
        self.dropout = Dropout(dropout)

    @property
    def watched(self) -> bool:
        """Whether `record_attention` looks on, or another hook."""
        return bool(self._forward_hooks)

    def forward(
        self,
        query: Float[Tensor, "B H Q K"],
        key: Float[Tensor, "B H L K"],
        value: Float[Tensor, "B H L K"],
        mask: Mask | None,
        bias: Bias | None = None,
    ) -> Float[Tensor, "B H Q K"]:
        """Attend."""
        probability = self.dropout.probability if self.training else 0.0
        if not probability or query.device.type != "cpu":
            return attend(query, key, value, mask, self.causal, bias, probability)
        weights = self.dropout(attention_weights(query, key, mask, self.causal, bias))
        return weights.to(value.dtype) @ value


class SelfAttention(nn.Module):
    """Multi-head attention of each row's tokens to one another; query, key and value in one product.

    Where only the first token of each row asks, keys and values are not made: with a query q, the score q (W x + b) is
    (Wᵀ q) x and a part that is the same for all x, of which softmax takes no notice; and what is found, the sum of
    p (W x + b), is W times that of p x, and b times that of p. So each matrix is multiplied by one vector for each head.

    Args:
        width: D.
        heads: H, a divisor of D.
        causal: A token attends to itself and those before it only.
        dropout: Of the probabilities.
        relative: What is done about the distance between tokens; None: nothing.

    Raises:
        ConfigurationError: If the heads do not divide the width.
    """

    def __init__(
        self, width: int, heads: int, causal: bool = False, dropout: float = 0.0, relative: Relative | None = None
    ) -> None:
        super().__init__()
        self.head_width = head_width(width, heads)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.relative = Relative() if relative is None else relative
        self.attend = Attend(causal, dropout)
        self.output = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "N D"], layout: Unpadding, at: Int[Tensor, " M"] | None = None
    ) -> Float[Tensor, "M D"]:
        """Attend within each row of the layout; return what those tokens found whose numbers are given, by default all."""
        if at is not None and at is layout.starts and self.folds:
            return self.output(self._found_from_first(x, layout))
        projected = torch.unflatten(self.query_key_value(x), 1, (3, -1, self.head_width))
        rotated = layout.pad(self.relative.rotate(projected, layout.positions))
        query, key, value = rotated.transpose(1, 3).unbind(2)
        mixed = self.attend(query, key, value, layout.key_mask, self.relative.bias(layout))
        found = layout.pack(mixed.transpose(1, 2).flatten(2))
        return self.output(found if at is None else found.index_select(0, at))

    @property
    def folds(self) -> bool:
        """Whether the first tokens of rows, where they alone are asked for, do without keys and values.

        Not if these are no product of the states and one matrix, nor if someone looks at what all tokens attend to.
        """
        plain = type(self.query_key_value) is nn.Linear and type(self.relative) is Relative
        return plain and not self.attend.causal and not self.attend.watched

    def _found_from_first(self, x: Float[Tensor, "N D"], layout: Unpadding) -> Float[Tensor, "B D"]:
        by_head = self.query_key_value.weight.unflatten(0, (3, -1, self.head_width))
        of_query, of_key, of_value = by_head.unbind()
        query_bias, _, value_bias = self.query_key_value.bias.unflatten(0, (3, -1, self.head_width)).unbind()
        first = x.index_select(0, layout.starts)
        query = F.linear(first, of_query.flatten(0, 1), query_bias.flatten()).unflatten(1, (-1, self.head_width))
        # [B, H, D]; the scores are divided by √D, not by √K.
        folded = (query.transpose(0, 1) @ of_key).transpose(0, 1) * math.sqrt(len(of_key))
        states = layout.pad(x)
        weights = attention_weights(folded[:, None], states[:, None], layout.key_mask).squeeze(1)
        weights = self.attend.dropout(weights).to(x.dtype)
        found = (weights @ states).transpose(0, 1) @ of_value.mT
        return (found.transpose(0, 1) + value_bias * weights.sum(dim=2, keepdim=True)).flatten(1)

    def step(self, x: Float[Tensor, "B D"], past: KeyValueCache) -> Float[Tensor, "B D"]:
        """Attend from one new position of each row to it and to those in `past`, which it joins."""
        position = past.length
        projected = torch.unflatten(self.query_key_value(x), 1, (3, -1, self.head_width))
        rotated = self.relative.rotate_next(projected, position)
        past.append(rotated[:, None, 1:])
        mixed = attend(rotated[:, 0, :, None], *past.heads, bias=self.relative.bias_next(position + 1))
        return self.output(mixed.flatten(1))


class CrossAttention(nn.Module):
    """Multi-head attention of each row's tokens to keys and values that were computed elsewhere.

    Args:
        width: D.
        heads: H, a divisor of D.
        dropout: Of the probabilities.

    Raises:
        ConfigurationError: If the heads do not divide the width.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.head_width = head_width(width, heads)
        self.query = nn.Linear(width, width)
        self.attend = Attend(dropout=dropout)
        self.output = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "N D"],
        layout: Unpadding,
        keys: Float[Tensor, "B H L K"],
        values: Float[Tensor, "B H L K"],
        mask: Bool[Tensor, "B 1 1 L"] | None,
    ) -> Float[Tensor, "N D"]:
        """Attend from the tokens of each row of the layout to that row's keys, where the mask is True."""
        query = torch.unflatten(layout.pad(self.query(x)), 2, (-1, self.head_width)).transpose(1, 2)
        mixed = self.attend(query, keys, values, mask)
        return self.output(layout.pack(mixed.transpose(1, 2).flatten(2)))


def head_width(width: int, heads: int) -> int:
    """Return the width of one head.

    Raises:
        ConfigurationError: If the heads do not divide the width.
    """
    if heads < 1 or width % heads:
        divisors = [count for count in range(1, width + 1) if width % count == 0]
        nearest = min(divisors, key=lambda count: abs(count - heads))
        raise ConfigurationError(f"model.heads = {heads} does not divide model.width = {width}; try heads={nearest}")
    return width // heads


@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, Float[Tensor, "B H Q L"]]]:
    """Look inside a model's attention.

    Whole forward passes are recorded, not single steps of decoding.

    Args:
        model: Any module that has attention in it.

    Yields:
        A dictionary that each forward pass within the context fills anew: the probabilities of each attention by its
        name in the model, such as `decoder.0.cross_attention`, computed from the queries and keys of the pass.

    Example:
        with record_attention(model) as maps:
            model(src, tgt, src_mask, tgt_mask)
        alignment = maps["decoder.2.cross_attention"].mean(dim=1)
    """
    maps: dict[str, Tensor] = {}

    def recorder(name: str) -> Callable[[Attend, tuple[Tensor, ...], Tensor], None]:
        def record(module: Attend, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
            query, key, _value, mask, *bias = inputs
            maps[name] = attention_weights(query.detach(), key.detach(), mask, module.causal, *bias)

        return record

    hooks = [
        module.register_forward_hook(recorder(name.removesuffix(".attend")))
        for name, module in model.named_modules()
        if isinstance(module, Attend)
    ]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()
