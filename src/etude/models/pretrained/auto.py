"""A pretrained model of any kind that etude has natively, selected by the model_type in config.json."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from torch import nn

from etude.errors import ConfigurationError
from etude.models.encoder import Encoder
from etude.models.pretrained.bart import Bart, PretrainedBart
from etude.models.pretrained.base import NativePretrainedModel
from etude.models.pretrained.bert import PretrainedBert
from etude.models.pretrained.encoder_decoder_families import ENCODER_DECODER_FAMILIES
from etude.models.pretrained.encoder_families import ENCODER_FAMILIES
from etude.models.pretrained.skeleton import PretrainedSkeleton
from etude.models.pretrained.weight_files import read_json
from etude.types import Facts


@dataclass(frozen=True)
class AutoPretrained(NativePretrainedModel):
    """A pretrained encoder like BERT, or encoder-decoder like BART. Takes what `NativePretrainedModel` does."""

    def build(
        self, facts: Facts, interface: type[nn.Module], saved: PretrainedSkeleton | None = None
    ) -> Encoder | Bart:
        """Build the model and load its weights, as `PretrainedModel.build` says."""
        named = read_json(self.files(saved)).get("model_type")
        model_type = named if isinstance(named, str) else None
        if model_type in ENCODER_DECODER_FAMILIES:
            return PretrainedBart(*astuple(self)).build(facts, interface, saved)
        if model_type in ENCODER_FAMILIES:
            return PretrainedBert(*astuple(self)).build(facts, interface, saved)
        raise ConfigurationError(
            f"{self.name} has model_type = {model_type!r}; model=pretrained reads "
            f"{', '.join((*ENCODER_FAMILIES, *ENCODER_DECODER_FAMILIES))}; set model=huggingface, or another model.name"
        )
