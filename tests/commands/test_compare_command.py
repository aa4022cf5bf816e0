"""`etude compare`: groups over seeds, what differs between them, which scores may be compared, and whether they differ."""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.commands.compare import (
    Group,
    comparable_scores,
    compare,
    compare_groups,
    differing_keys,
    group_by_configuration,
    over_seeds,
    significance,
)
from etude.commands.compare_tables import comparison_tables, render, table_notes
from etude.commands.compared_run import ComparedRun
from etude.config.compose import compose
from etude.config.schema import Config
from etude.config.values import NONE
from etude.errors import ConfigurationError
from etude.metrics.resampling import paired_p_value
from etude.report import significance as paired
from etude.runs.folder import DATA, EVALUATIONS, FACTS, FINISHED
from etude.runs.saved_run import SavedRun
from etude.types import Facts
from tests.runs.test_compare import DESCRIBED, cost_of

LABELS = [0, 1, 1, 0, 1, 0, 0]
Make = Any


@pytest.fixture(scope="module")
def config() -> Config:
    return compose("experiment=classification/demo", "data=table", "data.train=a.tsv", "data.val=b.tsv")


@pytest.fixture(autouse=True)
def few_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few trials, whose p-values are still right to a few hundredths."""
    monkeypatch.setattr(paired, "paired_p_value", partial(paired_p_value, trials=2000))


def rows_with(wrong: Sequence[int], labels: Sequence[int] = LABELS) -> list[dict[str, Any]]:
    """Rows of a classification, of which some are wrong."""
    return [
        {"id": number, "label": label, "prediction": 1 - label if number in wrong else label}
        for number, label in enumerate(labels)
    ]


def run_of(
    config: Config,
    path: Path,
    seed: int = 1,
    wrong: Sequence[int] = (),
    configuration: Mapping[str, str] | None = None,
    **changed: Any,
) -> ComparedRun:
    """A run in memory, of whose labels some are wrong."""
    saved = SavedRun(path, config.updated({"seed": seed}))
    saved.facts = Facts(vocabulary=9, pad=0, bos=1, eos=2, classes=("cold", "warm"))
    right = 1 - len(wrong) / len(LABELS)
    run = ComparedRun(
        run=saved,
        configuration=configuration or {"model.width": "16"},
        scores={"test/loss": 0.5, "test/accuracy": right},
        intervals={"test/accuracy": [right - 0.25, right + 0.125]},
        signatures={"test/accuracy": "nrefs:1|classes:2"},
        rows=rows_with(wrong),
        cost=cost_of(10.0),
    )
    return replace(run, **changed)


@pytest.fixture
def make(config: Config, tmp_path: Path) -> Make:
    return lambda name="a", *rest, **named: run_of(config, tmp_path / name, *rest, **named)


@pytest.fixture
def written(config: Config, tmp_path: Path) -> Make:
    """Writes a finished run."""

    def write(
        name: str, wrong: Sequence[int] = (), seed: int = 1, width: int = 16, metric: str = "accuracy"
    ) -> SavedRun:
        folder = tmp_path / "outputs" / "demo" / name
        (folder / EVALUATIONS).mkdir(parents=True)
        changes = {"seed": seed, "model.width": width, "validate.metric": f"val/{metric}"}
        SavedRun.begin(folder, config.updated(changes))
        right = 1 - len(wrong) / len(LABELS)
        evaluation = {
            "split": "test",
            "checkpoint": "step-00000008",
            "examples": len(LABELS),
            "scores": {"test/loss": 0.5, "test/accuracy": right},
            "intervals": {},
            "signatures": {},
        }
        (folder / EVALUATIONS / "test.json").write_text(json.dumps(evaluation))
        lines = "".join(json.dumps(row) + "\n" for row in rows_with(wrong))
        (folder / EVALUATIONS / "test.jsonl").write_text(lines)
        facts = Facts(vocabulary=9, pad=0, bos=1, eos=2, classes=("cold", "warm"))
        (folder / FACTS).write_text(json.dumps(facts.to_json()))
        (folder / DATA).write_text(json.dumps(DESCRIBED))
        (folder / FINISHED).write_text("{}")
        return SavedRun.open(folder)

    return write


def refusal(*arguments: Any, **named: Any) -> str:
    """Return the line that a comparison ends in."""
    with pytest.raises(ConfigurationError) as error:
        compare(*arguments, **named)
    return str(error.value)


# Groups

CONFIGURATIONS = st.dictionaries(
    st.sampled_from(["model.width", "model.layers", "batch.tokens"]), st.sampled_from("123")
)


@given(st.lists(st.tuples(CONFIGURATIONS, st.integers(1, 9)), min_size=1, max_size=8))
def test_each_run_is_in_the_one_group_of_its_configuration(
    config: Config, drawn: list[tuple[dict[str, str], int]]
) -> None:
    runs = [
        run_of(config, Path(f"/outputs/demo/{number}"), seed, configuration=values or {"x": "1"})
        for number, (values, seed) in enumerate(drawn)
    ]
    groups = group_by_configuration(runs)
    assert sorted(run.folder for group in groups for run in group.runs) == sorted(run.folder for run in runs)
    for group in groups:
        seeds = [run.seed for run in group.runs]
        assert seeds == sorted(seeds)
        assert all(run.configuration == group.runs[0].configuration for run in group.runs)
    shared = [group.runs[0].configuration for group in groups]
    assert all(one != other for number, one in enumerate(shared) for other in shared[:number])
    first_of = [min(int(run.folder.name) for run in group.runs) for group in groups]
    assert first_of == sorted(first_of) and [group.name for group in groups] == [str(number) for number in first_of]


@given(st.lists(CONFIGURATIONS, min_size=1, max_size=5))
def test_a_key_is_said_to_differ_exactly_where_two_groups_differ_in_it(
    config: Config, drawn: list[dict[str, str]]
) -> None:
    groups = [
        Group(str(n), [run_of(config, Path(f"/{n}"), configuration={**values, "task": "x"})])
        for n, values in enumerate(drawn)
    ]
    keys = differing_keys(groups)
    expected = {
        key for one in drawn for other in drawn for key in one.keys() | other.keys() if one.get(key) != other.get(key)
    }
    assert keys == sorted(expected)


def test_a_group_is_named_by_its_first_run_from_where_all_runs_lie(config: Config) -> None:
    paths = ["/outputs/demo/x", "/outputs/demo/y", "/outputs/other/x"]
    widths = ["16", "16", "32"]
    runs = [
        run_of(config, Path(path), seed, configuration={"model.width": width})
        for path, width, seed in zip(paths, widths, (5, 3, 4), strict=True)
    ]
    assert [group.name for group in group_by_configuration(runs)] == ["demo/x", "other/x"]
    assert [group.name for group in group_by_configuration(runs[:2])] == ["x"]
    assert [run.seed for run in group_by_configuration(runs)[0].runs] == [3, 5]


def test_absolute_and_relative_paths_can_be_given_together(config: Config, tmp_path: Path) -> None:
    runs = [
        run_of(config, path, configuration={"model.width": str(number)})
        for number, path in enumerate((tmp_path / "x", Path("outputs/demo/y")))
    ]
    assert len(group_by_configuration(runs)) == 2


# Scores that may be compared


def test_scores_of_other_data_are_not_compared(make: Make) -> None:
    first, second = make("a"), make("b", wrong=[3])
    third = replace(make("c"), rows=rows_with([], LABELS[::-1]))
    groups = [Group("a", [first, second]), Group("c", [third])]
    assert comparable_scores(groups, "test") == (
        [],
        [f"scores are not compared: the test data of {third.folder} are not those of {first.folder}"],
    )
    assert comparable_scores(groups[:1], "test") == (["test/loss", "test/accuracy"], [])


def test_scores_that_were_not_computed_alike_are_not_compared(make: Make) -> None:
    runs = [make(name, signatures={"test/accuracy": said}) for name, said in (("a", "s"), ("b", "r"), ("c", "s"))]
    names, notes = comparable_scores([Group(run.folder.name, [run]) for run in runs], "test")
    assert names == ["test/loss"]
    assert notes == ["test/accuracy is not compared: it was not computed alike (r and s)"]


def test_scores_that_not_all_have_are_left_out(make: Make) -> None:
    few = make("b", scores={"test/accuracy": 1.0, "test/macro_f1": 1.0})
    assert comparable_scores([Group("a", [make("a")]), Group("b", [few])], "test")[0] == ["test/accuracy"]


# Tests of differences


def test_runs_of_one_seed_are_not_paired_by_chance(make: Make) -> None:
    twice, once = Group("a", [make("a"), make("b", wrong=[3])]), Group("c", [make("c")])
    for first, other in ((twice, once), (once, twice)):
        said = significance(first, other, ["accuracy"])
        assert said == {"why_not": "a has several runs of one seed; name one of them"}


def test_a_metric_that_no_run_has_is_refused_and_a_title_of_a_column_is_taken(written: Make) -> None:
    runs = [written("a"), written("b", width=32)]
    assert " is not a score of " in refusal(runs, metric="blue")
    assert compare(runs, metric="test/accuracy", format="json") == compare(runs, metric="accuracy", format="json")


WRONG = st.lists(st.integers(0, len(LABELS) - 1), unique=True)


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.tuples(WRONG, WRONG)), min_size=1, max_size=3, unique_by=lambda pair: pair[0]
    )
)
def test_a_difference_is_the_mean_over_seeds_and_turns_its_sign_with_the_order(
    config: Config, drawn: list[tuple[int, tuple[list[int], list[int]]]]
) -> None:
    first, other = (
        Group(name, [run_of(config, Path(f"/{name}/{seed}"), seed, wrong[place]) for seed, wrong in drawn])
        for place, name in enumerate(("a", "b"))
    )
    forth, back = significance(first, other, ["accuracy"]), significance(other, first, ["accuracy"])
    differences = [(len(wrong) - len(others)) / len(LABELS) for _, (wrong, others) in drawn]
    assert forth["difference"]["accuracy"] == pytest.approx(statistics.fmean(differences), abs=1e-12)
    assert back["difference"]["accuracy"] == pytest.approx(-forth["difference"]["accuracy"], abs=1e-12)
    assert forth["p"] == back["p"]
    assert forth["p"]["accuracy"].keys() == {str(seed) for seed, _ in drawn}
    for seed, (wrong, others) in drawn:
        assert wrong != others or forth["p"]["accuracy"][str(seed)] == 1.0


@pytest.mark.parametrize(("wrong", "p"), [([0], 1.0), ([0, 3], 0.5), ([0, 3, 5], 0.25), ([0, 1, 2, 5], 0.125)])
def test_the_p_value_of_k_rows_that_only_one_has_right_is_that_of_k_equal_throws(
    make: Make, wrong: list[int], p: float
) -> None:
    first, other = Group("a", [make("a")]), Group("b", [make("b", wrong=wrong)])
    found = significance(first, other, ["accuracy"])
    assert found["p"]["accuracy"]["1"] == pytest.approx(p, abs=0.04)
    assert found["test"].startswith("ar:")


def test_runs_of_equal_seeds_are_paired_and_the_others_are_passed_over(make: Make) -> None:
    first = Group("a", [make("a1", 1, [0]), make("a2", 2, [0, 1]), make("a4", 4)])
    other = Group("b", [make("b2", 2, [0]), make("b3", 3, [0, 1, 2, 3]), make("b1", 1, [0, 2, 4])])
    found = significance(first, other, ["accuracy"])
    assert found["difference"]["accuracy"] == pytest.approx(((-2) + 1) / 2 / 7)
    assert found["p"]["accuracy"].keys() == {"1", "2"}


def test_the_only_run_of_each_is_paired_whatever_its_seed(make: Make) -> None:
    first, other = Group("a", [make("a", 1)]), Group("b", [make("b", 2, [4, 5])])
    assert significance(first, other, ["accuracy"])["p"].keys() == {"accuracy"}
    two = Group("a", [make("a", 1), make("c", 3)])
    assert significance(two, other, ["accuracy"]) == {"why_not": "they have no seed in common"}


def test_where_one_pair_cannot_be_tested_none_is(make: Make) -> None:
    first = Group("a", [make("a1", 1), make("a2", 2)])
    other = Group("b", [make("b1", 1), make("b2", 2, rows=rows_with([])[1:], scores={"test/accuracy": 1.0})])
    assert significance(first, other, ["accuracy"]) == {"why_not": "the rows are not the same"}
    assert significance(first, first, ["loss"]) == {"why_not": "no score is made of rows that could be exchanged"}


# The whole


def test_seeds_are_paired_where_both_groups_have_the_same_and_one_seed_says_nothing(make: Make) -> None:
    first = Group("a", [make("a1", 1, [0]), make("a2", 2, [0, 1, 2])])
    other = Group("b", [make("b1", 1, [0, 1]), make("b2", 2, [0, 1, 2, 3])])
    third = Group("c", [make("c2", 2, [0]), make("c3", 3, [1, 2])])
    assert over_seeds(first, other, "test/accuracy")["paired"] is True
    assert over_seeds(first, other, "test/accuracy")["difference"] == pytest.approx(-1 / 7)
    assert over_seeds(first, third, "test/accuracy")["paired"] is False
    alone = Group("d", [make("d1")])
    assert over_seeds(first, alone, "test/accuracy") == {"why_not": "d has one seed"}
    assert over_seeds(alone, Group("e", [make("e1")]), "test/accuracy") == {"why_not": "d and e have one seed"}


def test_a_comparison_has_for_each_group_its_means_its_deviations_and_its_test(make: Make) -> None:
    first = Group("a", [make("a1", 1, [0]), make("a2", 2, [0, 1, 2])])
    other = Group("b", [make("b1", 1, [0, 1], {"model.width": "32"}, cost=cost_of(4.0))])
    found = compare_groups([first, other], "test", ["accuracy"])
    narrow, wide = found["groups"]
    assert (narrow["name"], narrow["seeds"], narrow["runs"]) == ("a", [1, 2], [str(run.folder) for run in first.runs])
    assert (narrow["configuration"], wide["configuration"]) == ({"model.width": "16"}, {"model.width": "32"})
    accuracy = narrow["scores"]["test/accuracy"]
    assert accuracy["mean"] == pytest.approx(5 / 7)
    assert accuracy["sd"] == pytest.approx(2 / 7 / 2**0.5)
    assert accuracy["values"] == pytest.approx([6 / 7, 4 / 7])
    assert [len(ends) for ends in accuracy["intervals"]] == [2, 2]
    assert (wide["scores"]["test/loss"]["sd"], wide["scores"]["test/loss"]["intervals"]) == (None, [None])
    assert narrow["against_first"] == {}
    assert wide["against_first"]["difference"]["accuracy"] == pytest.approx(-1 / 7)
    assert (narrow["cost"]["seconds"], wide["cost"]["seconds"]) == (10.0, 4.0)
    assert found["signatures"] == {"test/accuracy": "nrefs:1|classes:2"}
    assert found["notes"] == []


def test_a_key_that_a_group_does_not_have_has_no_value(make: Make) -> None:
    groups = [Group("a", [make("a")]), Group("b", [make("b", configuration={"model.width": "16", "start": "'x'"})])]
    found = compare_groups(groups, "test", [])["groups"]
    assert [group["configuration"] for group in found] == [{"start": NONE}, {"start": "'x'"}]


def test_why_a_group_is_not_tested_is_noted(make: Make) -> None:
    groups = [Group("a", [make("a1", 1), make("a2", 2)]), Group("b", [make("b", 3)])]
    found = compare_groups(groups, "test", ["accuracy"])
    assert found["notes"] == ["b is not tested against a: they have no seed in common"]
    assert found["groups"][1]["against_first"] == {"why_not": "they have no seed in common"}


def test_of_other_data_nothing_is_tested(make: Make) -> None:
    groups = [Group("a", [make("a")]), Group("b", [make("b", rows=rows_with([], LABELS[::-1]))])]
    found = compare_groups(groups, "test", ["accuracy"])
    assert [group["against_first"] for group in found["groups"]] == [{}, {}]
    assert [group["scores"] for group in found["groups"]] == [{}, {}]
    assert len(found["notes"]) == 1


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        (({"tokens": 100, "flops": 8}, {"tokens": 200, "flops": 4}), {"tokens": 150, "flops": 6}),
        (({"tokens": 100, "flops": 8}, {"tokens": 200, "flops": None}), {"tokens": 150}),
        (({"tokens": 100, "flops": None}, {"tokens": 200, "flops": 4}), {"tokens": 150}),
    ],
)
def test_a_cost_is_the_mean_of_what_all_runs_have(
    make: Make, costs: Sequence[dict[str, Any]], expected: dict[str, float]
) -> None:
    shared = {"parameters": {"total": 30, "trainable": 7}, "energy_estimated": False, "energy_is": "measured"}
    runs = [make(str(seed), seed, cost={**shared, **cost}) for seed, cost in enumerate(costs, start=1)]
    runs[1].cost["energy_estimated"] = True
    (group,) = compare_groups([Group("a", runs)], "test", [])["groups"]
    assert group["cost"] == {**expected, "total_parameters": 30, "trainable_parameters": 7, "energy_estimated": True}


def test_a_run_without_a_cost_leaves_its_group_without_one(make: Make) -> None:
    groups = [Group("a", [make("a", 1), make("b", 2, cost={})]), Group("c", [make("c")])]
    first, other = compare_groups(groups, "test", [])["groups"]
    assert first["cost"] == {} and other["cost"]["tokens"] == 5000


# The command


def test_the_tables_are_those_of_the_plain_values(written: Make, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [written("a", [0]), written("b", [0, 1, 2], width=32)]
    found: Any = compare(runs, format="json")
    tables, notes = comparison_tables(found), table_notes(found)
    capsys.readouterr()
    for form in ("markdown", "latex"):
        assert compare(runs, format=form) == render(tables, notes, form)
    assert compare(runs) == render(tables, notes, "markdown")
    out, shown = capsys.readouterr()
    assert out == "" and shown.count("\nScores") == 3
    assert found["split"] == "test" and found["left_out"] == []


def test_unfinished_runs_are_reported_and_left_out(written: Make, caplog: pytest.LogCaptureFixture) -> None:
    runs = [written("a"), written("b", [0], width=32), written("c", width=64), written("d", width=128)]
    for run in runs[::3]:
        (run.path / FINISHED).unlink()
    with caplog.at_level(logging.WARNING, "etude"):
        found: Any = compare(runs, format="json")
    left_out = [str(run.path) for run in runs[::3]]
    assert [group["name"] for group in found["groups"]] == ["b", "c"]
    assert found["left_out"] == left_out
    assert caplog.messages == [f"{run} is not finished, and left out; etude resume {run}" for run in left_out]


@pytest.mark.parametrize(
    ("main", "metric", "tested"),
    [
        ("accuracy", None, {"accuracy"}),
        ("loss", None, {"accuracy"}),  # the first that is made of rows
        ("accuracy", "accuracy", {"accuracy"}),
        ("loss", ["loss", "accuracy"], {"accuracy"}),
    ],
)
def test_the_score_that_selected_checkpoints_is_tested_unless_others_are_named(
    written: Make, main: str, metric: Any, tested: set[str]
) -> None:
    runs = [written("a", metric=main), written("b", [0, 3], width=32, metric=main)]
    found: Any = compare(runs, metric=metric, format="json")
    assert found["groups"][1]["against_first"]["p"].keys() == tested


def test_less_than_two_finished_runs_are_no_comparison(written: Make) -> None:
    runs = [written("a"), written("b", width=32)]
    (runs[1].path / FINISHED).unlink()
    for few, count in (([], 0), (runs[:1], 1), (runs, 1)):
        assert refusal(few) == (f"finished runs that are given: {count}; name two or more, or a folder of them")


@pytest.mark.parametrize("form", ["html", "Markdown", None, 3])
def test_a_format_that_is_not_known_is_said_with_those_that_are(written: Make, form: Any) -> None:
    assert refusal([written("a"), written("b", width=32)], format=form) == (
        f"etude compare does not know format={form}; it takes split=, metric=, save= and "
        "format=markdown|latex|csv|json (command line)"
    )


def test_a_split_that_was_not_evaluated_is_said(written: Make) -> None:
    runs = [written("a"), written("b", width=32)]
    assert refusal(runs, split="val") == (
        f"{runs[0].path} has no evaluation of val; make it: etude evaluate {runs[0].path} split=val"
    )


def test_a_metric_that_is_a_number_is_one_line(written: Make) -> None:
    refusal([written("a"), written("b", width=32)], metric=3)


def test_runs_are_written_as_csv_and_have_no_best_to_save(written: Make) -> None:
    runs = [written("a"), written("b", wrong=[2], width=32)]
    lines = str(compare(runs, format="csv")).splitlines()
    assert lines[0].startswith("run,seeds,model.width,test/loss,test/loss.sd,test/accuracy,test/accuracy.sd")
    assert [line.split(",")[:3] for line in lines[1:]] == [["a", "1", "16"], ["b", "1", "32"]]
    assert refusal(runs, save="conf/experiment/x.yaml").startswith("save=conf/experiment/x.yaml needs one sweep")
