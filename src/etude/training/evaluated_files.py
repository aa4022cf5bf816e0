"""Files to evaluate a run on in place of its own data: `etude evaluate RUN source=FILE reference=FILE`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etude.config.annotations import TARGET
from etude.config.signatures import constant
from etude.errors import ConfigurationError

FILES = ("source", "reference", "name")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class AskedFiles:
    """What is asked for.

    Attributes:
        source: A file with a text a line.
        references: Files with a wanted output a line each.
        name: What the evaluation is called: its files are `evaluations/<name>.json`, ….
        named: Whether the name was asked for.
    """

    source: Path
    references: tuple[Path, ...]
    name: str
    named: bool

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> AskedFiles | None:
        """Read `source`, `reference` and `name` of a command line; None where no files are given.

        Raises:
            ConfigurationError: If they do not fit together.
        """
        given = [key for key in FILES if asked.get(key) is not None]
        if not given:
            return None
        for key in ("source", "reference"):
            if key not in given:
                raise ConfigurationError(f"{given[0]}= is given without {key}=FILE; write both (command line)")
        if asked.get("split") is not None:
            raise ConfigurationError(f"split={asked['split']} and source= exclude each other (command line)")
        reference = asked["reference"]
        references = reference if isinstance(reference, list) else [reference]
        paths = [Path(str(path)).expanduser() for path in (asked["source"], *references)]
        name = str(asked.get("name") or paths[0].name.removesuffix(".gz"))
        if name in SPLITS or "/" in name or name.startswith("."):
            why = "is that of a split" if name in SPLITS else "cannot be that of a file"
            raise ConfigurationError(f"the name {name!r} of the evaluation {why}; write name=OTHER (command line)")
        return cls(paths[0], tuple(paths[1:]), name, "name" in given)

    def instead(self, values: dict[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
        """Return a run's configuration with these files as its data: every line, as long as the model can read.

        Args:
            values: The configuration.
            changed: What was asked to be changed of it; a limit that is not among it was that of other data.

        Raises:
            ConfigurationError: If the run's task does not turn one text into another.
        """
        task = values["task"][TARGET]
        if constant(task, "BATCH") != "TranslationBatch":
            raise ConfigurationError(f"source= is for runs that turn texts into texts, not for {task} (command line)")
        corpus = {
            TARGET: "etude.data.corpora.EvaluatedFiles",
            "source": str(self.source),
            "references": [str(path) for path in self.references],
        }
        longest = values["model"].get("max_length", values["data"]["max_length"])
        return {
            **values,
            "data": {**values["data"], "corpus": corpus, "max_length": longest},
            "limit": {"train": None, "val": None, "test": changed.get("limit.test"), "overfit": False},
        }

    def paths(self) -> dict[str, Any]:
        """Return the files as plain values."""
        return {"source": str(self.source), "references": [str(path) for path in self.references]}
