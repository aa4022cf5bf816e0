"""Multi30k: image captions in English, German and French."""

from __future__ import annotations

from collections.abc import Mapping

from etude.data.corpora.parallel.parallel_files import ParallelFiles
from etude.data.readers.sources import download
from etude.errors import DataError
from etude.packages import cache_folder

COMMIT = "a3d2e0d26b56f3846f66a952536ffed4e401d05a"
ADDRESS = f"https://raw.githubusercontent.com/multi30k/dataset/{COMMIT}/data/task1/raw"
LANGUAGES = ("en", "de", "fr")
SHA256 = {
    "val.en": "1f2a23d992769b5b3d209b0a10dd0b77c08cceb1f20dfb97ed0aafa49d107227",
    "val.de": "660e09eb7e1da2f856ea13ee5ad3cf6d36b3d5b0b733c857e94c5747a3dfc660",
    "val.fr": "5304e444d842e962b2dda4d816b70b22a1765b15401642b7ca37a67477e708dc",
    "test_2016_flickr.en": "399a4382932c1aadd3ceb9bef1008d388a64c76d4ae4e9d4728c6f4301cac182",
    "test_2016_flickr.de": "4be6b5b3236b79c25475c6bb829800a7ce559e9ba7a1f6c2394fe4d40be46d16",
    "test_2016_flickr.fr": "cb3160d69b002bb638e66cc7612fcd56cb0af82eadc9c142dedc438afb885ef6",
}
"""Hashes of the decompressed val and test texts. The training text is fixed by the commit in the address alone."""


class Multi30k(ParallelFiles):
    """Multi30k, task 1 (Elliott et al. 2016): 29,000 training pairs, 1,014 of val, 1,000 of test_2016_flickr.

    Args:
        root: Folder of the files (`train.en`, `val.en`, …; also .gz); None: they are downloaded once.
        source: Language to translate from: en, de or fr.
        target: Language to translate into.
        splits: Split -> file name before the language.
    """

    def __init__(
        self, root: str | None, source: str = "en", target: str = "de", splits: Mapping[str, str | None] | None = None
    ) -> None:
        stems: Mapping[str, str | None] = {"train": "train", "val": "val", "test": "test_2016_flickr"}
        self.downloads = root is None
        super().__init__(root or str(cache_folder() / "multi30k"), source, target, splits or stems)

    def fingerprint(self) -> str:
        """Return a hash of all files' content, downloading them first if no folder is given.

        Raises:
            DataError: If a file cannot be downloaded, or its content has another hash.
        """
        if self.downloads:
            self._download()
        return super().fingerprint()

    def _download(self) -> None:
        for language in (self.source, self.target):
            if language not in LANGUAGES:
                raise DataError(f"Multi30k has no language {language!r}; it has: {', '.join(LANGUAGES)}")
            for stem in self.stems.values():
                name = f"{stem}.{language}"
                if name not in SHA256 and stem != "train":
                    stems = ", ".join(dict.fromkeys(file.rpartition(".")[0] for file in SHA256))
                    raise DataError(
                        f"Multi30k's {stem!r} is not downloaded by etude, only train, {stems}; give data.root"
                    )
                download(f"{ADDRESS}/{name}.gz", SHA256.get(name), self.root)
