"""Try the commands of the documentation, write what came out on their cards, and the cards into the pages.

    python -m tests.cards            the quick ones; `make verify`
    python -m tests.cards all        every one; `make verify CARDS=all`
    python -m tests.cards NAME…      these, such as `translation/demo` or `translation/*`
    python -m tests.cards hold NAME… the first steps of these trainings, beside those of the commits that stamped them
    python -m tests.cards pages      none: pages are written from the cards as they are

A card whose command fails, or brings a value out of its range, keeps its old stamp; the exit code is 1 then.
"""

from __future__ import annotations

import subprocess
import sys

import msgspec
from rich.console import Console

from tests.cards.attempt import SkippedError, attempt
from tests.cards.card import Card, names, read, write
from tests.cards.pages import filled, named, pages
from tests.cards.trace import ChangedError, hold
from tests.conftest import ROOT


def main(words: list[str]) -> int:
    """Try the cards that the words name; return the exit code."""
    console = Console(stderr=True, highlight=False)
    held = words[:1] == ["hold"]
    chosen, failed = _chosen(words[1:] if held else words), 0
    if (
        chosen
        and subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "src", "conf"], cwd=ROOT, check=False).returncode
    ):
        raise ValueError(
            "there are changes in src or conf that are in no commit, and a stamp names the commit; commit them first"
        )
    for name in chosen:
        card = read(name)
        console.print(f"[bold]{name}[/]  {card.command}")
        try:
            tried, faults = _held(card) if held else _tried(card)
        except SkippedError as why:
            console.print(f"  skipped: {why}", style="yellow")
            continue
        for fault in faults:
            console.print(f"  {fault}", style="red", markup=False)
        if faults:
            failed += 1
            continue
        write(name, tried)
        console.print(f"  {tried.text()} ({tried.duration()})", style="green", markup=False)
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            page.write_text(new, encoding="utf-8")
            console.print(f"written: {page.name}")
    return 1 if failed else 0


def _tried(card: Card) -> tuple[Card, list[str]]:
    stamp, faults = attempt(card)
    return msgspec.structs.replace(card, stamp=stamp), faults


def _held(card: Card) -> tuple[Card, list[str]]:
    try:
        return hold(card), []
    except ChangedError as why:
        return card, [str(why)]


def _chosen(words: list[str]) -> list[str]:
    if words == ["pages"]:
        return []
    if words == ["all"]:
        return names()
    return [name for word in words for name in named(word)] or [name for name in names() if read(name).quick]


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as error:
        sys.exit(f"cards: {error}")
