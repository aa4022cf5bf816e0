"""What the page of many runs costs: `python -m tests.bench.pages [--runs 50] [--points 10000] [--rounds 5]`.

Writes records as trainings write them (loss, gradient norm and rate at each point, two validation scores at every hundredth),
lays the runs over one another, and opens the page in Chromium, a new browser for each round. One JSON object has the medians:

    write_s     from the folders to the written page
    shown_s     from the begin of the navigation until the text of the page can be read
    drawn_s     the same, until the charts in view are drawn: the page is opened at its curves
    all_s       the same, until those below are drawn too
    redrawn_s   from another choice of the axis until the charts in view are drawn again
    megabytes   size of the page
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np

from etude.report.page import write_pages
from etude.runs.record import RECORD, Event, Record

WATCH = """window.paintedAt = {};
new MutationObserver(() => {
  const state = document.documentElement.dataset.curves;
  requestAnimationFrame(() => setTimeout(() => { paintedAt[state] ??= performance.now(); }));
}).observe(document, {subtree: true, attributes: true, attributeFilter: ["data-curves"]});"""
"""Keeps when each state of the curves was painted, by the page's own clock: the browser's driver is not waited for."""

AGAIN = """async () => {
  const began = performance.now();
  document.documentElement.dataset.curves = "waiting";
  document.querySelector("input[name=axis][value=tokens]").click();
  while (document.documentElement.dataset.curves === "waiting") await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  return performance.now() - began;
}"""


def write_run(folder: Path, points: int, seed: int) -> Path:
    """Write the record of a run and nothing else."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    record = Record(folder / RECORD)
    losses = 2.0 + 5.0 * np.exp(-np.arange(points) / (0.2 * points)) + 0.1 * random.standard_normal(points)
    norms = np.exp(0.3 * random.standard_normal(points))
    for index, (loss, norm) in enumerate(zip(losses.tolist(), norms.tolist(), strict=True), start=1):
        rate = 1e-3 * min(index / (0.1 * points), 1.0)
        values = {"train/loss": loss, "train/gradient_norm": norm, "train/learning_rate": rate}
        if index % 100 == 0:
            values |= {"val/loss": loss + 0.2, "val/bleu": 40.0 * index / points}
        record.append(Event(10 * index, 40_000 * index, 3.0 * index, values))
    record.close()
    (folder / "config.yaml").write_text(f"seed: {seed}\nvalidate: {{metric: val/bleu, mode: max}}\n")
    return folder


def opened(playwright: Any, page_path: Path) -> dict[str, float]:
    """Open a page in a new browser; return its times in seconds."""
    browser = playwright.chromium.launch(executable_path=which("chromium"), args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1100, "height": 1200})
    page.add_init_script(WATCH)
    page.goto(f"{page_path.as_uri()}#curves")
    page.wait_for_function("() => 'complete' in window.paintedAt")
    painted = page.evaluate("window.paintedAt")
    shown = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    redrawn = page.evaluate(AGAIN) / 1000
    browser.close()
    times = {"shown_s": shown, "drawn_s": painted.get("drawn", painted["complete"]), "all_s": painted["complete"]}
    return {**{name: value / 1000 for name, value in times.items()}, "redrawn_s": redrawn}


def main(words: list[str]) -> None:
    """Measure; one line for each round goes to stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("runs", 50), ("points", 10_000), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    asked = parser.parse_args(words)
    from playwright.sync_api import sync_playwright  # optional: what measures nothing needs no browser

    found: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        runs = [write_run(Path(folder) / f"{number:03d}", asked.points, number) for number in range(asked.runs)]
        for _ in range(asked.rounds):
            began = time.perf_counter()
            path = write_pages(runs)
            written = time.perf_counter() - began
            size = path.stat().st_size / 1e6
            found.append({"write_s": written, **opened(playwright, path), "megabytes": size})
            sys.stderr.write(json.dumps({name: round(value, 3) for name, value in found[-1].items()}) + "\n")
    medians = {name: round(statistics.median(one[name] for one in found), 3) for name in found[0]}
    print(json.dumps({**vars(asked), **medians}))


if __name__ == "__main__":
    main(sys.argv[1:])
