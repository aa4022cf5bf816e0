"""Tables and sentences of the documentation that are made of cards.

A page holds blocks, invisible to its readers:

    <!-- cards table: translation/demo, translation/multi30k -->
    …
    <!-- end of cards -->

`table` lists the cards, a row each, with all that they say; `brief` without remarks, commit and machine. What stands between
is written anew. A column that would be empty is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from tests.cards.card import Card, names, read
from tests.conftest import ROOT

_BLOCK = re.compile(
    r"(<!-- cards (?P<form>table|brief): (?P<names>[^>]*?) -->\n)(?P<body>.*?)(<!-- end of cards -->)", re.DOTALL
)
_NUMBER = r"[-−]?\d[\d.,]*"
_CLAIM = re.compile(
    rf"""\b(?:BLEU|chrF|TER|ROUGE-\w+|F1|accuracy|exact\ match|perplexity|Pearson|Spearman|Matthews|goodput)
         (?:\ \w+)?\ {_NUMBER}
       | {_NUMBER}\ times\ (?:as|the|faster|slower)\b
       | {_NUMBER}\ (?:tokens|sentences|examples|steps)/s
       | {_NUMBER}\ [MG]i?B\ (?:a\ second|at\ its\ peak|of\ memory)
       | \bMeasured:
       | \b(?:takes?|took|in)\ {_NUMBER}\ (?:min|s|h)\b""",
    re.VERBOSE,
)


def pages() -> list[Path]:
    """Return the pages that may hold blocks: the README and everything under docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def filled(text: str) -> str:
    """Return a page's text with its blocks made of the cards as they are now.

    Raises:
        ValueError: If a block names a card that there is not.
    """
    return _BLOCK.sub(lambda match: f"{match[1]}{_body(match['form'], named(match['names']))}{match[5]}", text)


def shown(text: str) -> Iterator[str]:
    """Yield the names of the cards that a page shows."""
    for match in _BLOCK.finditer(text):
        yield from named(match["names"])


def named(patterns: str) -> list[str]:
    """Return the names that a block stands for, in its order: names, or patterns such as `translation/*`."""
    known, found = names(), []
    for pattern in re.split(r",\s*", patterns.strip()):
        matching = [name for name in known if fnmatch(name, pattern)]
        if not matching:
            raise ValueError(f"there is no card {pattern} in docs/cards")
        found += [name for name in matching if name not in found]
    return found


def unproven(text: str) -> list[str]:
    """Return the lines of a page that claim a result and are not made of a card."""
    outside = re.sub(r"^```.*?^```|`[^`\n]*`", "", _BLOCK.sub("", text), flags=re.MULTILINE | re.DOTALL)
    return [line for line in outside.splitlines() if _CLAIM.search(line)]


def _body(form: str, of: Sequence[str]) -> str:
    cards = [read(name) for name in of]
    if form == "brief":
        head, rows = (
            ["command", "what came out", "time", "training cost"],
            [[_code(card.command), card.result(), card.duration(), card.cost()] for card in cards],
        )
    else:
        head = ["command", "what came out", "time", "training cost", "commit, day, machine"]
        rows = [[_typed(card), card.text(), card.duration(), card.cost(), _stamp(card)] for card in cards]
    filled_columns = [number for number in range(len(head)) if any(row[number] for row in rows)]
    head, *rows = [[row[number] for number in filled_columns] for row in (head, *rows)]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(["", *lines, "", ""])


def _code(line: str) -> str:
    """Return what is typed, for a cell of a table."""
    return "`" + line.replace("|", "\\|") + "`"


def _typed(card: Card) -> str:
    return ", then ".join(_code(line) for line in (card.command, card.then) if line)


def _stamp(card: Card) -> str:
    assert card.stamp is not None
    held = f"; its first losses the same at {card.stamp.held.commit}" if card.stamp.held is not None else ""
    return f"{card.stamp.commit}, {card.stamp.date}, {card.stamp.machine}{held}"
