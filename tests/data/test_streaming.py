"""Laws of shards: what is written, what is read of it, and what a machine keeps of it."""

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etude.data import encode
from etude.data.base import DataSettings
from etude.data.loader import Slice
from etude.data.sizes import BatchSize, Limit
from etude.data.streaming import shard_writer
from etude.data.streaming.address import Address
from etude.data.streaming.shard_store import ShardStore
from etude.data.streaming.streamed_texts import StreamedBlocks, StreamedTexts
from etude.data.streaming.text_shards import Index, open_shard, read_index
from etude.errors import ConfigurationError, DataError, StorageError
from etude.signals import STOP
from etude.tokenization.base import Tokenizer
from etude.tokenization.tokenizer_of_data import TokenizerOfData
from etude.tokenization.trained import Bytes
from etude.types import IGNORED
from tests.data.given_texts import GivenTexts
from tests.data.serving import Served, serving

SIZES = [3, 9, 1, 14, 6, 2, 11, 5, 8, 4, 13, 7]
BATCH = BatchSize(tokens=40, pool=3, shuffle="keyed")


def documents_of(sizes: Sequence[int]) -> GivenTexts:
    """Documents of given lengths, of letters that say which document they belong to; three of them are evaluated."""
    texts = [chr(0x100 + number) * size for number, size in enumerate(sizes)]
    return GivenTexts(texts, texts[:3])


