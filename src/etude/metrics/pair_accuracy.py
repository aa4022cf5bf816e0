"""The share of minimal pairs whose better sentence is likelier (Warstadt et al. 2020).

Axes: N pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from etude.metrics.score import Summed, mean_of_rows


def pair_statistics(
    good: Float[np.ndarray, " N"], bad: Float[np.ndarray, " N"], phenomena: Sequence[str], likelihood: str
) -> dict[str, Summed]:
    """Return the statistics of `accuracy`, and of `accuracy/PHENOMENON` of each phenomenon that is named, over its pairs alone.

    Equal likelihoods are wrong: a model that does not tell two sentences apart does not know which is better.

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
