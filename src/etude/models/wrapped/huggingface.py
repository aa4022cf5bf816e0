"""A pretrained model of any architecture that transformers has, run by its own code: the task decides as what."""

from __future__ import annotations

from torch import nn

from etude.errors import ConfigurationError
from etude.models.base import EncoderDecoder, TextDecoder, TextEncoder
from etude.models.wrapped.wrapped_decoder import WrappedDecoder
from etude.models.wrapped.wrapped_encoder import WrappedEncoder
from etude.models.wrapped.wrapped_seq2seq import WrappedEncoderDecoder
from etude.types import Facts

KINDS = (WrappedEncoder, WrappedDecoder, WrappedEncoderDecoder)


def huggingface(
    facts: Facts, wanted: type[nn.Module], name: str, dropout: float | None = None, max_length: int | None = None
) -> TextEncoder | TextDecoder | EncoderDecoder:
    """Load a pretrained model as what the task takes: an encoder, a decoder, or an encoder with a decoder.

    Args:
        facts: The tokenizer's vocabulary, which must be the weights'.
        wanted: The class of models that the task takes.
        name: A folder, a package, or a name in the hub, with config.json and model.safetensors.
        dropout: The probability of every dropout in the model, that of attention included; None: as config.json says.
        max_length: The most tokens of a text; None: as many as the model has positions.

    Raises:
        ConfigurationError: If the task takes none of these, transformers has no such model, the weights are not those of
            their config.json, or the tokenizer is another's.
        DataError: If the files are missing or unreadable.
    """
    for kind in KINDS:
        if issubclass(kind, wanted):
            return kind(facts, name, dropout, max_length)
    raise ConfigurationError(
        f"the task takes a {wanted.__name__}, and model=huggingface makes a TextEncoder, a TextDecoder or an EncoderDecoder; "
        "choose another model=… or task=…"
    )
