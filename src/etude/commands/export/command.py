"""`etude export RUN to=…`: a run's model in another library's layout, with the proof that it computes the same."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etude.atomic import make_folder, storage_errors, sync_folder
from etude.checkpoints.saver import read_weights
from etude.commands.export.ctranslate import CTranslate2
from etude.commands.export.huggingface_decoder import HuggingFaceDecoder, HuggingFaceWrappedDecoder
from etude.commands.export.huggingface_encoder import HuggingFaceEncoder
from etude.commands.export.huggingface_heads import WITH_ENCODER
from etude.commands.export.huggingface_translation import HuggingFaceTranslation, HuggingFaceWrappedTranslation
from etude.commands.export.huggingface_wrapped import HuggingFaceWrapped
from etude.commands.export.onnx_graphs import OnnxTranslation
from etude.commands.export.proof import Format, ProofTexts
from etude.errors import ConfigurationError
from etude.models.wrapped.wrapped_encoder import WrappedEncoder
from etude.models.wrapped.wrapped_model import WrappedModel
from etude.optim.finetune.lora import merge
from etude.runs.folder import write_json
from etude.runs.stored import stored_configuration
from etude.tasks.base import Task
from etude.tasks.causal_lm import CausalLM
from etude.tasks.pooled import Pooled
from etude.tasks.question_answering import QuestionAnswering
from etude.tasks.translation import Translation
from etude.tokenization.base import Tokenizer
from etude.training.build import build
from etude.training.restore import find_checkpoint

_log = logging.getLogger(__name__)

OWN = ("to", "checkpoint", "quantization", "path", "sentences")
"""Keys that are the command's own."""

OVERRIDABLE = ("decoding", "paths", "trainer", "limit")
"""What an export may change of a run's configuration."""

FORMATS: dict[str, tuple[type[Task], ...]] = {
    "huggingface": (Translation, CausalLM, *WITH_ENCODER),
    "ctranslate2": (Translation,),
    "onnx": (Translation,),
}
"""What can be exported to where."""

RECORD = "export.json"


def export(run: Path, overrides: Mapping[str, Any]) -> Path:
    """Write a run's model for another library, prove it on validation sentences, and return its folder.

    Args:
        run: The run's folder.
        overrides: `to` (a key of `FORMATS`), `checkpoint` (`best`, `last` or a step), `quantization` (of ctranslate2),
            `path` (the folder to write; by default `exports/<to>` in the run's), `sentences` (most that the proof
            takes, 1000 by default), and keys of the configuration below `OVERRIDABLE`.

    Raises:
        ConfigurationError: If the format does not exist or does not fit the run, or a package is missing.
        MismatchError: If the exported model does not give the run's outputs; nothing is left behind.
    """
    own = {key: overrides[key] for key in OWN if key in overrides}
    to, quantization = str(own.get("to", "")), own.get("quantization")
    if to not in FORMATS:
        raise ConfigurationError(f"to={to or '?'} is no format; write to={', to='.join(FORMATS)}")
    if quantization is not None and to != "ctranslate2":
        raise ConfigurationError(f"quantization={quantization} is for to=ctranslate2, not to={to}; leave it out")
    values = stored_configuration(run, {key: overrides[key] for key in overrides if key not in own}, OVERRIDABLE)
    checkpoint = find_checkpoint(run, str(own.get("checkpoint", "best")))
    name = to if quantization is None else f"{to}-{quantization}"
    target = Path(str(own.get("path") or run / "exports" / name)).expanduser()
    _check_target(target)
    task, read_examples = _task(run, values, checkpoint)
    kind = _format(to, task, quantization)
    examples = read_examples(_sentences(own.get("sentences", 1000)))
    with _made(target) as folder:
        kind.write(examples, folder)
        proof = kind.prove(examples, folder)
        write_json(folder / RECORD, {"run": str(run), "checkpoint": checkpoint.name, "to": name, "proof": proof})
    _log.info("proved on %d validation texts: %s", len(examples.texts), json.dumps(proof))
    return target


def _sentences(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"sentences={value} is no number of sentences; write 1 or more")
    return value


def _format(to: str, task: Task, quantization: Any) -> Format:
    """Return the format's writer for a task.

    Raises:
        ConfigurationError: If it has none, or the package it needs is not installed.
    """
    if not isinstance(task, FORMATS[to]):
        kinds = ", ".join(kind.__name__ for kind in FORMATS[to])
        fitting = [name for name, tasks in FORMATS.items() if isinstance(task, tasks)]
        advice = f"write to={' or to='.join(fitting)}" if fitting else "no format takes this task"
        raise ConfigurationError(f"to={to} exports {kinds}, and this run is {type(task).__name__}; {advice}")
    if to == "huggingface":
        return _hugging_face(task)
    if isinstance(task.model, WrappedModel):
        raise ConfigurationError(
            f"to={to} exports etude's own models, and this run's is a {type(task.model).__name__}; write to=huggingface"
        )
    return CTranslate2(quantization) if to == "ctranslate2" else OnnxTranslation()


def _hugging_face(task: Task) -> Format:
    wrapped = isinstance(task.model, WrappedModel | WrappedEncoder)
    if isinstance(task, Translation):
        return HuggingFaceWrappedTranslation() if wrapped else HuggingFaceTranslation()
    if isinstance(task, CausalLM):
        return HuggingFaceWrappedDecoder() if wrapped else HuggingFaceDecoder()
    return HuggingFaceWrapped() if wrapped else HuggingFaceEncoder()


def _task(run: Path, values: dict[str, Any], checkpoint: Path) -> tuple[Task, Callable[[int], ProofTexts]]:
    """Return the run's task with a checkpoint's weights, and what reads its validation texts."""
    tokenizer = Tokenizer.load(run / "tokenizer")
    experiment = build(values, tokenizer, run)
    task, data = experiment.task, experiment.data
    task.load_state_dict(read_weights(checkpoint))
    merge(task)
    fields = _fields(task)

    def read(most: int) -> ProofTexts:
        count = min(most, len(data.splits["val"].counts))
        columns = [[data.text("val", field, index) for index in range(count)] for field in fields]
        return ProofTexts(task, tokenizer, columns[0], columns[1] if len(columns) > 1 else [])

    return task.cpu().eval(), read


def _fields(task: Task) -> tuple[str, ...]:
    """Return the one or two texts of each row that a proof reads."""
    if isinstance(task, Translation):
        return "source", "target"
    if isinstance(task, QuestionAnswering):
        return "question", "context"
    return task.fields if isinstance(task, Pooled) else ("text",)


def _check_target(target: Path) -> None:
    """Refuse to write over anything but an earlier export."""
    if target.exists() and not (target / RECORD).is_file():
        raise ConfigurationError(f"{target} exists and is no earlier export; remove it or set path=FOLDER")


@contextmanager
def _made(target: Path) -> Iterator[Path]:
    """Give a hidden folder beside the target that takes its name at the end, or is removed if anything fails."""
    with storage_errors(target):
        make_folder(target.parent)
        folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        with storage_errors(target):
            yield folder
            folder.chmod(0o755)
            if target.exists():
                shutil.rmtree(target)
            folder.replace(target)
            sync_folder(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
