"""How a model's outputs are searched for: what `conf/decoding/` chooses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from etude.decoding.beam import beam_search
from etude.decoding.greedy import greedy_search
from etude.decoding.hypothesis import CacheT, Hypothesis, Step
from etude.errors import ConfigurationError


@dataclass(frozen=True)
class Search:
    """Beam search, or greedy search where there is one beam.

    Attributes:
        beams: Hypotheses that are extended at each length.
        length_penalty: Exponent of the length penalty (Wu et al. 2016, equation 14); 0 ranks by log-probability.
        max_length: The most tokens that are predicted, eos included.
        min_length: The fewest tokens of an output that is not cut off, eos left out.
        n_best: Hypotheses to return for each row.
    """

    beams: int = 1
    length_penalty: float = 0.0
    max_length: int = 128
    min_length: int = 0
    n_best: int = 1

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: If a value is out of its range.
        """
        for name, least in (("beams", 1), ("length_penalty", 0), ("max_length", 1), ("min_length", 0), ("n_best", 1)):
            value = getattr(self, name)
            if not least <= value < float("inf"):
                raise ConfigurationError(f"decoding.{name}={value} is out of range; write {least} or more")
        if self.min_length >= self.max_length:
            raise ConfigurationError(
                f"decoding.min_length={self.min_length} leaves no room below decoding.max_length={self.max_length}; "
                f"write decoding.min_length={self.max_length - 1} or less"
            )
        if self.n_best > self.beams:
            raise ConfigurationError(
                f"decoding.n_best={self.n_best} is more than decoding.beams={self.beams}; "
                f"write decoding.beams={self.n_best}"
            )

    def __call__(
        self,
        step: Step[CacheT],
        start: CacheT,
        *,
        bos: int,
        eos: int,
        rows: int,
        max_lengths: Int[Tensor, " B"] | None = None,
        device: torch.device | None = None,
    ) -> list[list[Hypothesis]]:
        """Search for the best outputs of each row. What a row gets does not depend on the other rows.

        Args:
            step: The model.
            start: Its cache before the first token.
            bos: The token to start from.
            eos: The token to end at.
            rows: Rows of the batch.
            max_lengths: A limit for each row besides `max_length`; less than 1 counts as 1.
            device: Where the model is; by default where `max_lengths` is.

        Returns:
            For each row at most `n_best` hypotheses, best first.
        """
        if not rows:
            return []
        limits = torch.full((rows,), self.max_length, device=device if max_lengths is None else max_lengths.device)
        if max_lengths is not None:
            limits = limits.minimum(max_lengths).clamp(min=1)
        with torch.no_grad():
            if self.beams == 1:
                found = greedy_search(
                    step, start, bos=bos, eos=eos, limits=limits, alpha=self.length_penalty, min_length=self.min_length
                )
                return [[hypothesis] for hypothesis in found]
            return beam_search(
                step,
                start,
                bos=bos,
                eos=eos,
                limits=limits,
                beams=self.beams,
                alpha=self.length_penalty,
                min_length=self.min_length,
                n_best=self.n_best,
            )
