"""The model card of an export, README.md: what the hub shows of it, and what a stranger needs to believe and use it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from etude.commands.export.model_card_use import pipeline_tag, program
from etude.commands.export.proof import ProofTexts
from etude.runs.documents import Evaluation
from etude.runs.folder import EVALUATIONS
from etude.runs.reading import read_evaluation, read_overrides
from etude.runs.saved_run import SavedRun
from etude.tasks.translation import Translation

MODEL_CARD = "README.md"

LIBRARIES = {"huggingface": "transformers", "ctranslate2": "ctranslate2", "onnx": "onnx"}
"""The hub's name of the library that reads a format."""

OF_THE_MACHINE = ("trainer", "paths", "logger", "run.", "log.")
"""Begins of words of a command line that change no result."""


def model_card(
    run: SavedRun, examples: ProofTexts, checkpoint: Path, to: str, license_name: str, proof: Mapping[str, Any]
) -> str:
    """Return the text of the card.

    Args:
        run: The run.
        examples: Its task and tokenizer.
        checkpoint: The checkpoint that was exported.
        to: Name of the format.
        license_name: The hub's name of the license; `unknown` if nobody said.
        proof: What was compared with the run.
    """
    evaluations = list(_evaluations(run, checkpoint))
    tag = pipeline_tag(examples.task, _experiment(run))
    source = examples.tokenizer.of("source")
    tags = source.names(examples.task.direction.before_source) if isinstance(examples.task, Translation) else ()
    use = program(examples.task, to, source is not examples.tokenizer, tags)
    sections = [
        f"---\n{_front_matter(run, tag, to, license_name, evaluations)}---",
        f"# {_experiment(run)}, {run.name}",
        f"A model for {tag}, trained with etude and exported to {LIBRARIES[to]}. Checkpoint `{checkpoint.name}`.",
        "## Use",
        f'```python\nfolder = "."  # this folder\n\n{use}```',
        "## Scores",
        _scores(evaluations),
        "## Data",
        _data(run),
        "## How it was made",
        _origin(run),
        "## Proof",
        "Before it was written, the export was compared with the run on validation texts:",
        f"```json\n{json.dumps(proof, indent=2, ensure_ascii=False)}\n```",
        "## License",
        _license(license_name),
    ]
    return "\n\n".join(sections) + "\n"


def _evaluations(run: SavedRun, checkpoint: Path) -> Iterator[Evaluation]:
    """Yield what the exported checkpoint scored on the data's own splits, under the run's own settings."""
    for name in ("test", "val"):
        if (run.path / EVALUATIONS / f"{name}.json").is_file():
            evaluation = read_evaluation(run.path, name)
            if evaluation.checkpoint == checkpoint.name:
                yield evaluation


def _front_matter(run: SavedRun, tag: str, to: str, license_name: str, evaluations: list[Evaluation]) -> str:
    """Return the YAML that the hub reads."""
    # The hub's client takes half a second to import.
    from huggingface_hub import EvalResult, ModelCardData

    data = _corpus(run)
    results = [
        EvalResult(
            task_type=tag,
            dataset_type=data.lower(),
            dataset_name=data,
            dataset_split=evaluation.split,
            metric_type=name.partition("/")[2],
            metric_name=name.partition("/")[2],
            metric_value=value,
        )
        for evaluation in evaluations
        for name, value in evaluation.scores.items()
    ]
    base = run.config.model.arguments.get("name")
    return (
        ModelCardData(
            license=license_name,
            library_name=LIBRARIES[to],
            pipeline_tag=tag,
            tags=["etude"],
            base_model=base if isinstance(base, str) and base.count("/") == 1 and not Path(base).exists() else None,
            model_name=f"{_experiment(run)}, {run.name}" if results else None,
            eval_results=results or None,
        ).to_yaml()
        + "\n"
    )


def _corpus(run: SavedRun) -> str:
    data = run.config.data
    corpus = data.arguments.get("corpus")
    target = corpus.get("_target_") if isinstance(corpus, Mapping) else None
    return str(target or data.target).rpartition(".")[2]


def _scores(evaluations: list[Evaluation]) -> str:
    if not evaluations:
        return "This checkpoint was not evaluated."
    lines = ["| score | | 95 % interval | rows |", "|---|---|---|---|"]
    for evaluation in evaluations:
        for name, value in evaluation.scores.items():
            low_high = evaluation.intervals.get(name)
            interval = f"{low_high[0]:.4g} to {low_high[1]:.4g}" if low_high else ""
            lines.append(f"| {name} | {value:.4g} | {interval} | {evaluation.examples:,} |")
    return "\n".join(lines)


def _data(run: SavedRun) -> str:
    rows = ", ".join(f"{count:,} rows of {split}" for split, count in run.data.rows.items())
    return f"{_corpus(run)}: {rows}. Fingerprint `{run.data.fingerprint}`."


def _origin(run: SavedRun) -> str:
    packages = run.manifest.packages
    versions = ", ".join(
        f"{name} {packages[name]}" for name in ("etude", "torch", "transformers") if packages.get(name)
    )
    return f"```\n{command_line(run)}\n```\n\nSeed {run.manifest.seed}; {versions}."


def command_line(run: SavedRun) -> str:
    """Return the command that the run is begun with elsewhere: without what belongs to a machine, and no path of it."""
    words = [word for word in read_overrides(run.path) if not word.lstrip("+~").startswith(OF_THE_MACHINE)]
    return shlex.join(["etude", "train", *map(_without_path, words)])


def _without_path(word: str) -> str:
    key, equals, value = word.partition("=")
    return f"{key}=…/{Path(value).name}" if equals and value.startswith(("/", "~", "./", "../")) else word


def _license(name: str) -> str:
    if name == "unknown":
        return "Nobody said which license this model has; that of its data, and of weights it began with, may bind it."
    return f"`{name}`, as the person said who exported it."


def _experiment(run: SavedRun) -> str:
    return run.config.run.experiment or run.path.parent.name
