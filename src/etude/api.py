"""The Python door: train, load and use runs from a script or a notebook, by the functions that the command line calls.

Everything here leaves the caller's process as it was: its working directory, `sys.argv`, loggers, warnings, environment,
the state of its random number generators, and torch's settings.
"""

from __future__ import annotations

import logging
import os
import random
import re
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from math import nan
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from etude.commands.compare import compare as compare_runs
from etude.commands.evaluate import evaluate as evaluate_runs
from etude.commands.export.command import export as export_run
from etude.commands.inspect import CHANGEABLE, inspect
from etude.commands.predict import Predictor
from etude.commands.reproduce import reproduce as reproduce_run
from etude.commands.train import resume as resume_run
from etude.commands.train import train as train_run
from etude.config.change import read_overrides
from etude.config.compose import compose as compose_words
from etude.config.schema import Config
from etude.console import QUIET, configure_console
from etude.errors import ConfigurationError
from etude.report import report as write_report
from etude.report.inspection import Inspection, look
from etude.runs.folder import resolve
from etude.runs.saved_run import SavedRun
from etude.signals import SIGNALS
from etude.tasks.base import Task
from etude.tasks.prediction import Prediction
from etude.training.restore import load_run


class Run(SavedRun):
    """A run: its folder, what was measured of it, and what can be done with its model.

    Made by `etude.train` and `etude.load`. What `SavedRun` has is here too: `path`, `config`, `state`, `facts`, `data`,
    `manifest`, `tokenizer`, `events`, `checkpoint`.

    Words such as `"decoding.beams=5"` change the run's configuration for one call, as they do on the command line.
    """

    @property
    def scores(self) -> dict[str, float]:
        """Scores of the best checkpoint on the test split, or on val where there is none, by name: `{"bleu": 26.6, …}`.

        Raises:
            ConfigurationError: If the run is not finished.
        """
        return {name.partition("/")[2]: value for name, value in self.conclusion.scores.items()}

    @property
    def metrics(self) -> dict[str, list[float]]:
        """Everything that was logged, as columns of equal length: `pandas.DataFrame(run.metrics)`.

        `step`, `tokens` and `seconds` are those of each line; a value that a line does not have is NaN.
        """
        events = self.events
        names = dict.fromkeys(name for event in events for name in event.values)
        columns: dict[str, list[float]] = {
            "step": [event.step for event in events],
            "tokens": [event.tokens for event in events],
            "seconds": [event.seconds for event in events],
        }
        return columns | {name: [event.values.get(name, nan) for event in events] for name in names}

    @cached_property
    def task(self) -> Task:
        """The `LightningModule` with the weights of the best checkpoint, in evaluation mode."""
        with undisturbed():
            return load_run(self)

    @property
    def model(self) -> nn.Module:
        """The network with the weights of the best checkpoint, in evaluation mode."""
        return self.task.model

    def predict(
        self,
        inputs: Sequence[str] | Sequence[Mapping[str, str]],
        *overrides: str,
        checkpoint: str | int = "best",
        ensemble: Sequence[str] = (),
    ) -> list[Any]:
        """Return the model's answer to each input, whatever its neighbours are.

        Args:
            inputs: Texts; or records by field, such as `{"question": …, "context": …}`, for tasks that read records.
            overrides: Changes of the configuration, such as `"decoding.beams=5"`.
            checkpoint: `best`, `last` or a step's number.
            ensemble: Other runs whose probabilities are averaged with this one's.

        Returns:
            Of texts, a line of text each, as `etude predict` writes it; of records, each record with the answer's values
            added.
        """
        with undisturbed():
            predictor = self._predictor(overrides, checkpoint, ensemble)
            if inputs and not isinstance(inputs[0], str):
                return predictor.answer_records([dict(record) for record in inputs])  # type: ignore[arg-type]
            texts = [str(text) for text in inputs]
            return [prediction.text for prediction in predictor.predictions(texts)]

    def predictions(
        self,
        texts: Sequence[str],
        *overrides: str,
        checkpoint: str | int = "best",
        ensemble: Sequence[str] = (),
    ) -> list[Prediction]:
        """Return all answers to each text with their scores; takes what `predict` does."""
        with undisturbed():
            return self._predictor(overrides, checkpoint, ensemble).predictions(list(texts))

    def _predictor(self, overrides: Sequence[str], checkpoint: str | int, ensemble: Sequence[str]) -> Predictor:
        if not overrides and checkpoint == "best" and not ensemble:
            return Predictor(self.task, self.tokenizer)
        return Predictor.open(self, checkpoint, list(ensemble) or None, read_overrides(overrides))

    def evaluate(self, split: str | None = None, *overrides: str, **options: Any) -> dict[str, Any]:
        """Score a checkpoint; see `etude.commands.evaluate.evaluate`.

        Args:
            split: `train`, `val` or `test`; None: `test` where there is one, else `val`.
            overrides: Changes of the configuration.
            options: `checkpoint`, `source`, `reference`, `name`, `ensemble`.

        Returns:
            What `evaluations/<split>.json` says.
        """
        with undisturbed():
            return evaluate_runs([self], split=split, changes=read_overrides(overrides), **options)

    def attention(
        self, text: str, target: str | None = None, *overrides: str, checkpoint: str | int = "best"
    ) -> Inspection:
        """Return every attention of the model to a text.

        Args:
            text: What the encoder reads, or a decoder without one.
            target: What the decoder reads; None: the model's own output.
            overrides: Changes of the configuration.
            checkpoint: `best`, `last` or a step's number.
        """
        with undisturbed():
            default = not overrides and checkpoint == "best"
            config = self.changed(read_overrides(overrides), CHANGEABLE)
            task = self.task if default else load_run(self, config, str(checkpoint))
            return look(task, self.tokenizer, text, target)

    def inspect(self, text: str, target: str | None = None, *overrides: str, **options: Any) -> Path:
        """Write a page of what the model attends to, and return its path; takes what `attention` does."""
        with undisturbed():
            page = inspect(self, text=text, target=target, changes=read_overrides(overrides), **options)
        return Path(os.fspath(page))  # type: ignore[arg-type]

    def export(self, to: str = "huggingface", *overrides: str, **options: Any) -> Path:
        """Write the model for another library, prove that it computes the same, and return the folder.

        Args:
            to: `huggingface`, `ctranslate2` or `onnx`.
            overrides: Changes of the configuration.
            options: `checkpoint`, `quantization`, `path`, `sentences`.
        """
        with undisturbed():
            return export_run(self, to=to, changes=read_overrides(overrides), **options)

    def report(self) -> Path:
        """Write the page of the run, and return its path."""
        return write_report(self.path)

    def resume(self, *overrides: str) -> Self:
        """Continue the run to its end, on another machine or for longer: `"budget=20epoch"`, `"trainer.devices=2"`.

        Returns:
            The run as it is then.
        """
        with undisturbed():
            return type(self).open(resume_run(self, read_overrides(overrides)).path)

    def reproduce(self, name: str | None = None, *overrides: str) -> dict[str, Any]:
        """Run the run again from its folder and compare bit by bit; see `etude.commands.reproduce.reproduce`."""
        with undisturbed():
            return reproduce_run(self, name=name, changes=read_overrides(overrides))


