"""What cannot be trained on is refused before training, in one line, with the exit code of its kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from etude.config.schema import Config
from etude.errors import ConfigurationError
from tests.runs.doors import train
from tests.runs.processes import run

LONG = "a sentence of many more bytes than are allowed\n"


@pytest.mark.parametrize(
    ("content", "more", "said"),
    [
        ("", (), r"is empty"),
        ("\n \n", (), r"no usable row"),
        (3 * LONG, ("data.max_length=8",), "3 longer than 7 tokens"),
    ],
    ids=["empty", "blank", "all too long"],
)
def test_data_without_a_batch(
    overrides: Callable[..., list[str]], tmp_path: Path, content: str, more: tuple[str, ...], said: str
) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("train.en", "train.de", "val.en", "val.de"):
        (folder / name).write_text(content if name.startswith("train") else LONG)
    words = overrides("translation", *more)
    left = run(tmp_path / "run", ["train", *words, f"data.root={folder}", "data.corpus.splits.test=null"])
    assert left.code == 65, left.log[-2000:]
    assert len(left.said) == 1
    assert said in left.said[0]
    assert not list(tmp_path.glob("outputs/*/*/*/metrics.jsonl"))


@pytest.mark.parametrize(
    ("word", "said"), [("optimizer.betas=[0.9,1.0]", "beta"), ("optimizer.weight_decay=-1", "weight_decay")]
)
def test_what_the_optimizer_refuses(composed: Callable[..., Config], word: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"optimizer: Invalid {said}"):
        train(composed("classification", word))


@pytest.mark.slow
def test_a_sweep_goes_on_when_memory_ran_out(overrides: Callable[..., list[str]], tmp_path: Path) -> None:
    words = overrides("classification", "budget=2step")
    left = run(tmp_path, ["train", "-m", *words, "model.feed_forward=1000000000000,32"])
    assert left.code == 1, left.log[-3000:]
    assert [line for line in left.said if "out of memory" in line], left.log[-3000:]
    assert "Traceback" not in left.log
    assert [path.parent.name for path in tmp_path.glob("outputs/classification/demo/*/*/finished.json")] == ["001"]
