"""The best configuration of a sweep as an experiment file composes to what the best member was trained with."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from etude.commands.experiment_file import ExperimentText, save_experiment
from etude.config.compose import CONF, Composer
from etude.config.values import MACHINE, shown_values, within, without_secrets
from etude.errors import ConfigurationError
from etude.sweeps.sweep_documents import MemberDocument, read_member, write_document
from etude.sweeps.sweep_results import SweepResults
from tests.sweeps.test_saved_sweep import begun
from tests.sweeps.written_sweeps import written_sweep

OWN = ("seed", "run", "trust", *MACHINE)


def science(values: Any) -> dict[str, str]:
    """What an experiment says of a configuration."""
    return {key: text for key, text in shown_values(without_secrets(values)).items() if not within(key, OWN)}


def composed(words: Sequence[str], extra: Path | None = None) -> dict[str, str]:
    composer = Composer(CONF, "train", extra)
    return science(composer.compose(composer.normalized(words)).config().values)


def saved(outputs: Path, path: Path, *words: str, extra: Path | None = None) -> SweepResults:
    results = SweepResults.read(written_sweep(outputs, *words, extra=extra))
    assert save_experiment(results, path) == path
    return results


SWEEPS = {
    "values": ("optimizer.lr=1e-4,1e-3", "model.dropout=0.2", "sweep.seeds=[1,2]", "budget=24step"),
    "groups": ("scheduler=constant,cosine", "optimizer.lr=1e-3", "tokenizer=unigram", "debug=limit"),
    "parts of groups": ("model/norm=rms,layer", "model.dropout=0.3", "+callbacks.extra=null"),
    "lists, texts and mappings": (
        "optimizer.betas=[0.9,0.95],[0.8,0.9]",
        "batch={examples: 16, tokens: null}",
        "limit.train=100",
    ),
    "references": ("optimizer.weight_decay=${optimizer.lr},0.5", "optimizer.lr=1e-3"),
    "other machines": ("optimizer.lr=1e-3,1e-2", "trainer=cpu", "trainer.workers=1", "log.every=1step", "seed=7"),
    "no experiment": (
        *("experiment=null", "task=classification", "data=reviews", "model=encoder", "tokenizer=wordpiece"),
        *("decoding=none", "optimizer.lr=1e-3,1e-2"),
    ),
}


@pytest.mark.parametrize("kind", SWEEPS)
def test_the_file_composes_to_the_best_member(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mine" / "experiment" / "found" / "best.yaml"
    results = saved(tmp_path / "outputs", path, *SWEEPS[kind])
    best = results.best
    assert best is not None
    member = best.members[0].document
    assert composed(["experiment=found/best"], tmp_path / "mine") == science(member.config)
    text = path.read_text()
    assert text.startswith("# @package _global_\n")
    assert not {"seed", "run", "paths", "trainer", "logger", "log"} & set(yaml.safe_load(text) or {})


def test_its_first_line_is_the_command_that_trains_it_and_it_bases_on_what_members_share(tmp_path: Path) -> None:
    path = tmp_path / "mine" / "experiment" / "best.yaml"
    results = saved(tmp_path / "outputs", path, *SWEEPS["values"], "scheduler=constant", "sweep.name=night")
    first, second, third, *rest = path.read_text().splitlines()
    assert first == "# @package _global_"
    assert shlex.split(second) == ["#", "etude", "train", "--config-dir", str(tmp_path / "mine"), "experiment=best"]
    assert "classification/demo/night: val/loss 0.2515 ± 0.0007 over 2 seeds" in third
    content = yaml.safe_load("\n".join(rest))
    assert content.pop("defaults") == ["/experiment/classification/demo", {"override /scheduler": "constant"}]
    assert content == {
        "validate": {"metric": "val/loss", "mode": "min"},
        "optimizer": {"lr": 1e-3},
        "model": {"dropout": 0.2},
        "budget": "24step",
    }
    assert results.best is not None and results.best.assignment == {"optimizer.lr": 1e-3}


def test_a_folder_of_ones_own_that_is_named_relatively(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results = SweepResults.read(written_sweep(tmp_path / "outputs", "optimizer.lr=1e-3,1e-2"))
    assert save_experiment(results, "conf/experiment/mine") == Path("conf/experiment/mine.yaml")
    assert "# etude train --config-dir conf experiment=mine\n" in Path("conf/experiment/mine.yaml").read_text()


def test_what_the_configuration_files_have_changed_since_is_written_out(tmp_path: Path) -> None:
    """The member was trained with what its document says, whatever its words compose to now."""
    sweep = written_sweep(tmp_path / "outputs", "optimizer.lr=1e-3")
    (folder,) = sweep.folders
    document = read_member(folder)
    config = {**document.config, "task": {**document.config["task"], "label_smoothing": 0.25}}
    write_document(folder, MemberDocument(**{**document.plain(), "config": config, "attempts": []}))
    path = tmp_path / "mine" / "experiment" / "best.yaml"
    save_experiment(SweepResults.read(sweep), path)
    assert yaml.safe_load(path.read_text())["task"] == {"label_smoothing": 0.25}
    assert composed(["experiment=best"], tmp_path / "mine") == science(config)


def refusal(results: SweepResults, path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        save_experiment(results, path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_file_is_overwritten_and_none_is_left_where_it_would_not_do(tmp_path: Path) -> None:
    results = SweepResults.read(written_sweep(tmp_path / "outputs", "optimizer.lr=1e-3", "~optimizer.eps"))
    path = tmp_path / "mine" / "experiment" / "best.yaml"
    assert "optimizer.eps: 1e-08 instead of (none)" in refusal(results, path)
    assert not path.exists()
    path.write_text("mine\n")
    assert refusal(results, path) == f"save={path} exists already; write another name (command line)"
    assert path.read_text() == "mine\n"
    assert "is in no folder named experiment" in refusal(results, tmp_path / "best.yaml")


def test_without_a_best_trial_there_is_nothing_to_write(tmp_path: Path) -> None:
    path = tmp_path / "experiment" / "best.yaml"
    assert "no member of" in refusal(SweepResults.read(begun(tmp_path / "a")), path)
    assert "different scores" in refusal(SweepResults.read(begun(tmp_path / "b", metric=None)), path)
    assert not path.exists()


def test_groups_of_ones_own_need_a_file_beside_them(tmp_path: Path) -> None:
    own = tmp_path / "own"
    (own / "scheduler").mkdir(parents=True)
    (own / "scheduler" / "mine.yaml").write_text("_target_: etude.optim.schedules.Constant\nwarmup: 3step\n")
    words = ("scheduler=mine", "optimizer.lr=1e-3,1e-2")
    results = saved(tmp_path / "outputs", own / "experiment" / "best.yaml", *words, extra=own)
    assert composed(["experiment=best"], own)["scheduler._target_"] == "'etude.optim.schedules.Constant'"
    said = refusal(results, tmp_path / "other" / "experiment" / "best.yaml")
    assert "scheduler=mine does not exist" in said and f"save={own}/experiment/best.yaml" in said


def test_values_are_nested_and_later_ones_count() -> None:
    text = ExperimentText(None)
    for key, value in (
        ("a.b", 1),
        ("a.c", 2),
        ("a.b", 3),
        ("d", {"e": 1}),
        ("d.f", 2),
        ("d", {"e": 4}),
        ("g", 1),
        ("g.h", 2),
    ):
        text.set(key, value)
    assert text.values == {"a": {"b": 3, "c": 2}, "d": {"e": 4, "f": 2}, "g": {"h": 2}}
    assert yaml.safe_load(text.render([])) == text.values


def test_a_comment_stays_one() -> None:
    assert ExperimentText("x").render(["a\nseed: 1"]).splitlines()[1] == "# a seed: 1"
