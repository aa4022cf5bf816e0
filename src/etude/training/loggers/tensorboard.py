"""TensorBoard, which reads its event files from the folders of runs: `tensorboard --logdir outputs`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from etude.extras import installed
from etude.runs.saved_run import SavedRun
from etude.training.loggers.base import TrackedRun, Tracker
from etude.training.loggers.mirror import Ending, Entry, ScalarMirror, Unsent

FOLDER = "tensorboard"
"""Folder of the event files inside the run's folder, and so the last part of the run's name in TensorBoard."""

END = ".end"
"""End of the name of the event file that says what became of the run; a continued run removes it."""

TEXT = "/text_summary"
"""What TensorBoard puts behind the name of a text."""

STATUS: Mapping[Ending, str] = {
    "finished": "STATUS_SUCCESS",
    "failed": "STATUS_FAILURE",
    "killed": "STATUS_FAILURE",
}
"""What TensorBoard's table of parameters calls the end of a run."""

DESCRIPTION = (0, "run")
"""The text that describes the run: it is written once."""


class TensorBoardMirror(ScalarMirror):
    """Writes event files by Lightning's logger, one for each time that the run is continued; each has what is new.

    The time of a value is the begin of the run plus the seconds of training until then: time between two processes does not
    count.
    """

    service = "TensorBoard"
    name = FOLDER
    version = ""

    def __init__(self, run: TrackedRun) -> None:
        """Remember the run; nothing is written before the first use."""
        super().__init__(run.folder)
        self._run = run
        self._events = TensorBoardLogger(run.folder, name=FOLDER, version="", default_hp_metric=False)

    def connect(self) -> Iterable[Entry]:
        """Read the event files of earlier processes, and begin another; the first describes the run."""
        folder = Path(self._events.log_dir)
        for file in folder.glob(f"*{END}"):
            file.unlink()
        files = sorted(folder.glob("*tfevents*"))
        held = {entry for file in files for entry in _entries(file)}
        _without_thread(self._events.experiment)
        if DESCRIPTION not in held:
            self._describe()
        return held

    def send(self, events: Sequence[Unsent]) -> None:
        """Add scalars."""
        for event in events:
            for name, value in self.scalars(event).items():
                time = self._run.started + event.seconds
                self._events.experiment.add_scalar(name, value, event.step, walltime=time)
        self._events.experiment.flush()

    @rank_zero_only
    def log_table(
        self, key: str, columns: Sequence[str], data: Sequence[Sequence[Any]], step: int | None = None
    ) -> None:
        """Add a table as a text of its Markdown."""
        if self._take(step or 0, key):
            time = self._run.started + self._seconds
            self._events.experiment.add_text(key, markdown(columns, data), step or 0, walltime=time)
            self._events.experiment.flush()

    def conclude(self, ending: Ending) -> None:
        """Say what became of the run, in a file of its own."""
        from tensorboard.plugins.hparams.api_pb2 import Status
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self._events.experiment.flush()
        _, _, end = hparams({}, {})
        plugin = end.value[0].metadata.plugin_data
        data = HParamsPluginData.FromString(plugin.content)
        data.session_end_info.status = Status.Value(STATUS[ending])
        plugin.content = data.SerializeToString()
        with SummaryWriter(self._events.log_dir, filename_suffix=END) as writer:
            writer._get_file_writer().add_summary(end)
            writer.add_text("state", ending)

    def abandon(self) -> None:
        """Close the event file, as far as it can be written."""
        if self._held is not None:
            with suppress(OSError):
                self._events.experiment.close()

    def _describe(self) -> None:
        """Write the configuration, for TensorBoard's table of parameters, and the name, tags and notes as a text."""
        from torch.utils.tensorboard.summary import hparams

        run, writer = self._run, self._events.experiment
        begin, start, _ = hparams(_parameters(run.parameters), {run.metric: 0.0})
        for summary in (begin, start):
            writer._get_file_writer().add_summary(summary)
        rows = {"name": run.name, "group": run.group, "tags": ", ".join(run.tags), "notes": run.notes, "id": run.id}
        step, name = DESCRIPTION
        writer.add_text(name, markdown(["key", "value"], list(rows.items())), step)


def markdown(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table in Markdown; what has a meaning there means itself."""
    lines = [columns, ["---"] * len(columns), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    text = str(value)
    for character in "\\`*_{}[]<>#|~":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def _parameters(flat: Mapping[str, Any]) -> dict[str, str | int | float]:
    """Return parameters as TensorBoard takes them: numbers, and all else as text."""
    return {
        name: value
        if isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool))
        else json.dumps(value, default=str)
        for name, value in flat.items()
    }


def _without_thread(writer: Any) -> None:
    """Let a writer write at once, and not from a thread: what fails there would be shown to a person, and not raised here."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    events = writer._get_file_writer().event_writer
    events._async_writer.close()
    events._async_writer = RecordWriter(Path(events._file_name).open("ab"))  # noqa: SIM115 (closed with the writer)


def _entries(file: Path) -> Iterator[Entry]:
    """Yield the entries of an event file, up to where it is intact."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            yield event.step, value.tag.removesuffix(TEXT)


@dataclass(frozen=True)
class TensorBoard(Tracker):
    """TensorBoard, with its event files in the run's folder."""

    def check(self) -> None:
        """Refuse it where TensorBoard is not installed.

        Raises:
            ConfigurationError: If it is not.
        """
        installed("tensorboard", "logger=tensorboard", "tensorboard")

    def open(self, run: SavedRun) -> TensorBoardMirror:
        """Return the logger of a run."""
        self.check()
        return TensorBoardMirror(TrackedRun.of(run))
