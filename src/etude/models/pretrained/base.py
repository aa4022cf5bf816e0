"""Pretrained models in a configuration: a name and a few values, from which a model is built for given data and task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import nn

from etude.hub import PretrainedFiles, open_pretrained
from etude.models.pretrained.skeleton import PretrainedSkeleton
from etude.types import Facts


class PretrainedModel(ABC):
    """A pretrained model as a configuration describes it; `build` reads its files.

    It is not itself a module, since its class may depend on its config.json or on the task. A `_target_` names a
    subclass, and the return annotation of its `build` is checked against the task before anything is loaded.

    Attributes:
        name: A folder, a package, or a name in the hub, with config.json and model.safetensors.
    """

    name: str

    @abstractmethod
    def build(self, facts: Facts, interface: type[nn.Module], saved: PretrainedSkeleton | None = None) -> nn.Module:
        """Build the model and load its weights.

        Args:
            facts: The tokenizer's vocabulary and special ids, which must be the weights'.
            interface: The class of models that the task takes: `TextEncoder`, `TextDecoder` or `EncoderDecoder`.
            saved: Skeleton that a run saved of the pretrained model, used in place of its files when the run is rebuilt; a
                skeleton of another model is ignored.

        Raises:
            ConfigurationError: If the files' model is not supported, the weights are not those of their config.json, or the
                tokenizer is another's.
            DataError: If the files are missing or unreadable.
        """

    def files(self, saved: PretrainedSkeleton | None) -> PretrainedFiles:
        """Return the saved skeleton if it is this model's, else the model's files.

        Raises:
            DataError: If there are no such files.
        """
        return saved if saved is not None and saved.name == self.name else open_pretrained(self.name)


@dataclass(frozen=True)
class NativePretrainedModel(PretrainedModel):
    """A pretrained model that is loaded into etude's own modules; the dropout rates in config.json are not used.

    Attributes:
        name: As in `PretrainedModel`.
        dropout: Dropout rate of the embeddings and of each sublayer's output.
        attention_dropout: Dropout rate of the attention probabilities.
        activation_dropout: Dropout rate inside feed-forward layers.
    """

    name: str
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
