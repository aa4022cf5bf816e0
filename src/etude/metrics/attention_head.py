"""What is said of an attention head, without what computes it: pages are written from it without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HeadSummary:
    """A head's attention on one text, as means over its queries.

    Attributes:
        entropy: Entropy of a query's weights, in nats: 0 if all is on one key, ln L if uniform over L keys.
        distance: Mean distance, in keys, between the key opposite a query and those that it attends to.
        diagonal: Share of the weight on the key opposite the query.
        previous: Share of the weight on the key before that.
        next: Share of the weight on the key after that.
        first: Share of the weight on the first key, an attention sink (Xiao et al. 2024).
        last: Share of the weight on the last key: eos, where texts end in it.
    """

    entropy: float
    distance: float
    diagonal: float
    previous: float
    next: float
    first: float
    last: float
