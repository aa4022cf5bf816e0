"""A run as its folder holds it, opened and checked once: what every command on a run is given."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from omegaconf import OmegaConf

from etude.atomic import write_text
from etude.checkpoints.integrity import newest_valid
from etude.config.agent_words import agent_run_id
from etude.config.change import changed
from etude.config.schema import Config
from etude.config.stored import stored_configuration
from etude.config.values import public_arguments, without_secrets
from etude.errors import ConfigurationError
from etude.runs.documents import Conclusion, Data, Merged, RunManifest
from etude.runs.folder import (
    CHECKPOINTS,
    CONFIGURATION,
    DATA,
    IDENTITY,
    MANIFEST,
    OVERRIDES,
    PRETRAINED,
    TOKENIZER,
    state,
)
from etude.runs.reading import read_conclusion, read_data, read_facts, read_identity, read_manifest
from etude.runs.record import RECORD, Event, read
from etude.tokenization.base import Tokenizer
from etude.types import Facts


class SavedRun:
    """One run's folder.

    What training writes once is read when it is first asked for, and kept: tokenizer, facts, data, manifest. What grows or
    changes is read anew each time: the record, the checkpoints, the conclusion.

    Attributes:
        path: The folder.
        config: The configuration that the run was begun with, or was continued with last.
    """

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
        self.config = config

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open the folder of a run that has begun.

        Raises:
            DataError: If its configuration is damaged.
            ConfigurationError: If its configuration does not fit this version of etude, or needs trust that was not given.
        """
        path = Path(path)
        return cls(path, stored_configuration(path / CONFIGURATION))

    @classmethod
    def begin(cls, path: Path, config: Config) -> Self:
        """Write a configuration into a run's folder, without secrets, and return the run.

        Raises:
            StorageError: If it cannot be written.
        """
        write_text(path / OVERRIDES, OmegaConf.to_yaml(OmegaConf.create(public_arguments(config.overrides))))
        # Last: a folder that has it is a run that has begun.
        write_text(path / CONFIGURATION, OmegaConf.to_yaml(OmegaConf.create(without_secrets(config.values))))
        return cls(path, config)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def state(self) -> Literal["new", "unfinished", "finished"]:
        """How far the run is."""
        return state(self.path)

    def changed(self, changes: Mapping[str, Any], allowed: Sequence[str]) -> Config:
        """Return the configuration with changes; see `etude.config.change.changed`."""
        return changed(self.config, changes, allowed, self.path)

    def identity(self) -> str:
        """Return the run's id in tracking services: given by an agent of W&B's sweeps, or drawn; the same ever after."""
        path = self.path / IDENTITY
        if not path.exists():
            write_text(path, agent_run_id() or secrets.token_hex(4))
        return read_identity(self.path)

    # What training was given

    @property
    def is_prepared(self) -> bool:
        """Whether the tokenizer and the description of the data are there: the latter is written last."""
        return (self.path / DATA).exists()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            ConfigurationError: If the run ended before it had one.
        """
        if not (self.path / TOKENIZER).exists():
            raise ConfigurationError(f"{self.path} ended before anything was trained; first: etude resume {self.path}")
        return Tokenizer.load(self.path / TOKENIZER)

    @cached_property
    def facts(self) -> Facts:
        """What the model knows of the data."""
        return Facts.from_json(read_facts(self.path).plain())

    @cached_property
    def data(self) -> Data:
        """Description of the data: rows, dropped rows, fingerprint."""
        return read_data(self.path)

    @cached_property
    def manifest(self) -> RunManifest:
        """What the run was made with: code, packages, machine, data."""
        return read_manifest(self.path)

    @property
    def merged(self) -> Merged | None:
        """What the run is the mean of; None: it was trained, or is not begun."""
        return self.manifest.merged if (self.path / MANIFEST).exists() else None

    def require_training(self) -> None:
        """Refuse a run that is the mean of others: it has no training to continue or repeat.

        Raises:
            ConfigurationError: If it is one.
        """
        if self.merged is not None:
            raise ConfigurationError(
                f"{self.path} is the mean of other runs and has no training of its own; begin one from it with: etude train "
                f"start={self.path}"
            )

    @property
    def skeleton(self) -> Path | None:
        """The file with config.json and the shapes of the pretrained model that the run began with, if there was one."""
        path = self.path / PRETRAINED
        return path if path.exists() else None

    # What training left

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / CHECKPOINTS

    def newest_checkpoint(self) -> Path | None:
        """Return the newest checkpoint that is whole; None before the first."""
        return newest_valid(self.checkpoints)

    def checkpoint(self, which: str = "best") -> Path:
        """Return a checkpoint's folder: `best` (else the last valid one), `last`, or a step's number.

        Raises:
            ConfigurationError: If there is none.
        """
        folder = self.checkpoints
        named = folder / (f"step-{int(which):08d}" if which.isdigit() else which)
        if which != "last" and named.exists():
            return named.resolve()
        last = newest_valid(folder) if which in ("best", "last") else None
        if last is None:
            names = sorted(path.name for path in folder.glob("step-*"))
            if not names:
                raise ConfigurationError(f"{self.path} has no checkpoint yet; first: etude resume {self.path}")
            raise ConfigurationError(f"{self.path} has no checkpoint {which!r}; there are: {', '.join(names)}")
        return last

    @property
    def events(self) -> list[Event]:
        """The record's events in their order; none before the first.

        Raises:
            DataError: If the record is damaged.
        """
        path = self.path / RECORD
        return read(path) if path.exists() else []

    @property
    def conclusion(self) -> Conclusion:
        """What the run ended with: the last step, why training ended, and the scores.

        Raises:
            ConfigurationError: If the run is not finished.
        """
        if self.state != "finished":
            raise ConfigurationError(f"{self.path} is not finished; first: etude resume {self.path}")
        return read_conclusion(self.path)
