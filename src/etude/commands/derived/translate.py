"""`etude translate`: a corpus of a run's translations, to distil the run into another, or for back-translation."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from etude.atomic import make_folder, storage_errors, sync, write_file, write_json
from etude.commands.derived.shared_work import Shard, Shards, Share, cut_in_shards
from etude.commands.predict import Predictor
from etude.config.schema import Config
from etude.config.signatures import constant
from etude.data.readers.sources import content_sha256, read_lines, text_of
from etude.data.translation import TranslationData
from etude.errors import ConfigurationError
from etude.packages import file_sha256
from etude.runs.folder import resolve
from etude.runs.saved_run import SavedRun
from etude.training.build import build_data, factory
from etude.training.provenance import refuse_changed_data
from etude.training.warm_start import describe_source
from etude.untrusted import BrokenFileError, read_json

CHANGEABLE = ("decoding", "batch.examples", "trainer", "paths")
"""Configuration keys, with all below them, that a translation may change."""

DESCRIPTION = "translation.json"
"""File of a corpus that says what it was made of; `files` is empty until it is whole."""

SIDES = ("source", "target")

PROBLEMS = {
    "cut": "lines were cut to what the model reads",
    "stopped": "outputs were stopped at their length limit",
    "empty": "outputs are empty; their pairs are left out when the corpus is read",
}
"""What is counted of the lines, and how it is told."""

_AGAIN = "remove the folder, and give the same command again"

_log = logging.getLogger(__name__)


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a corpus is made of.

    Attributes:
        run: Run, checkpoint, weights and warm start, as manifests name sources.
        ensemble: The same of the other members of an ensemble.
        texts: What is translated: a file, or the training split of the run's data.
        sha256: Hash of the content of that.
        decoding: The search.
        reverse: Whether the outputs are the sources.
        lines: Number of lines of each split; empty until the corpus is whole.
        cut: Lines of which a part was left out, since they have more tokens than the model reads.
        stopped: Outputs that were stopped at their length limit.
        empty: Outputs that are empty: their pairs are left out when the corpus is read.
        files: The sha256 of each file; empty until the corpus is whole.
    """

    run: dict[str, Any]
    ensemble: list[dict[str, Any]]
    texts: str
    sha256: str
    decoding: dict[str, Any]
    reverse: bool
    lines: dict[str, Annotated[int, Meta(ge=0)]] = {}
    cut: Annotated[int, Meta(ge=0)] = 0
    stopped: Annotated[int, Meta(ge=0)] = 0
    empty: Annotated[int, Meta(ge=0)] = 0
    files: dict[str, str] = {}


def translate(
    run: SavedRun,
    *,
    into: Any = None,
    text: Any = None,
    reverse: Any = False,
    part: Any = "1/1",
    checkpoint: Any = "best",
    ensemble: Any = None,
    changes: Mapping[str, Any] | None = None,
) -> Path:
    """Translate a text, or the sources of a run's training split, and write them as a corpus, whose folder is returned.

    `train.source` and `train.target` have a line for each line; the other splits of the run's data are copied beside them. A
    killed translation goes on where it was: what is there is not translated again. A finished one is left as it is.

    Args:
        run: A run that turns texts into texts.
        into: Folder of the corpus.
        text: File with a text per line, `.gz` or not; None: the training split of the run's data, within its limit.
        reverse: Whether the outputs are the sources of the corpus, and the texts its targets, as for back-translation.
        part: Of several processes that share the work, which one this is: `2/4`. Whoever is last puts the parts together.
        checkpoint: `best`, `last` or a step's number.
        ensemble: Other runs that form an ensemble with this one.
        changes: Values of configuration keys at or below `CHANGEABLE`.

    Raises:
        ConfigurationError: If an argument is invalid, or the folder holds another corpus.
        DataError: If the text cannot be read, or the run's data has changed.
        BrokenFileError: If a file of an earlier process is damaged.
    """
    if into is None:
        raise ConfigurationError("into= is missing: the folder that the corpus is written to (command line)")
    if not isinstance(reverse, bool):
        raise ConfigurationError(f"reverse={reverse} is neither true nor false (command line)")
    _check_task(run)
    own, folder, changes = Share.of(str(part)), Path(str(into)).expanduser(), changes or {}
    config = run.changed(changes, CHANGEABLE)
    data = _data(run) if text is None else None
    texts = FileTexts(Path(str(text)).expanduser()) if data is None else SplitTexts(run, data)
    description = Description(
        run=describe_source(run, run.checkpoint(str(checkpoint))),
        ensemble=_members(ensemble, config, str(checkpoint)),
        texts=texts.name,
        sha256=texts.sha256,
        decoding={} if config.decoding is None else dict(config.decoding.values),
        reverse=reverse,
    )
    shards = Shards(folder / ".shards")
    if not _begin(folder, description):
        _fill(shards, texts, own, lambda: Predictor.open(run, checkpoint, ensemble, changes))
        with shards.alone():
            if not _begin(folder, description):  # another part may have come to its end meanwhile
                _conclude(folder, description, texts, shards, data)
    return folder


