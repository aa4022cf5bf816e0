"""`etude export RUN to=…`: a run's model in the format of another library, with a proof that it computes the same."""

from __future__ import annotations

import json
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etude.atomic import make_folder, storage_errors, sync, write_json, write_text
from etude.checkpoints.saver import read_weights
from etude.commands.export.ctranslate import CTranslate2
from etude.commands.export.documented_use import prove_use
from etude.commands.export.huggingface_decoder import HuggingFaceDecoder, HuggingFaceWrappedDecoder
from etude.commands.export.huggingface_encoder import HuggingFaceEncoder
from etude.commands.export.huggingface_heads import WITH_ENCODER
from etude.commands.export.huggingface_translation import HuggingFaceTranslation, HuggingFaceWrappedTranslation
from etude.commands.export.huggingface_wrapped import HuggingFaceWrapped
from etude.commands.export.model_card import MODEL_CARD, model_card
from etude.commands.export.onnx_graphs import OnnxTranslation
from etude.commands.export.proof import ExportFormat, ProofTexts
from etude.config.schema import Config
from etude.errors import ConfigurationError
from etude.models.wrapped.base import WrappedModel
from etude.models.wrapped.wrapped_encoder import WrappedEncoder
from etude.optim.finetune.lora import merge
from etude.packages import file_sha256
from etude.runs.folder import EXPORT
from etude.runs.saved_run import SavedRun
from etude.tasks.base import Task
from etude.tasks.causal_lm import CausalLM
from etude.tasks.pooled import Pooled
from etude.tasks.prediction import choose_direction
from etude.tasks.question_answering import QuestionAnswering
from etude.tasks.translation import Translation
from etude.training.build import build

_log = logging.getLogger(__name__)

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")

CHANGEABLE = ("decoding", "paths", "trainer", "limit")
"""Configuration keys, with all below them, that an export may change."""

FORMATS: dict[str, tuple[type[Task], ...]] = {
    "huggingface": (Translation, CausalLM, *WITH_ENCODER),
    "ctranslate2": (Translation,),
    "onnx": (Translation,),
}
"""Formats, and the tasks that can be exported to each."""


def export(
    run: SavedRun,
    *,
    to: Any = "",
    checkpoint: Any = "best",
    quantization: Any = None,
    path: Any = None,
    sentences: Any = 1000,
    license: Any = "unknown",  # noqa: A002 - the word of the hub
    direction: Any = None,
    changes: Mapping[str, Any] | None = None,
) -> Path:
    """Export a run's model, prove it on validation texts, and return the folder.

    Args:
        run: The run.
        to: Name of the format, a key of `FORMATS`.
        checkpoint: `best`, `last` or a step's number.
        quantization: Quantization of ctranslate2, such as `int8`.
        path: Folder to write; None: `exports/<to>` in the run's folder.
        sentences: Largest number of texts for the proof.
        license: The hub's name of the model's license, such as `apache-2.0`, for its model card.
        direction: Of a run that translates in several directions, the one that is written and proved.
        changes: Values of configuration keys at or below `CHANGEABLE`.

    Raises:
        ConfigurationError: If the format does not exist or does not fit the run, or a package is missing.
        MismatchError: If the exported model does not reproduce the run's outputs; nothing is left behind.
    """
    to = str(to)
    if to not in FORMATS:
        raise ConfigurationError(f"to={to or '?'} is not a format; write to={', to='.join(FORMATS)}")
    if quantization is not None and to != "ctranslate2":
        raise ConfigurationError(f"quantization={quantization} is for to=ctranslate2, not to={to}; leave it out")
    most, license_name = _sentences(sentences), _license(license)
    config = run.changed(changes or {}, CHANGEABLE)
    weights = run.checkpoint(str(checkpoint))
    name = to if quantization is None else f"{to}-{quantization}"
    target = Path(str(path or run.path / "exports" / name)).expanduser()
    _check_target(target)
    task, read_examples = _task(run, config, weights, direction)
    export_format = _export_format(to, task, quantization)
    examples = read_examples(most)
    with _atomic_folder(target) as folder:
        export_format.write(examples, folder)
        proof = export_format.prove(examples, folder)
        proof["as_documented"] = prove_use(examples, folder, to, quantized=quantization is not None)
        write_text(folder / MODEL_CARD, model_card(run, examples, weights, to, license_name, proof))
        record = {"run": str(run.path), "checkpoint": weights.name, "to": name, "proof": proof}
        write_json(folder / EXPORT, {**record, "files": _hashes(folder)})
    _log.info("proved on %d validation texts: %s", len(examples.texts), json.dumps(proof))
    return target