def compose(*words: str, **keys: Any) -> Config:
    """Compose and check a configuration.

    Args:
        words: What would be written after `etude train`; a first word without `=` is the experiment's name.
        keys: Values of root keys, such as `seed=2`.

    Raises:
        ConfigurationError: If it cannot be composed, or does not fit: what, where, and what to do, in one line.

    Example:
        >>> import etude
        >>> config = etude.compose("translation/demo", "model.width=128", seed=2)
        >>> config.seed, config.batch.tokens, config.model.arguments["width"]
        (2, 2048, 128)
    """
    named = [f"experiment={word}" if place == 0 and "=" not in word else word for place, word in enumerate(words)]
    return compose_words(*named, *(f"{key}={_written(value)}" for key, value in keys.items()))


def train(*words: str, **keys: Any) -> Run:
    """Train an experiment and return its run, finished.

    As on the command line, a run of the same `run.name` is continued, and left as it is if it is finished.

    Args:
        words: As `compose` takes them.
        keys: As `compose` takes them.

    Raises:
        EtudeError: What is wrong with the configuration, or what stopped the training.
    """
    config = compose(*words, **keys)
    with undisturbed():
        return Run.open(train_run(config).path)


def load(run: str | Path, outputs: str | Path = "outputs") -> Run:
    """Open a run.

    Args:
        run: Its folder, `<experiment>/<name>` under `outputs`, or `last`.
        outputs: The folder of all runs.

    Raises:
        ConfigurationError: If there is no such run; names the nearest ones.
    """
    return Run.open(resolve(str(run), Path(outputs).expanduser()))


