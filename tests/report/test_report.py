from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.errors import ConfigurationError, StorageError
from etude.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    Series,
    chart,
    moving_average,
    round_values,
    thinned,
)
from etude.report.inspection import Inspection
from etude.report.page import report
from etude.report.summary import terminal_summary
from etude.report.writing import duration, number, score
from etude.runs.record import RECORD, Event, Record
from tests.report.pages import assert_runs_only_its_own

CONFIG = {
    "seed": 1,
    "budget": "40epoch",
    "batch": {"tokens": 4096, "examples": None},
    "validate": {"every": "4epoch", "metric": "val/bleu", "mode": "max"},
    "model": {
        "_target_": "etude.models.seq2seq.Seq2Seq",
        "width": 256,
        "heads": 4,
        "encoder_layers": 3,
        "decoder_layers": 3,
    },
    "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.001, "betas": [0.9, 0.98]},
    "run": {"name": "german", "tags": ["interface"], "notes": ""},
}
MANIFEST = {
    "command": ["etude", "train", "experiment=translation/interface"],
    "seed": 1,
    "data": {"fingerprint": "4be1f0a9" * 8},
    "parameters": {"total": 7584512, "trainable": 7584512},
    "first_weights": "77aa" * 16,
    "pretrained": {},
    "code": {"commit": "9f3c2ab4d1e05f6677889900aabbccddeeff0011", "changes": None, "sources": {"etude": "1f" * 32}},
    "packages": {"etude": "0.1.0", "torch": "2.13.0", "lightning": "2.6.6", "sacrebleu": "2.6.0"},
    "python": "3.11.7",
    "platform": "Linux-6.1",
    "processor": {
        "name": "AMD EPYC 7763",
        "machine": "x86_64",
        "cores": 2,
        "vectors": "AVX2",
        "flags": ["avx", "avx2", "fma"],
        "threads": 2,
        "threads_between_operations": 1,
    },
    "accelerators": [],
    "precision": "32-true",
    "torch": {
        "deterministic": True,
        "matmul_precision": "highest",
        "default_dtype": "torch.float32",
        "built_with": [],
        "mkl": True,
        "onednn": True,
        "cuda": None,
        "cudnn": None,
        "cudnn_deterministic": False,
        "cudnn_benchmark": False,
        "cudnn_tf32": True,
    },
    "environment": {},
}
DATA = {
    "rows": {"train": 41327, "val": 1000, "test": 1000},
    "dropped": {"train": {"longer than 128 tokens": 213, "empty target": 17}, "val": {"truncated": 2}},
    "fingerprint": "4be1f0a9" * 8,
    "classes": [],
    "tokenizer": {"vocabulary": 8000, "fingerprint": "77aa" * 16},
    "batch": {"tokens": 4096, "examples": None, "pool": None},
    "steps_per_epoch": 350,
    "tokens_per_step": 4013.0,
}
SCORES: dict[str, Any] = {
    "split": "test",
    "checkpoint": "step-00011200",
    "examples": 1000,
    "scores": {"test/bleu": 31.2345, "test/chrf": 58.017, "test/loss": 1.9214},
    "intervals": {"test/bleu": [29.61, 32.88], "test/chrf": [56.9, 59.2]},
    "signatures": {
        "test/bleu": "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0",
        "test/chrf": "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0",
    },
}
SENTENCES = [
    ("Delete all selected files?", "Alle ausgewählten Dateien löschen?", "Alle ausgewählten Dateien löschen?"),
    (
        "The connection to the server was lost. Please try again later.",
        "Die Verbindung zum Server wurde unterbrochen. Bitte versuchen Sie es später erneut.",
        "Die Verbindung zum Server ging verloren. Bitte versuchen Sie es später noch einmal.",
    ),
    ("Show hidden entries", "Versteckte Einträge anzeigen", "Verborgene Einträge zeigen"),
    ("Unable to retrieve the volume snapshot.", "Schattenkopie kann nicht abgerufen werden.", "Datenträger nicht da."),
    ("Last updated {minutes} minutes ago", "Vor {minutes} Minuten aktualisiert", "Vor {minutes} Minuten aktualisiert"),
]


