"""`etude merge`: the mean of runs is a run, made whole or not at all, that says what it is of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import etude
from etude.checkpoints.checkpoint import read_weights
from etude.cli.main import main
from etude.cli.run_commands import call
from etude.commands.derived import merge as command
from etude.commands.derived.merge import merge
from etude.commands.train import resume, train
from etude.config.compose import compose
from etude.errors import ConfigurationError, EtudeError
from etude.runs.folder import runs_in
from etude.runs.saved_run import SavedRun
from tests.runs.conftest import SMALL, small_data
from tests.runs.processes import Sent, run

__all__ = ["small_data"]  # a fixture

NAMES = ("a", "b", "c")


def words(data: Path, place: Path, *more: str) -> list[str]:
    return [
        *("experiment=classification/demo", *SMALL, "data=table", "model.layers=1", "tokenizer.vocabulary=60"),
        *(f"data.{split}={data}/{split}.tsv" for split in ("train", "val", "test")),
        *(
            "batch.examples=13",
            "budget=4step",
            "validate.every=2step",
            f"paths.outputs={place}/outputs",
            f"paths.cache={place}/cache",
            *more,
        ),
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, small_data: Path) -> Path:
    """A folder with three runs of a classifier that began with the same weights, and one of another width."""
    folder = tmp_path_factory.mktemp("merged")
    first = train(compose(*words(small_data, folder, "run.name=a", "optimizer.lr=1e-2"))).path
    for seed, name in ((2, "b"), (3, "c")):
        config = compose(*words(small_data, folder, f"seed={seed}", f"run.name={name}", "optimizer.lr=1e-2"))
        started = config.updated({"start": str(first)}, [])
        train(started)
    train(
        compose(*words(small_data, folder, "model.width=24", "run.name=wide", "budget=1step", "validate.every=1step"))
    )
    return folder / "outputs/classification/demo"


@pytest.fixture
def runs(place: Path) -> list[SavedRun]:
    return [SavedRun.open(place / name) for name in NAMES]


def best(saved: SavedRun) -> dict[str, torch.Tensor]:
    return read_weights(saved.checkpoint("best"))


def test_the_mean_is_that_of_the_weights_and_a_run_like_any_other(runs: list[SavedRun], place: Path) -> None:
    made = merge(runs, name="mean")
    weights = [best(one) for one in runs]
    for name, tensor in best(made).items():
        expected = torch.stack([each[name].double() for each in weights]).mean(0).to(tensor.dtype)
        torch.testing.assert_close(tensor, expected, rtol=0, atol=0, msg=name)
    assert made.state == "finished" and (made.path / "report.html").exists()
    assert made.conclusion.ended == "the mean of 3 runs"
    evaluated = call("evaluate", [made.path], {})
    assert evaluated["scores"] == made.conclusion.scores
    (line,) = made.events
    validated = call("evaluate", [made.path], {"split": "val"})["scores"]
    assert {name: validated[name] for name in line.values} == pytest.approx(dict(line.values))
    tuned = train(runs[0].config.updated({"start": str(made.path), "run.name": "tuned", "budget": "1step"}, []))
    chain = tuned.manifest.start
    assert chain is not None and chain.run == str(made.path)


def test_the_manifest_names_its_sources(runs: list[SavedRun]) -> None:
    made = merge(runs, method="greedy", name="greedy")
    merged = json.loads((made.path / "manifest.json").read_text())["merged"]
    assert (merged["method"], merged["metric"]) == ("greedy", runs[0].config.validate.metric)
    for saved, source in zip(runs, merged["sources"], strict=True):
        checkpoint = saved.checkpoint("best")
        written = json.loads((checkpoint / "manifest.json").read_text())["files"]["model.safetensors"]["sha256"]
        assert (source["run"], source["checkpoint"], source["weights"]) == (
            *(str(saved.path), checkpoint.name, written),
        )
        validated = call("evaluate", [saved.path], {"split": "val"})["scores"]
        assert source["score"] == pytest.approx(validated[merged["metric"]])
    kept = [saved for saved, source in zip(runs, merged["sources"], strict=True) if source["kept"]]
    mean = {name: torch.stack([best(one)[name].double() for one in kept]).mean(0).float() for name in best(made)}
    assert all(torch.equal(mean[name], tensor) for name, tensor in best(made).items())
    assert made.events[-1].values[merged["metric"]] >= max(source["score"] for source in merged["sources"])


def test_the_mean_of_equal_weights_is_these_weights(runs: list[SavedRun], place: Path) -> None:
    shutil.copytree(place / "a", place / "a-again", symlinks=True)
    made = merge([runs[0], SavedRun.open(place / "a-again")], name="same")
    assert all(torch.equal(best(runs[0])[name], tensor) for name, tensor in best(made).items())


def test_the_same_again_is_found_made_and_another_is_refused(runs: list[SavedRun], place: Path) -> None:
    made = merge(runs[:2])
    assert made.path == place / "a-mean-of-2" == etude.merge(runs[0], place / "b").path
    stamp = (made.path / "manifest.json").stat().st_mtime_ns
    assert merge(runs[:2]).path == made.path and (made.path / "manifest.json").stat().st_mtime_ns == stamp
    for others, name in ((runs[1:], "a-mean-of-2"), (runs[:2], "c")):
        with pytest.raises(ConfigurationError, match=r"is another run; give this one a name of its own: run.name=NAME"):
            merge(others, name=name)


def test_a_merged_run_has_no_training_to_go_on_with(runs: list[SavedRun], place: Path) -> None:
    made = merge(runs[:2])
    assert resume(made).path == made.path
    for name, keys in (("resume", {"budget": "99step"}), ("reproduce", {}), ("replay", {"step": 1})):
        with pytest.raises(ConfigurationError, match="is the mean of other runs and has no training of its own"):
            call(name, [made.path], keys)


def test_compare_tells_a_merged_run_from_the_first(runs: list[SavedRun]) -> None:
    made = merge(runs[:2])
    compared = call("compare", [runs[0].path, made.path], {"format": "json"})
    assert '"merged": "mean of a, b"' in json.dumps(compared)


@pytest.mark.parametrize(
    ("names", "keys", "said"),
    [
        (("a",), {}, "a mean is of two or more different runs"),
        (("a", "a"), {}, "a mean is of two or more different runs"),
        (("a", "b"), {"method": "best"}, r"method=best is not one of mean, greedy"),
        (("a", "b"), {"run.name": ".x"}, "cannot name a folder"),
        (("a", "b"), {"seed": 3}, "seed cannot be changed here"),
        (
            ("a", "wide"),
            {},
            r"wide has another shape than .*a: \d+ tensors differ, such as head.weight \(\(2, 24\), not",
        ),
    ],
)
def test_what_does_not_fit_is_refused(place: Path, names: tuple[str, ...], keys: dict[str, object], said: str) -> None:
    before = sorted(place.iterdir())
    with pytest.raises(ConfigurationError, match=said):
        call("merge", [place / name for name in names], keys)
    assert sorted(place.iterdir()) == before


def changed(place: Path, name: str, change: Callable[[Path], None]) -> SavedRun:
    shutil.copytree(place / "b", place / name, symlinks=True)
    change(place / name)
    return SavedRun.open(place / name)


def test_another_task_tokenizer_or_class_is_refused(runs: list[SavedRun], place: Path) -> None:
    def classes(folder: Path) -> None:
        facts = json.loads((folder / "facts.json").read_text())
        (folder / "facts.json").write_text(json.dumps({**facts, "classes": ["one", "two"]}))

    def tokenizer(folder: Path) -> None:
        config = json.loads((folder / "tokenizer/tokenizer_config.json").read_text())
        (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps({**config, "mask_token": None}))

    for change, said in (
        (classes, "has other classes or labels than"),
        (tokenizer, "has another vocabulary than"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            merge([runs[0], changed(place, change.__name__, change)])
    other = runs[1].config.updated({"task._target_": "etude.tasks.multilabel.Multilabel"})
    with pytest.raises(
        ConfigurationError, match=r"has learned another task than .* \(Multilabel, not Classification\)"
    ):
        merge([runs[0], SavedRun(runs[1].path, other)])


def test_what_fails_leaves_nothing(runs: list[SavedRun], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise EtudeError("no more")

    before = sorted(place.iterdir())
    monkeypatch.setattr(command, "evaluate_checkpoint", fail)
    with pytest.raises(EtudeError, match="no more"):
        merge(runs[1:], name="failed")
    assert sorted(place.iterdir()) == before


@pytest.mark.slow
def test_killed_it_is_not_there_and_made_again_it_is_the_same(place: Path, tmp_path: Path) -> None:
    words = ["merge", *(str(place / name) for name in NAMES), "method=greedy"]
    whole = run(tmp_path / "whole", [*words, "run.name=whole"])
    assert whole.code == 0, whole.log
    for target, times in (("etude.commands.derived.merge:write", 1), ("etude.commands.derived.merge:write_json", 2)):
        killed = run(tmp_path / "killed", [*words, "run.name=killed"], Sent(target, times, (9,)))
        assert killed.code == -9
        assert not (place / "killed").exists() and not [path for path in runs_in(place) if path.name.startswith(".")]
    again = run(tmp_path / "again", [*words, "run.name=killed"])
    assert again.code == 0, again.log
    for name in ("checkpoints/best/model.safetensors", "finished.json", "metrics.jsonl"):
        assert (place / "whole" / name).read_bytes() == (place / "killed" / name).read_bytes(), name
    assert not [path for path in place.iterdir() if path.name.startswith(".")]


def test_the_command_line(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["merge", str(place / "a"), str(place / "b"), "run.name=typed"]
    assert main(words) == 0
    assert capfd.readouterr().out == f"{place}/typed\n"
    assert main(["merge", "--help"]) == 0
    assert "method" in capfd.readouterr().out
