"""What a page does besides its curves, in a real browser: sorting, attention, what is told, and all of it on hostile text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etude.report.attention_pictures import SCALE
from etude.report.inspection import Inspection
from etude.report.page import inspection_page, overlay_report, report
from tests.report.pages import assert_runs_only_its_own, opened
from tests.report.test_interactive import ATTACK, written
from tests.report.test_report import DATA, SCORES, Page, attention, write_json, write_samples

HOSTILE = (
    ATTACK,
    "\u202egnirts desrever \u05e9\u05dc\u05d5\u05dd",
    "\U0001f469\u200d\U0001f52c\U0001f1e9\U0001f1ea a\u0301",
    "x" * 100_000,
    "nan",
    "",
)


def several_heads(rows: list[str], columns: list[str], heads: int = 3) -> dict[str, Any]:
    """Attention of some heads, each of other weights."""
    values = attention(rows, columns)
    weights = np.random.default_rng(4).dirichlet(np.ones(len(columns)), size=(heads, len(rows))).round(5)
    values["maps"][0] |= {"weights": weights.tolist(), "heads": heads * values["maps"][0]["heads"]}
    return values


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with samples, attention and an evaluation of two classes."""
    folder = written(tmp_path / "demo" / "run", [3.0, 2.0, 1.0])
    texts = [("a b c", "a b c"), ("a b c", "x y z"), ("a b c", "a b z")]
    write_samples(folder, 30, [{"source": f"s{at}", "reference": a, "output": b} for at, (a, b) in enumerate(texts)])
    write_json(folder / "attention.json", [several_heads(["u", "v"], ["a", "b", "c"])])
    confusion = {"no": {"no": 8, "yes": 2}, "yes": {"no": 3, "yes": 7}}
    details = {"confusion": confusion, "calibration": {"bins": 15, "error": 0.1, "temperature": 1.25}}
    write_json(folder / "evaluations" / "test.json", {**SCORES, "details": details})
    write_json(folder / "data.json", {**DATA, "classes": ["no", "yes"]})
    random = np.random.default_rng(6)
    rows = [{"id": at, "label": at % 2, "logits": random.normal(size=2).round(3).tolist()} for at in range(60)]
    (folder / "evaluations" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def told(page: Any) -> str:
    return str(page.locator(".told:visible").inner_text()).replace("\u2068", "").replace("\u2069", "")


def column(page: Any, table: str, place: int) -> list[str]:
    return [str(text) for text in page.locator(f"{table} tbody tr > :nth-child({place})").all_inner_texts()]


def test_samples_are_sorted_worst_first_best_first_and_as_in_the_data(browser: Any, run: Path) -> None:
    page = opened(browser, report(run))
    assert column(page, ".samples", 1) == ["s1", "s2", "s0"]
    head, button = page.locator("th", has_text="chrF"), page.get_by_role("button", name="chrF")
    assert head.get_attribute("aria-sort") == "ascending"
    button.click()
    assert (head.get_attribute("aria-sort"), column(page, ".samples", 1)) == ("descending", ["s0", "s2", "s1"])
    button.press("Enter")  # by the keyboard too
    assert (head.get_attribute("aria-sort"), column(page, ".samples", 1)) == (None, ["s0", "s1", "s2"])
    page.get_by_role("button", name="source").click()
    assert page.locator("[aria-sort]").count() == 1 and column(page, ".samples", 1) == ["s0", "s1", "s2"]
    assert not page.errors


def test_runs_are_sorted_by_their_numbers_and_what_is_absent_is_last(browser: Any, tmp_path: Path) -> None:
    runs = [
        written(tmp_path / "demo" / name, [3.0, 2.0, 1.0], lr) for name, lr in (("a", 0.1), ("b", 0.02), ("c", 0.003))
    ]
    for folder, bleu in zip(runs, (9.5, 31.25), strict=False):
        write_json(folder / "evaluations" / "test.json", {**SCORES, "scores": {"test/bleu": bleu}})
    page = opened(browser, overlay_report(runs))
    orders = []
    for name, times in (("test/bleu", 1), ("test/bleu", 1), ("test/bleu", 1), ("optimizer.lr", 1)):
        page.get_by_role("button", name=name).click(click_count=times)
        orders.append("".join(column(page, ".trials", 1)))
    assert orders == ["bac", "abc", "abc", "cba"]
    assert not page.errors


def test_attention_is_clicked_through_and_tells_each_weight(browser: Any, run: Path) -> None:
    stored = json.loads((run / "attention.json").read_text())[0]["maps"][0]["weights"]
    page = opened(browser, report(run))
    pictures = page.locator(".attention label img")
    assert pictures.count() == 4 and pictures.first.bounding_box()["width"] > 30
    pictures.nth(2).click()
    field = page.locator(".weights:visible")
    assert field.count() == 1 and page.get_by_role("radio", name="decoder.2.cross_attention, head 2").is_checked()
    box = field.bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.75 * box["height"])
    assert told(page) == f"v → b: {round(stored[1][1][1] * SCALE) / SCALE:.3f}"
    page.mouse.move(5, 5)
    assert page.locator(".told").is_visible() is False
    page.get_by_role("radio", name="decoder.2.cross_attention, head 2").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("radio", name="decoder.2.cross_attention, head 3").is_checked()
    page.locator(".weights:visible").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert told(page) == f"v → c: {round(stored[2][1][2] * SCALE) / SCALE:.3f}"
    page.keyboard.press("Escape")
    assert page.locator(".told").is_visible() is False
    assert not page.errors


