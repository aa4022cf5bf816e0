"""Artifacts of a run in W&B, with their lineage: data, tokenizer, start and teacher, its checkpoints, its predictions.

What a run reads is declared when it connects, what it has made when it is finished. Equal content has equal digests, so the
checkpoint that one run logs and another one begins with is one artifact, and W&B draws the line between them. Nothing is
looked up on the server: so it works offline, too, and is uploaded by `wandb sync`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from etude.errors import ConfigurationError
from etude.runs.folder import EVALUATIONS, TOKENIZER, resolve
from etude.runs.saved_run import SavedRun

KINDS = ("data", "tokenizer", "best", "last", "predictions")
"""What `logger.wandb.artifacts` may list."""

_CHECKPOINTS = ("best", "last")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunArtifacts:
    """The artifacts of one run.

    Attributes:
        run: The run.
        kinds: Which of `KINDS` are sent.
        days: Days after which W&B may delete checkpoints and predictions; None: they stay.
    """

    run: SavedRun
    kinds: Sequence[str] = ()
    days: int | None = None

    def declare_inputs(self, wandb_run: Any) -> None:
        """Declare what the run reads, and log the tokenizer that it has made."""
        if not self.run.is_prepared:
            return  # a run that never came to its data
        if "data" in self.kinds:
            _use(wandb_run, self._data())
        if "tokenizer" in self.kinds:
            (_log_to if self.run.config.start is None else _use)(wandb_run, self._tokenizer())
        if set(_CHECKPOINTS) & set(self.kinds):
            distillation = self.run.config.distillation
            teacher = None if distillation is None else distillation.arguments["teacher"]
            for source in filter(None, (self.run.config.start, teacher)):
                self._declare_model(wandb_run, source)

    def log_outputs(self, wandb_run: Any) -> None:
        """Log what the run has made, once it is finished."""
        aliases: dict[Path, list[str]] = {}
        for which in _CHECKPOINTS:
            if which in self.kinds:
                aliases.setdefault(self.run.checkpoint(which).resolve(), []).append(which)
        # The best one last, so that W&B's own alias `latest` is the one that is used.
        for folder, names in sorted(aliases.items(), key=lambda one: "best" in one[1]):
            _log_to(wandb_run, self._model(self.run, folder), [*names, folder.name])
        if "predictions" in self.kinds:
            _log_to(wandb_run, self._predictions())

    def _declare_model(self, wandb_run: Any, name: str) -> None:
        try:
            source = SavedRun.open(resolve(name, self.run.config.paths.outputs))
            folder = source.checkpoint("best").resolve()
        except ConfigurationError as error:  # a run that is continued needs its start no more
            _log.info("W&B is not told of a run that %s begins with or learns from: %s", self.run.path, error)
            return
        _use(wandb_run, self._model(source, folder))

    def _data(self) -> Any:
        """Return the data as its digest and its counts; none of its texts leave the machine."""
        data = self.run.data
        known = {"fingerprint": data.fingerprint, "rows": data.rows, "dropped": data.dropped}
        artifact = _new(f"data-{data.fingerprint[:12]}", "dataset", "digest and counts of the data", known)
        with artifact.new_file("data.json", mode="w") as file:
            json.dump(known, file, indent=1, sort_keys=True)
        return artifact

    def _tokenizer(self) -> Any:
        tokenizer = self.run.data.tokenizer
        known = {"vocabulary": tokenizer.vocabulary, "fingerprint": tokenizer.fingerprint}
        artifact = _new(f"tokenizer-{tokenizer.fingerprint[:12]}", "tokenizer", "files of the tokenizer", known)
        return _with_files(artifact, self.run.path / TOKENIZER)

    def _model(self, run: SavedRun, folder: Path) -> Any:
        known = {"run": run.name, "experiment": run.config.run.experiment, "checkpoint": folder.name}
        artifact = _new(f"model-{run.identity()}", "model", f"checkpoint {folder.name} of {run.name}", known)
        return _with_files(self._kept(artifact), folder)

    def _predictions(self) -> Any:
        run = self.run
        known = {"run": run.name, "experiment": run.config.run.experiment}
        artifact = _new(f"predictions-{run.identity()}", "predictions", f"evaluations of {run.name}", known)
        # Another evaluation writes these files anew.
        return _with_files(self._kept(artifact), run.path / EVALUATIONS, copied=True)

    def _kept(self, artifact: Any) -> Any:
        if self.days is not None:
            artifact.ttl = timedelta(days=self.days)
        return artifact


def _new(name: str, kind: str, description: str, metadata: dict[str, Any]) -> Any:
    import wandb  # it takes a second

    return wandb.Artifact(name, kind, description=description, metadata=metadata)


def _with_files(artifact: Any, folder: Path, *, copied: bool = False) -> Any:
    """Add a folder. Files that stay as they are W&B reads where they lie, also by a later `wandb sync`, and keeps no copy."""
    artifact.add_dir(str(folder.absolute()), policy="mutable" if copied else "immutable")
    return artifact


def _log_to(wandb_run: Any, artifact: Any, aliases: Sequence[str] = ()) -> None:
    wandb_run.log_artifact(artifact, aliases=["latest", *aliases])


def _use(wandb_run: Any, artifact: Any) -> None:
    """Declare an artifact as an input, whether or not W&B has it already.

    `Run.use_artifact` does the same, but refuses to offline and waits for the server online.
    """
    wandb_run._log_artifact(artifact, is_user_created=True, use_after_commit=True)
