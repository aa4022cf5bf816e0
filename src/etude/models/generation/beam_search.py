"""Beam search.

Axes: R rows of the batch, B rows still being searched, W live beams per row, L tokens per beam (bos first),
Q candidates per row, V vocabulary. The model's batch holds the beams of a row side by side: BW rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from etude.models.generation.constraint import Constraint
from etude.models.generation.hypothesis import CacheT, Hypothesis, Step, log_normalizer
from etude.models.generation.length_penalty import LengthPenalty
from etude.models.generation.stable_topk import stable_topk


class Live(NamedTuple):
    """Unfinished hypotheses, best first in each row.

    Attributes:
        row: Index of each row in the batch.
        tokens: Tokens chosen so far.
        log_probability: Log-probability of those tokens; float64, since it is a sum of many terms.
    """

    row: Int[Tensor, " B"]
    tokens: Int[Tensor, "B W L"]
    log_probability: Float[Tensor, "B W"]


class Candidates(NamedTuple):
    """The best extensions of each row's beams by one token, best first.

    Attributes:
        beam: Index of the beam that is extended.
        token: The token that extends it.
        log_probability: Log-probability of the extended hypothesis.
    """

    beam: Int[Tensor, "B Q"]
    token: Int[Tensor, "B Q"]
    log_probability: Float[Tensor, "B Q"]


class BestHypotheses:
    """The best finished hypotheses of each row so far, and the scores that improve on them.

    Args:
        limits: Largest number of tokens that each row of the whole batch may predict, eos included.
        penalty: Divisor of log-probabilities.
        n_best: Number of hypotheses to keep for each row.
    """

    def __init__(self, limits: Int[Tensor, " R"], penalty: LengthPenalty, n_best: int) -> None:
        self.limits = limits
        self.n_best = n_best
        self.hypotheses: list[list[Hypothesis]] = [[] for _ in limits]
        divisors = [penalty.divisor(length) for length in range(int(limits.max()) + 1)]
        self._divisor = torch.tensor(divisors, dtype=torch.float64, device=limits.device)
        self._worst = torch.full_like(limits, float("-inf"), dtype=torch.float64)  # the score to beat

    def add(self, live: Live, candidates: Candidates, ended: Bool[Tensor, "B Q"], beams: int) -> None:
        """Add those of the best `beams` candidates that have ended and improve on the row's hypotheses."""
        score = candidates.log_probability / self._divisor[live.tokens.shape[2]]  # bos is not predicted, eos is
        better = ended & (score > self._worst[live.row, None])
        for index, rank in better[:, :beams].nonzero().tolist():
            row = int(live.row[index])
            tokens = live.tokens[index, candidates.beam[index, rank], 1:].tolist()
            log_probability = float(candidates.log_probability[index, rank])
            best = self.hypotheses[row]
            best.append(Hypothesis(tuple(tokens), float(score[index, rank]), True, log_probability))
            best.sort(key=lambda hypothesis: -hypothesis.score)  # stable: at equal scores, the earlier stays first
            del best[self.n_best :]
            if len(best) == self.n_best:
                self._worst[row] = best[-1].score

    def can_improve(self, live: Live) -> Bool[Tensor, " B"]:
        """Return True for rows that are below their limit and may still find a hypothesis better than their worst.

        No further token can raise a log-probability p, which is at most 0, and no divisor exceeds the one at the row's
        limit, so that no extension of a beam scores more than p over that divisor. For GNMT's penalty the bound is
        p / ((5 + limit) / 6) ** alpha; for the average it is p / limit, which lets a row continue for longer.
        """
        limit = self.limits[live.row]
        bound = live.log_probability[:, 0] / self._divisor[limit]
        return (live.tokens.shape[2] - 1 < limit) & (bound > self._worst[live.row])

    def fill(self, live: Live, stopped: Bool[Tensor, " B"]) -> None:
        """Add the best unfinished hypotheses to rows that stop with too few finished ones."""
        divisor = float(self._divisor[live.tokens.shape[2] - 1])
        for index in stopped.nonzero().squeeze(1).tolist():
            hypotheses = self.hypotheses[int(live.row[index])]
            missing = self.n_best - len(hypotheses)
            probable = live.log_probability[index, :missing].tolist()
            for tokens, log_probability in zip(live.tokens[index, :missing, 1:].tolist(), probable, strict=True):
                if log_probability > float("-inf"):  # else a prefix excludes it
                    hypotheses.append(Hypothesis(tuple(tokens), log_probability / divisor, False, log_probability))


