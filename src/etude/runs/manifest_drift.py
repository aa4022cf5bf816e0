"""Differences between the manifests of two runs, by section: code, packages, hardware, settings, data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from etude.config.values import changes

SECTIONS = {
    "code": ("code",),
    "packages": ("python", "packages"),
    "hardware": ("platform", "processor", "accelerators", "precision"),
    "settings": ("torch", "environment"),
    "data": ("data", "first_weights", "teacher"),
}
"""Keys of a manifest by section. The initial weights count as data, since they may be pretrained, and so does a teacher."""

MACHINERY = ("code", "packages", "hardware", "settings")
"""Sections that may change when a run is continued."""


def section(manifest: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a section of a manifest; a mapping under the section's own name is merged into it."""
    content: dict[str, Any] = {}
    for key in SECTIONS[name]:
        if key == "teacher" and manifest.get(key) is None:
            continue  # most runs have none
        value = manifest.get(key)
        content |= value if key == name and isinstance(value, Mapping) else {key: value}
    return {key: value for key, value in content.items() if value != {}}


def drift(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the changes between two manifests by section and key, such as `'2.12' -> '2.13'`."""
    return {name: changes(section(before, name), section(now, name)) for name in SECTIONS}
