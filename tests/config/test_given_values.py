"""A run that comes back with its whole configuration as arguments composes to the one that it was begun with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.config.compose import CONF, Composer
from etude.config.given_values import as_words
from etude.config.schema import Config
from etude.config.values import changes, without_secrets
from etude.errors import ConfigurationError

COMPOSER = Composer(CONF, "train")
FIXED = ["experiment=translation/demo", "limit.train=60"]


def composed(*words: str) -> Config:
    return COMPOSER.compose(COMPOSER.normalized(words)).config()


def through_wandb(values: Any) -> Any:
    """Plain values as W&B's server gives them back: without secrets, and 1.0 is 1."""
    if isinstance(values, Mapping):
        return {key: through_wandb(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [through_wandb(value) for value in values]
    return int(values) if isinstance(values, float) and values.is_integer() else values


def whole(config: Config) -> dict[str, Any]:
    values = json.loads(json.dumps(through_wandb(without_secrets(config.values))))
    assert isinstance(values, dict)
    return values


CHANGED = {
    "a value": {"optimizer.lr": 0.003},
    "an absence": {"stop.patience": None, "limit.train": None},
    "a truth": {"tokenizer.lowercase": True},
    "a list": {"optimizer.betas": [0.9, 1]},
    "choices": {"optimizer": "sgd", "model.positions": "rotary", "callbacks": "none"},
    "a group by its path": {"model/positions": "learned"},
    "keys of the root": {"seed": 3, "budget": "7step", "precision": "64-true"},
    "a section": {"batch": {"examples": 32, "tokens": None}},
    "a part of a section": {"batch": {"pool": 8}},
    "a node": {"model.norm": {"_target_": "torch.nn.RMSNorm", "_partial_": True}},
    "another experiment": {"experiment": "classification/demo", "model.layers": 3},
}


@pytest.mark.parametrize("given", CHANGED.values(), ids=CHANGED)
def test_a_run_that_comes_back_is_the_same(given: dict[str, Any]) -> None:
    first = composed(*FIXED, *as_words(given, FIXED, COMPOSER))
    back = {**whole(first), **given}
    words = as_words(back, FIXED, COMPOSER)
    assert changes(first.values, composed(*FIXED, *words).values) == {}
    # What the words compose anyway is not said again.
    assert sorted(words) == sorted(as_words(given, FIXED, COMPOSER))


ELSEWHERE = [
    ["experiment=classification/demo", "callbacks=none", "finetune=null", "non_finite=null"],
    ["experiment=masked_lm/demo", "callbacks=averaged", "model.norm._target_=torch.nn.RMSNorm"],
    ["experiment=causal_lm/demo", "optimizer=sgd", "scheduler=constant", "model/positions=rotary"],
    ["experiment=translation/demo", "decoding=greedy", "finetune=lora", "run.experiment=mine", "run.name=one"],
]


@pytest.mark.parametrize("words", ELSEWHERE, ids=lambda words: words[0])
def test_the_whole_configuration_needs_no_other_words(words: list[str]) -> None:
    first = composed(*words)
    assert changes(first.values, composed(*as_words(whole(first), [], COMPOSER)).values) == {}


def test_what_belongs_to_the_machine_is_what_it_is_here() -> None:
    first = composed(
        *FIXED, "trainer.workers=2", "paths.outputs=there", "logger.wandb.project=theirs", "log.every=7step"
    )
    here = [*FIXED, "trainer.workers=1", "paths.outputs=here"]
    assert as_words(whole(first), here, COMPOSER) == []


def test_a_swept_machine_is_kept() -> None:
    assert as_words({"trainer.workers": 2, "trainer": "cpu"}, FIXED, COMPOSER) == ["trainer.workers=2", "trainer=cpu"]


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=10).filter(
    lambda text: "${" not in text and text != "???"
)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
NAMES = st.from_regex(r"[a-z]{1,6}", fullmatch=True).filter(
    lambda name: name not in ("null", "true", "false", "nan", "inf")
)
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=6
)


@settings(max_examples=80, deadline=None)
@given(value=VALUES)
def test_any_value_is_composed_as_it_is(value: Any) -> None:
    words = as_words({"free.key": value, "trust": ["os"]}, FIXED, COMPOSER)
    tree = COMPOSER.compose(COMPOSER.normalized([*FIXED, *words])).tree
    read = json.loads(json.dumps({"value": tree.free.key}, default=_container))
    assert read == {"value": value}
    assert list(tree.trust) == []


def _container(node: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=True)


def test_a_class_outside_etude_is_refused_as_ever() -> None:
    back = whole(composed(*FIXED))
    back["model"]["norm"] = {"_target_": "os.system", "_partial_": True}
    back["trust"] = ["os"]
    words = as_words(back, FIXED, COMPOSER)
    assert "model.norm._target_=os.system" in words
    with pytest.raises(ConfigurationError, match=r"model.norm._target_ = os.system may not be instantiated"):
        composed(*FIXED, *words)


@pytest.mark.parametrize("key", ["hydra.callbacks.x._target_", "hydra/launcher"])
def test_hydra_is_not_the_agents(key: str) -> None:
    with pytest.raises(ConfigurationError, match="is Hydra's own key"):
        as_words({key: "os.system"}, FIXED, COMPOSER)


def test_a_reference_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"data.root = '\$\{oc.env:SECRET\}' refers to another value"):
        as_words({"data.root": "${oc.env:SECRET}"}, FIXED, COMPOSER)
