from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from etude.runs.manifest import PACKAGES, code, manifest, parameters, sources, weights_hash


def a_manifest() -> dict[str, object]:
    return manifest(
        seed=7,
        data_fingerprint="ab12",
        module=nn.Linear(3, 5),
        command=["etude", "train", "logger.api_key=s3cret", "seed=7"],
        precision="32-true",
        trust=["json", "no_such_package"],
    )


def test_it_says_what_a_run_is_made_of() -> None:
    made = a_manifest()
    assert json.loads(json.dumps(made)) == made
    assert made["seed"] == 7
    assert made["data"] == {"fingerprint": "ab12"}
    assert made["command"] == ["etude", "train", "seed=7"]
    assert made["parameters"] == {"total": 20, "trainable": 20}
    assert made["python"] == platform.python_version()
    packages, settings, processor = made["packages"], made["torch"], made["processor"]
    assert isinstance(packages, dict)
    assert isinstance(settings, dict)
    assert isinstance(processor, dict)
    assert set(packages) == set(PACKAGES)
    assert packages["torch"].startswith(torch.__version__.split("+")[0])
    assert settings["deterministic"] is torch.are_deterministic_algorithms_enabled()
    assert processor["threads"] == torch.get_num_threads()
    assert processor["name"]
    assert made["precision"] == "32-true"


def test_only_variables_that_choose_kernels_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    monkeypatch.setenv("WANDB_API_KEY", "s3cret")
    made = a_manifest()
    assert isinstance(made["environment"], dict)
    assert made["environment"]["MKL_CBWR"] == "AVX2"
    assert "s3cret" not in json.dumps(made)


def test_sources_are_hashed_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "hashed_package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    seen = [sources("hashed_package")]
    for name, text in (("inner/a.py", "a = 1\n"), ("inner/a.py", "a = 2\n"), ("b.py", "a = 2\n")):
        (package / name).write_text(text)
        seen.append(sources("hashed_package"))
    assert len({*seen}) == 4
    assert None not in seen
    (package / "notes.txt").write_text("no code")
    assert sources("hashed_package") == seen[-1]
    made = a_manifest()["code"]
    assert isinstance(made, dict)
    assert made["sources"]["no_such_package"] is None
    assert len(made["sources"]["etude"]) == len(made["sources"]["json"]) == 64


def test_the_hash_of_weights_knows_every_bit_and_the_shape() -> None:
    layer = nn.Linear(3, 2)
    before = weights_hash(layer)
    assert weights_hash(layer) == before
    with torch.no_grad():
        layer.bias[0] += 1e-3
    after = weights_hash(layer)
    layer.weight = nn.Parameter(layer.weight.detach().reshape(3, 2))
    assert len({before, after, weights_hash(layer)}) == 3


def test_tied_and_frozen_parameters() -> None:
    layers = nn.Sequential(nn.Embedding(11, 5), nn.Linear(5, 11, bias=False), nn.Linear(2, 3))
    layers[1].weight = layers[0].weight
    layers[2].weight.requires_grad_(False)
    assert parameters(layers) == {"total": 55 + 6 + 3, "trainable": 55 + 3}


# The state of the code


@pytest.fixture
def git(tmp_path: Path) -> Callable[..., None]:
    def run(*arguments: str) -> None:
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    try:
        run("init")
    except OSError:
        pytest.skip("git is not installed")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "a.py").write_text("a = 1\n")
    (tmp_path / ".gitignore").write_text("*.pyc\n")
    return run


def test_code_that_is_committed(tmp_path: Path, git: Callable[..., None]) -> None:
    git("add", ".")
    git("commit", "-m", "first")
    state = code(tmp_path / "package")
    assert len(state["commit"] or "") == 40
    assert state["changes"] is None


def test_each_change_of_the_code_is_seen_and_nothing_else(tmp_path: Path, git: Callable[..., None]) -> None:
    package = tmp_path / "package"
    git("add", ".")
    git("commit", "-m", "first")
    seen = [code(package)["changes"]]
    (tmp_path / "notes.txt").write_text("beside the code")
    (package / "a.pyc").write_text("ignored")
    assert code(package)["changes"] is None
    for name, text in (("a.py", "a = 2\n"), ("b.py", "b = 1\n"), ("b.py", "b = 2\n"), ("c.py", "b = 2\n")):
        (package / name).write_text(text)
        seen.append(code(package)["changes"])
    assert len(set(seen)) == len(seen)
    git("add", ".")
    git("commit", "-m", "second")
    assert code(package)["changes"] is None


def test_code_without_a_commit_or_without_git(
    tmp_path: Path, git: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = {"commit": None, "changes": None}
    assert code(tmp_path / "package") == nothing
    git("add", ".")
    git("commit", "-m", "first")
    (tmp_path / "venv" / "etude").mkdir(parents=True)
    (tmp_path / "venv" / "etude" / "a.py").write_text("installed in somebody's repository")
    assert code(tmp_path / "venv" / "etude") == nothing
    monkeypatch.setenv("PATH", "")
    assert code(tmp_path / "package") == nothing
