"""`etude merge`: a new run whose weights are the mean of those of several runs."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from etude.atomic import make_folder, remove_leftovers, replace_link, storage_errors, sync, write_json
from etude.checkpoints.checkpoint import snapshot, write
from etude.checkpoints.integrity import checkpoint_folder, read_manifest
from etude.errors import ConfigurationError
from etude.report.page import report
from etude.runs.folder import CONFIGURATION, DATA, FACTS, FINISHED, MANIFEST, PRETRAINED, TOKENIZER, check_name
from etude.runs.manifest import manifest
from etude.runs.record import RECORD, Event, Record
from etude.runs.saved_run import SavedRun
from etude.training.build import Experiment, build
from etude.training.checkpoint_averaging import mean_weights
from etude.training.checkpoint_evaluation import evaluate_checkpoint, score
from etude.training.from_runs.merging import METHODS, Ingredient, Merging, better, check_ingredients, scorer
from etude.training.provenance import refuse_changed_data
from etude.training.restore import in_one_process
from etude.training.trainer import checkpoint_companions
from etude.training.warm_start import describe_source

CHANGEABLE = ("batch", "trainer", "paths")
"""Configuration keys, with all below them, that a merging may change: they change no score."""

_log = logging.getLogger(__name__)


def merge(
    runs: Sequence[SavedRun],
    *,
    method: Any = "mean",
    checkpoint: Any = "best",
    name: Any = None,
    changes: Mapping[str, Any] | None = None,
) -> SavedRun:
    """Make a run of the mean of the weights of runs, and score it; the same command again finds it made.

    The folder beside that of the first run is whole or not there: a killed merging leaves nothing, and is done again.

    Args:
        runs: Two or more runs of one task, tokenizer and model.
        method: `mean`: of all; `greedy`: of those that improve the mean on the validation split, the better ones first.
        checkpoint: `best` or `last`: which checkpoint of each run.
        name: Name of the new run; None: that of the first with the method and the number of runs.
        changes: Values of configuration keys at or below `CHANGEABLE`.

    Raises:
        ConfigurationError: If the runs do not fit together, or another run has the name.
        DataError: If the data of the first run, on which all are scored, has changed.
    """
    if method not in METHODS:
        raise ConfigurationError(f"method={method} is not one of {', '.join(METHODS)} (command line)")
    if len({run.path.resolve() for run in runs}) < max(2, len(runs)):
        raise ConfigurationError(
            "a mean is of two or more different runs; name them: etude merge RUN RUN (command line)"
        )
    ingredients = [Ingredient(run, run.checkpoint(str(checkpoint))) for run in runs]
    check_ingredients(ingredients)
    first = runs[0]
    name = f"{first.name}-{method}-of-{len(runs)}" if name is None else str(name)
    check_name(name)
    target = first.path.parent / name
    config = in_one_process(first.changed(changes or {}, CHANGEABLE), changes or {})
    if (target / CONFIGURATION).exists():
        return _made_before(SavedRun.open(target), method, ingredients)
    experiment = build(config, first.tokenizer, first)
    refuse_changed_data(first, experiment.data.describe())
    with _folder(target) as folder:
        run = SavedRun.begin(folder, first.config.updated({"run.name": name}))
        for file in (TOKENIZER, FACTS, PRETRAINED):
            _copy(first.path / file, folder / file)
        merging = _choose(str(method), ingredients, folder, experiment)
        _write(run, experiment, str(method), ingredients, merging)
        _copy(first.path / DATA, folder / DATA)
    report(target)
    return SavedRun.open(target)


def _made_before(run: SavedRun, method: Any, ingredients: Sequence[Ingredient]) -> SavedRun:
    """Return a run that is there, if it is of the same weights and method.

    Raises:
        ConfigurationError: If it is another one.
    """
    merged = run.merged
    present = [describe_source(one.run, one.checkpoint)["weights"] for one in ingredients]
    if merged is None or merged.method != method or [source.weights for source in merged.sources] != present:
        raise ConfigurationError(f"{run.path} is another run; give this one a name of its own: run.name=NAME")
    _log.info("%s is merged already; nothing to do", run.path)
    return run


def _choose(method: str, ingredients: Sequence[Ingredient], folder: Path, experiment: Experiment) -> Merging:
    if method == "greedy" and "val" not in experiment.data.splits:
        raise ConfigurationError("method=greedy needs a validation split, and the data has none; write method=mean")
    return METHODS[method](ingredients, scorer(folder, experiment), better(experiment))


def _write(
    run: SavedRun, experiment: Experiment, method: str, ingredients: Sequence[Ingredient], merging: Merging
) -> None:
    """Write the checkpoint, the manifest and the scores of a merged run."""
    kept = [ingredients[place].checkpoint for place in merging.kept]
    step = max(read_manifest(folder).step for folder in kept)
    weights = mean_weights(kept)
    experiment.task.load_state_dict(weights)
    value = _validate(run, experiment, step)
    content = {"state_dict": weights, "global_step": step, "etude": {"score": value}}
    place = checkpoint_folder(run.checkpoints, step)
    write(snapshot(content), place, checkpoint_companions(run))
    for link in ("best", "last"):
        replace_link(run.checkpoints / link, place.name)
    config, data = experiment.config, experiment.data
    sources = merging.described(ingredients)
    described = manifest(
        seed=config.seed,
        data_fingerprint=data.describe()["fingerprint"],
        module=experiment.task,
        command=("etude", "merge", *(source["run"] for source in sources), f"method={method}"),
        precision=config.precision,
        trust=config.trust,
    )
    merged = {"method": method, "metric": config.validate.metric, "sources": sources}
    write_json(run.path / MANIFEST, {**described, "merged": merged})
    evaluation = evaluate_checkpoint(run, experiment, place)
    scores = {key: value for key, value in evaluation.items() if key != "details"}
    ended = (
        f"the {method} mean of {len(kept)} of {len(ingredients)} runs"
        if method != "mean"
        else f"the mean of {len(kept)} runs"
    )
    write_json(run.path / FINISHED, {"step": step, "ended": ended, **scores})


def _validate(run: SavedRun, experiment: Experiment, step: int) -> float | None:
    """Write the line of the record with the mean's scores on the validation split, and return that of `validate.metric`."""
    task, data = experiment.task, experiment.data
    if "val" not in data.splits:
        return None
    task.bootstrap = 0
    score(run.path, experiment, "val")
    values = {f"val/{name}": float(one.value) for name, one in task.results.items()}
    with closing(Record(run.path / RECORD)) as record:
        record.append(Event(step, data.tokens_at(step), 0.0, values))
    return values[experiment.config.validate.metric]


@contextmanager
def _folder(target: Path) -> Iterator[Path]:
    """Yield a hidden folder beside a run's that gets its name at the end, or is removed if anything fails."""
    folder = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with storage_errors(target):
            remove_leftovers(target.parent)
            make_folder(folder)
        yield folder
        with storage_errors(target):
            sync(folder)
            folder.rename(target)
            sync(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    """Copy a file or a folder that a run may have."""
    with storage_errors(target):
        if source.is_dir():
            shutil.copytree(source, target)
        elif source.exists():
            shutil.copyfile(source, target)
