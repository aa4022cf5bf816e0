"""Curves in a page: the data that a program reads, and the program in a real browser, with its pointer and its keys."""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import ConfigurationError
from etude.report.charts import Series, thinned
from etude.report.interactive import EVENTS, FEWEST, Drawn, curve_data
from etude.report.page import overlay_report, report
from etude.runs.record import RECORD, Event, Record
from tests.report.pages import assert_runs_only_its_own, opened
from tests.report.test_report import SCORES, Page, write_json

DRAWN = "html[data-curves=complete]"
ATTACK = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>$$x$$"


def series(name: str, steps: list[float], values: list[float]) -> Series:
    places = np.array(steps, dtype=np.float64)
    return Series(name, places, 100 * places, 0.5 * places, np.array(values, dtype=np.float64))


# The data


@given(st.lists(st.floats(-1e30, 1e30) | st.just(math.nan) | st.just(-math.inf), min_size=1, max_size=50))
def test_every_value_is_there_at_its_step_and_what_is_not_finite_is_said(values: list[float]) -> None:
    steps = [float(3 * index + 1) for index in range(len(values))]
    found = curve_data(["a"], [Drawn("Loss", [(0, series("train/loss", steps, values))])])
    (run,), (chart,) = found["runs"], found["charts"]
    (curve,) = chart["curves"]
    assert run["step"] == steps and run["tokens"] == [100 * step for step in steps]
    for index, (value, stored) in enumerate(zip(values, curve["values"], strict=True)):
        if math.isfinite(value):
            assert stored == pytest.approx(value, rel=1e-5) and str(index) not in curve.get("lost", {})
        else:
            assert stored is None and curve["lost"][str(index)] == str(value)
    json.dumps(found, allow_nan=False)


def test_curves_of_different_steps_and_runs_have_their_own_places() -> None:
    train, val = series("train/loss", [1, 2, 3, 4], [4, 3, 2, 1]), series("val/loss", [2, 4], [3.5, 1.5])
    other = series("train/loss", [10], [9])
    found = curve_data(["a", "b"], [Drawn("Loss", [(0, train), (0, val), (1, other)])])
    assert [run["step"] for run in found["runs"]] == [[1, 2, 3, 4], [10]]
    assert [curve.get("at") for curve in found["charts"][0]["curves"]] == [None, [1, 3], None]


def test_long_records_of_many_runs_keep_their_extremes() -> None:
    values = np.sin(np.arange(10_000.0))
    values[4321], values[777] = 50.0, -50.0
    curve = series("train/loss", list(range(10_000)), values.tolist())
    found = curve_data(
        [str(number) for number in range(50)], [Drawn("Loss", [(number, curve) for number in range(50)])]
    )
    for one in found["charts"][0]["curves"]:
        assert max(FEWEST, EVENTS // 50) >= len(one["values"]) > 100
        assert {50.0, -50.0} <= set(one["values"])


def test_a_long_record_keeps_its_extremes_beside_what_is_not_finite() -> None:
    values = np.sin(np.arange(10_000.0))
    values[4320:4323] = math.nan, 50.0, math.inf
    kept = thinned(values, 300)
    assert len(kept) <= 300 and 4321 in kept and not np.isfinite(values[kept]).all()


def test_spikes_are_marked_where_they_are() -> None:
    marked = replace(series("train/loss", [1, 2, 3], [1, 9, 1]), spikes=np.array([False, True, False]))
    (curve,) = curve_data(["a"], [Drawn("Loss", [(0, marked)])])["charts"][0]["curves"]
    assert curve["spikes"] == [1]


# The pages


def written(folder: Path, losses: list[float], lr: float = 0.001) -> Path:
    folder.mkdir(parents=True)
    record = Record(folder / RECORD)
    for index, loss in enumerate(losses, start=1):
        values = {"train/loss": loss, "train/gradient_norm": 1.0 / index}
        record.append(Event(10 * index, 1000 * index, 30.0 * index, values))
        if index % 5 == 0:
            record.append(Event(10 * index, 1000 * index, 30.0 * index, {"val/loss": loss + 0.5}))
    record.close()
    (folder / "config.yaml").write_text(f"validate: {{metric: val/loss, mode: min}}\noptimizer: {{lr: {lr}}}\n")
    return folder


def packed(path: Path) -> dict[str, Any]:
    block = re.search(r'id="curves-data">([^<]*)<', path.read_text())
    assert block is not None
    found: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(block[1])))
    return found


def test_the_page_of_several_runs_says_what_differs(tmp_path: Path) -> None:
    runs = [written(tmp_path / "demo" / name, [3, 2, 1], lr) for name, lr in (("a", 0.001), ("b", 0.0123456))]
    write_json(runs[1] / "evaluations" / "test.json", {**SCORES, "scores": {"test/bleu": 31.2}})
    path = overlay_report(runs)
    assert path.parent == tmp_path / "demo" and overlay_report(runs) == path
    page = Page(path)
    assert_runs_only_its_own(page.source, page.tags)
    assert (
        "optimizer.lr" in page.text
        and "0.01235" in page.text
        and "31.20" in page.text
        and "validate.metric" not in page.text
    )
    assert [run["name"] for run in packed(path)["runs"]] == ["a", "b"]
    assert [curve["run"] for curve in packed(path)["charts"][0]["curves"]] == [0, 1]
    (runs[0] / RECORD).write_bytes(b"no record\n")
    assert "a: metrics.jsonl, line 1 cannot be read" in Page(overlay_report(runs)).text
    with pytest.raises(ConfigurationError, match="absent is not a folder"):
        overlay_report([runs[0], tmp_path / "absent"])


