"""Scores of language models: perplexity, bits per byte, and accuracy on minimal pairs.

Axes: N pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from etude.errors import DataError
from etude.metrics.score import Summed, mean_of_rows


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


def pair_statistics(
    good: Float[np.ndarray, " N"], bad: Float[np.ndarray, " N"], phenomena: Sequence[str], likelihood: str
) -> dict[str, Summed]:
    """Return the statistics of `accuracy`, and of `accuracy/PHENOMENON` of each phenomenon that is named, over its pairs alone.

    The better sentence of a minimal pair must be the likelier one (Warstadt et al. 2020). Equal likelihoods are wrong: a model
    that does not tell two sentences apart does not know which is better.

    Args:
        good: Likelihood of the better sentence of each pair.
        bad: Likelihood of the other one.
        phenomena: Phenomenon of each pair; empty where none is named.
        likelihood: What the likelihoods are, for the signature.
    """
    hits = (good > bad).astype(np.float64)
    signature = f"nrefs:1|likelihood:{likelihood}|equal:wrong"
    named = {name: np.array([one == name for one in phenomena]) for name in sorted(set(phenomena) - {""})}
    each = {f"accuracy/{name}": mean_of_rows(hits[where], signature, (0, 1)) for name, where in named.items()}
    return {"accuracy": mean_of_rows(hits, signature, (0, 1)), **each}
