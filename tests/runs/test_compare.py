"""`etude compare` on finished runs, whose evaluations are made here: scores over seeds, tests, cost, and what is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from etude.cli.main import main
from etude.config.schema import Config
from etude.errors import ConfigurationError, DataError
from etude.metrics.resampling import paired_p_value
from etude.metrics.text_metrics import text_scores
from etude.report import significance as comparison
from etude.runs.folder import COST, DATA, FACTS, FINISHED, runs_in
from etude.tasks.translation import STANDARD_METRICS
from etude.types import Facts
from tests.runs.conftest import sentence
from tests.runs.doors import compare
from tests.runs.killing import begin

REFERENCES = [" ".join(sentence(random.Random(number))) for number in range(40)]
Make = Callable[..., Path]


def outputs(wrong: int) -> list[str]:
    """The references, so many of them spoilt."""
    return ["sun sun sun" if number < wrong else text for number, text in enumerate(REFERENCES)]


def cost_of(seconds: float) -> dict[str, Any]:
    return {
        "parameters": {"total": 1000, "trainable": 900},
        "steps": 8,
        "tokens": 5000,
        "flops": 3_000_000,
        "flops_are": "counted",
        "model_flops_utilisation": 0.25,
        "peak_flops": 1e9,
        "peak_is": "measured",
        "seconds": seconds,
        "validation_seconds": 0.0,
        "cpu_seconds": 2 * seconds,
        "gpu_seconds": 0.0,
        "peak_memory_mb": 300.0,
        "peak_gpu_memory_mb": 0.0,
        "energy_joules": 24 * seconds,
        "energy_estimated": True,
        "energy_estimated_joules": 24 * seconds,
        "energy_is": "estimated",
    }


@pytest.fixture(autouse=True)
def few_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for a p-value below 0.01."""
    monkeypatch.setattr(comparison, "paired_p_value", partial(paired_p_value, trials=500))


DESCRIBED = {
    "rows": {"train": 9, "test": 4},
    "dropped": {},
    "fingerprint": "abc",
    "classes": [],
    "tokenizer": {"vocabulary": 9, "fingerprint": "def"},
    "batch": {"tokens": 180, "examples": None, "pool": None},
    "steps_per_epoch": 3,
    "tokens_per_step": 60.0,
}
"""What `data.json` says."""


@pytest.fixture(scope="module")
def configuration() -> list[Config]:
    """A configuration of a translation, composed once for all tests here."""
    return []


@pytest.fixture
def make(composed: Callable[..., Any], configuration: list[Config], tmp_path: Path) -> Make:
    """Writes a finished translation run with a number of spoilt outputs."""
    if not configuration:
        configuration.append(composed("translation"))

    def write(
        name: str, wrong: int, seed: int = 1, width: int = 16, signature: str = "s", references: Sequence[str] = ()
    ) -> Path:
        config = configuration[0].updated({"seed": seed, "model.width": width})
        run = begin(tmp_path / "outputs" / "demo" / name, config)
        wanted = list(references) or REFERENCES
        found = text_scores(STANDARD_METRICS, outputs(wrong), [[text] for text in wanted])
        rows = [
            {"id": number, "output": output, "references": [text]}
            for number, (output, text) in enumerate(zip(outputs(wrong), wanted, strict=True))
        ]
        evaluation = {
            "split": "test",
            "checkpoint": "step-00000008",
            "examples": len(rows),
            "scores": {"test/loss": 2.0 + wrong, **{f"test/{one}": score.value for one, score in found.items()}},
            "intervals": {"test/bleu": [found["bleu"].value - 1, found["bleu"].value + 1]},
            "signatures": {"test/bleu": signature},
        }
        (run / "evaluations").mkdir()
        (run / "evaluations" / "test.json").write_text(json.dumps(evaluation))
        (run / "evaluations" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (run / FACTS).write_text(json.dumps(Facts(vocabulary=9, pad=0, bos=1, eos=2).to_json()))
        (run / DATA).write_text(json.dumps(DESCRIBED))
        (run / COST).write_text(json.dumps(cost_of(10.0 * wrong)))
        (run / FINISHED).write_text("{}")
        return run

    return write


@pytest.fixture
def sweep(make: Make) -> Path:
    """The folder of a good experiment with two seeds, a bad one with the same, and a run that is not finished."""
    for seed, wrong in ((1, 1), (2, 2)):
        make(f"good-{seed}", wrong, seed)
        make(f"worse-{seed}", 20 + wrong, seed, width=32)
    folder = make("zz-unfinished", 3)
    (folder / FINISHED).unlink()
    return folder.parent


def test_seeds_are_one_group_and_groups_are_tested(sweep: Path) -> None:
    found: Any = compare(runs_in(sweep), {"format": "json"})
    good, worse = found["groups"]
    assert (good["name"], good["seeds"], worse["seeds"]) == ("good-1", [1, 2], [1, 2])
    assert (good["configuration"], worse["configuration"]) == ({"model.width": "16"}, {"model.width": "32"})
    first, second = (
        json.loads((sweep / f"good-{seed}/evaluations/test.json").read_text())["scores"] for seed in (1, 2)
    )
    bleu = good["scores"]["test/bleu"]
    assert bleu["mean"] == pytest.approx((first["test/bleu"] + second["test/bleu"]) / 2)
    assert bleu["sd"] == pytest.approx(abs(first["test/bleu"] - second["test/bleu"]) / 2**0.5)
    said = worse["against_first"]
    assert good["against_first"] == {}
    assert said["difference"]["bleu"] == pytest.approx(worse["scores"]["test/bleu"]["mean"] - bleu["mean"])
    assert set(said["p"]) == {"bleu"}  # the score that validations are judged by
    assert set(said["p"]["bleu"]) == {"1", "2"}
    assert max(said["p"]["bleu"].values()) < 0.01
    assert good["cost"]["seconds"] == 15
    assert good["cost"]["total_parameters"] == 1000
    assert found["left_out"] == [str(sweep / "zz-unfinished")]


def test_equal_outputs_do_not_differ(make: Make) -> None:
    runs = [make("a", 5, seed=1), make("b", 5, seed=2, width=32)]
    found: Any = compare(runs, {"format": "json", "metric": "chrf"})
    # Of the only run of each, whatever its seed.
    assert found["groups"][1]["against_first"]["p"] == {"chrf": {"2": 1.0}}


def test_without_a_common_seed_nothing_is_tested(make: Make) -> None:
    runs = [make("a", 5, seed=1), make("b", 6, seed=2), make("c", 5, seed=3, width=32)]
    found: Any = compare(runs, {"format": "json"})
    assert found["notes"] == ["c is not tested against a: they have no seed in common"]


@pytest.mark.parametrize("form", ["markdown", "latex"])
def test_the_command_writes_tables_for_papers_and_shows_them(
    sweep: Path, form: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "demo", f"format={form}", f"paths.outputs={sweep.parent}"]) == 0
    out, log = capfd.readouterr()
    assert "zz-unfinished is not finished" in log
    assert "good-1" in log
    if form == "latex":
        assert out.count(r"\toprule") == 3
        assert r"worse-1 & 32 \\" in out
        assert r"$\pm$" in out
    else:
        assert "| worse-1 | 32 |" in out
        assert "±" in out
    assert "360 J (estimated)" in out  # 24 W for 15 s, the mean of 10 and 20


