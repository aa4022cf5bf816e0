"""Sweeps on disk whose members have trained nothing: with records, conclusions and, where they are asked for, evaluations."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from etude.config.compose import compose
from etude.config.schema import Config
from etude.runs.folder import CONFIGURATION, DATA, EVALUATIONS, FACTS
from etude.runs.saved_run import SavedRun
from etude.sweeps.engine import Engine
from etude.sweeps.launchers.base import Job
from etude.sweeps.saved_sweep import SavedMember, SavedSweep
from etude.sweeps.study import Study
from etude.sweeps.sweep_documents import CodeState, SweepDocument, write_document
from etude.sweeps.sweep_plan import read_plan
from etude.types import Facts
from tests.runs.test_compare import DESCRIBED
from tests.sweeps.pretended import PretendedLauncher

LABELS = [0, 1, 1, 0, 1, 0, 0, 1, 1, 0]
JUDGED = ("experiment=classification/demo", "validate.metric=val/loss", "validate.mode=min", "logger=none")
CODE = CodeState(commit=None, changes=None, sources={}, packages={})


def written_sweep(
    outputs: Path,
    *words: str,
    fails: Callable[[Job], int] | None = None,
    extra: Path | None = None,
    code: CodeState = CODE,
) -> SavedSweep:
    """Run a sweep whose members only pretend to train; their loss is least at a learning rate of 1e-3 and seed 1."""
    plan = read_plan([*JUDGED, f"paths.outputs={outputs}", "sweep.retries=0", *words], extra)
    folder = outputs / plan.experiment / plan.name
    folder.mkdir(parents=True, exist_ok=True)
    document = SweepDocument(
        command=list(plan.command),
        extra=None if extra is None else str(extra.resolve()),
        identity=plan.identity,
        metric="val/loss",
        mode="min",
        threads=1,
        code=code,
    )
    write_document(folder, document)
    study = Study(folder, plan.name, "min", plan.pruner.pruner())
    engine = Engine(folder, plan, PretendedLauncher(fails=fails), study, 1, lambda engine: None)
    engine.restore()
    engine.run()
    return SavedSweep.open(folder)


def evaluate_members(
    sweep: SavedSweep,
    wrong: Callable[[SavedMember], Sequence[int]] = lambda member: (),
    labels: Sequence[int] = LABELS,
) -> None:
    """Write an evaluation of each member that came to its end, in which some labels are wrong."""
    for member in sweep.finished:
        errors = wrong(member)
        (member.path / CONFIGURATION).unlink()
        SavedRun.begin(member.path, read_config(member))
        rows = [
            {"id": place, "label": label, "prediction": 1 - label if place in errors else label}
            for place, label in enumerate(labels)
        ]
        evaluation: dict[str, Any] = {
            "split": "test",
            "checkpoint": "step-00000008",
            "examples": len(labels),
            "scores": {"test/loss": 0.5, "test/accuracy": 1 - len(errors) / len(labels)},
            "intervals": {},
            "signatures": {"test/accuracy": "nrefs:1|classes:2"},
        }
        (member.path / EVALUATIONS).mkdir()
        (member.path / EVALUATIONS / "test.json").write_text(json.dumps(evaluation))
        (member.path / EVALUATIONS / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        facts = Facts(vocabulary=9, pad=0, bos=1, eos=2, classes=("cold", "warm"))
        (member.path / FACTS).write_text(json.dumps(facts.to_json()))
        (member.path / DATA).write_text(json.dumps(DESCRIBED))


def read_config(member: SavedMember) -> Config:
    """The configuration of a member, as its words compose it."""
    return compose(*member.document.words)
