"""Scores of language models: the loss in units that people compare."""

from __future__ import annotations

import math

from etude.errors import DataError


def perplexity(loss: float) -> float:
    """Return exp(loss): among how many equally likely tokens the model is as uncertain.

    Args:
        loss: Mean cross-entropy of a token, in nats. Perplexities compare only under one tokenizer.
    """
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def bits_per_byte(loss_sum: float, byte_count: float) -> float:
    """Return the bits that the model needs for a byte of text; unlike perplexity it compares across tokenizers.

    Args:
        loss_sum: Cross-entropy of the whole text, in nats.
        byte_count: Length of the text in UTF-8; of a part of it, an estimate will do.

    Raises:
        DataError: If the text is empty.
    """
    if byte_count <= 0:
        raise DataError(f"bits per byte of a text of {byte_count} bytes are not defined; give a text that is not empty")
    return loss_sum / (byte_count * math.log(2))