@pytest.fixture(autouse=True)
def two_documents_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard ends with a batch of rows."""
    monkeypatch.setattr(encode, "BATCH_ROWS", 2)


def written(folder: Path, sizes: Sequence[int] = SIZES, shard_tokens: int = 1, **more: Any) -> Index:
    return shard_writer.write_shards(
        documents_of(sizes), Bytes(), more.get("address") or Address(str(folder)), shard_tokens, folder.parent / "cache"
    )


def read(root: Path | str, cache: Path, **more: Any) -> StreamedTexts:
    kind = {"max_length": 10, "window": 2, "keep": 4, **more}
    tokenizer = kind.pop("tokenizer", TokenizerOfData())
    batch, limit = kind.pop("batch", BATCH), kind.pop("limit", Limit())
    made = DataSettings(tokenizer=tokenizer, seed=kind.pop("seed", 1), batch=batch, limit=limit, cache=cache)
    return StreamedTexts(str(root), settings=made, **kind)


def epoch_of(data: StreamedTexts, epoch: int) -> list[list[list[int]]]:
    """The labels of each step of an epoch."""
    plan, blocks = data.plan(epoch), data.splits["train"]
    return [
        blocks.batch(Slice(plan.examples(step), epoch, 1.0, filler=False)).labels.tolist() for step in range(plan.steps)
    ]


def everything(tokenizer: Tokenizer, sizes: Sequence[int]) -> Counter[int]:
    texts = [row.fields["text"] for row in documents_of(sizes).rows("train")]
    return Counter(token for ids in tokenizer.encode(texts) for token in [*ids, tokenizer.eos])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(1, 23), min_size=1, max_size=9),
    st.integers(1, 60),
    st.integers(1, 30),
    st.integers(1, 4),
    st.integers(0, 3),
)
def test_every_token_is_predicted_once_an_epoch(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    shard_tokens: int,
    max_length: int,
    window: int,
    epoch: int,
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    written(folder / "shards", sizes, shard_tokens)
    data = read(folder / "shards", folder, max_length=max_length, window=window, keep=2 * window)
    found = Counter(token for step in epoch_of(data, epoch) for row in step for token in row if token != IGNORED)
    assert found == everything(data.tokenizer, sizes)
    assert epoch_of(read(folder / "shards", folder, max_length=max_length, window=window, keep=8), epoch) == epoch_of(
        data, epoch
    )


def test_the_order_is_one_of_seed_and_epoch_alone(tmp_path: Path) -> None:
    written(tmp_path / "shards")
    data = read(tmp_path / "shards", tmp_path)
    again, other = (read(tmp_path / "shards", tmp_path, seed=seed) for seed in (1, 2))
    assert epoch_of(again, 3) == epoch_of(data, 3) != epoch_of(data, 2)
    assert epoch_of(other, 3) != epoch_of(data, 3)
    assert [data.plan(epoch).steps for epoch in range(4)] == [data.clock.steps_per_epoch] * 4


def test_what_is_evaluated_is_read_as_from_other_data(tmp_path: Path) -> None:
    written(tmp_path / "shards")
    data = read(tmp_path / "shards", tmp_path)
    windows = data.splits["val"]
    assert int(windows.counts.sum()) == int(everything(data.tokenizer, SIZES[:3]).total())
    text = data.text("val", "text", 0)
    assert text == chr(0x100) * 3
    assert data.documents() == {"train": len(SIZES), "val": 3}
    limited = read(tmp_path / "shards", tmp_path, limit=Limit(val=1))
    assert int(limited.splits["val"].counts.sum()) < int(windows.counts.sum())


# Writing


class KilledError(BaseException):
    """The process is gone."""


class Dying(Address):
    """An address whose writer is killed before its n-th copy, or after it but before it is known."""

    left = 0

    def put(self, source: Path, name: str) -> None:
        type(self).left -= 1
        if type(self).left == 0:
            raise KilledError
        super().put(source, name)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_killed_anywhere_it_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_writer, "NOTED", 0.0)
    index = written(tmp_path / "whole")
    expected = content(tmp_path / "whole")
    assert len(index.splits["train"]) == 6 and shard_writer.PROGRESS not in expected
    points = 0
    while True:
        points += 1
        Dying.left = points
        folder = tmp_path / f"killed-{points}"
        try:
            written(folder, address=Dying(str(folder)))
        except KilledError:
            assert read_index(Address(str(folder))) is None
            assert written(folder) == index
            assert content(folder) == expected
        else:
            break
    assert points > 12
    assert written(tmp_path / "whole") == index  # what is there is left alone


def test_what_is_there_is_not_encoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_writer, "NOTED", 0.0)
    Dying.left = 9
    with pytest.raises(KilledError):
        written(tmp_path / "shards", address=Dying(str(tmp_path / "shards")))
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "shards").glob("train-*")}
    written(tmp_path / "shards")
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "shards").glob("train-*")}
    kept = [name for name, time in before.items() if after[name] == time]
    assert len(kept) >= 3 and len(after) == 6


def test_a_broken_note_of_what_is_there_is_said_and_all_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / shard_writer.PROGRESS).write_text("{")
    assert written(tmp_path / "shards").splits["train"]
    assert "all shards are written again" in caplog.text


def test_other_shards_are_not_written_over(tmp_path: Path) -> None:
    written(tmp_path / "shards")
    with pytest.raises(ConfigurationError, match=r"shards of another corpus.*give another data\.root"):
        written(tmp_path / "shards", SIZES[1:])


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "shards").write_text("a file")
    with pytest.raises((StorageError, DataError), match="shards"):
        written(tmp_path / "shards", address=Address(str(tmp_path / "shards"), patience=0.0))


def test_a_corpus_is_written_by_the_data_module_where_nothing_is(tmp_path: Path) -> None:
    kind = {"corpus": documents_of(SIZES), "tokenizer": Bytes(), "shard_tokens": 1}
    data = read(tmp_path / "shards", tmp_path / "cache", **kind)
    assert len(data.index.splits["train"]) == 6
    assert epoch_of(data, 1) == epoch_of(read(tmp_path / "shards", tmp_path / "cache"), 1)


# Elsewhere


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    written(tmp_path / "shards")
    with serving(tmp_path / "shards") as one:
        yield one


def copies(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*.safetensors"))


def test_it_reads_the_same_from_elsewhere_and_keeps_no_more_than_it_may(tmp_path: Path, served: Served) -> None:
    near, far = read(tmp_path / "shards", tmp_path / "near"), read(served.address, tmp_path / "far")
    for epoch in range(3):
        assert epoch_of(far, epoch) == epoch_of(near, epoch)
        assert 2 <= len(copies(tmp_path / "far")) <= 4
    assert copies(tmp_path / "near") == []


def test_the_next_window_is_copied_before_it_is_read(tmp_path: Path, served: Served) -> None:
    data = read(served.address, tmp_path / "cache", keep=6)
    plan, blocks = data.plan(0), data.splits["train"]
    assert isinstance(blocks, StreamedBlocks)
    first = plan.examples(0)[:1]
    blocks.batch(Slice(first, 0, 1.0, filler=False))
    sizes = [-(-(shard.tokens + shard.documents) // 10) for shard in data.index.splits["train"]]
    order = blocks.order(0)
    window = order.window_of(int(np.searchsorted(np.cumsum(sizes), first[0], side="right")))
    wanted = {f"train-{shard:06d}.safetensors" for shard in order.shards_of(window) + order.shards_of(window + 1)}
    for _ in range(200):
        if wanted <= set(copies(tmp_path / "cache")):
            break
        threading.Event().wait(0.05)
    assert wanted <= set(copies(tmp_path / "cache"))


def test_many_readers_copy_a_shard_once(tmp_path: Path, served: Served) -> None:
    index = read_index(Address(served.address))
    assert index is not None
    stores = [ShardStore(Address(served.address), tmp_path / "cache", 20) for _ in range(4)]

    def read_all(store: ShardStore) -> None:
        for shard in index.splits["train"]:
            open_shard(store.path(shard))

    threads = [threading.Thread(target=read_all, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {served.asked[shard.name] for shard in index.splits["train"]} == {1}


def test_it_can_be_given_to_another_process_and_read_after_a_fork(tmp_path: Path, served: Served) -> None:
    data = read(served.address, tmp_path / "cache")
    expected = epoch_of(data, 0)
    blocks = pickle.loads(pickle.dumps(data.splits["train"]))
    part = Slice(data.plan(0).examples(0), 0, 1.0, filler=False)
    assert blocks.batch(part).labels.tolist() == expected[0]
    shutil.rmtree(tmp_path / "cache" / "shards")
    child = os.fork()
    if not child:
        os._exit(0 if data.splits["train"].batch(part).labels.tolist() == expected[0] else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_short_silence_is_waited_for_and_said_once(
    tmp_path: Path, served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("etude.data.streaming.address.FIRST_WAIT", 0.01)
    data = read(served.address, tmp_path / "cache", patience=60.0)
    expected = epoch_of(read(tmp_path / "shards", tmp_path / "near"), 0)
    assert data.plan(0).steps == len(expected)
    served.fails, served.mends = True, 3
    with caplog.at_level(logging.WARNING):
        assert epoch_of(data, 0) == expected
    assert "no answer" in caplog.text and "trying again for 60 s" in caplog.text
    assert served.mends is not None and served.mends < 0


def test_an_address_that_is_silent_at_first_is_waited_for(
    tmp_path: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not taken for one that has nothing."""
    monkeypatch.setattr("etude.data.streaming.address.FIRST_WAIT", 0.01)
    served.fails, served.mends = True, 2
    assert read(served.address, tmp_path / "cache", patience=60.0).index.splits["train"]


