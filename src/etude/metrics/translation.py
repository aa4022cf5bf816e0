"""Translation scores by sacrebleu, the field's reference, with the signatures that make them comparable.

Texts are detokenized, as a person writes them; sacrebleu tokenizes. A text is a line there, as in a file that
sacrebleu's command reads: line breaks inside count as spaces.

sacrebleu's statistics of rows and the functions of their sums are private; its public `corpus_score` is those two, one
after the other, but gives neither rows nor intervals in numbers.

Axes: N rows, K statistics of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, ClassVar

import numpy as np
import sacrebleu.metrics
from sacrebleu.metrics.base import Metric

from etude.errors import ConfigurationError
from etude.metrics.score import Statistics, Summed


class BLEU:
    """BLEU (Papineni et al. 2002; Post 2018), from 0 to 100; of a row alone over the orders that it is long enough for.

    Args:
        tokenize: sacrebleu's tokenizer: 13a, intl, char, zh, ja-mecab, none, ….
        lowercase: Whether case is ignored.

    Raises:
        ConfigurationError: If sacrebleu has no such tokenizer, or it needs a package that is not there.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("",)

    def __init__(self, tokenize: str = "13a", lowercase: bool = False) -> None:
        known = sacrebleu.metrics.BLEU.TOKENIZERS
        if tokenize not in known:
            raise ConfigurationError(f"tokenize={tokenize} is none of sacrebleu's tokenizers: {', '.join(known)}")
        try:
            self._metric = sacrebleu.metrics.BLEU(lowercase=lowercase, tokenize=tokenize)
        except (ImportError, RuntimeError) as error:
            raise ConfigurationError(f"tokenize={tokenize}: {' '.join(str(error).split())}") from error
        self._of_a_row = sacrebleu.metrics.BLEU(lowercase=lowercase, tokenize=tokenize, effective_order=True)

    def statistics(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Statistics]:
        """Return lengths and numbers of n-grams of each row."""
        return {"": _statistics(self._metric, outputs, references, self._of_a_row)}


class ChrF:
    """chrF (Popović 2015), from 0 to 100; with a word order of 2 it is chrF++.

    Args:
        word_order: Longest n-grams of words besides those of characters.
        lowercase: Whether case is ignored.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("",)

    def __init__(self, word_order: int = 0, lowercase: bool = False) -> None:
        self._metric = sacrebleu.metrics.CHRF(word_order=word_order, lowercase=lowercase)

    def statistics(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Statistics]:
        """Return numbers of n-grams of each row."""
        return {"": _statistics(self._metric, outputs, references)}


class TER:
    """Translation edit rate (Snover et al. 2006): edits for 100 words of the reference; less is better.

    Args:
        case_sensitive: Whether case counts.
        normalized: Whether punctuation is first divided from words, as Tercom does.
        no_punct: Whether punctuation is first taken away.
        asian_support: Whether the two above know Chinese, Japanese and Korean.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("",)

    def __init__(
        self,
        case_sensitive: bool = False,
        normalized: bool = False,
        no_punct: bool = False,
        asian_support: bool = False,
    ) -> None:
        self._metric = sacrebleu.metrics.TER(
            normalized=normalized, no_punct=no_punct, asian_support=asian_support, case_sensitive=case_sensitive
        )

    def statistics(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Statistics]:
        """Return edits and length of each row."""
        return {"": _statistics(self._metric, outputs, references)}


def _statistics(
    metric: Metric, outputs: Sequence[str], references: Sequence[Sequence[str]], of_a_row: Metric | None = None
) -> Statistics:
    """Return the statistics of sacrebleu's metric; `of_a_row` scores a single row where `metric` should not."""
    lines = [_one_line(output) for output in outputs]
    # sacrebleu wants the first reference of every row, then the second, …; None where a row has fewer.
    columns = list(zip_longest(*([_one_line(text) for text in row] for row in references)))
    found: list[list[float]] = metric._extract_corpus_statistics(lines, columns)
    rows = np.array(found, np.float64)

    def score(total: Any) -> float:
        return float(metric._compute_score_from_stats(total).score)

    alone = np.array([(of_a_row or metric)._compute_score_from_stats(row).score for row in rows], np.float64)
    return Summed(rows, score, alone, str(metric.get_signature()))


def _one_line(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ")