def _check_task(run: SavedRun) -> None:
    task = run.config.task.target
    if constant(task, "BATCH") != "TranslationBatch":
        raise ConfigurationError(
            f"{run.path} does not turn texts into texts ({task.rpartition('.')[2]}); name another RUN (command line)"
        )


def _members(ensemble: Any, config: Config, checkpoint: str) -> list[dict[str, Any]]:
    """Return the members of an ensemble besides the run itself, as manifests name sources."""
    names = [ensemble] if isinstance(ensemble, str) else list(ensemble or ())
    runs = [SavedRun.open(resolve(str(name), config.paths.outputs)) for name in names]
    return [describe_source(member, member.checkpoint(checkpoint)) for member in runs]


def _fill(shards: Shards, texts: Iterable[str], own: Share, opened: Callable[[], Predictor]) -> None:
    """Translate the lines of the shards of a part that are not there; the model is loaded if there are any."""
    predictor: Predictor | None = None
    done = 0
    for number, lines in cut_in_shards(texts):
        if own.has(number) and not shards.has(number):
            predictor = predictor or opened()
            shards.write(number, _translated(predictor, lines))
            _log.info("lines %d to %d are translated", done + 1, done + len(lines))
        done += len(lines)


class FileTexts:
    """The lines of a file.

    Attributes:
        name: The file.

    Args:
        path: As above.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = str(path.resolve())

    @property
    def sha256(self) -> str:
        """Hash of the content.

        Raises:
            DataError: If it cannot be read.
        """
        return content_sha256(self._path)

    def __iter__(self) -> Iterator[str]:
        """Yield each line; one that is not UTF-8 text is empty, so that a corpus leaves it out and counts it."""
        for line in read_lines(self._path):
            yield text_of(line) or ""


class SplitTexts:
    """The sources of the training split of a run's data, in their order.

    Attributes:
        name: The run, and the split.
        sha256: The fingerprint of the data.

    Args:
        run: The run.
        data: Its data.
    """

    def __init__(self, run: SavedRun, data: TranslationData) -> None:
        self.name = f"train of {run.path}"
        self.sha256 = data.prepared.fingerprint
        self._data = data

    def __iter__(self) -> Iterator[str]:
        """Yield each source in a line."""
        return lines_of(self._data, "train", "source")


def lines_of(data: TranslationData, split: str, field: str) -> Iterator[str]:
    """Yield a field of the examples of a split, each in a line."""
    for example in range(len(data.splits[split].counts)):
        yield _line(data.text(split, field, example))


def _data(run: SavedRun) -> TranslationData:
    """Return the data of a run.

    Raises:
        ConfigurationError: If it is of another kind.
    """
    config = run.config
    data = build_data(config, factory(config.trainer)(), run.tokenizer)
    if not isinstance(data, TranslationData):
        raise ConfigurationError(
            f"{run.path} has no pairs of texts of its own ({type(data).__name__}); write text=FILE (command line)"
        )
    refuse_changed_data(run, data.describe())
    return data


def _begin(folder: Path, description: Description) -> bool:
    """Write what a corpus will be made of; returns whether it is whole already.

    Raises:
        ConfigurationError: If the folder holds another one, or something else.
    """
    path = folder / DESCRIPTION
    if path.exists():
        found = read_json(path, Description, _AGAIN)
        asked = msgspec.structs.replace(
            found,
            **{
                name: getattr(description, name)
                for name in ("run", "ensemble", "texts", "sha256", "decoding", "reverse")
            },
        )
        for name in description.__struct_fields__:
            if getattr(asked, name) != getattr(found, name):
                raise ConfigurationError(
                    f"{folder} is of another {name} ({_shown(getattr(found, name))}, not {_shown(getattr(asked, name))}); write "
                    "another folder: into=FOLDER (command line)"
                )
        if found.files:
            Shards(folder / ".shards").remove()
            _log.info("%s is translated already; nothing to do", folder)
        return bool(found.files)
    if folder.is_dir() and any(path.name[0] != "." for path in folder.iterdir()):
        raise ConfigurationError(f"{folder} holds something else; write a new folder: into=FOLDER (command line)")
    with storage_errors(folder):
        make_folder(folder)
    write_json(path, msgspec.to_builtins(description))
    return False


def _shown(value: Any) -> str:
    text = value.get("weights", "")[:12] if isinstance(value, Mapping) and "weights" in value else json.dumps(value)
    return text if len(text) <= 100 else f"{text[:99]}…"


def _translated(predictor: Predictor, lines: list[str]) -> Shard:
    """Return the translations of lines, which are translated in order of length."""
    order = sorted(range(len(lines)), key=lambda place: len(lines[place]))
    answers = dict(zip(order, predictor.predictions([lines[place] for place in order]), strict=True))
    outputs = [_line(answers[place].text) for place in range(len(lines))]
    return Shard(
        outputs,
        cut=sum(answer.cut for answer in answers.values()),
        stopped=sum(not answer.outputs[0].finished for answer in answers.values()),
        empty=outputs.count(""),
    )


def _line(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ").strip()


def _conclude(
    folder: Path, description: Description, texts: Iterable[str], shards: Shards, data: TranslationData | None
) -> None:
    """Put the shards together, if all are there, and copy the other splits; say what is missing otherwise."""
    numbers = [number for number, _ in cut_in_shards(texts)]
    waiting = [number for number in numbers if not shards.has(number)]
    if waiting:
        _log.warning("%s waits for %d of %d shards of other parts", folder, len(waiting), len(numbers))
        return
    outputs = (output for number in numbers for output in shards.read(number).outputs)
    sides = dict(zip(SIDES, (outputs, texts) if description.reverse else (texts, outputs), strict=True))
    lines = {"train": _write_pairs(folder, "train", sides)}
    for split in () if data is None else data.splits:
        if data is not None and split != "train":
            lines[split] = _write_pairs(folder, split, {side: lines_of(data, split, side) for side in SIDES})
    made = [shards.read(number) for number in numbers]
    counts = {name: sum(getattr(shard, name) for shard in made) for name in PROBLEMS}
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.suffix[1:] in SIDES}
    whole = msgspec.structs.replace(description, lines=lines, files=files, **counts)
    write_json(folder / DESCRIPTION, msgspec.to_builtins(whole))
    shards.remove()
    for name, problem in PROBLEMS.items():
        if counts[name]:
            _log.warning("%d of %d %s", counts[name], lines["train"], problem)


def _write_pairs(folder: Path, split: str, sides: Mapping[str, Iterable[str]]) -> int:
    """Write both files of a split, and return the number of their lines.

    Raises:
        BrokenFileError: If one has more lines than the other.
    """
    counts = [_write(folder / f"{split}.{side}", lines) for side, lines in sides.items()]
    if len(set(counts)) > 1:
        raise BrokenFileError(folder, f"has {counts[0]} sources and {counts[1]} targets of {split}", _AGAIN)
    return counts[0]


def _write(path: Path, lines: Iterable[str]) -> int:
    """Write lines into a file, whole or not at all, and return their number."""
    count = 0

    def encoded() -> Iterator[bytes]:
        nonlocal count
        for line in lines:
            count += 1
            yield f"{line}\n".encode()

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage_errors(path):
        try:
            write_file(temporary, encoded())
            temporary.replace(path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    return count