def record_values(folder: Path, steps: int = 14000, every: int = 35) -> None:
    """Write a record that looks like that of a training: several hundred events."""
    random = np.random.default_rng(7)
    record = Record(folder / RECORD)
    seconds = 0.0
    for step in range(every, steps + 1, every):
        seconds += every * 0.31 * (1 + 0.05 * random.standard_normal())
        loss = 1.55 + 7.2 * math.exp(-step / 900) + 1.1 * math.exp(-step / 6000)
        rate = 1e-3 * min(step / 500, 0.5 * (1 + math.cos(math.pi * step / steps)))
        values = {
            "train/loss": loss + 0.09 * random.standard_normal(),
            "train/gradient_norm": float(np.exp(0.35 * random.standard_normal())) * (1 + 30 * math.exp(-step / 120)),
            "train/learning_rate": rate,
            "speed/tokens_per_second": 12900 + 420 * random.standard_normal(),
        }
        record.append(Event(step, 4013 * step, seconds, values))
        if step % 1400 == 0:
            seconds += 41
            values = {
                "val/loss": loss + 0.24 + 0.02 * (step / 1400),
                "val/bleu": 34 * (1 - math.exp(-step / 4200)),
                "val/chrf": 61 * (1 - math.exp(-step / 3300)),
                "epoch": step // 350,
            }
            record.append(Event(step, 4013 * step, seconds, values))
    record.close()


def attention(rows: list[str], columns: list[str], name: str = "decoder.2.cross_attention") -> dict[str, Any]:
    """What `attention.json` holds of one text: one attention of one head."""
    distance = np.abs(np.linspace(0, 1, len(rows))[:, None] - np.linspace(0, 1, len(columns))[None])
    weights = np.exp(-distance * 9)
    weights /= weights.sum(axis=1, keepdims=True)
    head = dict.fromkeys(("entropy", "distance", "diagonal", "previous", "next", "first", "last"), 0.25)
    links = [[number, number] for number in range(min(len(rows), len(columns)))]
    return {
        "text": " ".join(columns),
        "target": " ".join(rows),
        "given": False,
        "maps": [
            {"name": name, "rows": rows, "columns": columns, "weights": [weights.round(4).tolist()], "heads": [head]}
        ],
        "alignment": {"by": name, "source": columns, "target": rows, "links": links},
    }


