"""Preparing text, side by side with the tokenizers library's own batch call, and as the text grows.

    python -m tests.bench.preparing
    python -m tests.bench.preparing --text FILE          # another text than the embedded film reviews
    python -m tests.bench.preparing --tokenizer bpe      # or unigram, wordpiece, bytes

    etude               from a file to a complete folder of the cache on the disk, by its trained tokenizer
    encode_batch_fast   the library's call, on a list of the same documents that is in memory already
    encode_batch        the same, with offsets

Rates are megabytes of text per second; all have the same threads. A first JSON object has the ratios. A second one has, for
texts of 1, 10 and 100 times `--base` megabytes, the seconds of `prepare` in a process of its own, the exponent by which they
grow, and the peak memory of a whole `etude prepare` that also trains the tokenizer, with its exponent.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from etude.data.corpora.reviews import ReviewsText
from etude.data.corpora.text_files import TextFiles
from etude.data.prepare import prepare
from etude.tokenization.base import Tokenizer
from etude.tokenization.trained import BPE, Bytes, Unigram, WordPiece
from tests.bench.rounds import Contender, Work, arguments, compare

MEGABYTE = 1e6
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
TIMES = (1, 10, 100)
RECIPES: dict[str, BPE | Unigram | WordPiece | Bytes] = {
    "bpe": BPE(8000),
    "unigram": Unigram(8000),
    "wordpiece": WordPiece(8000),
    "bytes": Bytes(),
}


def documents(text: Path | None) -> Iterator[str]:
    """Yield the documents of a file, or film reviews."""
    corpus = TextFiles(str(text), val=str(text)) if text else ReviewsText()
    for row in corpus.rows("train"):
        yield row.fields["text"]


def write_texts(folder: Path, text: Path | None, sizes: Sequence[float]) -> list[Path]:
    """Write files with the first documents of a text, as many as have some bytes; from its begin again where it ends."""
    paths = [folder / f"{number}.txt" for number in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        with path.open("w", encoding="utf-8") as file:
            written = 0
            while written < size:
                for document in documents(text):
                    written += file.write(f"{document}\n\n")
                    if written >= size:
                        break
    return paths


def prepared(path: Path, tokenizer: Tokenizer, folder: Path) -> float:
    """Prepare a file into a new cache; return the seconds that it took."""
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        began = time.perf_counter()
        corpus = TextFiles(str(path), val=str(path.with_name("val.txt")))
        prepare(corpus, tokenizer, text_fields=("text",), max_length=126, overflow="window", cache=Path(cache))
        return time.perf_counter() - began


def timed(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def side_by_side(path: Path, tokenizer: Tokenizer, options: argparse.Namespace) -> None:
    """Compare the contenders on one file."""
    texts, backend = list(documents(path)), tokenizer.backend
    megabytes = sum(len(text.encode()) for text in texts) / MEGABYTE
    calls: dict[str, Callable[[], float]] = {
        "etude": lambda: prepared(path, tokenizer, path.parent),
        "encode_batch_fast": lambda: timed(lambda: backend.encode_batch_fast(texts, add_special_tokens=False)),
        "encode_batch": lambda: timed(lambda: backend.encode_batch(texts, add_special_tokens=False)),
    }

    def contender(call: Callable[[], float], wanted: float | None) -> Contender:
        call()
        return Contender(lambda _: Work(megabytes, call()), wanted)

    contenders = {name: contender(call, None if name == "etude" else 0.9) for name, call in calls.items()}
    compare(f"preparing {megabytes:.1f} MB of text, MB per second", contenders, options)


def _measure(path: Path, folder: Path, answers: SimpleQueue[float]) -> None:
    answers.put(prepared(path, Tokenizer.load(folder / "tokenizer"), folder))


def seconds_alone(path: Path, folder: Path) -> float:
    """Return the seconds that `prepare` takes in a new process, after its imports."""
    context = multiprocessing.get_context("spawn")
    answers: SimpleQueue[float] = context.SimpleQueue()
    process = context.Process(target=_measure, args=(path, folder, answers))
    process.start()
    seconds = answers.get()
    process.join()
    return seconds


def peak_memory(path: Path, folder: Path, tokenizer: str) -> float:
    """Return the megabytes that `etude prepare` has at its peak, the training of the tokenizer and all imports included."""
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        words = (f"data.train={path}", f"data.val={path.with_name('val.txt')}", f"paths.cache={cache}")
        chosen = (f"tokenizer={tokenizer}", *(["~tokenizer.vocabulary"] if tokenizer == "bytes" else []))
        command = [sys.executable, "-m", "etude", "prepare", "experiment=masked_lm/text", *chosen, *words]
        # Between them stands a small process: what a child had before it became another program counts as its own.
        told = subprocess.run([sys.executable, "-c", PEAK, *command], check=True, capture_output=True, text=True).stdout
    return int(told) * 1024 / MEGABYTE


def growth(paths: Sequence[Path], folder: Path, tokenizer: str) -> dict[str, object]:
    """Return times, their exponent and peak memory for files of growing size."""
    sizes = [path.stat().st_size / MEGABYTE for path in paths]
    seconds = [seconds_alone(path, folder) for path in paths]
    memory = [peak_memory(path, folder, tokenizer) for path in paths]

    def exponents(values: Sequence[float]) -> list[float]:
        return [math.log(values[n + 1] / values[n]) / math.log(sizes[n + 1] / sizes[n]) for n in range(len(values) - 1)]

    found = {
        "megabytes": sizes,
        "seconds": seconds,
        "exponents": exponents(seconds),
        "megabytes_a_second": [size / each for size, each in zip(sizes, seconds, strict=True)],
        "peak_megabytes": memory,
        "exponents_of_memory": exponents(memory),
    }
    return {name: [round(value, 3) for value in values] for name, values in found.items()}


def main() -> None:
    """Compare, and grow."""
    parser = arguments(__doc__, seconds=0)
    parser.add_argument("--text", type=Path, help="file of documents, a blank line between them; default: film reviews")
    parser.add_argument("--tokenizer", choices=list(RECIPES), default="bpe")
    parser.add_argument("--base", type=float, default=0.3, help="megabytes of the smallest text")
    parser.add_argument(
        "--times", type=int, choices=TIMES, default=100, help="the base: of the text that is compared on"
    )
    parser.add_argument("--no-growth", action="store_true", help="compare only")
    options = parser.parse_args()
    logging.getLogger("etude").setLevel(logging.ERROR)
    os.environ.update(TOKENIZERS_PARALLELISM="true", RAYON_NUM_THREADS=str(options.threads))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        *paths, val = write_texts(folder, options.text, [*(times * options.base * MEGABYTE for times in TIMES), 1e4])
        val.rename(folder / "val.txt")
        tokenizer = RECIPES[options.tokenizer].build(documents(paths[1]))
        tokenizer.save(folder / "tokenizer")
        side_by_side(paths[TIMES.index(options.times)], tokenizer, options)
        if not options.no_growth:
            print(json.dumps(growth(paths, folder, options.tokenizer)))


if __name__ == "__main__":
    main()
