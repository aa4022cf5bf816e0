"""Pretrained models of any architecture in transformers, run by its own code, in the class that the task takes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from etude.errors import ConfigurationError
from etude.models.base import EncoderDecoder, TextDecoder, TextEncoder
from etude.models.pretrained.base import PretrainedModel
from etude.models.pretrained.skeleton import PretrainedSkeleton
from etude.models.wrapped.wrapped_decoder import WrappedDecoder
from etude.models.wrapped.wrapped_encoder import WrappedEncoder
from etude.models.wrapped.wrapped_seq2seq import WrappedEncoderDecoder
from etude.types import Facts

WRAPPERS = (WrappedEncoder, WrappedDecoder, WrappedEncoderDecoder)


@dataclass(frozen=True)
class HuggingFace(PretrainedModel):
    """A pretrained model as transformers computes it: an encoder, a decoder, or an encoder with a decoder.

    Attributes:
        name: As in `PretrainedModel`.
        dropout: Rate of every dropout in the model, including that of attention; None: as in config.json.
        max_length: Largest number of tokens in a text; None: the model's number of positions.
    """

    name: str
    dropout: float | None = None
    max_length: int | None = None

    def build(
        self, facts: Facts, interface: type[nn.Module], saved: PretrainedSkeleton | None = None
    ) -> TextEncoder | TextDecoder | EncoderDecoder:
        """Build the model in the class that the task takes, as `PretrainedModel.build` says.

        Raises:
            ConfigurationError: Also if the task takes none of the three classes, or transformers has no such model.
        """
        for wrapper in WRAPPERS:
            if issubclass(wrapper, interface):
                return wrapper(facts, self.files(saved), self.dropout, self.max_length)
        raise ConfigurationError(
            f"the task takes a {interface.__name__}, and model=huggingface makes a TextEncoder, a TextDecoder or an "
            "EncoderDecoder; choose another model=… or task=…"
        )