def test_a_full_disk_is_said_at_once(tmp_path: Path, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fsspec.implementations.http.HTTPFileSystem._get_file", full)
    with pytest.raises(StorageError, match=r"no room for a copy of .*index\.json: No space left"):
        read_index(Address(served.address))


def test_a_long_silence_is_one_line(tmp_path: Path, served: Served) -> None:
    data = read(served.address, tmp_path / "cache", patience=0.05)
    assert data.splits
    served.fails = True
    with pytest.raises(DataError, match=r"train-\d+\.safetensors: no answer for .* 503.*; the same command goes on"):
        epoch_of(data, 0)


def test_a_signal_ends_the_wait(tmp_path: Path, served: Served) -> None:
    data = read(served.address, tmp_path / "cache", patience=600.0)
    assert data.splits
    served.fails = True
    threading.Timer(0.3, STOP.set).start()
    try:
        with pytest.raises(DataError, match="no answer for 0 s"):
            epoch_of(data, 0)
    finally:
        STOP.clear()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_missing_or_broken_shard_is_one_line(tmp_path: Path, served: Served, elsewhere: bool) -> None:
    root = served.address if elsewhere else tmp_path / "shards"
    path = sorted((tmp_path / "shards").glob("train-*"))[2]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=rf"{path.name} has .* bytes, of .*; copy it anew, or remove index.json"):
        epoch_of(read(root, tmp_path / "cut"), 0)
    path.unlink()
    with pytest.raises(DataError, match=rf"{path.name}:? is missing"):
        epoch_of(read(root, tmp_path / "missing"), 0)
    (tmp_path / "shards" / "index.json").unlink()  # as it says
    written(tmp_path / "shards")
    assert path.read_bytes() == whole
    if elsewhere:
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(DataError, match="other content than the index says"):
            epoch_of(read(root, tmp_path / "changed"), 0)
        assert served.asked[path.name] > 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda index: {**index, "format": 2}, "format"),
        (lambda index: {**index, "splits": {"train": []}}, "train"),
        (lambda index: {**index, "splits": {"val": index["splits"]["val"]}}, "no train"),
        (lambda index: {**index, "splits": {**index["splits"], "val": 2 * index["splits"]["val"]}}, "2 shards of val"),
        (lambda index: {**index, "splits": {"../train": index["splits"]["train"]}}, "splits"),
        (lambda index: {**index, "tokenizer": [{**index["tokenizer"][0], "name": "../x.json"}]}, "name"),
        (lambda index: {name: index[name] for name in index if name != "fingerprint"}, "fingerprint"),
    ],
)
def test_an_index_that_lies_is_one_line(tmp_path: Path, change: Callable[[Any], Any], said: str) -> None:
    written(tmp_path / "shards")
    path = tmp_path / "shards" / "index.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(DataError, match=said):
        read(tmp_path / "shards", tmp_path / "cache").plan(0)


# What does not fit


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"batch": BatchSize(tokens=40)}, r"write batch\.shuffle=keyed"),
        ({"limit": Limit(train=3)}, r"limit\.train"),
        ({"limit": Limit(overfit=True)}, r"limit\.overfit"),
        ({"keep": 3}, r"data\.keep=3"),
        ({"window": 0}, r"data\.window=0"),
        ({"tokenizer": Bytes()}, r"write tokenizer=of_data"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    written(tmp_path / "shards")
    with pytest.raises(ConfigurationError, match=said):
        read(tmp_path / "shards", tmp_path / "cache", **more).prepared  # noqa: B018


def test_an_address_that_nobody_knows_or_has_nothing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="gopher"):
        Address("gopher://host/folder")
    with pytest.raises(DataError, match=r"no finished shards .*; have etude prepare write them"):
        read(tmp_path, tmp_path / "cache").plan(0)


def test_the_tokenizer_of_data_is_for_data_that_has_one() -> None:
    with pytest.raises(ConfigurationError, match="choose another, such as tokenizer=bpe"):
        TokenizerOfData().build(None)  # type: ignore[arg-type]