def compare(
    *runs: SavedRun | str | Path, split: str | None = None, metric: str | Sequence[str] | None = None
) -> dict[str, Any]:
    """Compare finished runs: what differs in configuration, scores over seeds, significance, cost.

    Args:
        runs: Two or more, opened or by what `load` takes.
        split: The evaluation that is compared; None: `test`, else `val`.
        metric: The scores whose differences are tested; None: the one that validations were judged by.

    Returns:
        What `etude compare format=json` writes.
    """
    opened = [run if isinstance(run, SavedRun) else load(run) for run in runs]
    asked = metric if metric is None or isinstance(metric, str) else list(metric)
    with undisturbed():
        comparison = compare_runs(opened, split=split, metric=asked, format="json")
    assert isinstance(comparison, dict)  # noqa: S101 (for type checkers: format="json" gives plain values)
    return comparison


def _written(value: Any) -> str:
    """Return a value as Hydra's grammar of overrides reads it back."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_written, value)) + "]"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        # Within quotes a backslash is itself, unless a quote follows it.
        text = re.sub(r"(\\*)'", r"\1\1\\'", str(value))
        return "'" + re.sub(r"(\\+)$", r"\1\1", text) + "'"
    raise ConfigurationError(
        f"{value!r} cannot be a value of a configuration; give text, a number, a list or a mapping"
    )


@contextmanager
def undisturbed() -> Iterator[None]:
    """Show progress and messages while the block runs, and give the process back as it was.

    What is given back: generators of Python, NumPy and torch, torch's number of threads and its deterministic mode, the
    environment, handlers of signals, loggers, and filters of warnings.
    """
    with _random_state(), _torch_settings(), _environment(), _signals(), _console(), warnings.catch_warnings():
        yield


@contextmanager
def _random_state() -> Iterator[None]:
    python, numpy, devices = random.getstate(), np.random.get_state(), range(torch.cuda.device_count())
    with torch.random.fork_rng(devices if torch.cuda.is_initialized() else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def _torch_settings() -> Iterator[None]:
    threads, warn_only = torch.get_num_threads(), torch.is_deterministic_algorithms_warn_only_enabled()
    deterministic, fill = torch.are_deterministic_algorithms_enabled(), _deterministic().fill_uninitialized_memory
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        _deterministic().fill_uninitialized_memory = fill


def _deterministic() -> Any:
    return torch.utils.deterministic


@contextmanager
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _signals() -> Iterator[None]:
    in_main_thread = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in SIGNALS} if in_main_thread else {}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _console() -> Iterator[None]:
    """Show etude's messages as a command does, unless the caller has set up logging for them."""
    logger = logging.getLogger("etude")
    before = (logger.handlers[:], logger.propagate, logger.level)
    levels = {name: logging.getLogger(name).level for name in QUIET}
    if not logger.hasHandlers():
        configure_console()
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = before[0], before[1]
        logger.setLevel(before[2])
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
