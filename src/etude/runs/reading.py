"""Reading a run's folder: nothing is read from one but through here.

    file                          read by                   type, of `etude.runs.documents`
    overrides.yaml                read_overrides            list[str]
    manifest.json                 read_manifest             RunManifest
    data.json                     read_data                 Data
    facts.json                    read_facts                StoredFacts
    cost.json                     read_cost                 Cost
    finished.json                 read_conclusion           Conclusion
    failed.json                   read_failure              Failure
    id                            read_identity             str
    changes.jsonl                 read_changes              list[Change]; none where there is no such file
    evaluations/<name>.json       read_evaluation           Evaluation
    evaluations/<name>.jsonl      read_rows                 list[dict[str, Any]]
    samples/step-<step>.jsonl     read_samples              list[dict[str, str]]
    attention.json                read_attention            list[StoredInspection]
    reproduction.json             read_reproduction         Reproduction
    exports/<to>/export.json      read_export               Export

Elsewhere: config.yaml (`etude.config.stored`), metrics.jsonl (`etude.runs.record`), pretrained.json
(`etude.models.pretrained.skeleton`), tokenizer/ (`etude.tokenization.base`), and checkpoints
(`etude.checkpoints.integrity`).

All of these functions raise `etude.untrusted.BrokenFileError`, exit code 65, for a file that is missing or damaged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from etude.config.agent_words import is_run_id
from etude.runs.documents import (
    Change,
    Conclusion,
    Cost,
    Data,
    Evaluation,
    Export,
    Failure,
    Reproduction,
    RunManifest,
    StoredFacts,
    StoredInspection,
)
from etude.runs.folder import (
    ATTENTION,
    CHANGES,
    COST,
    DATA,
    EVALUATIONS,
    EXPORT,
    FACTS,
    FAILURE,
    FINISHED,
    IDENTITY,
    MANIFEST,
    OVERRIDES,
    REPRODUCTION,
    SAMPLES,
)
from etude.schema_errors import shown
from etude.untrusted import (
    BrokenFileError,
    inside,
    read_json,
    read_json_lines,
    read_text,
    read_yaml,
    yaml_reason,
)

ADVICE = "put the file back from a copy of the run"
"""What to do about a broken file of a run."""

_Read = TypeVar("_Read")


def read_manifest(run: Path) -> RunManifest:
    """Return what a run is made of."""
    return _read(run, MANIFEST, RunManifest)


def read_data(run: Path) -> Data:
    """Return the description of a run's data."""
    return _read(run, DATA, Data)


def read_facts(run: Path) -> StoredFacts:
    """Return what a run's model knows of the data; `run` may be a checkpoint, which has a copy."""
    return _read(run, FACTS, StoredFacts)


def read_cost(run: Path) -> Cost:
    """Return what a run has cost."""
    return _read(run, COST, Cost)


def read_conclusion(run: Path) -> Conclusion:
    """Return what a finished run ended with."""
    return _read(run, FINISHED, Conclusion)


def read_failure(run: Path) -> Failure:
    """Return why the last attempt at a run ended with an error."""
    return _read(run, FAILURE, Failure)


def read_evaluation(run: Path, name: str) -> Evaluation:
    """Return an evaluation by the name of its file, such as `test`."""
    return _read(run, f"{EVALUATIONS}/{name}.json", Evaluation)


def read_rows(run: Path, name: str) -> list[dict[str, Any]]:
    """Return the rows of an evaluation: each has an `id`, a whole number, and what its task adds."""
    path = _path(run, f"{EVALUATIONS}/{name}.jsonl")
    rows = read_json_lines(path, dict[str, Any], ADVICE)
    for number, row in enumerate(rows, start=1):
        if type(row.get("id")) is not int:
            raise BrokenFileError(f"{path}, line {number}", "id is missing or not a whole number", ADVICE)
    return rows


def read_samples(run: Path, step: int) -> list[dict[str, str]]:
    """Return the samples of the validation at a step: texts by name."""
    return read_json_lines(_path(run, f"{SAMPLES}/step-{step:08d}.jsonl"), dict[str, str], ADVICE)


def read_attention(run: Path) -> list[StoredInspection]:
    """Return the attention to a run's samples; `run` may be the folder of an inspection."""
    return _read(run, ATTENTION, list[StoredInspection])


def read_changes(run: Path) -> list[Change]:
    """Return what a run was continued with, in order; nothing where it never was with anything else."""
    path = _path(run, CHANGES)
    return read_json_lines(path, Change, ADVICE) if path.exists() else []


def read_reproduction(run: Path) -> Reproduction:
    """Return what a reproduction came to; `run` is the reproduction."""
    return _read(run, REPRODUCTION, Reproduction)


def read_export(folder: Path) -> Export:
    """Return what an export was made from; `folder` is the export."""
    return _read(folder, EXPORT, Export)


def read_identity(run: Path) -> str:
    """Return a run's id on dashboards."""
    path = _path(run, IDENTITY)
    text = read_text(path, ADVICE, most=64).strip()
    if not is_run_id(text):
        raise BrokenFileError(path, f"'{shown(text)}' is not an id of letters, digits, - and _", ADVICE)
    return text


def read_overrides(run: Path) -> list[str]:
    """Return what was written on the command line that a run was begun with, or continued with last."""
    path = _path(run, OVERRIDES)
    text = read_yaml(path, ADVICE)
    try:
        values = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except (YAMLError, OmegaConfBaseException, ValueError, AssertionError) as error:
        raise BrokenFileError(path, f"is not YAML ({yaml_reason(error)})", ADVICE) from error
    if not isinstance(values, list):
        raise BrokenFileError(path, "is an object, not a list", ADVICE)
    for number, value in enumerate(values):
        if not isinstance(value, str):
            raise BrokenFileError(path, f"[{number}] is not text", ADVICE)
    return [str(value) for value in values]


def _read(run: Path, name: str, kind: type[_Read]) -> _Read:
    return read_json(_path(run, name), kind, ADVICE)


def _path(run: Path, name: str) -> Path:
    """Return the path of a run's file, which no link may lead out of the run."""
    return inside(run, name, run / name, ADVICE)