def test_other_test_data_or_signatures_are_said_and_not_compared(make: Make) -> None:
    first = make("a", 1)
    other = make("b", 2, width=32, signature="t")
    found: Any = compare([first, other], {"format": "json"})
    assert "test/bleu" not in found["groups"][0]["scores"]
    assert "test/chrf" in found["groups"][0]["scores"]
    assert found["notes"][0] == "test/bleu is not compared: it was not computed alike (s and t)"
    strange = make("c", 2, width=64, references=REFERENCES[::-1])
    found = compare([first, strange], {"format": "json"})
    assert found["groups"][0]["scores"] == {}
    assert found["notes"] == [f"scores are not compared: the test data of {strange} are not those of {first}"]
    assert found["groups"][1]["cost"]["tokens"] == 5000


def test_what_cannot_be_compared_is_one_line(make: Make, sweep: Path) -> None:
    run = sweep / "good-1"
    with pytest.raises(ConfigurationError, match="finished runs that are given: 1;"):
        compare([run], {})
    with pytest.raises(ConfigurationError, match="does not know format=html"):
        compare(runs_in(sweep), {"format": "html"})
    with pytest.raises(ConfigurationError, match="does not know beams"):
        compare(runs_in(sweep), {"beams": 3})
    with pytest.raises(ConfigurationError, match="has no evaluation of val; make it: etude evaluate"):
        compare(runs_in(sweep), {"split": "val"})
    rows = (run / "evaluations" / "test.jsonl").read_text().replace("sun sun sun", "rain")
    (run / "evaluations" / "test.jsonl").write_text(rows)
    with pytest.raises(DataError, match="evaluate it again"):
        compare(runs_in(sweep), {})


def test_a_run_without_a_cost_is_compared_in_the_rest(make: Make) -> None:
    runs = [make("a", 1), make("b", 2, width=32)]
    (runs[0] / COST).unlink()
    found: Any = compare(runs, {"format": "json"})
    assert found["groups"][0]["cost"] == {}
    assert found["groups"][1]["cost"]["tokens"] == 5000


@pytest.mark.parametrize(("name", "one", "other"), [("label", 0, 1), ("labels", [], [1]), ("references", ["a"], ["b"])])
def test_rows_of_other_wanted_outputs_are_not_the_same(name: str, one: Any, other: Any) -> None:
    first, second = (
        comparison.ScoredRows({}, comparison.ids_and_references([{"id": 3, name: wanted, "output": "x"}]))
        for wanted in (one, other)
    )
    assert comparison.differences(first, second) == {"why_not": "the rows are not the same"}
    assert "score" in comparison.differences(first, first)["why_not"]
