"""A run's folder is read file by file: each that is missing leaves a gap, each that is broken leaves a line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from etude.checkpoints.retention import Retention, Saved
from etude.metrics.text_differences import Segment
from etude.report.contents import Contents
from etude.report.cost_rows import cost_rows
from etude.report.curves import SPIKE, TITLES
from etude.report.interactive import Drawn
from etude.report.page import static
from etude.report.samples import SHOWN
from etude.runs.reading import read_cost
from etude.runs.record import RECORD, Event, Record
from tests.report.test_report import MANIFEST

HASH = "4be1f0a9" * 8
CONFIG = {"seed": 3, "validate": {"metric": "val/bleu", "mode": "max"}}
DATA = {
    "rows": {"train": 11, "val": 3},
    "dropped": {"train": {"repeated": 2}},
    "fingerprint": HASH,
    "classes": [],
    "tokenizer": {"vocabulary": 60, "fingerprint": HASH},
    "batch": {"tokens": 64, "examples": None, "pool": None},
    "steps_per_epoch": 5,
    "tokens_per_step": 60.5,
}
COST = {
    "parameters": {"total": 17, "trainable": 13},
    "steps": 8,
    "tokens": 480,
    "flops": 123,
    "flops_are": "counted",
    "model_flops_utilisation": None,
    "peak_flops": None,
    "peak_is": "measured",
    "seconds": 12.0,
    "validation_seconds": 2.0,
    "cpu_seconds": 13.0,
    "gpu_seconds": 0.0,
    "peak_memory_mb": 600.0,
    "peak_gpu_memory_mb": 0.0,
    "energy_joules": 86400.0,
    "energy_estimated": True,
    "energy_estimated_joules": 86400.0,
    "energy_is": "estimated",
}
SCORES: dict[str, Any] = {
    "split": "test",
    "checkpoint": "step-00000004",
    "examples": 7,
    "scores": {"test/bleu": 31.5},
    "intervals": {"test/bleu": [30.0, 33.0]},
    "signatures": {"test/bleu": "nrefs:1"},
    "details": {"calibration": {"bins": 10}, "confusion": {"no": {"yes": 3}}, "errors": [{"text": "a"}]},
}
HEAD = dict.fromkeys(("entropy", "distance", "diagonal", "previous", "next", "first", "last"), 0.5)
INSPECTION = {
    "text": "b c",
    "target": None,
    "given": False,
    "maps": [{"name": "encoder.0", "rows": ["a"], "columns": ["b", "c"], "weights": [[[0.25, 0.75]]], "heads": [HEAD]}],
    "alignment": {"by": "encoder.0", "source": ["b", "c"], "target": ["a"], "links": [[1, 0]]},
}
EVENTS = [
    Event(2, 120, 3.0, {"train/loss": 4.5, "train/learning_rate": 0.125}),
    Event(4, 240, 6.0, {"train/loss": 3.5, "train/learning_rate": 0.25, SPIKE: 1.0}),
    Event(4, 240, 6.0, {"val/loss": 4.0, "val/bleu": 20.5, "epoch": 0}),
    Event(8, 480, 12.0, {"val/loss": 3.75, "val/bleu": 19.0, "epoch": 1}),
]
EMPTY: dict[str, Any] = {
    "config": {},
    "config_text": "",
    "overrides": [],
    "bar": [],
    "events": [],
    "evaluations": [],
    "samples": None,
    "attention": [],
    "data": {},
    "manifest": None,
    "cost": [],
}
FILLS: dict[str, tuple[str, ...]] = {
    "config.yaml": ("config", "config_text"),
    "overrides.yaml": ("overrides",),
    RECORD: ("events",),
    "evaluations/test.json": ("evaluations",),
    "samples/step-00000008.jsonl": ("samples",),
    "attention.json": ("attention",),
    "data.json": ("data",),
    "manifest.json": ("manifest",),
    "cost.json": ("cost", "bar"),
}
"""What is read of each file."""


def write_json(path: Path, values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def write_samples(run: Path, step: int, rows: list[dict[str, str]]) -> None:
    (run / "samples").mkdir(exist_ok=True)
    (run / f"samples/step-{step:08d}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_record(run: Path, events: list[Event]) -> None:
    record = Record(run / RECORD)
    for event in events:
        record.append(event)
    record.close()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run's folder."""
    folder = tmp_path / "translation" / "demo" / "small"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "overrides.yaml").write_text("- seed=3\n- budget=8step\n")
    for name, values in (("manifest", MANIFEST), ("data", DATA), ("cost", COST), ("attention", [INSPECTION])):
        write_json(folder / f"{name}.json", values)
    write_json(folder / "finished.json", {"step": 8})
    write_json(folder / "evaluations/test.json", SCORES)
    write_samples(folder, 8, [{"source": "a", "output": "b"}])
    write_record(folder, EVENTS)
    for step in (4, 8):
        (folder / f"checkpoints/step-{step:08d}").mkdir(parents=True)
    (folder / "checkpoints/best").symlink_to("step-00000004")
    (folder / "checkpoints/last").symlink_to("step-00000008")
    return folder


