r"""Lines of text files, streamed; counts of dropped rows; downloads; and hashes of files.

Lines end at `\n` (or `\r\n`) only, never at the other characters that Unicode calls line ends. A file that is missing,
unreadable, empty, broken or not a regular file is refused by a `DataError` of one line.
"""

from __future__ import annotations

import gzip
import hashlib
import stat
import tempfile
import urllib.error
import urllib.request
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import IO, NamedTuple

from etude.errors import DataError
from etude.packages import file_sha256


class Row(NamedTuple):
    """One row as read.

    Attributes:
        fields: Text by field name, without white space around it.
        origin: File and line, for messages: `train.tsv:12`.
    """

    fields: dict[str, str]
    origin: str


class Dropped(Counter[str]):
    """Counts of dropped rows by reason.

    Attributes:
        first: Reason -> origin of the first row dropped for it.
    """

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        super().__init__(counts or {})
        self.first: dict[str, str] = {}

    def drop(self, reason: str, origin: str) -> None:
        """Count one dropped row."""
        self[reason] += 1
        self.first.setdefault(reason, origin)

    def __str__(self) -> str:
        counted = (f"{count} {reason} (the first at {self.first.get(reason, '?')})" for reason, count in self.items())
        return ", ".join(counted) or "none"


def read_lines(path: Path, longest: int | None = None) -> Iterator[bytes]:
    """Yield the lines of a file, `.gz` or not, without line ends.

    Args:
        path: The file.
        longest: Most bytes of a line, at least 8: a longer one is divided, after white space if it has any, and never
            within a character. None: every line is whole.

    Raises:
        DataError: If the file is missing, unreadable, broken or empty.
    """
    number = 0
    with refusing(path), _open(path) as stream:
        for number, line in enumerate(stream if longest is None else lines_in_parts(stream, longest), 1):
            content = line.removesuffix(b"\n").removesuffix(b"\r")
            yield content.removeprefix(b"\xef\xbb\xbf") if number == 1 else content
    if number == 0:
        raise DataError(f"{path} is empty")


def lines_in_parts(stream: IO[bytes] | gzip.GzipFile, longest: int) -> Iterator[bytes]:
    """Yield the lines of a stream, ends included; a line of more than `longest` bytes in parts, as `read_lines` divides it."""
    rest = b""
    while part := stream.readline(longest - len(rest)):
        part = rest + part
        cut = len(part) if len(part) < longest or part.endswith(b"\n") else _place_to_divide(part)
        yield part[:cut]
        rest = part[cut:]
    if rest:
        yield rest


def _place_to_divide(part: bytes) -> int:
    """Return the place after the last white space, or else before a character that may be incomplete."""
    if space := 1 + max(part.rfind(b" "), part.rfind(b"\t")):
        return space
    last = next((back for back in range(1, 5) if part[-back] & 0xC0 != 0x80), 1)
    return len(part) - last if part[-last] >= 0xC0 else len(part)


def aligned_lines(paths: Sequence[Path]) -> Iterator[tuple[bytes, ...]]:
    """Yield the first line of every file, then the second, and so on.

    Raises:
        DataError: If a file cannot be read, or they have different numbers of lines.
    """
    streams = zip_longest(*map(read_lines, paths))
    for number, lines in enumerate(streams):
        if None in lines:
            counts = [number + (line is not None) for line in lines]
            for row in streams:
                counts = [count + (line is not None) for count, line in zip(counts, row, strict=True)]
            other = next(place for place, count in enumerate(counts) if count != counts[0])
            raise DataError(
                f"{paths[0]} has {counts[0]} lines but {paths[other]} has {counts[other]}; line n of one must belong to "
                f"line n of the other"
            )
        yield lines


def read_text(path: Path) -> str:
    """Return the whole text of a file, `.gz` or not, unchanged.

    Raises:
        DataError: If the file is missing, unreadable, broken, empty or not UTF-8 text.
    """
    with refusing(path), _open(path) as stream:
        content = stream.read()
    text = content.decode("utf-8", "surrogateescape")
    if not text:
        raise DataError(f"{path} is empty")
    if not is_text(text):
        raise DataError(f"{path} is not UTF-8 text; convert it, for example by iconv -t utf-8")
    return text


def text_of(line: bytes) -> str | None:
    """Return a line as text without white space around it, or None if it is not UTF-8 text."""
    text = line.decode("utf-8", "surrogateescape").strip()
    return text if is_text(text) else None


def download(url: str, sha256: str | None, folder: Path) -> Path:
    """Fetch a file once, decompressing .gz, and return its path.

    Args:
        url: An https address; the file is named by its last part, without .gz.
        sha256: Hash of the decompressed content, in hexadecimal (compressed content differs with the time of
            compression), or None where the address itself fixes the content.
        folder: Folder that the file is kept in.

    Raises:
        DataError: If the file cannot be fetched, or its content has another hash.
    """
    path = folder / url.rpartition("/")[2].removesuffix(".gz")
    if path.is_file() and (sha256 is None or file_sha256(path) == sha256):
        return path
    if not url.startswith("https://"):
        raise DataError(f"{url!r} is not an https address")
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 (https only, above)
            content = answer.read()
            content = gzip.decompress(content) if url.endswith(".gz") else content
    except (OSError, EOFError, zlib.error, urllib.error.URLError) as error:
        raise DataError(
            f"cannot fetch {url} ({error}); put {path.name} into a folder and give data.root=FOLDER"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, digest):
        raise DataError(f"{url} has sha256 {digest}, expected {sha256}; to use other files, give data.root=FOLDER")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
        partial = Path(temporary) / path.name
        partial.write_bytes(content)
        partial.replace(path)
    return path


def content_sha256(path: Path) -> str:
    """Return the hash of a file's content, or of the names and contents of all files in a folder.

    Raises:
        DataError: If the path is missing, unreadable, or neither a file nor a folder.
    """
    with refusing(path):
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            lines = (f"{file.relative_to(path).as_posix()} {content_sha256(file)}" for file in files)
            return hashlib.sha256("\n".join(lines).encode()).hexdigest()
        status = path.stat()
        return _remembered_sha256(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _remembered_sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Hash a file, or return its hash if this process has hashed it and neither size nor time has changed."""
    return file_sha256(path)


def _open(path: Path) -> IO[bytes] | gzip.GzipFile:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Turn every way in which reading a file can fail into one line.

    Raises:
        DataError: In place of any error of the file system or of a broken gzip file; and before anything is read from a
            pipe or a device, which might never end.
    """
    try:
        _check_kind(path)
        yield
    except FileNotFoundError:
        beside = sorted(entry.name for entry in path.parent.iterdir())[:8] if path.parent.is_dir() else []
        hint = f"{path.parent} has: {', '.join(beside) or 'nothing'}" if path.parent.is_dir() else "nor its folder"
        raise DataError(f"no such file: {path} ({hint})") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is not a complete gzip file: {error}") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _check_kind(path: Path) -> None:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        kind = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
        raise DataError(f"{path} is a {kind}, and data is read several times; write it into a file and give that")


def plain_or_gz(path: Path) -> Path:
    """Return a path, or that path with `.gz` after its name if only such a file exists."""
    compressed = path.with_name(f"{path.name}.gz")
    return compressed if compressed.is_file() and not path.exists() else path


def is_text(text: str) -> bool:
    """Return whether a text is free of undecodable bytes (read as surrogates) and of NUL, which no text has."""
    if text.isascii():
        return "\0" not in text
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
