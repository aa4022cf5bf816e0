"""A pretrained model of any kind that etude has natively: what config.json says decides which."""

from __future__ import annotations

from etude.errors import ConfigurationError
from etude.hub import open_pretrained
from etude.models.encoder import Encoder
from etude.models.pretrained.bart import FAMILIES, Bart
from etude.models.pretrained.bert import pretrained_encoder
from etude.models.pretrained.encoder_decoders import pretrained_seq2seq
from etude.models.pretrained.encoder_families import ENCODER_FAMILIES
from etude.models.pretrained.weight_files import read_json
from etude.types import Facts


def pretrained(
    facts: Facts, name: str, dropout: float = 0.1, attention_dropout: float = 0.0, activation_dropout: float = 0.0
) -> Encoder | Bart:
    """Build a pretrained model and load its weights: an encoder, or an encoder with a decoder.

    Args:
        facts: The tokenizer's vocabulary, which must be the weights'.
        name: A folder, a package, or a name in the hub, with config.json and model.safetensors.
        dropout: As in `Encoder` and `Seq2Seq`, and so the next two.
        attention_dropout: On the probabilities of attention.
        activation_dropout: Inside feed-forward layers.

    Raises:
        ConfigurationError: If etude has no native model of this kind, the weights are not those of their config.json, or
            the tokenizer is another's.
        DataError: If the files are missing or unreadable.
    """
    kind = read_json(open_pretrained(name)).get("model_type")
    if kind in FAMILIES:
        return pretrained_seq2seq(facts, name, dropout, attention_dropout, activation_dropout)
    if kind in ENCODER_FAMILIES:
        return pretrained_encoder(facts, name, dropout, attention_dropout, activation_dropout)
    raise ConfigurationError(
        f"{name} has model_type = {kind!r}; model=pretrained reads {', '.join((*ENCODER_FAMILIES, *FAMILIES))}; "
        "set model=huggingface, or another model.name"
    )
