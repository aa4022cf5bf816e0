"""Translation scores by sacrebleu, the field's reference, with the signatures that make them comparable.

Texts are detokenized, as a person writes them; sacrebleu tokenizes. There is one reference for each hypothesis.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from etude.errors import ConfigurationError, DataError
from etude.metrics.score import Score


def bleu(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    lowercase: bool = False,
    tokenize: str = "13a",
    bootstrap: int = 0,
) -> Score:
    """Return the BLEU of a corpus (Papineni et al. 2002; Post 2018), from 0 to 100.

    Args:
        hypotheses: One output for each row.
        references: The wanted output of each row.
        lowercase: Whether case is ignored.
        tokenize: sacrebleu's tokenizer: 13a, intl, char, zh, ja-mecab, none, ….
        bootstrap: Resamplings of the corpus for a 95 % confidence interval (Koehn 2004); 0: no interval.

    Raises:
        DataError: If the corpus is empty, or hypotheses and references are not equally many.
        ConfigurationError: If sacrebleu has no such tokenizer.
    """
    return _corpus_score(_bleu(lowercase, tokenize), hypotheses, references, bootstrap)


def chrf(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    lowercase: bool = False,
    word_order: int = 0,
    bootstrap: int = 0,
) -> Score:
    """Return the chrF of a corpus (Popović 2015), from 0 to 100; with a word order of 2 it is chrF++.

    Args:
        hypotheses: One output for each row.
        references: The wanted output of each row.
        lowercase: Whether case is ignored.
        word_order: Longest n-grams of words besides those of characters.
        bootstrap: Resamplings of the corpus for a 95 % confidence interval (Koehn 2004); 0: no interval.

    Raises:
        DataError: If the corpus is empty, or hypotheses and references are not equally many.
    """
    return _corpus_score(_CHRF(lowercase=lowercase, word_order=word_order), hypotheses, references, bootstrap)


def sentence_bleu(
    hypotheses: Sequence[str], references: Sequence[str], *, lowercase: bool = False, tokenize: str = "13a"
) -> list[float]:
    """Return the BLEU of each row, over the n-gram orders that it is long enough for. Their mean is not corpus BLEU."""
    return _sentence_scores(_bleu(lowercase, tokenize, effective_order=True), hypotheses, references)


def sentence_chrf(
    hypotheses: Sequence[str], references: Sequence[str], *, lowercase: bool = False, word_order: int = 0
) -> list[float]:
    """Return the chrF of each row."""
    return _sentence_scores(_CHRF(lowercase=lowercase, word_order=word_order), hypotheses, references)


class _CHRF(CHRF):  # type: ignore[misc]
    """sacrebleu's scores of resamplings are NumPy's, but Python's where nothing matches; their mean takes no mixture."""

    def _compute_f_score(self, statistics: list[int]) -> float:
        return float(super()._compute_f_score(statistics))


def _bleu(lowercase: bool, tokenize: str, effective_order: bool = False) -> BLEU:
    if tokenize not in BLEU.TOKENIZERS:
        raise ConfigurationError(f"tokenize={tokenize} is none of sacrebleu's tokenizers: {', '.join(BLEU.TOKENIZERS)}")
    return BLEU(lowercase=lowercase, tokenize=tokenize, effective_order=effective_order)


def _corpus_score(metric: BLEU | CHRF, hypotheses: Sequence[str], references: Sequence[str], bootstrap: int) -> Score:
    _check_rows(hypotheses, references)
    score = metric.corpus_score(hypotheses, [references], n_bootstrap=bootstrap)
    signature = str(metric.get_signature())
    if bootstrap < 2:
        return Score(score.score, signature)
    # sacrebleu shows its interval nowhere but in the formatted score, and there only if it is not all zero.
    shown = json.loads(score.format(width=12, is_json=True, signature=signature))
    middle, half = shown.get("confidence_mean", 0.0), shown.get("confidence_var", 0.0)
    return Score(score.score, signature, middle - half, middle + half)


def _sentence_scores(metric: BLEU | CHRF, hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    _check_rows(hypotheses, references)
    return [
        metric.sentence_score(hypothesis, [reference]).score
        for hypothesis, reference in zip(hypotheses, references, strict=True)
    ]


def _check_rows(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if not hypotheses or len(hypotheses) != len(references):
        raise DataError(
            f"{len(hypotheses)} hypotheses cannot be scored against {len(references)} references; "
            "give one reference for each hypothesis, and at least one"
        )