def contents(events: list[Event], validate: Mapping[str, str] | None = None) -> Contents:
    config = {} if validate is None else {"validate": validate}
    return Contents(Path("run"), "translation/demo", "unfinished", config, events=events)


def validations(*values: float) -> list[Event]:
    return [Event(step, 10 * step, 0.5 * step, {"val/bleu": value}) for step, value in enumerate(values, start=1)]


# What is there


def test_everything_in_a_folder_is_read(run: Path) -> None:
    found = Contents.read(run)
    assert found.problems == []
    assert (found.run, found.experiment, found.status) == (run, "translation/demo", "finished")
    assert found.config == CONFIG and yaml.safe_load(found.config_text) == CONFIG
    assert found.overrides == ["seed=3", "budget=8step"]
    assert found.events == EVENTS
    assert found.manifest is not None and found.manifest.plain() == MANIFEST
    assert found.data == DATA
    assert found.cost == cost_rows(read_cost(run))
    assert [inspection.to_json()["text"] for inspection in found.attention] == ["b c"]
    assert (found.best, found.last) == ("step-00000004", "step-00000008")


def test_an_evaluation_is_shown_with_all_that_belongs_to_it(run: Path) -> None:
    (shown,) = Contents.read(run).evaluations
    assert vars(shown) == {"name": "test", **{key: value for key, value in SCORES.items() if key != "split"}}


def test_evaluations_of_the_test_split_come_first(run: Path) -> None:
    for name in ("val", "test-decoding.beams=1", "news.en", "testament"):
        write_json(run / f"evaluations/{name}.json", SCORES)
    names = [evaluation.name for evaluation in Contents.read(run).evaluations]
    assert names == ["test", "test-decoding.beams=1", "testament", "news.en", "val"]


def test_the_samples_of_the_last_validation_are_shown_up_to_a_number(run: Path) -> None:
    rows = [{"source": str(number)} for number in range(SHOWN + 3)]
    rows[1] = {"source": "1", "reference": "x"}
    rows[2] = {"output": "y", "source": "2"}
    write_samples(run, 12, rows)
    samples = Contents.read(run).samples
    assert samples is not None
    assert (samples.step, samples.total) == (12, SHOWN + 3)
    assert samples.columns == ["source", "reference", "output"]
    assert [row["source"] for row in samples.rows[:2]] == [
        [Segment("1", "same")],
        [Segment("2", "same")],
    ]  # the farthest
    assert samples.rows[0]["reference"] == [Segment("x", "missing")] and samples.rows[1]["output"] == [
        Segment("y", "extra")
    ]
    assert [row["source"][0].text for row in samples.rows[2:]] == ["0", *(str(number) for number in range(3, SHOWN))]


