"""Scaled dot-product attention (Vaswani et al. 2017, section 3.2), as fast as torch allows, with probabilities on request.

Axes: B rows, H heads, Q queries, L keys, K head width, N real tokens, M tokens whose states are needed, D = H K model width.
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
from etude.models.layers.head_norm import HeadNorm
from etude.models.layers.key_value_cache import KeyValueCache
from etude.models.layers.relative_positions import Relative
from etude.models.layers.unpad import Unpadding

Mask = Bool[Tensor, "#B 1 #Q L"]
"""True where a query may attend to a key."""

Bias = Float[Tensor, "#B H #Q L"]
"""Added to the attention scores before the softmax."""

LONGEST_PLAIN = 96
"""Number of keys up to which training on a CPU is faster with plain matrix products than with torch's fused attention.

For 8 to 96 keys they take 0.4 to 0.9 of its time. Without gradients the fused kernel is used: transformers, against whose
logits exports are checked, uses it too, and it is faster for a single query, as in decoding.
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
    """Compute softmax(query keyᵀ / √K + bias) value by the fastest method available.

    On a CPU, 16-bit inputs are computed in single precision while training, and the result is rounded.

    Args:
        query: Query vectors.
        key: Key vectors.
        value: Value vectors.
        mask: True where a query may attend to a key; None: everywhere. A query that may attend nowhere gets zeros.
        causal: Whether query i attends to keys 0 to i only, in addition to the mask.
        bias: Added to the scores; None: no bias.
        dropout: Dropout rate of the attention probabilities, applied by torch's own kernel, which is slow on a CPU.
    """
    if query.device.type == "cpu" and torch.is_grad_enabled():
        if query.dtype.itemsize < torch.float32.itemsize:
            # torch's backward pass takes six times as long with 16 bits as with 32.
            with torch.autocast("cpu", enabled=False):
                output = attend(query.float(), key.float(), value.float(), mask, causal, bias, dropout)
            return output.to(query.dtype)
        # A compiler takes no branch on what is in a mask.
        if key.shape[2] <= LONGEST_PLAIN and not dropout and not torch.compiler.is_compiling():
            return attention_weights(query, key, mask, causal, bias) @ value
    if causal and not (mask is None and bias is None):
        mask, causal = _allowed(query, key, mask, causal), False
    if bias is not None:
        mask = bias.to(query.dtype) if mask is None else _masked_bias(bias, mask, query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal, dropout_p=dropout)


def attention_weights(
    query: Float[Tensor, "B H Q K"],
    key: Float[Tensor, "B H L K"],
    mask: Mask | None = None,
    causal: bool = False,
    bias: Bias | None = None,
) -> Float[Tensor, "B H Q L"]:
    """Compute the attention probabilities softmax(query keyᵀ / √K + bias) in float32 or better.

    Args:
        query: As in `attend`.
        key: As in `attend`.
        mask: As in `attend`.
        causal: As in `attend`.
        bias: As in `attend`.

    Returns:
        Rows that sum to 1; zeros for a query that may attend nowhere.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    scores = (query.to(dtype) / math.sqrt(query.shape[-1])) @ key.to(dtype).mT
    allowed = _allowed(query, key, mask, causal)
    if allowed is None:
        return (scores if bias is None else scores + bias).softmax(dim=-1)
    nowhere = ~allowed.any(dim=-1, keepdim=True)
    if not nowhere.any():
        return scores.add_(_masked_bias(bias, allowed, dtype)).softmax(dim=-1)
    # A row of nothing but -inf would have neither a softmax nor a gradient.
    scores.add_(_masked_bias(bias, allowed | nowhere, dtype))
    return scores.softmax(dim=-1).masked_fill(nowhere, 0.0)


def _allowed(query: Tensor, key: Tensor, mask: Tensor | None, causal: bool) -> Tensor | None:
    """Return True where a query may attend to a key, by both the mask and causality; None: everywhere."""
    if not causal:
        return mask
    before = causal_mask(query, key)
    return before if mask is None else mask & before


def _masked_bias(bias: Bias | None, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return one tensor to add to the scores: the bias, or zeros, with -inf where the mask is False."""
    unmasked = torch.zeros_like(mask, dtype=dtype) if bias is None else bias.to(dtype)
    return unmasked.masked_fill(~mask, -math.inf)


def causal_mask(query: Float[Tensor, "B H Q K"], key: Float[Tensor, "B H L K"]) -> Bool[Tensor, "Q L"]:
    """Return True where key j does not come after query i: j ≤ i."""
    return torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril_()


