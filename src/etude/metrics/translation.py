"""Translation scores by sacrebleu, the field's reference, with the signatures that make them comparable.

Texts are detokenized; sacrebleu tokenizes them. Each is a line, as in the files that sacrebleu's command reads: line breaks
inside a text count as spaces.

sacrebleu's statistics of rows and the functions of their sums are private; its public `corpus_score` calls one after the
other, but returns neither the rows nor the ends of intervals.

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
    """BLEU (Papineni et al. 2002; Post 2018), from 0 to 100; of a single row, over the n-gram orders that it is long enough for.

    Args:
        tokenize: Name of sacrebleu's tokenizer: 13a, intl, char, zh, ja-mecab, none, ….
        lowercase: Whether case is ignored.

    Raises:
        ConfigurationError: If sacrebleu has no such tokenizer, or it needs a package that is not installed.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("",)

    def __init__(self, tokenize: str = "13a", lowercase: bool = False) -> None:
        tokenizers = sacrebleu.metrics.BLEU.TOKENIZERS
        if tokenize not in tokenizers:
            raise ConfigurationError(f"tokenize={tokenize} is none of sacrebleu's tokenizers: {', '.join(tokenizers)}")
        tokenized = tokenize == "none"  # and meant to be: sacrebleu need not warn that it looks so
        try:
            self._metric = sacrebleu.metrics.BLEU(lowercase=lowercase, force=tokenized, tokenize=tokenize)
        except (ImportError, RuntimeError) as error:
            raise ConfigurationError(f"tokenize={tokenize}: {' '.join(str(error).split())}") from error
        self._row_metric = sacrebleu.metrics.BLEU(lowercase=lowercase, tokenize=tokenize, effective_order=True)

    def statistics(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Statistics]:
        """Return the lengths and the counts of n-grams of each row."""
        return {"": _statistics(self._metric, outputs, references, self._row_metric)}


class ChrF:
    """chrF (Popović 2015), from 0 to 100; with a word order of 2, chrF++.

    Args:
        word_order: Length of the longest n-grams of words, besides those of characters.
        lowercase: Whether case is ignored.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("",)

    def __init__(self, word_order: int = 0, lowercase: bool = False) -> None:
        self._metric = sacrebleu.metrics.CHRF(word_order=word_order, lowercase=lowercase)

    def statistics(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Statistics]:
        """Return the counts of n-grams of each row."""
        return {"": _statistics(self._metric, outputs, references)}


class TER:
    """Translation edit rate (Snover et al. 2006): edits per 100 words of the reference; less is better.

    Args:
        case_sensitive: Whether case counts.
        normalized: Whether punctuation is first separated from words, as in Tercom.
        no_punct: Whether punctuation is first removed.
        asian_support: Whether these two also apply to Chinese, Japanese and Korean.
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
        """Return the edits and the length of each row."""
        return {"": _statistics(self._metric, outputs, references)}


def _statistics(
    metric: Metric, outputs: Sequence[str], references: Sequence[Sequence[str]], row_metric: Metric | None = None
) -> Statistics:
    """Return the statistics of a sacrebleu metric; `row_metric` scores single rows, where `metric` is for a corpus only."""
    lines = [_one_line(output) for output in outputs]
    # sacrebleu takes the first reference of every row, then the second, …; None where a row has fewer.
    columns = list(zip_longest(*([_one_line(text) for text in row] for row in references)))
    statistics: list[list[float]] = metric._extract_corpus_statistics(lines, columns)
    rows = np.array(statistics, np.float64)

    def score(total: Any) -> float:
        return float(metric._compute_score_from_stats(total).score)

    alone = np.array([(row_metric or metric)._compute_score_from_stats(row).score for row in rows], np.float64)
    return Summed(rows, alone, str(metric.get_signature()), score=score)


def _one_line(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ")
