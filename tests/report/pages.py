"""What every page must be: whole, without a network, and with no programs but etude's own."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PICTURE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]+=*")


def assert_runs_only_its_own(source: str, tags: Sequence[tuple[str, Mapping[str, str | None]]]) -> None:
    """A page runs no program but those that its policy names by their hashes, and loads nothing but pictures that it has."""
    assert not {tag for tag, _ in tags} & {"link", "iframe", "object", "base", "form"}
    assert not [
        name
        for tag, attributes in tags
        for name, value in attributes.items()
        if name.startswith("on")
        or name == "href"
        or (name == "src" and not (tag == "img" and PICTURE.fullmatch(value or "")))
    ]
    policy = next(str(attributes["content"]) for _, attributes in tags if attributes.get("http-equiv"))
    assert policy.startswith("default-src 'none'; ") and "unsafe-eval" not in policy and "http" not in policy
    scripts = [attributes for tag, attributes in tags if tag == "script"]
    programs = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
    blocks = [attributes["id"] for attributes in scripts if attributes.get("type") == "application/gzip"]
    weights = ["attention-weights"] if any(tag == "img" for tag, _ in tags) else []
    assert blocks == weights + (["library", "curves-data"] if len(programs) == 2 else [])
    assert len(scripts) == len(programs) + len(blocks) and len(programs) in (1, 2)
    for program in programs:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()}'" in policy
    assert not re.search(r"url\(|@import|https?://", re.sub(r"<script>.*?</script>", "", source, flags=re.DOTALL))


def opened(browser: Any, path: Path, **options: Any) -> Any:
    """Open a page; what goes wrong in its programs, or is refused by its policy, is in its `errors`."""
    page = browser.new_page(**{"viewport": {"width": 1100, "height": 1200}, **options})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.errors = errors
    page.goto(path.as_uri())
    return page
