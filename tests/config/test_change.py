"""Changes to a finished run's configuration: what its class takes may be set, whether or not its file lists it."""

from __future__ import annotations

from pathlib import Path

import pytest

from etude.config.change import changed, with_choices
from etude.config.compose import compose
from etude.config.schema import Config
from etude.errors import ConfigurationError

RUN = Path("a/run")
BEAM = "_target_: etude.models.generation.search.Beam\nbeams: 3\n"


@pytest.fixture(scope="module")
def config() -> Config:
    return compose("experiment=translation/demo")


def test_an_argument_that_a_choice_of_ones_own_leaves_out_can_be_set(config: Config, tmp_path: Path) -> None:
    (tmp_path / "decoding").mkdir()
    (tmp_path / "decoding" / "mine.yaml").write_text(BEAM)
    words = with_choices({"decoding": "mine", "decoding.max_length": 9}, tmp_path)
    decoding = changed(config, words, ["decoding"], RUN).decoding
    assert decoding is not None and decoding.arguments == {"beams": 3, "max_length": 9}


@pytest.mark.parametrize("key", ["decoding.max_lenght", "decoding.max_length.x", "decoding.nonsense", "decoding.self"])
def test_what_the_class_does_not_take_is_refused(config: Config, key: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{key} is not in the configuration of a/run; did you mean"):
        changed(config, {key: 9}, ["decoding"], RUN)


def test_a_value_that_does_not_fit_is_refused(config: Config) -> None:
    with pytest.raises(ConfigurationError, match=r"decoding\.max_length"):
        changed(config, {"decoding.max_length": "long"}, ["decoding"], RUN)


def test_a_metric_that_is_null_is_left_out(config: Config) -> None:
    without = compose("experiment=translation/demo", "task.metrics.ter=null")
    assert list(without.task.arguments["metrics"]) == ["bleu", "bleu_lowercase", "chrf"]
    assert changed(config, {"task.metrics.ter": None}, ["task.metrics"], RUN).values == without.values
    with pytest.raises(ConfigurationError, match="val/bleu is not a metric of Translation"):
        compose("experiment=translation/demo", "task.metrics.bleu=null")
