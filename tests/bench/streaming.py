"""Time, memory and disk of reading text as a stream of shards, as the text grows: `python -m tests.bench.streaming`.

Shards of four million tokens, documents of some hundreds, are served over HTTP by another process of this machine. Each size is
read in a process of its own, whose cache is empty, for as many steps of 32,768 tokens in blocks of 1,024. The JSON object has,
for 1, 10 and 100 shards, the seconds to the first batch (the index, the plan of an epoch, the first shards), the tokens a second
of those that follow, the peak memory of the process without that of its imports, and the megabytes of its cache at the end.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import msgspec
import numpy as np

from etude.data.base import DataSettings
from etude.data.loader import Slice
from etude.data.sizes import BatchSize
from etude.data.streaming.streamed_texts import StreamedTexts
from etude.data.streaming.text_shards import FORMAT, INDEX, Index, TextShard, TokenizerFile, write_shard
from etude.hardware import peak_resident_bytes
from etude.packages import file_sha256
from etude.tokenization.tokenizer_of_data import TokenizerOfData
from etude.tokenization.trained import Bytes
from tests.bench.plan_size import MEGABYTE, exponents, in_new_process
from tests.data.serving import serving

SHARD = 4_000_000
BATCH = BatchSize(tokens=32_768, pool=50, shuffle="keyed")


def write(folder: Path, shards: int) -> None:
    """Write shards of random bytes, and their index."""
    (folder / "tokenizer").mkdir(parents=True)
    Bytes().build([]).save(folder / "tokenizer")
    tokenizer = [
        TokenizerFile(f"tokenizer/{path.name}", path.stat().st_size, file_sha256(path))
        for path in sorted((folder / "tokenizer").iterdir())
    ]
    train = [_shard(folder, f"train-{number:06d}.safetensors", SHARD, number) for number in range(shards)]
    splits = {"train": train, "val": [_shard(folder, "val-000000.safetensors", 10_000, shards)]}
    index = Index(FORMAT, f"{shards:064x}", tokenizer, {"train": {}, "val": {}}, splits)
    (folder / INDEX).write_bytes(msgspec.json.encode(index))


def _shard(folder: Path, name: str, tokens: int, seed: int) -> TextShard:
    source = np.random.default_rng(seed)
    cuts = np.unique(source.integers(1, tokens, tokens // 500))
    sizes = np.diff(np.concatenate(([0], cuts, [tokens])))
    write_shard(folder / name, source.integers(5, 261, tokens).astype(np.uint16), sizes, sizes)
    path = folder / name
    return TextShard(name, path.stat().st_size, file_sha256(path), len(sizes), tokens)


def _measure(address: str, cache: Path, steps: int, answers: SimpleQueue[tuple[float, ...]]) -> None:
    before = peak_resident_bytes()
    began = time.perf_counter()
    settings = DataSettings(tokenizer=TokenizerOfData(), seed=1, batch=BATCH, cache=cache)
    data = StreamedTexts(address, 1024, settings=settings)
    plan, blocks, read = data.plan(0), data.splits["train"], 0
    blocks.batch(Slice(plan.examples(0), 0, 1.0, filler=False))
    first = time.perf_counter()
    for step in range(steps):
        read += int(blocks.batch(Slice(plan.examples(step), 0, 1.0, filler=False)).mask.sum())
    taken = time.perf_counter() - first
    disk = sum(path.stat().st_size for path in cache.rglob("*.safetensors")) / MEGABYTE
    answers.put((first - began, read / taken, (peak_resident_bytes() - before) / MEGABYTE, disk))


def measured(shards: int, steps: int) -> tuple[float, ...]:
    """Return seconds to the first batch, tokens a second, and megabytes of memory and of disk, in a new process."""
    with tempfile.TemporaryDirectory() as place:
        write(Path(place) / "shards", shards)
        with serving(Path(place) / "shards") as served:
            return in_new_process(_measure, served.address, Path(place) / "cache", steps)


def main() -> None:
    """Read, and grow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    seconds, speed, memory, disk = zip(*(measured(shards, options.steps) for shards in options.shards), strict=True)

    columns = {
        "seconds": seconds,
        "tokens_a_second": speed,
        "peak_megabytes": memory,
        "cache_megabytes": disk,
    }
    found: dict[str, object] = {name: [round(value, 2) for value in values] for name, values in columns.items()}
    found |= {"exponents_of_seconds": exponents(seconds, options.shards)}
    found["exponents_of_megabytes"] = exponents(memory, options.shards)
    print(json.dumps({"tokens": [shards * SHARD for shards in options.shards], **found}))


if __name__ == "__main__":
    main()
