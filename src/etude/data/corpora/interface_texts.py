"""Interface texts of free software with their translations, read from pinned packages."""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from functools import cached_property

from etude.data.corpora.holdout import digest, split_of
from etude.data.readers.catalogs import json_file_pairs, mo_pairs, po_pairs
from etude.data.readers.sources import Dropped, Row
from etude.errors import ConfigurationError
from etude.packages import PACKAGES, package_file

SHARED = ("homeassistant", "horizon", "openstack-heat", "Trac", "sphinx")
PACKAGES_OF = {
    "de": (*SHARED, "jupyterlab-language-pack-de-DE"),
    "fr": (*SHARED, "jupyterlab-language-pack-fr-FR"),
}
HELD_OUT = {"val": 0.03, "test": 0.04}
FEWEST_WORDS = 2
RATIOS = (0.4, 3.0)
JSON_FILE = re.compile(r"(.*/translations/(?:\w+\.)?)en\.json")
CATALOG = re.compile(r"(.*/locale/(\w+)/LC_MESSAGES/[^/]+)\.(mo|po)")
PLACEHOLDER = re.compile(
    r"""
      \{[^{}\s]*\}                          # {name}, {}
    | %\([^()]*\)[a-z]                      # %(name)s
    | %[-+#0]?\d*(?:\.\d+)?[sdifrxg](?!\w)  # %s, %d, %.1f
    | %\d+                                  # %1
    | \$\{?\w+\}?                           # $name, ${name}
    """,
    re.VERBOSE,
)


class InterfaceTexts:
    """Labels, messages and help texts of homeassistant, horizon, heat, Trac, sphinx and JupyterLab.

    Pairs are unique by source. White space is normalised. Left out and counted are texts of a single word or several
    paragraphs, equal or empty sides, a target outside 0.4 to 3 times the source's characters, and unequal placeholders.
    About 3 % are held out for val and 4 % for test, by the source's letters and digits.

    Args:
        source: Language to translate from: `en`, or `de` or `fr` if `target` is `en`.
        target: Language to translate into: `en`, or `de` or `fr` if `source` is `en`.
        max_words: Most words of a source; None: any number.
        placeholders: Whether texts with `{name}`, `%s` and the like are kept.

    Attributes:
        dropped: Rows left out, by reason.

    Raises:
        ConfigurationError: If the languages are not offered.
    """

    def __init__(
        self, source: str = "en", target: str = "de", max_words: int | None = None, placeholders: bool = True
    ) -> None:
        others = {source, target} - {"en"}
        if source == target or len(others) != 1 or not others <= set(PACKAGES_OF):
            raise ConfigurationError(
                f"interface texts are not translated from {source!r} to {target!r}; one of data.corpus.source and "
                f"data.corpus.target must be en, the other one {' or '.join(PACKAGES_OF)}"
            )
        self.source = source
        self.target = target
        self.max_words = max_words
        self.placeholders = placeholders
        self.language = others.pop()
        self.dropped = Dropped()

    def fingerprint(self) -> str:
        """Return a hash of the pinned packages and all settings."""
        wheels = (PACKAGES[name].sha256 for name in PACKAGES_OF[self.language])
        settings = (self.source, self.target, self.max_words, self.placeholders, HELD_OUT, FEWEST_WORDS, RATIOS)
        return digest("InterfaceTexts 1", settings, *wheels)

    def splits(self) -> tuple[str, ...]:
        """Return all three splits."""
        return ("train", "val", "test")

    def rows(self, split: str) -> Iterator[Row]:
        """Yield pairs with the fields `source` and `target`.

        Raises:
            DataError: If a package cannot be fetched.
        """
        seen: set[str] = set()
        for source, target, origin in self._pairs:
            if split_of(source, HELD_OUT) != split:
                continue
            pair = {"source": " ".join(source.split()), "target": " ".join(target.split())}
            reason = self._refusal(source, target) or ("repeated" if pair["source"] in seen else None)
            if reason:
                self.dropped.drop(reason, origin)
            else:
                seen.add(pair["source"])
                yield Row(pair, origin)

    @cached_property
    def _pairs(self) -> list[tuple[str, str, str]]:
        """All pairs with their origins, in the order of packages and files: about 30,000."""
        pairs = []
        for name in PACKAGES_OF[self.language]:
            with zipfile.ZipFile(package_file(name)) as archive:
                for english, other, file in _archive_pairs(archive, self.language):
                    texts = (english.strip(), other.strip())
                    pairs.append((*(texts if self.source == "en" else texts[::-1]), f"{name}:{file}"))
        return pairs

    def _refusal(self, source: str, target: str) -> str | None:
        """Return why a pair is left out, or None."""
        words = len(source.split())
        placeholders = Counter(PLACEHOLDER.findall(source))
        reasons = {
            "empty": not source or not target,
            "several paragraphs": "\n\n" in source or "\n\n" in target,
            "single word": words < FEWEST_WORDS,
            "not translated": source == target,
            "lengths too different": not RATIOS[0] <= len(target) / max(1, len(source)) <= RATIOS[1],
            "placeholders differ": placeholders != Counter(PLACEHOLDER.findall(target)),
            "placeholders": not self.placeholders and bool(placeholders),
            "too many words": self.max_words is not None and words > self.max_words,
        }
        return next((reason for reason, holds in reasons.items() if holds), None)


def _archive_pairs(archive: zipfile.ZipFile, language: str) -> Iterator[tuple[str, str, str]]:
    """Yield (English, other, file) of all catalogs in a package, in order of file name."""
    names = set(archive.namelist())
    for name in sorted(names):
        json_file, catalog = JSON_FILE.fullmatch(name), CATALOG.fullmatch(name)
        if json_file and f"{json_file[1]}{language}.json" in names:
            other = f"{json_file[1]}{language}.json"
            pairs = json_file_pairs(archive.read(name), archive.read(other))
            yield from ((*pair, other) for pair in pairs)
        elif catalog and catalog[2].partition("_")[0] == language:
            if catalog[3] == "mo":
                yield from ((*pair, name) for pair in mo_pairs(archive.read(name)))
            elif f"{catalog[1]}.mo" not in names:
                yield from ((*pair, name) for pair in po_pairs(archive.read(name).decode("utf-8")))