def test_charts_and_cells_tell_their_values(browser: Any, run: Path) -> None:
    page = opened(browser, report(run))
    page.locator("td.wrong-6").first.hover()
    assert told(page) == "yes taken for no in 3 of 10 rows (30.0%)"
    page.locator("svg[aria-label^=Reliability] circle").first.hover(force=True)
    assert re.match(r"(as predicted|at the temperature), confidence 0\.\d\d to ", told(page))
    page.locator("svg[aria-label^='Precision'] circle").nth(20).hover(force=True)
    assert re.match(r"(no|yes): precision \d\.\d{3}, recall ", told(page))
    assert not page.errors


def test_without_programs_and_on_paper_all_of_it_is_there(browser: Any, run: Path) -> None:
    path = report(run)
    page = opened(browser, path, java_script_enabled=False)
    assert page.locator(".panel:visible").count() == 1 and page.locator(".sortable button").count() == 0
    page.locator(".attention label").nth(3).click()
    assert page.locator(".panel:visible p").inner_text() == "decoder.2.cross_attention, head 3"
    assert page.locator(".weights:visible img").bounding_box()["width"] >= 3 * 20
    assert page.locator("td.wrong-6").get_attribute("title") == "yes taken for no in 3 of 10 rows (30.0%)"
    assert page.locator(".with-program:visible").count() == 0
    wide = [f"token{number}" for number in range(60)]
    write_json(run / "attention.json", [several_heads(wide, wide, 1)])
    page = opened(browser, report(run), viewport={"width": 700, "height": 900})
    page.emulate_media(media="print")
    assert page.locator(".weights:visible").bounding_box()["width"] <= 640
    assert page.evaluate("document.documentElement.scrollWidth") <= 700


def test_hostile_text_is_text_everywhere(browser: Any, run: Path) -> None:
    write_samples(run, 40, [{"source": text, "reference": text, "output": f"{text} y"} for text in HOSTILE])
    tokens = [text[:40] for text in HOSTILE]
    write_json(run / "attention.json", [several_heads(tokens, tokens)])
    confusion = {text: {text: 3, HOSTILE[0]: 1} for text in HOSTILE}
    details = {"confusion": confusion, "errors": [{"text": text} for text in HOSTILE]}
    write_json(run / "evaluations" / "test.json", {**SCORES, "details": details})
    path = report(run)
    assert path.stat().st_size < 3_000_000  # the long text alone stands in ten places
    parsed = Page(path)
    assert_runs_only_its_own(parsed.source, parsed.tags)
    page = opened(browser, path, viewport={"width": 400, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    for button in page.locator("table.sorts:visible th button").all():
        button.click()
    field = page.locator(".weights:visible")
    field.scroll_into_view_if_needed()
    field.hover(position={"x": 5, "y": 5})
    assert ATTACK[:40] in told(page)
    assert page.title() != "taken" and not page.errors
    assert page.locator(".samples td").first.bounding_box()["height"] < 600


def test_the_page_of_an_inspection_has_the_same_maps(browser: Any, run: Path, tmp_path: Path) -> None:
    inspection = Inspection.from_json(several_heads([ATTACK, "v"], ["a", "b", "c"]))
    path = tmp_path / "page.html"
    path.write_text(inspection_page(run, [inspection]))
    parsed = Page(path)
    assert_runs_only_its_own(parsed.source, parsed.tags)
    page = opened(browser, path)
    page.locator(".attention label").nth(1).click()
    page.locator(".weights:visible").hover()
    assert re.search(r" → b: 0\.\d{3}$", told(page)) and page.title() != "taken" and not page.errors
