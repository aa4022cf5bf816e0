"""A composition is kept as long as the files are as they were, and nobody who gets one can change that of another."""

import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from etude.config.compose import CONF, Composer
from etude.errors import ConfigurationError


def composed(extra: Path | None = None, *words: str) -> str:
    """Return the tree of a training as YAML, composed by a new composer."""
    composer = Composer(CONF, "train", extra)
    return OmegaConf.to_yaml(composer.compose(composer.normalized(words)).tree)


def own(folder: Path, eps: float) -> Path:
    (folder / "optimizer").mkdir(exist_ok=True)
    (folder / "optimizer" / "own.yaml").write_text(f"defaults: [adamw]\neps: {eps}\n")
    return folder


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    for eps in (0.25, 0.5, 0.125):
        assert f"eps: {eps}\n" in composed(own(tmp_path, eps), "optimizer=own")


def test_a_file_of_the_same_time_and_another_size_is_read_anew(tmp_path: Path) -> None:
    file = own(tmp_path, 0.5) / "optimizer" / "own.yaml"
    before = file.stat()
    composed(tmp_path, "optimizer=own")
    own(tmp_path, 0.0625)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "eps: 0.0625\n" in composed(tmp_path, "optimizer=own")


def test_a_new_file_is_a_choice_at_once(tmp_path: Path) -> None:
    assert "own" not in Composer(CONF, "train", tmp_path).options("optimizer")
    own(tmp_path, 0.5)
    assert "own" in Composer(CONF, "train", tmp_path).options("optimizer")


def test_values_are_not_shared_with_the_next_composition() -> None:
    composer = Composer(CONF, "train")
    first = composer.compose(["experiment=translation/demo"])
    before = OmegaConf.to_yaml(first.tree)
    first.config()
    OmegaConf.update(first.tree, "seed", 12345)
    OmegaConf.update(first.tree, "model.width", 4, force_add=True)
    assert composed(None, "experiment=translation/demo") == before


def test_what_was_composed_before_changes_nothing(tmp_path: Path) -> None:
    chosen = [
        ("experiment=classification/demo", "finetune=lora"),
        ("experiment=translation/demo", "optimizer=sgd"),
        ("experiment=causal_lm/demo", "model/norm=rms"),
    ]
    again = [composed(tmp_path, *words) for words in (*chosen, *reversed(chosen))][len(chosen) :]
    for words, found in zip(reversed(chosen), again, strict=True):
        own(tmp_path, 0.5).joinpath("new.yaml").write_text(
            f"# {words}"
        )  # another state of the files: all are read anew
        assert composed(tmp_path, *words) == found


def test_a_default_may_depend_on_the_choice_of_another_group(tmp_path: Path) -> None:
    (tmp_path / "callbacks" / "of").mkdir(parents=True)
    (tmp_path / "callbacks" / "as_logged.yaml").write_text("defaults: [of: 'for_${logger}']\n")
    for name in ("csv", "none"):
        (tmp_path / "callbacks" / "of" / f"for_{name}.yaml").write_text(f"own: {name}\n")
    for name in ("csv", "none"):
        assert f"    own: {name}\n" in composed(tmp_path, "callbacks=as_logged", f"logger={name}")


def test_a_search_path_of_ones_own_is_searched_at_once(tmp_path: Path) -> None:
    composed(None, "optimizer=adamw")
    assert "eps: 0.25\n" in composed(None, f"hydra.searchpath=[file://{own(tmp_path, 0.25)}]", "optimizer=own")
    with pytest.raises(ConfigurationError, match="optimizer=own does not exist"):
        composed(None, "optimizer=own")


def test_the_working_folder_is_that_of_the_composition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    composer = Composer(CONF, "train")
    composer.compose([])
    monkeypatch.chdir(tmp_path)
    assert composer.compose([]).tree.hydra.runtime.cwd == str(tmp_path)


def test_hydra_is_told_of_the_words_in_their_order() -> None:
    """A command finds what it has composed by them, and a run keeps them."""
    words = ["experiment=classification/demo", "budget=2step", "logger=none", "++seed=3", "callbacks=none"]
    composer = Composer(CONF, "train")
    composition = composer.compose(composer.normalized(words))
    told = composition.tree.hydra
    assert [word.removeprefix("++") for word in told.overrides.task] == list(composition.overrides)
    assert [word.removeprefix("++") for word in words] == list(composition.overrides)
    assert sorted(told.job.override_dirname.split(",")) == sorted(told.overrides.task)