def _sentences(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"sentences={value} is not a number of sentences; write 1 or more")
    return value


def _license(value: Any) -> str:
    if not isinstance(value, str) or not _LICENSE.fullmatch(value):
        raise ConfigurationError(f"license={value} is not the name of a license; write one such as license=apache-2.0")
    return value


def _hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file in a folder, by its name there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def _export_format(to: str, task: Task, quantization: Any) -> ExportFormat:
    """Return the format for a task.

    Raises:
        ConfigurationError: If the format does not support the task, or a package is not installed.
    """
    if not isinstance(task, FORMATS[to]):
        kinds = ", ".join(kind.__name__ for kind in FORMATS[to])
        fitting = [name for name, tasks in FORMATS.items() if isinstance(task, tasks)]
        advice = f"write to={' or to='.join(fitting)}" if fitting else "no format takes this task"
        raise ConfigurationError(f"to={to} exports {kinds}, and this run is {type(task).__name__}; {advice}")
    if to == "huggingface":
        return _huggingface(task)
    if isinstance(task.model, WrappedModel):
        raise ConfigurationError(
            f"to={to} exports etude's own models, and this run's is a {type(task.model).__name__}; write to=huggingface"
        )
    return CTranslate2(quantization) if to == "ctranslate2" else OnnxTranslation()


def _huggingface(task: Task) -> ExportFormat:
    wrapped = isinstance(task.model, WrappedModel | WrappedEncoder)
    if isinstance(task, Translation):
        return HuggingFaceWrappedTranslation() if wrapped else HuggingFaceTranslation()
    if isinstance(task, CausalLM):
        return HuggingFaceWrappedDecoder() if wrapped else HuggingFaceDecoder()
    return HuggingFaceWrapped() if wrapped else HuggingFaceEncoder()


def _task(run: SavedRun, config: Config, checkpoint: Path, direction: Any) -> tuple[Task, Callable[[int], ProofTexts]]:
    """Return the run's task with a checkpoint's weights, and a function that reads validation texts for the proof."""
    experiment = build(config, run.tokenizer, run)
    task, data = experiment.task, experiment.data
    task.load_state_dict(read_weights(checkpoint))
    merge(task)
    choose_direction(task, direction)
    fields = _fields(task)
    # Of several directions one is written, and is proved.
    own = task.direction.name if isinstance(task, Translation) and len(task.facts.all_directions) > 1 else None

    def read(most: int) -> ProofTexts:
        every = range(len(data.splits["val"].counts))
        examples = every if own is None else data.parts_of("val").get(own, range(0))
        columns = [[data.text("val", field, index) for index in examples[:most]] for field in fields]
        tokenizer = run.tokenizer.for_both()
        targets = None if tokenizer is run.tokenizer else run.tokenizer.for_targets()
        return ProofTexts(task, tokenizer, columns[0], columns[1] if len(columns) > 1 else [], targets)

    return task.cpu().eval(), read


def _fields(task: Task) -> tuple[str, ...]:
    """Return the names of the one or two texts of a row that a proof reads."""
    if isinstance(task, Translation):
        return "source", "target"
    if isinstance(task, QuestionAnswering):
        return "question", "context"
    return task.fields if isinstance(task, Pooled) else ("text",)


def _check_target(target: Path) -> None:
    """Refuse to overwrite anything but an earlier export."""
    if target.exists() and not (target / EXPORT).is_file():
        raise ConfigurationError(f"{target} exists and is not an earlier export; remove it or set path=FOLDER")


@contextmanager
def _atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a hidden folder beside the target that is renamed to it at the end, or removed if anything fails."""
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
            sync(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