def test_a_page_of_one_run_stays_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).lognormal(size=2000)
    path = report(written(tmp_path / "run", noise.tolist()))
    assert path.stat().st_size < 1_000_000


# A browser


def tooltips(page: Any) -> str:
    """What is told under the pointer, once it is told."""
    page.wait_for_selector(".bk-tooltip-content", timeout=5000)
    return "; ".join(" ".join(text.split()) for text in page.locator(".bk-tooltip-content").all_inner_texts())


def point_at(page: Any, across: float, chart: int = 0) -> None:
    box = page.locator(".plot").nth(chart).bounding_box()
    left, right = box["x"] + 45, box["x"] + box["width"] - 14
    page.mouse.move(left + across * (right - left), box["y"] + 60)


def test_the_pointer_reads_values_and_the_axes_change(browser: Any, tmp_path: Path) -> None:
    losses = [5.0 - 0.125 * index for index in range(20)]
    page = opened(browser, report(written(tmp_path / "run", losses)))
    page.wait_for_selector(DRAWN)
    assert page.locator(".charts.static").is_visible() is False
    point_at(page, 0.5, chart=1)
    told = tooltips(page)
    assert told.count("train/gradient_norm") == 1
    assert "step: 100" in told and "value: 0.1 " in told and "tokens: 10,000" in told
    page.get_by_role("radio", name="time").check()
    page.wait_for_selector(DRAWN)
    point_at(page, 0.5, chart=1)
    assert "time: 5 min" in tooltips(page)
    page.get_by_role("radio", name="steps").focus()
    page.keyboard.press("ArrowRight")  # the radio buttons are those of the browser
    assert page.get_by_role("radio", name="tokens").is_checked()
    page.get_by_role("checkbox", name="logarithmic").check()
    assert not page.errors


def test_a_box_zooms_all_charts_and_the_button_shows_all(browser: Any, tmp_path: Path) -> None:
    page = opened(browser, report(written(tmp_path / "run", [5.0 - 0.1 * index for index in range(20)])))
    page.wait_for_selector(DRAWN)
    end = "() => Bokeh.documents[Bokeh.documents.length - 1].roots().map((plot) => plot.x_range.end)"
    whole = page.evaluate(end)
    box = page.locator(".plot").first.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 220, box["y"] + 160, steps=5)
    page.mouse.up()
    zoomed = page.evaluate(end)
    assert len(set(zoomed)) == 1 and zoomed[0] < 0.7 * whole[0]  # one range for all charts
    page.get_by_role("button", name="whole range").click()
    page.wait_for_timeout(300)
    assert page.evaluate(end) == whole
    assert not page.errors


def test_runs_are_laid_over_one_another_and_taken_away(browser: Any, tmp_path: Path) -> None:
    runs = [
        written(tmp_path / name, [start - 0.1 * index for index in range(9)])
        for name, start in (("a", 3.0), ("b", 5.0))
    ]
    page = opened(browser, overlay_report(runs))
    page.wait_for_selector(DRAWN)
    lines = "() => Bokeh.documents[Bokeh.documents.length - 1].roots()[0].renderers.length"
    before = page.evaluate(lines)
    page.locator("input[name=run]").nth(1).uncheck()
    page.wait_for_timeout(300)
    assert page.evaluate(lines) == before / 2
    point_at(page, 0.5, chart=1)
    told = tooltips(page)
    assert told.startswith("a ") and "b " not in told
    assert not page.errors


def test_hostile_text_does_not_run_and_infinite_values_are_told(browser: Any, tmp_path: Path) -> None:
    folder = written(tmp_path / "run", [1.0, math.nan, math.inf, 2.0])
    record = Record(folder / RECORD)
    for step in (50, 60):
        record.append(Event(step, 100 * step, float(step), {ATTACK: float(step)}))
    record.close()
    write_json(folder / "evaluations" / "test.json", {**SCORES, "checkpoint": ATTACK, "scores": {ATTACK: 1.0}})
    path = overlay_report([folder, written(tmp_path / ATTACK.replace("/", "|"), [2.0, 1.0])])
    for one in (path, report(folder)):
        page = opened(browser, one)
        page.wait_for_selector(DRAWN)
        for chart in range(page.locator(".plot").count()):
            point_at(page, 0.9, chart)
            page.wait_for_timeout(60)
        assert page.title() != "taken" and ATTACK in page.content().replace("&lt;", "<").replace("&gt;", ">").replace(
            "&quot;", '"'
        )
    assert packed(path)["charts"][0]["curves"][0]["lost"] == {"1": "nan", "2": "inf"}


def test_without_programs_on_paper_and_on_a_narrow_screen_it_is_whole(browser: Any, tmp_path: Path) -> None:
    path = report(written(tmp_path / "run", [3.0 - 0.1 * index for index in range(9)]))
    page = opened(browser, path, java_script_enabled=False)
    assert page.locator(".charts.static").is_visible() and not page.locator("#controls").is_visible()
    page = opened(browser, path, viewport={"width": 400, "height": 800})
    page.wait_for_selector(DRAWN)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.emulate_media(media="print")
    assert page.locator(".charts.static").is_visible() and not page.locator("#plots").is_visible()
    page.emulate_media(media="screen", color_scheme="dark")
    page.wait_for_selector(DRAWN)
    assert not page.errors
