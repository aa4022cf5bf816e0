"""The Python door: train, load and use runs from a script or a notebook, by the functions that the command line calls.

Everything here leaves the caller's process as it was: its working directory, `sys.argv`, loggers, warnings, environment,
the state of its random number generators, and torch's settings.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from math import nan
from pathlib import Path
from typing import Any, Self

from torch import nn

from etude.calling_process import garbage_collected, undisturbed
from etude.commands.compare import compare as compare_runs
from etude.commands.compare_sweep import compare_sweep
from etude.commands.derived.merge import merge as merge_runs
from etude.commands.derived.translate import translate as translate_texts
from etude.commands.evaluate import evaluate as evaluate_runs
from etude.commands.export.command import export as export_run
from etude.commands.inspect import CHANGEABLE, inspect
from etude.commands.predict import Predictor
from etude.commands.push import push as push_run
from etude.commands.reproduce import reproduce as reproduce_run
from etude.commands.sweep import run_sweep
from etude.commands.train import resume as resume_run
from etude.commands.train import train as train_run
from etude.config.change import read_overrides
from etude.config.compose import compose as compose_words
from etude.config.schema import Config
from etude.config.values import as_override
from etude.report.inspection import Inspection
from etude.report.look import look
from etude.report.page import report as write_report
from etude.report.sweep_page import write_sweep_report
from etude.runs.folder import CONFIGURATION, resolve
from etude.runs.saved_run import SavedRun
from etude.sweeps.saved_sweep import SavedSweep, resolve_sweep
from etude.sweeps.sweep_plan import read_plan
from etude.sweeps.sweep_results import SweepResults
from etude.tasks.base import Task
from etude.tasks.prediction import Prediction, choose_direction
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
        direction: str | None = None,
    ) -> list[Any]:
        """Return the model's answer to each input, whatever its neighbours are.

        Args:
            inputs: Texts; or records by field, such as `{"question": …, "context": …}`, for tasks that read records.
            overrides: Changes of the configuration, such as `"decoding.beams=5"`.
            checkpoint: `best`, `last` or a step's number.
            ensemble: Other runs whose probabilities are averaged with this one's.
            direction: Of a run that translates in several directions, the name of one, such as `en-fr`.

        Returns:
            Of texts, a line of text each, as `etude predict` writes it; of records, each record with the answer's values
            added.

        Raises:
            DataError: If a text cannot be answered; `predictions` tells which, beside the answers to the others.
        """
        with undisturbed():
            predictor = self._predictor(overrides, checkpoint, ensemble, direction)
            if inputs and not isinstance(inputs[0], str):
                return predictor.answer_records([dict(record) for record in inputs])  # type: ignore[arg-type]
            texts = [str(text) for text in inputs]
            return predictor.answer_texts(texts)

    def predictions(
        self,
        texts: Sequence[str],
        *overrides: str,
        checkpoint: str | int = "best",
        ensemble: Sequence[str] = (),
        direction: str | None = None,
    ) -> list[Prediction]:
        """Return all answers to each text with their scores; takes what `predict` does."""
        with undisturbed():
            return self._predictor(overrides, checkpoint, ensemble, direction).predictions(list(texts))

    def _predictor(
        self, overrides: Sequence[str], checkpoint: str | int, ensemble: Sequence[str], direction: str | None
    ) -> Predictor:
        if not overrides and checkpoint == "best" and not ensemble and direction is None:
            return Predictor(self.task, self.tokenizer)
        return Predictor.open(self, checkpoint, list(ensemble) or None, read_overrides(overrides), direction)

    def evaluate(self, split: str | None = None, *overrides: str, **options: Any) -> dict[str, Any]:
        """Score a checkpoint; see `etude.commands.evaluate.evaluate`.

        Args:
            split: `train`, `val` or `test`; None: `test` where there is one, else `val`.
            overrides: Changes of the configuration.
            options: `checkpoint`, `source`, `reference`, `pairs`, `name`, `ensemble`, `direction`, `track`.

        Returns:
            What `evaluations/<split>.json` says.
        """
        with garbage_collected(), undisturbed():
            return evaluate_runs([self], split=split, changes=read_overrides(overrides), **options)

    def attention(
        self,
        text: str,
        target: str | None = None,
        *overrides: str,
        checkpoint: str | int = "best",
        direction: str | None = None,
    ) -> Inspection:
        """Return every attention of the model to a text.

        Args:
            text: What the encoder reads, or a decoder without one.
            target: What the decoder reads; None: the model's own output.
            overrides: Changes of the configuration.
            checkpoint: `best`, `last` or a step's number.
            direction: Of a run that translates in several directions, the name of one, such as `en-fr`.
        """
        with undisturbed():
            default = not overrides and checkpoint == "best" and direction is None
            config = self.changed(read_overrides(overrides), CHANGEABLE)
            task = self.task if default else load_run(self, config, str(checkpoint))
            choose_direction(task, direction)
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
            options: `checkpoint`, `quantization`, `path`, `sentences`, `license`.
        """
        with undisturbed():
            return export_run(self, to=to, changes=read_overrides(overrides), **options)

    def translate(self, into: str | Path, text: str | Path | None = None, *overrides: str, **options: Any) -> Path:
        """Write a corpus of translations, and return its folder; see `etude.commands.derived.translate.translate`.

        Args:
            into: Folder of the corpus.
            text: File with a text per line; None: the training split of the run's data.
            overrides: Changes of the configuration, such as `"decoding=beam"`.
            options: `reverse`, `part`, `checkpoint`, `ensemble`.
        """
        with undisturbed():
            return translate_texts(self, into=into, text=text, changes=read_overrides(overrides), **options)

    def push(self, repository: str, **options: Any) -> Mapping[str, Any]:
        """Send an export to the Hugging Face hub; see `etude.commands.push.push`.

        Args:
            repository: Its name there, `owner/name`.
            options: `export`, `private`, `dry_run`.
        """
        with undisturbed():
            return push_run(self, repository=repository, **options)

    def report(self) -> Path:
        """Write the page of the run, and return its path."""
        return write_report(self.path)

    def resume(self, *overrides: str) -> Self:
        """Continue the run to its end, on another machine or for longer: `"budget=20epoch"`, `"trainer.devices=2"`.

        Returns:
            The run as it is then.
        """
        with garbage_collected(), undisturbed():
            return type(self).open(resume_run(self, read_overrides(overrides)).path)

    def reproduce(self, name: str | None = None, *overrides: str) -> dict[str, Any]:
        """Run the run again from its folder and compare bit by bit; see `etude.commands.reproduce.reproduce`."""
        with garbage_collected(), undisturbed():
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
    return compose_words(*_named(words), *(f"{key}={as_override(value)}" for key, value in keys.items()))


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
    with garbage_collected(), undisturbed():
        return Run.open(train_run(config).path)


