"""Words of W&B's agents: what they write reads back as the value that it was, whatever the form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from etude.config.agent_words import PARAMETERS, RUN, SWEEP, agent_run_id, is_run_id, take_agent_words
from etude.errors import ConfigurationError
from etude.untrusted import BrokenFileError

FORMS = (
    "args",
    "args_no_hyphens",
    "args_no_equals",
    "args_append_hydra",
    "args_override_hydra",
    "args_json",
)
"""Macros of a sweep's command that lose no value."""
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,7}(\.[a-z][a-z0-9_]{0,7}){0,2}", fullmatch=True).filter(
    lambda name: name not in ("wandb_version", "trust")
)
# W&B's file is YAML, which has no such characters; what JSON calls a number is finite.
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff\ufffe\uffff"), max_size=12)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS.filter(bool), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(autouse=True)
def an_agent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The environment of a process that an agent started; returns the file that the agent writes."""
    file = tmp_path / "config-8xk2j1p9.yaml"
    monkeypatch.setenv(SWEEP, "k3v9x1c2")
    monkeypatch.setenv(RUN, "8xk2j1p9")
    monkeypatch.setenv(PARAMETERS, str(file))
    return file


def command(values: Mapping[str, Any], form: str, file: Path | None = None) -> list[str]:
    """What an agent puts in place of a macro; with a file, what it leaves there too."""
    # They take seconds, in each process that collects.
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args
    from wandb.sdk.lib.config_util import save_config_file_from_dict

    arguments = {key: {"value": value} for key, value in values.items()}
    if file is not None:
        save_config_file_from_dict(str(file), arguments)  # type: ignore[no-untyped-call]
    words = create_sweep_command_args({"args": arguments})[form]
    assert isinstance(words, list)
    return words


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(values=st.dictionaries(NAMES, VALUES, min_size=1, max_size=4))
@example(
    values={"a": "None", "b": None, "c": "1", "d": 1, "e": "[1, 2]", "f": "x=1, y", "g": "", "h": 1e-05, "i": "naïve ☃"}
)
def test_what_an_agent_writes_is_what_it_means(form: str, values: dict[str, Any], an_agent: Path) -> None:
    words = ["experiment=translation/demo", *command(values, form, an_agent), "limit.train=60"]
    left, taken = take_agent_words(words)
    assert left == ["experiment=translation/demo", "limit.train=60"]
    assert json.dumps(taken) == json.dumps(values)  # 1 is not true, and not 1.0


def test_the_file_of_json_says_the_same(an_agent: Path) -> None:
    values = {"stop.patience": None, "optimizer.betas": [0.9, 0.98]}
    command(values, "args", an_agent)
    assert take_agent_words(["limit.train=6", str(an_agent.with_suffix(".json"))]) == (["limit.train=6"], values)


def test_words_of_a_person_stay_as_they_are(an_agent: Path) -> None:
    command({"seed": 2, "trust": ["theirs"], "name": "x"}, "args", an_agent)
    words = [
        "--config-dir=mine",
        "--cfg",
        "job",
        "seed=3",
        "trust=[mine]",
        "stop.patience=None",
        "--name",
        "y",
        "data.root='a b'",
    ]
    assert take_agent_words(words) == (words, {})


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("stop.patience=None", {"stop.patience": None}),
        ("tokenizer.lowercase=True", {"tokenizer.lowercase": True}),
        ("batch={'examples': 32, 'tokens': None}", {"batch": {"examples": 32, "tokens": None}}),
        ("optimizer.betas=[0.9, 0.98]", {"optimizer.betas": [0.9, 0.98]}),
        ("run.notes=it is, so far, a = b", {"run.notes": "it is, so far, a = b"}),
        ("run.notes=fünf, sechs", {"run.notes": "fünf, sechs"}),
        ('{"stop.patience": null, "seed": 2}', {"stop.patience": None, "seed": 2}),
    ],
)
def test_without_its_file_the_text_says_it(word: str, value: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PARAMETERS)
    assert take_agent_words([word]) == ([], value)


@pytest.mark.parametrize(
    "word",
    [
        "seed=2",
        "model/positions=rotary",
        "budget=2step",
        "data.root='a b'",
        "a={b:1}",
        "+new=[x,y]",
        "-m",
        "--cfg",
        "job",
    ],
)
def test_without_its_file_words_for_hydra_stay(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PARAMETERS)
    assert take_agent_words([word]) == ([word], {})


def test_hidden_keys_are_dropped(an_agent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = {"_wandb": {"cli_version": "0.31.0", "t": {"1": [1, 5]}}, "wandb_version": 1}
    words = command({**hidden, "seed": 2}, "args_no_hyphens", an_agent)
    assert take_agent_words(words) == ([], {"seed": 2})
    monkeypatch.delenv(PARAMETERS)
    assert take_agent_words(words) == (["seed=2"], {})


def test_trust_that_may_be_the_agents_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PARAMETERS, "gone/config.yaml")
    with pytest.raises(
        ConfigurationError, match=r"trust=\['theirs'\] may be yours .*gone/config.yaml.*set ETUDE_TRUST"
    ):
        take_agent_words(["trust=['theirs']"])
    assert take_agent_words(["trust=[]"])[1] == {"trust": []}


def test_without_an_agent_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWEEP)
    words = ["stop.patience=None", "_wandb={'a': 1}", '{"seed": 2}']
    assert take_agent_words(words) == (words, {})
    assert agent_run_id() is None


def test_what_is_damaged_is_one_line(an_agent: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not an object of JSON"):
        take_agent_words(['{"seed": '])
    an_agent.write_text("seed: &a [*a]\n")
    with pytest.raises(BrokenFileError):
        take_agent_words(["seed=1"])


@pytest.mark.parametrize("name", ["a/b", "..", "a b", "x" * 65])
def test_an_id_that_is_none_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert agent_run_id() == "8xk2j1p9"
    assert not is_run_id(name)
    monkeypatch.setenv(RUN, name)
    with pytest.raises(ConfigurationError, match="is not the id of a run"):
        agent_run_id()
