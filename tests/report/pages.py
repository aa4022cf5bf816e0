"""What every page must be: whole, without a network, and with no program but etude's own."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence


def assert_runs_only_its_own(source: str, tags: Sequence[tuple[str, Mapping[str, str | None]]]) -> None:
    """A page runs no program but the one that its policy names by its hash, and loads nothing."""
    assert not {tag for tag, _ in tags} & {"link", "img", "iframe", "object", "base", "form"}
    assert not [
        name for _, attributes in tags for name in attributes if name.startswith("on") or name in ("src", "href")
    ]
    policy = next(str(attributes["content"]) for _, attributes in tags if attributes.get("http-equiv"))
    assert policy.startswith("default-src 'none'; ") and "unsafe-eval" not in policy and "http" not in policy
    scripts = [attributes for tag, attributes in tags if tag == "script"]
    programs = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
    blocks = [attributes["id"] for attributes in scripts if attributes.get("type") == "application/gzip"]
    assert blocks == (["library", "curves-data"] if programs else [])
    assert len(scripts) == len(programs) + len(blocks) and len(programs) <= 1
    for program in programs:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()}'" in policy
    assert not re.search(r"url\(|@import|https?://", re.sub(r"<script>.*?</script>", "", source, flags=re.DOTALL))