def test_a_run_is_called_by_the_folders_above_it_wherever_it_is_read_from(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    found = Contents.read(Path())
    assert (found.experiment, found.problems) == ("translation/demo", [])
    assert (found.best, found.events) == ("step-00000004", EVENTS)


# What is not


@pytest.mark.parametrize("file", FILLS)
def test_a_missing_file_leaves_its_gap_and_no_other(run: Path, file: str) -> None:
    whole = Contents.read(run)
    (run / file).unlink()
    assert vars(Contents.read(run)) == {**vars(whole), **{name: EMPTY[name] for name in FILLS[file]}}


@pytest.mark.parametrize("file", FILLS)
def test_a_broken_file_leaves_its_gap_and_one_line(run: Path, file: str) -> None:
    whole = Contents.read(run)
    (run / file).write_bytes(b'{"\xff": [1\n')
    broken = Contents.read(run)
    gap = {name: EMPTY[name] for name in FILLS[file]}
    assert vars(broken) == {**vars(whole), **gap, "problems": broken.problems}
    assert {problem.split(" cannot be read: ")[0].partition(",")[0] for problem in broken.problems} == {file}
    assert all(problem.isprintable() for problem in broken.problems)


@pytest.mark.parametrize("file", FILLS)
def test_a_folder_in_a_files_place_is_named_relative_to_the_run(run: Path, file: str) -> None:
    (run / file).unlink()
    (run / file).mkdir()
    assert set(Contents.read(run).problems) == {f"{file} cannot be read: it is a folder, not a file"}


@pytest.mark.parametrize(
    ("file", "text", "line"),
    [
        ("config.yaml", "[1]", "config.yaml cannot be read: it is not a mapping"),
        (
            "config.yaml",
            "- &a 1",
            "config.yaml cannot be read: line 1 has an anchor or alias, which etude never writes",
        ),
        ("data.json", "{}", "data.json cannot be read: rows is missing"),
        ("samples/step-00000008.jsonl", "{}", "is cut short: the file does not end with a line's end"),
        (RECORD, '{"step": 2}\n', "metrics.jsonl, line 1 cannot be read: it is damaged: its check does not fit"),
    ],
)
def test_a_problem_says_the_file_the_place_and_the_reason(run: Path, file: str, text: str, line: str) -> None:
    (run / file).write_text(text)
    assert any(problem.endswith(line) for problem in Contents.read(run).problems)


def test_samples_that_are_not_named_by_a_step_are_a_problem(run: Path) -> None:
    (run / "samples/step-last.jsonl").write_text('{"a": "b"}\n')
    found = Contents.read(run)
    assert found.samples is None
    assert found.problems == [
        "samples/step-last.jsonl cannot be read: it is not named by a step, such as step-00000100.jsonl"
    ]


def test_a_section_that_is_not_a_mapping_sets_nothing(run: Path) -> None:
    (run / "config.yaml").write_text("validate: [1]\n")
    assert Contents.read(run).metric == "val/loss"


def test_one_broken_evaluation_hides_no_other(run: Path) -> None:
    write_json(run / "evaluations/val.json", {**SCORES, "examples": -1})
    found = Contents.read(run)
    assert [evaluation.name for evaluation in found.evaluations] == ["test"]
    assert found.problems == ["evaluations/val.json cannot be read: examples is a number that is not >= 0"]


def test_an_empty_folder_is_an_unfinished_run_of_nothing(tmp_path: Path) -> None:
    found = Contents.read(tmp_path)
    assert found.status == "unfinished"
    assert {name: getattr(found, name) for name in EMPTY} == EMPTY
    assert (found.best, found.last, found.problems) == (None, None, [])
    assert (found.parameters, found.tokens_per_second, found.best_validation()) == (None, None, None)
    assert (found.command, found.environment, found.other_facts, found.charts()) == ("", {}, {}, [])


def test_links_to_checkpoints_that_are_gone_name_nothing(run: Path) -> None:
    (run / "checkpoints/step-00000004").rmdir()
    found = Contents.read(run)
    assert (found.best, found.last) == (None, "step-00000008")


# What follows from it


def test_what_stands_beside_the_charts(run: Path) -> None:
    found = Contents.read(run)
    assert found.parameters == 7_584_512
    assert found.tokens_per_second == 480 / 12
    assert found.command == "etude train experiment=translation/interface"
    assert found.environment == {name: value for name, value in MANIFEST.items() if name != "command"}
    assert found.other_facts == {name: value for name, value in DATA.items() if name not in ("rows", "dropped")}


def test_a_speed_needs_time() -> None:
    assert contents([Event(1, 60, 0.0, {})]).tokens_per_second is None


@pytest.mark.parametrize(
    ("validate", "metric"), [(None, "val/loss"), ({}, "val/loss"), ({"metric": "val/bleu"}, "val/bleu")]
)
def test_the_metric_is_the_loss_unless_another_was_set(validate: dict[str, str] | None, metric: str) -> None:
    assert contents([], validate).metric == metric


@given(st.lists(st.floats(width=16) | st.sampled_from([1.0, 2.0]), max_size=9), st.sampled_from(["min", "max"]))
def test_the_best_validation_is_that_of_the_best_checkpoint(values: list[float], mode: Any) -> None:
    found = contents(validations(*values), {"metric": "val/bleu", "mode": mode}).best_validation()
    best = Retention(mode=mode).ranked([Saved(step, value) for step, value in enumerate(values, start=1)])[:1]
    assert found == (None if not best else (best[0], values[best[0] - 1]))


@pytest.mark.parametrize(("mode", "best"), [("min", (2, 18.5)), ("max", (4, 20.5))])
def test_the_best_validation_is_the_lowest_or_the_highest_that_is_finite(mode: str, best: tuple[int, float]) -> None:
    events = validations(19.0, 18.5, math.nan, 20.5, math.inf, -math.inf)
    assert contents(events, {"metric": "val/bleu", "mode": mode}).best_validation() == best


def test_no_validation_of_the_metric_is_the_best_of_none() -> None:
    assert contents(validations(19.0)).best_validation() is None
    assert contents(validations(math.nan), {"metric": "val/bleu"}).best_validation() is None


# Charts


def names_of(chart: Drawn) -> list[str]:
    return [series.name for _, series in chart.curves]


def test_charts_come_in_the_order_of_their_weight() -> None:
    names = ["speed/tokens_per_second", "speed/b", "train/z", "train/gradient_norm", "val/a", "val/bleu", "val/loss"]
    events = [Event(step, step, step, dict.fromkeys([*names, "train/loss"], 1.0 + step)) for step in (1, 2, 3)]
    found = contents(events, {"metric": "val/bleu"}).charts()
    titles = ["Loss", "val/bleu", "val/a", "Gradient norm", "train/z", "Tokens per second", "speed/b"]
    assert [one.title for one in found] == titles
    assert names_of(found[0]) == ["train/loss", "val/loss"]


def test_what_was_recorded_once_is_no_curve_and_neither_are_epochs_marks_and_test_scores() -> None:
    once = {"val/once": 1.0}
    always = {"val/loss": 2.0, "epoch": 1, SPIKE: 1.0, "test/bleu": 30.0}
    events = [Event(step, step, step, {**always, **(once if step == 2 else {})}) for step in (1, 2, 3)]
    assert [one.title for one in contents(events).charts()] == ["Loss"]


def test_a_curve_recorded_once_is_drawn_beside_one_that_was_recorded_more_often() -> None:
    events = [*(Event(step, step, step, {"train/loss": 2.0}) for step in (1, 2)), Event(2, 2, 2, {"val/loss": 3.0})]
    (loss,) = contents(events).charts()
    assert names_of(loss) == ["train/loss", "val/loss"]


def test_a_spike_is_a_mark_on_the_training_loss_alone() -> None:
    losses = {"train/loss": 3.5, "val/loss": 4.0}
    events = [Event(step, step, step, {**losses, **({SPIKE: 1.0} if step == 4 else {})}) for step in (2, 4, 9)]
    (loss,) = contents(events).charts()
    drawn = static(loss)
    training, validation = drawn.curves
    assert len(training.spikes) == 1 and validation.spikes == []
    assert "Spikes at the steps 4." in drawn.description


def test_noise_is_smoothed_and_what_has_none_is_not() -> None:
    names = {"Learning rate": "train/learning_rate", "Skipped steps": "train/skipped_steps", "val/bleu": "val/bleu"}
    events = [Event(step, step, step, dict.fromkeys(names.values(), 1.0 + step)) for step in range(1, 400)]
    smoothed = {one.title: bool(static(one).curves[0].smooth) for one in contents(events).charts()}
    assert smoothed == {"Learning rate": False, "Skipped steps": False, "val/bleu": True}


def test_a_logarithmic_scale_is_for_values_that_are_neither_losses_nor_exact() -> None:
    """1, 1,000 and 1,000,000 are at equal distances on a logarithmic scale alone."""
    names = ("train/loss", "train/learning_rate", "train/gradient_norm", "val/bleu")
    events = [Event(step, step, step, dict.fromkeys(names, 1000.0**step)) for step in range(3)]
    heights = {one.title: [at for _, at in static(one).curves[0].points] for one in contents(events).charts()}
    equal = {title: math.isclose(low - middle, middle - high) for title, (low, middle, high) in heights.items()}
    assert equal == {"Loss": False, "Learning rate": False, "Gradient norm": True, "val/bleu": True}


@given(st.dictionaries(st.sampled_from([*TITLES, "val/bleu", "val/chrf"]), st.integers(1, 4), min_size=1))
def test_every_value_recorded_more_than_once_is_on_one_chart(counts: dict[str, int]) -> None:
    events = [
        Event(step, 10 * step, 0.5 * step, {name: 1.0 + step for name, count in counts.items() if step <= count})
        for step in range(1, 5)
    ]
    charts = contents([event for event in events if event.values], {"metric": "val/bleu"}).charts()
    drawn = [name for one in charts for name in names_of(one)]
    assert len(drawn) == len({*drawn})
    assert {name for name, count in counts.items() if count > 1} <= {*drawn} <= {*counts}
    assert all(one.title == TITLES.get(name, name) for one in charts for name in names_of(one))