class Attend(nn.Module):
    """`attend` as a module, so that `record_attention` can hook into it.

    Args:
        causal: As in `attend`.
        dropout: Dropout rate of the attention probabilities in training (as in the code of Vaswani et al. 2017). On a CPU
            all B H Q L probabilities are then materialised, for etude's own `Dropout`.
    """

    def __init__(self, causal: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.causal = causal
        self.dropout = Dropout(dropout)

    @property
    def watched(self) -> bool:
        """Whether `record_attention` or another hook is attached."""
        return bool(self._forward_hooks)

    def forward(
        self,
        query: Float[Tensor, "B H Q K"],
        key: Float[Tensor, "B H L K"],
        value: Float[Tensor, "B H L K"],
        mask: Mask | None,
        bias: Bias | None = None,
    ) -> Float[Tensor, "B H Q K"]:
        """Attend, with dropout in training."""
        probability = self.dropout.probability if self.training else 0.0
        if not probability or query.device.type != "cpu":
            return attend(query, key, value, mask, self.causal, bias, probability)
        weights = self.dropout(attention_weights(query, key, mask, self.causal, bias))
        return weights.to(value.dtype) @ value


class SelfAttention(nn.Module):
    """Multi-head attention of each row's tokens to one another; query, key and value come from one product.

    When only the first token of each row is needed, keys and values are never computed: for a query q, the score
    q (W x + b) is (Wᵀ q) x plus a term that is the same for all x, which softmax ignores; and the output, the sum of
    p (W x + b), is W times the sum of p x, plus b times the sum of p. So each matrix is multiplied by one vector per head.

    Args:
        width: D.
        heads: H, a divisor of D.
        causal: Whether a token attends only to itself and the tokens before it.
        dropout: Dropout rate of the attention probabilities.
        relative: Treatment of the distance between tokens; None: none.
        query_key_norm: Whether each head's queries and keys are normalised, before `relative` rotates them.

    Raises:
        ConfigurationError: If the heads do not divide the width.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        causal: bool = False,
        dropout: float = 0.0,
        relative: Relative | None = None,
        query_key_norm: bool = False,
    ) -> None:
        super().__init__()
        self.head_width = head_width(width, heads)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.query_key_norm = HeadNorm(self.head_width, parts=2) if query_key_norm else None
        self.relative = Relative() if relative is None else relative
        self.attend = Attend(causal, dropout)
        self.output = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "N D"], layout: Unpadding, at: Int[Tensor, " M"] | None = None
    ) -> Float[Tensor, "M D"]:
        """Attend within each row of the layout; return the outputs of the tokens with the indices `at`, or of all."""
        if at is not None and at is layout.starts and self.folds:
            return self.output(self._mixed_at_starts(x, layout))
        rotated = layout.pad(self.relative.rotate(self._project(x), layout.positions))
        query, key, value = rotated.transpose(1, 3).unbind(2)
        mixed = self.attend(query, key, value, layout.key_mask, self.relative.bias(layout))
        mixed = layout.unpad(mixed.transpose(1, 2).flatten(2))
        return self.output(mixed if at is None else mixed.index_select(0, at))

    def _project(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N 3 H K"]:
        projected = torch.unflatten(self.query_key_value(x), 1, (3, -1, self.head_width))
        if self.query_key_norm is None:
            return projected
        return torch.cat([self.query_key_norm(projected[:, :2]), projected[:, 2:]], dim=1)

    @property
    def folds(self) -> bool:
        """Whether keys and values are skipped when only the first token of each row is needed.

        They are not if they are anything but the product of the states and one matrix, as with adapters or a norm of the
        keys, or if a hook needs the probabilities of all tokens.
        """
        plain = type(self.query_key_value) is nn.Linear and type(self.relative) is Relative
        return plain and self.query_key_norm is None and not self.attend.causal and not self.attend.watched

    def _mixed_at_starts(self, x: Float[Tensor, "N D"], layout: Unpadding) -> Float[Tensor, "B D"]:
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
        mixed = (weights @ states).transpose(0, 1) @ of_value.mT
        return (mixed.transpose(0, 1) + value_bias * weights.sum(dim=2, keepdim=True)).flatten(1)

    def step(self, x: Float[Tensor, "B D"], past: KeyValueCache) -> Float[Tensor, "B D"]:
        """Attend from one new position of each row to itself and to those in `past`, to which it is appended."""
        position = past.length
        rotated = self.relative.rotate_next(self._project(x), position)
        past.append(rotated[:, None, 1:])
        mixed = attend(rotated[:, 0, :, None], *past.heads, bias=self.relative.bias_next(position + 1))
        return self.output(mixed.flatten(1))


class CrossAttention(nn.Module):
    """Multi-head attention of each row's tokens to keys and values that are computed elsewhere.

    Args:
        width: D.
        heads: H, a divisor of D.
        dropout: Dropout rate of the attention probabilities.
        query_key_norm: Whether each head's queries are normalised, as the keys are where they are computed.

    Raises:
        ConfigurationError: If the heads do not divide the width.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0, query_key_norm: bool = False) -> None:
        super().__init__()
        self.head_width = head_width(width, heads)
        self.query = nn.Linear(width, width)
        self.query_norm = HeadNorm(self.head_width) if query_key_norm else None
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
        query = self.query(x)
        if self.query_norm is not None:
            query = self.query_norm(torch.unflatten(query, 1, (1, -1, self.head_width))).flatten(1)
        query = torch.unflatten(layout.pad(query), 2, (-1, self.head_width)).transpose(1, 2)
        mixed = self.attend(query, keys, values, mask)
        return self.output(layout.unpad(mixed.transpose(1, 2).flatten(2)))


def head_width(width: int, heads: int) -> int:
    """Return the width of one head.

    Raises:
        ConfigurationError: If the heads do not divide the width.
    """
    if heads < 1 or width % heads:
        raise ConfigurationError(f"model.heads = {heads} does not divide model.width = {width}")
    return width // heads


@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, Float[Tensor, "B H Q L"]]]:
    """Record a model's attention probabilities.

    Forward passes are recorded, single steps of decoding are not.

    Args:
        model: Any module that contains attention.

    Yields:
        A dictionary that each forward pass within the context refills: the probabilities of each attention by its
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