@torch.no_grad()
def beam_search(
    step: Step[CacheT],
    start: CacheT,
    *,
    bos: int | Int[Tensor, " R"],
    limits: Int[Tensor, " R"],
    constraint: Constraint,
    penalty: LengthPenalty,
    beams: int,
    n_best: int = 1,
) -> list[list[Hypothesis]]:
    """Keep the `beams` most probable unfinished hypotheses of each row at every length; return the best finished ones.

    A hypothesis finishes when eos is among its row's `beams` best candidates. A row is searched until none of its live
    beams can improve on the worst of the `n_best` that it would return, so that stopping early changes no output.

    Args:
        step: The model's step function.
        start: The model's cache before the first token, for R rows.
        bos: The token that all rows, or each row, start from.
        limits: Largest number of tokens that each row may predict, eos included; at least 1.
        constraint: Tokens that may not be chosen; it also holds eos.
        penalty: Divisor of log-probabilities.
        beams: Number of hypotheses that are extended at each length.
        n_best: Number of hypotheses to return for each row.

    Returns:
        At most `n_best` hypotheses for each row: the finished ones, best score first, and, if they are too few, the best
        of those that were stopped at the limit. Equal scores come in the order in which they were found.
    """
    best = BestHypotheses(limits, penalty, n_best)
    row = torch.arange(len(limits), device=limits.device)
    first = torch.full_like(limits, bos) if isinstance(bos, int) else bos
    live = Live(row, first[:, None, None], torch.zeros_like(row, dtype=torch.float64)[:, None])
    cache = start
    for length in range(1, int(limits.max()) + 1):
        logits, cache = step(live.tokens[:, :, -1].flatten(), cache)
        allowed = constraint(logits, live.row.repeat_interleave(live.tokens.shape[1]), length)
        candidates = extend(live, logits, allowed, 2 * beams)  # at most half of them end in eos: enough others remain
        end = constraint.ends(live.row, length)
        ended = candidates.token == (end if isinstance(end, int) else end[:, None])
        best.add(live, candidates, ended, beams)
        width = live.tokens.shape[1] * (logits.shape[-1] - 1)  # all extensions that do not end in eos
        live, origin = survive(live, candidates, ended, min(beams, width))
        going = best.can_improve(live)
        best.fill(live, ~going)
        if not going.any():
            break
        live = Live(*(field[going] for field in live))
        cache = cache.select(origin[going].flatten())
    return best.hypotheses


def extend(live: Live, logits: Float[Tensor, "BW V"], allowed: Float[Tensor, "BW V"], count: int) -> Candidates:
    """Return the `count` best extensions of each row, or all if there are fewer.

    Equally probable extensions come in order of beam, then of token.

    Args:
        live: The hypotheses to extend.
        logits: Logits of the next token; overwritten.
        allowed: The same, with minus infinity at tokens that may not be chosen.
        count: Q.
    """
    rows = len(live.row)
    # A row's best extensions are among the best of its beams, so that only few log-probabilities are ever computed.
    best, token = stable_topk(allowed, min(count, allowed.shape[-1]))  # [BW, V] -> [BW, Q']
    best = best.float() - log_normalizer(logits)
    total = (live.log_probability.view(-1, 1) + best).view(rows, -1)  # [B, WQ']
    log_probability, place = stable_topk(total, min(count, total.shape[1]))  # [B, Q]
    return Candidates(place // best.shape[1], token.reshape(rows, -1).gather(1, place), log_probability)


def survive(
    live: Live, candidates: Candidates, ended: Bool[Tensor, "B Q"], width: int
) -> tuple[Live, Int[Tensor, "B W"]]:
    """Return the best `width` candidates that have not ended, and the row of the model's batch that each comes from."""
    place = ended.byte().argsort(dim=1, stable=True)[:, :width]  # unfinished candidates first, in their order
    beam, token, log_probability = (field.gather(1, place) for field in candidates)
    row = torch.arange(len(live.row), device=beam.device)[:, None]
    tokens = torch.cat([live.tokens[row, beam], token[:, :, None]], dim=-1)  # [B, W, L + 1]
    return Live(live.row, tokens, log_probability), row * live.tokens.shape[1] + beam
