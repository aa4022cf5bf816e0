"""What has become slower is found, and noise is not called a change."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from etude.cli.bench_commands import USAGE
from etude.cli.main import main
from etude.commands.bench.bench_comparison import compare_benches


def bench(path: Path, ratios: list[float], title: str = "training") -> Path:
    contenders = {"etude": {"ratios": [1.0] * len(ratios)}, "by hand": {"rate": 3.0, "ratios": ratios}}
    path.write_text(json.dumps({"title": title, "threads": 2, "contenders": contenders}) + "\n")
    return path


def verdict(folder: Path, old: list[float], new: list[float]) -> str:
    (change,) = compare_benches(bench(folder / "old", old), bench(folder / "new", new))
    assert change.contender == "by hand"
    return change.verdict


def test_a_change_beyond_noise_is_told_and_turns_with_the_order(tmp_path: Path) -> None:
    slow, fast = [1.0, 1.02, 0.99, 1.01], [1.2, 1.19, 1.22, 1.21]
    assert verdict(tmp_path, fast, slow) == "slower"
    assert verdict(tmp_path, slow, fast) == "faster"
    assert verdict(tmp_path, slow, slow) == "alike"
    assert verdict(tmp_path, slow, [ratio * 1.01 for ratio in slow]) == "alike"
    assert verdict(tmp_path, [1.0], [2.0]) == "too few rounds"


def test_equal_benches_are_seldom_called_different(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    told = 0
    for _ in range(200):
        old, new = (np.exp(random.normal(0, 0.05, 5)).tolist() for _ in range(2))
        told += verdict(tmp_path, old, new) != "alike"
    assert told <= 20  # 5 % of 200, and two deviations


def test_the_exit_code_and_one_object_say_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    old, new = bench(tmp_path / "old", [1.2, 1.21, 1.19]), bench(tmp_path / "new", [1.0, 1.01, 0.99])
    assert main(["bench", "compare", str(old), str(new)]) == 3
    shown = capfd.readouterr()
    assert json.loads(shown.out)["slower"] == 1
    assert "slower" in shown.err
    assert main(["bench", "compare", str(old), str(old)]) == 0
    capfd.readouterr()
    assert main(["bench", "compare", "--help"]) == 0
    assert capfd.readouterr().out == USAGE


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["{old}"], 78, "takes two files"),
        (["{old}", "{old}", "{old}"], 78, "takes two files"),
        (["{old}", "absent"], 65, "No such file"),
        (["{old}", "{broken}"], 65, "make bench writes such files"),
        (["{old}", "{other}"], 65, "no bench in common"),
    ],
)
def test_other_words_and_files_are_refused_in_one_line(
    words: list[str], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "old": bench(tmp_path / "old", [1.0, 1.1]),
        "broken": tmp_path / "broken",
        "other": bench(tmp_path / "other", [1.0, 1.1], "decoding"),
    }
    files["broken"].write_text("{}\n")
    assert main(["bench", "compare", *(word.format(**files) for word in words)]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]