def write_json(path: Path, values: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run's folder, with everything in it."""
    folder = tmp_path / "outputs" / "translation" / "interface" / "german"
    folder.mkdir(parents=True)
    record_values(folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    (folder / "overrides.yaml").write_text("- experiment=translation/interface\n- run.name=german\n- model.width=256\n")
    write_json(folder / "manifest.json", MANIFEST)
    write_json(folder / "data.json", DATA)
    write_json(folder / "finished.json", {"step": 14000})
    write_json(folder / "evaluations" / "test.json", SCORES)
    samples = [{"source": a, "reference": b, "output": c} for a, b, c in SENTENCES]
    for step in (12600, 14000):
        write_samples(folder, step, samples)
    source = ["Delete", "all", "selected", "files", "?"]
    output = ["Alle", "ausgewählten", "Dateien", "löschen", "?"]
    write_json(folder / "attention.json", [attention(output, source), attention(output, output)])
    for name in ("step-00011200", "step-00014000"):
        (folder / "checkpoints" / name).mkdir(parents=True)
    (folder / "checkpoints" / "best").symlink_to("step-00011200")
    (folder / "checkpoints" / "last").symlink_to("step-00014000")
    return folder


def write_samples(folder: Path, step: int, samples: list[dict[str, Any]]) -> None:
    (folder / "samples").mkdir(exist_ok=True)
    lines = [json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples]
    (folder / "samples" / f"step-{step:08d}.jsonl").write_text("".join(lines))


class Page(HTMLParser):
    """Reads a page: its elements, its visible text, and whether every element is closed in its place."""

    VOID = frozenset({"meta", "br", "input", "link", "img"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text()
        self.tags: list[tuple[str, Mapping[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(self.source)
        self.close()
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str) -> list[Mapping[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


# The page


def test_a_finished_run_is_on_one_page(run: Path) -> None:
    path = report(run)
    assert path == run / "report.html"
    text = Page(path).text
    for expected in (
        "translation/interface",
        "german",
        "Finished after 14,000 steps, 56.18M tokens",
        "test/bleu 31.23",
        "29.61 to 32.88",
        "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0",
        "On the 1,000 examples of test , by step-00011200.",
        "Best validation: val/bleu 32.79 at step 14,000.",
        "From the validation at step 14,000",
        "Verborgene Einträge zeigen",
        "7,584,512",
        "213 longer than 128 tokens; 17 empty target",
        "decoder_layers: 3",
        "Begun by etude train experiment=translation/interface",
        "sacrebleu 2.6.0",
        "decoder.2.cross_attention",
        "löschen ← files",
    ):
        assert expected in text, expected


def test_runs_that_weights_come_from_are_told(run: Path) -> None:
    assert "Lineage" not in Page(report(run)).text
    start = {"run": "outputs/first", "checkpoint": "step-00000004", "weights": "1f", "start": None}
    write_json(run / "manifest.json", {**MANIFEST, "start": start})
    assert "Lineage Began with step-00000004 of outputs/first" in Page(report(run)).text


def test_it_stands_on_its_own(run: Path) -> None:
    page = Page(report(run))
    assert_runs_only_its_own(page.source, page.tags)
    assert not [attributes for _, attributes in page.tags if "style" in attributes]


def test_without_programs_curves_are_drawn_over_steps(run: Path) -> None:
    page = Page(report(run))
    labels = [attributes["aria-label"] or "" for attributes in page.all("svg")]
    titles = ["Loss", "val/bleu", "val/chrf", "Gradient norm", "Learning rate", "Tokens per second"]
    assert sorted(label.split(". ")[0] for label in labels[: len(titles)]) == sorted(
        f"{title} over steps" for title in titles
    )
    assert "train/loss: " in labels[0] and "val/loss: " in labels[0]
    assert all(attributes["role"] == "img" for attributes in page.all("svg"))


@pytest.mark.parametrize(
    "attack", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</pre></svg><b>", "{{ 7 * 7 }}"]
)
def test_text_from_anywhere_stays_text(run: Path, attack: str) -> None:
    texts = len(SENTENCES)
    write_samples(run, 14000, [{"source": "a", "reference": "a", "output": "a"}] * texts)
    before = [tag for tag, _ in Page(report(run)).tags]
    write_samples(run, 14000, [{"source": attack, "reference": attack, "output": attack}] * texts)
    (run / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "note": attack}))
    (run / "overrides.yaml").write_text(yaml.safe_dump([attack, attack, attack]))
    write_json(
        run / "data.json",
        {**DATA, "dropped": {"train": {attack: 1}}, "tokenizer": {"vocabulary": 8000, "fingerprint": attack}},
    )
    write_json(run / "manifest.json", {**MANIFEST, "python": attack})
    source, output = ["Delete", attack, "c", "d", "e"], [attack, "b", "c", "d", "e"]
    maps = [{**attention(output, source, attack), "target": attack}, attention(output, output)]
    write_json(run / "attention.json", maps)
    write_json(run / "evaluations" / "test.json", {**SCORES, "signatures": dict.fromkeys(SCORES["scores"], attack)})
    page = Page(report(run))
    signature = before.index("ul") + 1
    assert [tag for tag, _ in page.tags if tag != "li" and tag != "code"] == [
        tag for tag in before if tag != "li" and tag != "code"
    ]
    assert before[signature] == "li"
    assert_runs_only_its_own(page.source, page.tags)
    assert " ".join(attack.split()) in page.text


def test_an_empty_folder_says_what_is_not_there(tmp_path: Path) -> None:
    text = Page(report(tmp_path)).text
    for expected in (
        "Unfinished , with nothing recorded yet.",
        "Continue it by",
        "No evaluation yet",
        "Nothing to draw yet",
        "No samples yet",
        "facts are not there yet",
        "no config.yaml",
        "manifest is not there yet",
    ):
        assert expected in text, expected


@pytest.mark.parametrize(
    "name", ["config.yaml", "overrides.yaml", "manifest.json", "data.json", "evaluations/test.json", "attention.json"]
)
@pytest.mark.parametrize("content", ["{broken", "[1, 2]", "3", '{"scores": 3}', "[{}]"])
def test_a_broken_file_is_named_and_the_rest_is_shown(run: Path, name: str, content: str) -> None:
    (run / name).write_text(content)
    text = Page(report(run)).text
    assert name == "config.yaml" or "Verborgene Einträge zeigen" in text
    accepted = (name, content) == ("config.yaml", '{"scores": 3}')
    assert accepted or f"{name} cannot be read" in text


def test_a_damaged_record_is_said(run: Path) -> None:
    lines = (run / RECORD).read_bytes().splitlines(keepends=True)
    lines[6] = lines[6].replace(b'"step"', b'"stop"')
    (run / RECORD).write_bytes(b"".join(lines))
    text = Page(report(run)).text
    assert "line 7 cannot be read: it is damaged" in text
    assert "Nothing to draw yet" in text


def test_labelled_samples_make_columns_of_their_keys(run: Path) -> None:
    rows = [
        {"text": "a film", "label": "good", "prediction": "bad", "probability": "0.6123"},
        {"text": "b", "note": "c"},
    ]
    write_samples(run, 14025, rows)
    page = Page(report(run))
    cells = [attributes["data-label"] for attributes in page.all("td") if "data-label" in attributes]
    assert cells == ["text", "label", "prediction", "probability", "note"] * 2  # labels have no chrF
    assert "0.6123" in page.text


def test_a_place_that_is_no_run_or_cannot_be_written_is_one_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="absent is not a folder"):
        report(run / "absent")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StorageError, match=r"report\.html: No space left on device"):
        report(run)


# The terminal


def test_the_summary_is_on_stderr_only(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    terminal_summary(run)
    out, err = capsys.readouterr()
    assert out == ""
    text = " ".join(err.split())
    for expected in (
        "translation/interface/german: finished",
        "test/bleu 31.23 [29.61, 32.88]",
        "val/bleu 32.79 at step 14,000, the best",
        "14,000 steps, 56,182,000 tokens, 1 h 19 min",
        "best step-00011200, last step-00014000",
        "etude predict ",
        "etude evaluate ",
    ):
        assert expected in text, expected
    assert "etude resume" not in text


def test_the_summary_of_several_directions_names_one(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {**CONFIG, "data": {"pairs": ["en-fr", "en-de"]}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    terminal_summary(run)
    assert f"etude predict {run} direction=en-fr" in capsys.readouterr().err


def test_the_summary_of_an_unfinished_run_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    terminal_summary(tmp_path)
    assert "etude resume " in capsys.readouterr().err


# Curves

FINITE = st.floats(-1e9, 1e9)


def series(values: list[float]) -> Series:
    places = np.arange(1.0, len(values) + 1)
    return Series("train/loss", places, 7 * places, 0.5 * places, np.array(values))


@st.composite
def long_lists(draw: st.DrawFn) -> list[float]:
    """Lists of lengths that are thinned and smoothed, which would rarely be drawn value by value."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return list(random.lognormal(0, draw(st.floats(0, 20)), draw(st.integers(1, 2000))))


@settings(deadline=None)
@given(st.lists(FINITE | st.just(math.nan) | st.just(math.inf), min_size=1, max_size=70) | long_lists())
def test_every_curve_stays_in_its_frame(values: list[float]) -> None:
    drawn = chart("Loss", [series(values)], logarithmic=True)
    for curve in drawn.curves:
        numbers = [float(text) for text in re.findall(r"-?[\d.]+", curve.path + curve.smooth)]
        assert all(LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1 for x in numbers[::2])
        assert all(TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1 for y in numbers[1::2])
    assert 0 < len(drawn.x_ticks) <= 6


@settings(deadline=None)
@given(long_lists())
def test_thinning_keeps_both_extremes(values: list[float]) -> None:
    kept = thinned(np.array(values))
    assert len(kept) <= POINTS
    assert list(kept) == sorted(set(kept))
    assert {values[int(index)] for index in kept} >= {min(values), max(values)}


@given(FINITE, st.floats(1e-6, 1e9), st.integers(2, 7))
def test_round_values_are_few_and_inside(low: float, length: float, most: int) -> None:
    high = low + length
    if high - low < 1e-9 * abs(high):
        return
    values = round_values(low, high, most)
    slack = 1e-6 * (high - low)
    assert len(values) <= most + 1
    assert all(low - slack <= value <= high + slack for value in values)


def test_round_values_by_hand() -> None:
    assert round_values(0, 14000, 5) == [0, 5000, 10000]
    assert round_values(0, 10, 5) == [0, 2, 4, 6, 8, 10]
    assert round_values(-1, 1, 5) == [-1.0, -0.5, 0, 0.5, 1.0]


def test_the_moving_average_leaves_out_what_is_not_finite() -> None:
    averaged = moving_average(np.array([1.0, 2.0, math.nan, 6.0, math.inf]), reach=1)
    assert averaged[:4].tolist() == [1.0, 1.5, 4.0, 6.0]
    assert np.isnan(averaged[4])


def test_the_moving_average_does_not_shift_a_slope() -> None:
    slope = np.arange(29.0)
    averaged = moving_average(slope, reach=8)
    assert averaged[2:-2] == pytest.approx(slope[2:-2])
    assert averaged[[0, -1]].tolist() == [1.0, 27.0]


def test_a_logarithmic_axis_is_taken_where_it_helps() -> None:
    wide, narrow = np.array([0.1, 100.0]), np.array([5.0, 9.0])
    assert Scale.of(wide, logarithmic=True).logarithmic
    assert not Scale.of(wide, logarithmic=False).logarithmic
    assert not Scale.of(narrow, logarithmic=True).logarithmic
    middle = Scale.of(wide, logarithmic=True)(np.array([math.sqrt(10), 0.0, math.nan]))
    assert middle[0] == pytest.approx((TOP + HEIGHT - BOTTOM) / 2)
    assert np.isnan(middle[1:]).all()


def test_a_curve_is_told_in_words() -> None:
    assert series([4.0, math.nan, 1.5, 2.0]).describe() == (
        "train/loss: 4 at step 1, 2 at step 4; lowest 1.5 at step 3, highest 4 at step 1. "
        "1 values are not finite and are left out."
    )
    assert series([math.nan]).describe() == "train/loss: no finite value."


def test_numbers_are_written_for_people() -> None:
    assert [number(value) for value in (0.00125, 31.234567, 9999.0, 12345.0, 56182000.0, 2.5e9, math.nan)] == [
        *("0.00125", "31.23", "9999", "12.35k", "56.18M", "2.5G", "nan"),
    ]
    assert [number(value, 10000.0) for value in (0.0, 5000.0, 10000.0)] == ["0", "5k", "10k"]
    assert [duration(value) for value in (7.25, 61, 3599, 4680, None)] == [
        *("7.2 s", "1 min 1 s", "59 min 59 s", "1 h 18 min", "–"),
    ]
    assert [score(value) for value in (0.91234, 31.2345, 1234.5)] == ["0.9123", "31.23", "1,234.50"]


# Attention


def test_a_map_has_a_picture_of_each_view_and_says_its_heavier_weights(run: Path) -> None:
    page = Page(report(run))
    pictures = page.all("img")
    assert len(pictures) == 4 and all(str(one["src"]).startswith("data:image/png;base64,") for one in pictures)
    assert "strongest: Alle → Delete 0.89" in str(pictures[0]["alt"])
    assert {"data-at": "0", "class": "weights"} in [dict(one) for one in page.all("div")]
    # Of each text two views, the mean and the one head, and one of them is shown at first.
    views = [attributes for attributes in page.all("input") if str(attributes.get("name")).startswith("attention")]
    assert len(views) == 4
    assert sum("checked" in attributes for attributes in views) == 2
    assert len({attributes["id"] for attributes in views}) == 4


def test_weights_that_fit_no_tokens_and_links_of_no_words_are_refused() -> None:
    values = attention(["a"], ["c", "d", "e"])
    assert Inspection.from_json(values).to_json() == {**values, "alignment": {**values["alignment"], "links": [(0, 0)]}}
    values["maps"][0]["columns"] = ["c", "d"]
    with pytest.raises(ValueError, match=r"sizes \[\(1, 3\)\] for 1 heads, 1 rows and 2 columns"):
        Inspection.from_json(values)
    values = attention(["a"], ["c"])
    values["alignment"]["links"] = [[0, 1]]
    with pytest.raises(ValueError, match="a link 0-1 between 1 and 1 words"):
        Inspection.from_json(values)
