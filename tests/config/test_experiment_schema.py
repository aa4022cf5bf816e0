"""An editor that has the schema takes every shipped experiment, and refuses what composition would refuse."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from etude.cli.main import main
from etude.commands.schema_file import schema_text
from etude.config.annotations import Choice, ListOf, Scalar, TupleOf
from etude.config.compose import CONF, Composer
from etude.config.experiment_schema import ExperimentSchema
from etude.config.json_schema import definitions, of_annotation, of_node
from etude.duration import Duration
from etude.errors import ConfigurationError
from tests.conftest import ROOT

jsonschema = pytest.importorskip("jsonschema", reason="the validator of JSON Schema is not installed")

EXPERIMENTS = Composer(CONF, "train").options("experiment")
ENCODER = [{"override /task": "classification"}, {"override /model": "encoder"}, {"override /decoding": "none"}]
REFUSED: list[dict[str, Any]] = [
    {"budgte": "3step"},
    {"model": {"witdh": 128}},
    {"model": {"width": "wide"}},
    {"model": {"width": 1.5}},
    {"model": {"layers": 4}},  # of an encoder: this file leaves the sequence-to-sequence model
    {"defaults": ENCODER, "model": {"encoder_layers": 4}},
    {"defaults": [{"override /modell": "encoder"}]},
    {"defaults": [{"override /model": "encodr"}]},
    {"optimizer": {"lrr": 1e-3}},
    {"scheduler": {"warmup": 100}},
    {"budget": "ten epochs"},
    {"validate": {"mode": "most"}},
    {"validate": {"evry": "1epoch"}},
    {"precision": "32"},
    {"callbacks": {"samples": {"cuont": 3}}},
    {"data": {"corpus": {"max_wrods": 3}}},
    {"defaults": ENCODER, "task": {"metrics": {"macro_f1": {"avreage": "macro"}}}},
    {"model": {"positions": {"bse": 10000.0}}},
    {"batch": {"tokens": "many"}},
]
TAKEN: list[dict[str, Any]] = [
    {},
    {"seed": 2, "budget": "300Mtok", "run": {"tags": ["a", "b"]}},
    {"model": {"width": "${model.heads}"}, "data": {"max_length": "???"}},
    {"defaults": ENCODER, "model": {"layers": 4}},
    {"model": {"_target_": "mine.Model", "anything": 1}},
    {"decoding": None, "callbacks": {"samples": None, "mine": {"_target_": "mine.Callback", "a": 1}}},
    {"task": {"metrics": {"ter": {"_target_": "etude.metrics.translation.TER"}}}},
]


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(schema_text())
    return made


@pytest.fixture(scope="module")
def validator(schema: dict[str, Any]) -> Any:
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_shipped_experiment_is_taken(name: str, validator: Any) -> None:
    values = OmegaConf.to_container(OmegaConf.load(CONF / "experiment" / f"{name}.yaml"))
    assert [error.message for error in validator.iter_errors(values)] == []


@pytest.mark.parametrize("values", TAKEN, ids=str)
def test_what_composes_is_taken(values: dict[str, Any], validator: Any) -> None:
    assert validator.is_valid(values)


@pytest.mark.parametrize("values", REFUSED, ids=str)
def test_a_wrong_key_value_or_choice_is_refused(values: dict[str, Any], validator: Any) -> None:
    assert not validator.is_valid(values)


@pytest.mark.parametrize(
    "text", ["20000step", "1.5epoch", "300Mtok", "90s", "30min", "2h", "3kmin", "ten", "5", "1 epoch", "2Mtokens"]
)
def test_the_pattern_of_durations_is_that_of_the_clock(text: str) -> None:
    try:
        Duration.parse(text)
    except ConfigurationError:
        assert not jsonschema.Draft7Validator(of_annotation(Scalar("duration"))).is_valid(text)
    else:
        assert jsonschema.Draft7Validator(of_annotation(Scalar("duration"))).is_valid(text)


@pytest.mark.parametrize("annotation", [Scalar("int"), Scalar("float"), Choice((1, "a")), ListOf(Scalar("str"))])
@pytest.mark.parametrize("value", [1, 1.5, "a", ["a"], [1], None, True])
def test_a_schema_accepts_what_its_annotation_accepts(annotation: Any, value: Any) -> None:
    whole = {**of_annotation(annotation), "definitions": definitions()}
    assert jsonschema.Draft7Validator(whole).is_valid(value) == annotation.accepts(value)


def test_a_tuple_has_its_length() -> None:
    whole = {**of_annotation(TupleOf((Scalar("float"), Scalar("float")))), "definitions": definitions()}
    assert [jsonschema.Draft7Validator(whole).is_valid([0.9] * length) for length in (1, 2, 3)] == [False, True, False]


def test_an_editor_can_show_what_a_key_means(schema: dict[str, Any]) -> None:
    assert schema["properties"]["seed"]["description"] == "Every random choice follows from it."
    encoder = schema["definitions"]["model.encoder"]["else"]["properties"]
    assert "description" in encoder["width"]
    assert (
        "encoder"
        in schema["properties"]["defaults"]["items"]["anyOf"][1]["properties"]["override /model"]["anyOf"][0]["enum"]
    )


def test_a_node_of_another_class_is_not_judged() -> None:
    whole = {**of_node({"_target_": "etude.models.encoder.Encoder"}), "definitions": definitions()}
    judge = jsonschema.Draft7Validator(whole)
    assert not judge.is_valid({"no_argument": 1})
    assert judge.is_valid({"_target_": "mine.Encoder", "no_argument": 1})


def test_a_folder_of_ones_own_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "extension"))
    folder = ROOT / "tests" / "extension" / "conf"
    judge = jsonschema.Draft7Validator(ExperimentSchema(folder).schema())
    files = sorted((folder / "experiment").rglob("*.yaml"))
    assert files
    for file in files:
        assert judge.is_valid(OmegaConf.to_container(OmegaConf.load(file))), file


def test_the_command_writes_it_and_loads_no_torch(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    before = "torch" in sys.modules
    assert main(["schema"]) == 0
    assert json.loads(capfd.readouterr().out)["title"] == "An experiment of etude"
    assert ("torch" in sys.modules) == before
    assert main(["schema", "format=json"]) == 78
    assert "does not take format=json" in capfd.readouterr().err
    assert main(["schema", "--config-dir", str(tmp_path / "nowhere")]) == 78
