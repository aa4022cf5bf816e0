"""Evaluation of a language model on minimal pairs: `etude evaluate RUN pairs=FILE`."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from etude.config.schema import Config
from etude.data.readers.minimal_pairs import MinimalPair, read_minimal_pairs
from etude.errors import ConfigurationError, DataError
from etude.metrics.language_modeling import pair_statistics
from etude.metrics.resampling import all_scored
from etude.report.significance import ScoredRows
from etude.runs.folder import EVALUATIONS
from etude.runs.saved_run import SavedRun
from etude.tasks.base import Task
from etude.tasks.prediction import ScoresTexts
from etude.tasks.running_sums import Row
from etude.tokenization.base import Tokenizer
from etude.training.checkpoint_evaluation import BOOTSTRAP, score_values, write_evaluation
from etude.training.evaluation_settings import SPLITS, evaluation_name
from etude.training.restore import load_run

TOKENS = 4096
"""Tokens that are read at once where a run's batch is one of examples too large or not known."""

LOGGED = 10.0
"""Seconds between two lines of the log: many pairs take minutes."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RequestedPairs:
    """Minimal pairs to evaluate on in place of a split.

    Attributes:
        path: Their file.
        name: Name of the evaluation.
        pairs: The pairs, in the order of the file.
    """

    path: Path
    name: str
    pairs: list[MinimalPair]

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> RequestedPairs | None:
        """Read `pairs` of a command line, and `name`; None if it names no pairs.

        Raises:
            ConfigurationError: If the arguments do not fit together.
            DataError: If the file cannot be read, or a line is no pair.
        """
        if arguments.get("pairs") is None:
            return None
        for key in ("source", "reference", "split", "ensemble", "direction"):
            if arguments.get(key) is not None:
                raise ConfigurationError(f"{key}={arguments[key]} and pairs= exclude each other (command line)")
        path = Path(str(arguments["pairs"])).expanduser()
        name = str(arguments.get("name") or path.name.removesuffix(".gz").rpartition(".")[0])
        if name in SPLITS or "/" in name or name.startswith(".") or not name:
            raise ConfigurationError(
                f"the name {name!r} of the evaluation cannot be used; write name=OTHER (command line)"
            )
        return cls(path, name, read_minimal_pairs(path))


def evaluate_pairs(
    run: SavedRun, config: Config, checkpoint: str, requested: RequestedPairs, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], ScoredRows]:
    """Score a checkpoint on minimal pairs, and write `evaluations/<name>.json` and `.jsonl` into the run's folder.

    Args:
        run: The run.
        config: Its configuration with the requested changes.
        checkpoint: `best`, `last` or a step's number.
        requested: The pairs.
        settings: Settings that are not the run's own.

    Returns:
        The content of the JSON file, and the scores with the pairs that they are of.

    Raises:
        ConfigurationError: If the run's task gives texts no likelihood.
        DataError: If a sentence has no tokens, or more than the model reads.
    """
    task: Task = load_run(run, config, checkpoint)
    if not isinstance(task, ScoresTexts):
        raise ConfigurationError(f"pairs= is for language models, not for {type(task).__name__} (command line)")
    good, bad = _likelihoods(task, run.tokenizer, requested.pairs, config)
    phenomena = [pair.phenomenon for pair in requested.pairs]
    statistics = pair_statistics(np.array(good), np.array(bad), phenomena, task.LIKELIHOOD)
    results = all_scored(statistics, BOOTSTRAP)
    rows: list[Row] = [
        {
            "id": number,
            "good": pair.good,
            "bad": pair.bad,
            **({"phenomenon": pair.phenomenon} if pair.phenomenon else {}),
            "log_likelihood_good": first,
            "log_likelihood_bad": second,
            "right": first > second,
        }
        for number, (pair, first, second) in enumerate(zip(requested.pairs, good, bad, strict=True))
    ]
    evaluation = {
        "split": requested.name,
        "checkpoint": run.checkpoint(checkpoint).name,
        "examples": len(rows),
        "files": {"source": str(requested.path), "references": []},
        **({"settings": dict(settings)} if settings else {}),
        **score_values(results, requested.name),
    }
    write_evaluation(run.path / EVALUATIONS, evaluation_name(requested.name, settings), evaluation, rows)
    return evaluation, ScoredRows(results, [(row["id"], (row["good"], row["bad"])) for row in rows])


def _likelihoods(
    task: ScoresTexts, tokenizer: Tokenizer, pairs: Sequence[MinimalPair], config: Config
) -> tuple[list[float], list[float]]:
    """Return the log-likelihoods of the good sentences, and of the bad ones.

    Equal tokens are scored once, and so have equal scores to the last bit.
    """
    texts = [text for pair in pairs for text in (pair.good, pair.bad)]
    encoded = [tuple(ids) for ids in tokenizer.encode(texts)]
    for number, ids in enumerate(encoded):
        if not ids:
            raise DataError(f"{pairs[number // 2].origin}: the tokenizer finds nothing in {texts[number][:60]!r}")
        if len(ids) > task.text_limit:
            raise DataError(
                f"{pairs[number // 2].origin}: a sentence of {len(ids)} tokens is longer than the {task.text_limit} that the "
                "model reads; leave the pair out of the file"
            )
    once = sorted(set(encoded), key=lambda ids: (len(ids), ids))
    size = config.batch.examples or max(1, (config.batch.tokens or TOKENS) // len(once[-1]))
    scores, logged = dict[tuple[int, ...], float](), time.monotonic()
    for start in range(0, len(once), size):
        part = once[start : start + size]
        scores |= zip(part, task.log_likelihoods(part, tokenizer, size), strict=True)
        if time.monotonic() - logged >= LOGGED:
            _log.info("%s of %s sentences are scored", f"{len(scores):,}", f"{len(once):,}")
            logged = time.monotonic()
    return [scores[ids] for ids in encoded[::2]], [scores[ids] for ids in encoded[1::2]]
