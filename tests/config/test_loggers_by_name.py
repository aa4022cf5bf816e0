"""One logger, several, or none: each has a name, and its keys are below it."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from etude.config.change import changed, read_overrides
from etude.config.compose import CONF, Composer, compose
from etude.config.stored import stored_configuration
from etude.errors import ConfigurationError

WANDB = "etude.training.loggers.tracking.Wandb"
CHOICES = sorted(path.stem for path in (CONF / "logger").glob("*.yaml"))


@pytest.mark.parametrize("choice", [name for name in CHOICES if name != "none"])
def test_a_choice_is_a_logger_of_its_name(choice: str) -> None:
    assert list(compose(f"logger={choice}").logger) == [choice]


def test_several_loggers_keep_their_keys() -> None:
    words = "logger.wandb.project=x", "logger.mlflow.experiment=y", "logger.mlflow.uri=http://host:5000"
    config = compose("logger=[wandb,tensorboard,mlflow]", *words)
    assert list(config.logger) == ["wandb", "tensorboard", "mlflow"]
    assert config.logger["wandb"].arguments["project"] == "x"
    assert config.logger["mlflow"].arguments == {"experiment": "y", "uri": "http://host:5000"}


@pytest.mark.parametrize("word", ["logger=none", "logger=null", "logger=[]", "~logger", "logger.wandb=null"])
def test_there_may_be_none(word: str) -> None:
    assert compose(word).logger == {}


def test_an_experiment_chooses_several_and_the_command_line_overrides_it(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults:\n  - translation/demo\n  - override /logger: [wandb, csv]\n"
    (tmp_path / "experiment" / "two.yaml").write_text(text)
    composer = Composer(CONF, "train", tmp_path)
    for words, names in ((["experiment=two"], ["wandb", "csv"]), (["experiment=two", "logger=csv"], ["csv"])):
        assert list(composer.compose(composer.normalized(words)).config().logger) == names


def test_a_multirun_takes_each_of_several_choices() -> None:
    composer = Composer(CONF, "train")
    members = list(composer.members(composer.normalized(["logger=csv,[csv,wandb]"]), multirun=True))
    assert [list(composer.compose(member).config().logger) for member in members] == [["csv"], ["csv", "wandb"]]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["logger=[wandb,tensorbord]"], "logger=tensorbord does not exist; did you mean logger=tensorboard?"),
        (
            ["logger.project=x"],
            "logger.project = 'x', but logger holds nodes by name; did you mean logger.wandb.project? (command line)",
        ),
        (["callbacks.ema=3"], "callbacks.ema = 3, but callbacks holds nodes by name; write callbacks.NAME._target_=…"),
        (["logger=csv", "logger.wandb.project=x"], "logger.wandb.project is given, but logger.wandb names no class"),
        (["logger.wandb.projct=x"], "logger.wandb.projct is not a key of Wandb; did you mean logger.wandb.project?"),
        (["logger=mlflow", "logger.mlflow.uri=7"], "logger.mlflow.uri = 7, but MLflow takes str or null"),
        (["logger=false"], "Config group override must be a string or a list"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(words: list[str], line: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        compose(*words)
    assert str(refusal.value).startswith(line)
    assert "\n" not in str(refusal.value)


def test_a_file_of_ones_own_that_names_no_logger_is_told_how(tmp_path: Path) -> None:
    (tmp_path / "logger").mkdir()
    (tmp_path / "logger" / "mine.yaml").write_text("_target_: lightning.pytorch.loggers.CSVLogger\n")
    composer = Composer(CONF, "train", tmp_path)
    with pytest.raises(ConfigurationError, match=r"logger\._target_ has no name.*begin with '# @package logger\.NAME'"):
        composer.compose(composer.normalized(["logger=mine"])).config()


def test_a_logger_of_lightning_s_is_given_its_folder_later(tmp_path: Path) -> None:
    (tmp_path / "logger").mkdir()
    text = "# @package logger.mine\n_target_: lightning.pytorch.loggers.CSVLogger\nname: mine\n"
    (tmp_path / "logger" / "mine.yaml").write_text(text)
    composer = Composer(CONF, "train", tmp_path)
    config = composer.compose(composer.normalized(["logger=[mine,csv]"])).config()
    assert list(config.logger) == ["mine", "csv"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["logger=[csv,mlflow]", "logger.mlflow.experiment=x"], ["csv", "mlflow"]),
        (["logger=csv"], ["csv"]),
        (["logger=none"], []),
        (["logger=[]"], []),
    ],
)
def test_a_run_that_goes_on_is_given_others(words: list[str], names: list[str]) -> None:
    config = changed(compose("logger=wandb"), read_overrides(words), ("logger",), Path("run"))
    assert list(config.logger) == names


def test_a_run_of_before_loggers_had_names_is_read(tmp_path: Path) -> None:
    values = {**compose().values, "logger": {"_target_": WANDB, "project": "old"}}
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(values)))
    (node,) = stored_configuration(tmp_path / "config.yaml").logger.values()
    assert (node.target, node.arguments) == (WANDB, {"project": "old"})
