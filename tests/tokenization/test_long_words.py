"""Words without end: training cuts them, and a signal does not wait for it."""

from __future__ import annotations

import random
import signal
import string
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from etude.signals import StoppedError, in_thread, stop_on_signals
from etude.tokenization.base import LONGEST_WORD, TokenizerRecipe
from etude.tokenization.trained import BPE, Unigram, WordPiece


def letters(count: int, seed: int = 1) -> str:
    return "".join(random.Random(seed).choices(string.ascii_lowercase, k=count))


@pytest.mark.parametrize(("kind", "length"), [(BPE, 1_000_000), (WordPiece, 1_000_000), (Unigram, 200_000)])
def test_a_line_without_a_space_is_learnt_and_encoded_in_seconds(
    kind: Callable[[int], TokenizerRecipe], length: int
) -> None:
    line, start = letters(length), time.monotonic()
    tokenizer = kind(60).build([line, "some words", "and others"])  # type: ignore[arg-type]
    assert tokenizer.encode([line, "some words"])[0]
    assert time.monotonic() - start < 60  # hundreds of seconds where words are learnt whole


@pytest.mark.parametrize("kind", [BPE, WordPiece])
def test_only_longer_words_are_cut(kind: Callable[[int], TokenizerRecipe]) -> None:
    longest = letters(LONGEST_WORD - 1)  # and the mark of the space before it
    for word, pieces in ((longest, {longest}), (longest + "abc", {longest, "abc"})):
        tokenizer = kind(4000).build([word])  # type: ignore[arg-type]
        names = {name.lstrip("▁#") for name in tokenizer.names(range(tokenizer.vocabulary))}
        assert pieces <= names
        assert max(map(len, names)) == len(longest)


SCRIPT = """
import sys
from etude.cli.main import main
from etude.tokenization import trained

in_thread = trained.in_thread

def announced(function):
    sys.stderr.write("training\\n")
    return in_thread(function)

trained.in_thread = announced
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_signal_ends_the_training_of_a_tokenizer(tmp_path: Path) -> None:
    text = "\n\n".join(" ".join(letters(LONGEST_WORD, 100 * row + word) for word in range(100)) for row in range(60))
    (tmp_path / "train.txt").write_text(text)
    words = ["prepare", "experiment=masked_lm/demo", "data=text", f"data.train={tmp_path}", "data.val_share=0.1"]
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *words, "tokenizer=bpe", f"paths.cache={tmp_path / 'cache'}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as process:
        assert process.stderr is not None
        assert any(line == "training\n" for line in process.stderr)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        sent = time.monotonic()
        assert process.wait(60) == 143
        assert time.monotonic() - sent < 2
        assert process.stderr.read().splitlines()[-1].startswith("etude: stopped by SIGTERM; the same command begins")
    assert not list((tmp_path / "cache" / "tokenizers").glob(".building-*"))


def test_a_thread_gives_what_its_function_gives() -> None:
    assert in_thread(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        in_thread(lambda: 1 // 0)


def test_a_signal_does_not_wait_for_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: list[object] = []
    monkeypatch.setattr("etude.signals.atexit.register", lambda *leave: registered.extend(leave))

    def interrupted() -> None:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(20)

    start = time.monotonic()
    with pytest.raises(StoppedError), stop_on_signals():
        in_thread(interrupted)
    assert time.monotonic() - start < 5
    assert registered[1] == 143
