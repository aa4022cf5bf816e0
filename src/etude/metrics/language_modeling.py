"""Scores of language models: perplexity and bits per byte."""

from __future__ import annotations

import math

from etude.errors import DataError


def perplexity(loss: float) -> float:
    """Return exp(loss): the number of equally likely tokens that would leave the model as uncertain.

    Args:
        loss: Mean cross-entropy per token, in nats. Perplexities are comparable only under the same tokenizer.
    """
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def bits_per_byte(loss_sum: float, byte_count: float) -> float:
    """Return the bits that the model needs per byte of text, comparable across tokenizers.

    Args:
        loss_sum: Cross-entropy of the text, in nats.
        byte_count: Length of the text in bytes of UTF-8, or an estimate of it.

    Raises:
        DataError: If the text is empty.
    """
    if byte_count <= 0:
        raise DataError(f"bits per byte of a text of {byte_count} bytes are not defined; give a text that is not empty")
    return loss_sum / (byte_count * math.log(2))
