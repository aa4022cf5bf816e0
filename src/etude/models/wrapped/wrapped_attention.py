"""What attention looks at in models that transformers computes.

Axes: B texts, H heads, Q positions that attend, L positions attended to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor

from etude.models.wrapped.wrapped_files import quiet

STACKS = {
    "attentions": "layers.{}.attention",
    "encoder_attentions": "encoder.{}.attention",
    "decoder_attentions": "decoder.{}.self_attention",
    "cross_attentions": "decoder.{}.cross_attention",
}
"""What transformers calls the probabilities of all layers, and etude those of one."""


@contextmanager
def record_wrapped(model: Any) -> Iterator[dict[str, Float[Tensor, "B H Q L"]]]:
    """Look inside a model of transformers, as `etude.models.layers.attention.record_attention` does inside etude's own.

    Its attention is computed by plain products meanwhile: fused kernels keep no probabilities. Recorded are those between
    all positions; an architecture that attends in windows, or has no attention, has none.

    Args:
        model: A module of transformers.

    Yields:
        A dictionary that each forward pass fills anew.
    """
    maps: dict[str, Tensor] = {}

    def ask(_model: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return positional, {**named, "output_attentions": True}

    def record(_model: Any, _positional: tuple[Any, ...], named: Mapping[str, Any], output: Any) -> None:
        maps.clear()
        own = named["decoder_input_ids" if "decoder_input_ids" in named else "input_ids"].shape[1]
        source = named["input_ids"].shape[1]
        between = {
            "attentions": (own, own),
            "encoder_attentions": (source, source),
            "decoder_attentions": (own, own),
            "cross_attentions": (own, source),
        }
        for kind, name in STACKS.items():
            for number, weights in enumerate(getattr(output, kind, None) or ()):
                if getattr(weights, "shape", ())[2:] == between[kind]:
                    maps[name.format(number)] = weights.detach()

    hooks = [
        model.register_forward_pre_hook(ask, with_kwargs=True),
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
    """Have a model of transformers attend by plain products while the block runs."""
    implementation = model.config._attn_implementation
    with quiet():
        model.set_attn_implementation("eager")
        try:
            yield
        finally:
            model.set_attn_implementation(implementation)
