"""The tokenizer that data brings with it."""

from __future__ import annotations

from etude.errors import ConfigurationError
from etude.tokenization.base import Tokenizer, TrainingTexts


class TokenizerOfData:
    """Stands for the tokenizer by which data was tokenized before: it comes with the data."""

    key = "of data 1"
    """What determines the tokenizer, besides the data."""

    def build(self, texts: TrainingTexts) -> Tokenizer:
        """Refuse to make one.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError(
            "tokenizer=of_data is for data that is tokenized already (data=shards); choose another, such as tokenizer=bpe"
        )