class Sweep(SavedSweep):
    """Runs of one search space: what became of each, and the best of them. Made by `etude.sweep`."""

    @property
    def runs(self) -> list[Run]:
        """The runs that came to their end, by the number of the member."""
        return [Run.open(member.path) for member in self.finished]

    @property
    def best(self) -> Run:
        """The best run of the best trial: of the one whose mean over seeds is best, by the score of validations.

        Raises:
            ConfigurationError: If none is finished, or the runs are judged by different scores.
        """
        sign = -1.0 if self.document.mode == "max" else 1.0
        best = min(
            SweepResults.read(self).require_best().ended, key=lambda member: sign * float(member.progress.score or 0.0)
        )
        return Run.open(best.path)

    @property
    def table(self) -> dict[str, list[Any]]:
        """Members as columns of equal length: `pandas.DataFrame(sweep.table)`.

        `member`, `trial`, `state`, each parameter of the space, `seed`, `step`, and `score`, the best of its validations; what a
        member does not have is None.
        """
        members = self.members
        names = dict.fromkeys(name for member in members for name in member.document.assignment)
        columns: dict[str, list[Any]] = {
            "member": [member.document.number for member in members],
            "trial": [member.document.trial for member in members],
            "state": [member.state for member in members],
        }
        columns |= {name: [member.document.assignment.get(name) for member in members] for name in names}
        if "seed" not in columns:
            columns["seed"] = [member.document.config.get("seed") for member in members]
        columns["step"] = [member.progress.step for member in members]
        columns["score"] = [member.progress.score for member in members]
        return columns

    def report(self) -> Path:
        """Write the page of the sweep, and return its path."""
        return write_sweep_report(self)


