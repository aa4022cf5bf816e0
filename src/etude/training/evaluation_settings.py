"""Evaluations that differ from the run's own: on files in place of a split, or with other settings.

Each has a name of its own, and so its own files; `etude compare` uses the evaluation that the run's configuration describes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etude.config.annotations import PARTIAL, TARGET
from etude.config.schema import METRICS, Config
from etude.config.signatures import constant
from etude.config.values import changes, within
from etude.errors import ConfigurationError
from etude.runs.saved_run import SavedRun

SPLITS = ("train", "val", "test")

SAME_RESULTS = ("batch", "trainer", "paths")
"""Keys that change no result, and neither do keys below them."""

_FILE_ARGUMENTS = ("source", "reference", "name")
_PLAIN = re.compile(r"[\w.+-]{1,40}")
_MAX_NAME_LENGTH = 120


@dataclass(frozen=True)
class RequestedFiles:
    """Files to evaluate on in place of a split: `etude evaluate RUN source=FILE reference=FILE`.

    Attributes:
        source: Path of a file with one input text per line.
        references: Paths of files with one reference output per line.
        name: Name of the evaluation: its files are `evaluations/<name>.json`, ….
        is_named: Whether the user chose the name.
        direction: Direction of the texts, for a run that translates in several; None: the run has one.
    """

    source: Path
    references: tuple[Path, ...]
    name: str
    is_named: bool
    direction: str | None = None

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> RequestedFiles | None:
        """Read `source`, `reference`, `name`, `split` and `direction` of a command line; None if it names no files.

        Raises:
            ConfigurationError: If the arguments do not fit together.
        """
        present = [key for key in _FILE_ARGUMENTS if arguments.get(key) is not None]
        direction = arguments.get("direction")
        if not present:
            if direction is not None:
                raise ConfigurationError(
                    f"direction={direction} is that of source=FILE; the scores of a split tell each direction (command line)"
                )
            return None
        for key in ("source", "reference"):
            if key not in present:
                raise ConfigurationError(f"{present[0]}= is given without {key}=FILE; write both (command line)")
        if arguments.get("split") is not None:
            raise ConfigurationError(f"split={arguments['split']} and source= exclude each other (command line)")
        reference = arguments["reference"]
        references = reference if isinstance(reference, list) else [reference]
        paths = [Path(str(path)).expanduser() for path in (arguments["source"], *references)]
        ending = "" if direction is None else f".{direction}"
        name = str(arguments.get("name") or paths[0].name.removesuffix(".gz") + ending)
        if name in SPLITS or "/" in name or name.startswith("."):
            why = "is that of a split" if name in SPLITS else "cannot be that of a file"
            raise ConfigurationError(f"the name {name!r} of the evaluation {why}; write name=OTHER (command line)")
        named = None if direction is None else str(direction)
        return cls(paths[0], tuple(paths[1:]), name, "name" in present, named)

    def replacing_data(self, config: Config, requested: Mapping[str, Any]) -> Config:
        """Return a run's configuration with these files as its data: every line, up to the model's maximum length.

        Args:
            config: The configuration.
            requested: Requested changes; the run's own limit was meant for its data and does not apply to these files.

        Raises:
            ConfigurationError: If the run's task does not map texts to texts.
        """
        task, model, data = config.task.target, config.model.arguments, config.data.arguments
        if constant(task, "BATCH") != "TranslationBatch":
            raise ConfigurationError(f"source= is for runs that turn texts into texts, not for {task} (command line)")
        corpus = {TARGET: "etude.data.corpora.EvaluationFiles", **self.paths(), **self._direction_in(data)}
        of_a_part = data.get("of")  # of a mixture
        kind = {**config.data.values} if of_a_part is None else {**of_a_part, PARTIAL: False}
        return config.updated(
            {
                "data": {**kind, "corpus": corpus, "max_length": model.get("max_length") or kind["max_length"]},
                "limit": {"train": None, "val": None, "test": requested.get("limit.test"), "overfit": False},
            }
        )

    def _direction_in(self, data: Mapping[str, Any]) -> dict[str, str]:
        """Return the direction as an argument of the corpus.

        Raises:
            ConfigurationError: If the run has several directions and none of them is given, or has none.
        """
        pairs = data.get("pairs")
        if pairs is None and self.direction is None:
            return {}
        if self.direction is None or self.direction not in (pairs or ()):
            given = (
                "source= is given without its direction" if self.direction is None else f"direction={self.direction}"
            )
            advice = f"write direction={' or direction='.join(pairs)}" if pairs else "this run has one; leave it out"
            raise ConfigurationError(f"{given}: {advice} (command line)")
        return {"direction": self.direction}

    def paths(self) -> dict[str, Any]:
        """Return the files as plain values."""
        return {"source": str(self.source), "references": [str(path) for path in self.references]}


def changed_settings(run: SavedRun, config: Config, requested: Mapping[str, Any], checkpoint: str) -> dict[str, Any]:
    """Return the requested settings that can change the run's scores.

    Args:
        run: The run.
        config: The run's configuration with the requested changes.
        requested: Dotted keys and values. A metric that is added changes none of the others.
        checkpoint: The requested checkpoint: `best`, `last` or a step's number.
    """
    metrics = run.config.task.arguments.get("metrics") or {}
    different = [
        key
        for key in changes(run.config.values, config.values)
        if not (within(key, SAME_RESULTS) or _is_added_metric(key, metrics))
    ]
    settings = {key: value for key, value in requested.items() if any(within(other, (key,)) for other in different)}
    if run.checkpoint(checkpoint) != run.checkpoint("best"):
        settings["checkpoint"] = checkpoint
    return settings


def evaluation_name(
    name: str, settings: Mapping[str, Any], files: RequestedFiles | None = None, *, ensemble: bool = False
) -> str:
    """Return the name of an evaluation: of an ensemble `test-ensemble`, with changed settings `test-decoding.beams=1`.

    Long values are hashed. A name that the user chose for files stays as it is.
    """
    name = f"{name}-ensemble" if ensemble else name
    if files is not None and files.is_named:
        return name
    full = "".join([name, *(f"-{key}={_short(value)}" for key, value in sorted(settings.items()))])
    return full if len(full) <= _MAX_NAME_LENGTH else f"{name}-{_hash(dict(settings))}"


def _is_added_metric(key: str, metrics: Mapping[str, Any]) -> bool:
    return within(key, (METRICS,)) and not within(key, [f"{METRICS}.{name}" for name in metrics])


def _short(value: Any) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else _hash(value)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]
