"""Attention probabilities of models that transformers computes.

Axes: B rows, H heads, Q queries, L keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor

from etude.models.wrapped.files import quiet

STACKS = {
    "attentions": "layers.{}.attention",
    "encoder_attentions": "encoder.{}.attention",
    "decoder_attentions": "decoder.{}.self_attention",
    "cross_attentions": "decoder.{}.cross_attention",
}
"""Output fields of transformers with the probabilities of all layers, and etude's names of a layer's."""


@contextmanager
def record_wrapped(model: Any) -> Iterator[dict[str, Float[Tensor, "B H Q L"]]]:
    """Record the attention probabilities of a transformers model, as `record_attention` does for etude's own.

    Meanwhile its attention is computed by plain products, since fused kernels keep no probabilities. Only attention
    between all positions is recorded; an architecture that attends in windows, or has no attention, records none.

    Args:
        model: A module of transformers.

    Yields:
        A dictionary that each forward pass within the context refills.
    """
    maps: dict[str, Tensor] = {}

    def request(
        _model: Any, positional: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return positional, {**named, "output_attentions": True}

    def record(_model: Any, _positional: tuple[Any, ...], named: Mapping[str, Any], output: Any) -> None:
        maps.clear()
        target = named["decoder_input_ids" if "decoder_input_ids" in named else "input_ids"].shape[1]
        source = named["input_ids"].shape[1]
        shapes = {
            "attentions": (target, target),
            "encoder_attentions": (source, source),
            "decoder_attentions": (target, target),
            "cross_attentions": (target, source),
        }
        for kind, name in STACKS.items():
            for number, weights in enumerate(getattr(output, kind, None) or ()):
                if getattr(weights, "shape", ())[2:] == shapes[kind]:
                    maps[name.format(number)] = weights.detach()

    hooks = [
        model.register_forward_pre_hook(request, with_kwargs=True),
        model.register_forward_hook(record, with_kwargs=True),
    ]
    try:
        with plain_attention(model):
            yield maps
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def plain_attention(model: Any) -> Iterator[None]:
    """Make a transformers model attend by plain products within the context."""
    implementation = model.config._attn_implementation
    with quiet():
        model.set_attn_implementation("eager")
        try:
            yield
        finally:
            model.set_attn_implementation(implementation)