def sweep(*words: str, **keys: Any) -> Sweep:
    """Train many runs from one search space, or go on with those that were begun, and return them, all at their end.

    Args:
        words: What would be written after `etude sweep`, such as `"optimizer.lr=1e-3,2e-3"` or `"search=learning_rate"`; a
            first word without `=` is the experiment's name.
        keys: Values of root keys; a list is several values: `seed=[1, 2, 3]`.

    Raises:
        EtudeError: What is wrong with a member's configuration, or which members failed.

    Example:
        >>> import etude
        >>> sweep = etude.sweep("translation/demo", "optimizer.lr=1e-3,2e-3", seed=[1, 2])  # doctest: +SKIP
        >>> sweep.best.scores["bleu"], sweep.table["score"]  # doctest: +SKIP
    """
    with undisturbed():
        return Sweep.open(run_sweep(read_plan([*_named(words), *_written_keys(keys)])).path)


def _named(words: Sequence[str]) -> list[str]:
    return [f"experiment={word}" if place == 0 and "=" not in word else word for place, word in enumerate(words)]


def _written_keys(keys: Mapping[str, Any]) -> list[str]:
    return [
        f"{key}={','.join(map(as_override, value)) if isinstance(value, list | tuple) else as_override(value)}"
        for key, value in keys.items()
    ]


def load(run: str | Path, outputs: str | Path = "outputs") -> Run:
    """Open a run.

    Args:
        run: Its folder, `<experiment>/<name>` under `outputs`, or `last`.
        outputs: The folder of all runs.

    Raises:
        ConfigurationError: If there is no such run; names the nearest ones.
    """
    return Run.open(resolve(str(run), Path(outputs).expanduser()))


def merge(*runs: SavedRun | str | Path, method: str = "mean", name: str | None = None, checkpoint: str = "best") -> Run:
    """Make a run of the mean of the weights of several runs.

    Args:
        runs: Two or more, opened or by what `load` takes.
        method: `mean`: of all; `greedy`: of those that improve the mean on the validation split.
        name: Name of the new run; None: that of the first with the method and the number of runs.
        checkpoint: `best` or `last`, of each run.
    """
    opened = [run if isinstance(run, SavedRun) else load(os.fspath(run)) for run in runs]
    with garbage_collected(), undisturbed():
        return Run.open(merge_runs(opened, method=method, name=name, checkpoint=checkpoint).path)


def compare(
    *runs: SavedRun | SavedSweep | str | Path,
    split: str | None = None,
    metric: str | Sequence[str] | None = None,
    save: str | Path | None = None,
) -> dict[str, Any]:
    """Compare finished runs, or the trials of a sweep: what differs in configuration, scores over seeds, significance, cost.

    Args:
        runs: Two or more, opened or by what `load` takes; or one sweep, by its folder or name.
        split: The evaluation that is compared; None: `test`, else `val`.
        metric: The scores whose differences are tested; None: the one that validations were judged by.
        save: Of a sweep, the file that its best configuration is written to, `conf/experiment/NAME.yaml`.

    Returns:
        What `etude compare format=json` writes.
    """
    asked = metric if metric is None or isinstance(metric, str) else list(metric)
    sweep = _only_sweep(runs)
    with undisturbed():
        if sweep is not None:
            comparison = compare_sweep(sweep, split=split, metric=asked, format="json", save=save)
        else:
            opened = [run if isinstance(run, SavedRun) else load(os.fspath(run)) for run in runs]
            comparison = compare_runs(opened, split=split, metric=asked, format="json", save=save)
    assert isinstance(comparison, dict)  # noqa: S101 (for type checkers: format="json" gives plain values)
    return comparison


def _only_sweep(runs: Sequence[SavedRun | SavedSweep | str | Path]) -> SavedSweep | None:
    """Return the sweep if nothing else is given; a word that is a run's is none."""
    if len(runs) != 1 or isinstance(runs[0], SavedRun):
        return None
    if isinstance(runs[0], SavedSweep):
        return runs[0]
    if (Path(runs[0]) / CONFIGURATION).is_file() or (Path("outputs") / runs[0] / CONFIGURATION).is_file():
        return None
    return SavedSweep.open(resolve_sweep(os.fspath(runs[0]), Path("outputs")))
