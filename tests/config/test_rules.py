"""Rules about an argument go by the class that is meant: of a class of one's own, a name says nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from etude.config.compose import compose
from etude.config.modules import find_module
from etude.config.signatures import signature
from etude.config.trust import trust_of_the_command
from etude.errors import ConfigurationError

NUMBERS = {
    "width": 10,
    "heads": 3,
    "test": 0,
    "val": -1,
    "rank": 0,
    "vocabulary": 1,
    "dropout": 1.5,
    "decay": 2.0,
    "temperature": -1.0,
    "keep_last": 0,
}


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    arguments = ", ".join(f"{name}: float" for name in NUMBERS)
    (tmp_path / "rules_stub.py").write_text(
        f"class Free:\n    def __init__(self, *, {arguments}): ...\n\n"
        "class Lazy:\n    def __init__(self, params, lr: float): ...\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    with trust_of_the_command():
        yield
    find_module.cache_clear()
    signature.cache_clear()


def test_a_class_of_ones_own_takes_any_numbers() -> None:
    words = [f"callbacks.mine.{name}={value}" for name, value in NUMBERS.items()]
    config = compose("trust=[rules_stub]", "callbacks.mine._target_=rules_stub.Free", *words)
    assert config.callbacks["mine"].arguments == NUMBERS


def test_an_optimizer_of_ones_own_takes_any_rate() -> None:
    words = ["~optimizer.weight_decay", "~optimizer.betas", "~optimizer.eps", "~optimizer.fused", "~optimizer.foreach"]
    own = ["trust=[rules_stub]", "optimizer._target_=rules_stub.Lazy", "optimizer.lr=-1.0"]
    given = compose("optimizer=adamw").optimizer.arguments
    config = compose(*own, *(word for word in words if word.removeprefix("~optimizer.") in given))
    assert config.optimizer.arguments["lr"] == -1.0


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["model.dropout=1.0"], "model.dropout"),
        (["model.heads=3"], "model.heads"),
        (["model.logit_cap=0.0"], "model.logit_cap"),
        (["limit.test=0"], "limit.test"),
        (["checkpoint.keep_last=1"], "checkpoint.keep_last"),
        (["callbacks=averaged", "callbacks.ema.decay=1.0"], "callbacks.ema.decay"),
        (["finetune=lora", "finetune.rank=0"], "finetune.rank"),
        (["tokenizer.vocabulary=7"], "tokenizer.vocabulary"),
        (["decoding=sample", "decoding.temperature=0.0"], "decoding.temperature"),
        (["decoding=beam", "decoding.n_best=9"], "decoding.n_best"),
        (["task/consistency=r_drop", "task.consistency.alpha=0.0"], "task.consistency.alpha"),
        (["experiment=masked_lm/demo", "data/masking=spans", "data.masking.longest=0"], "data.masking.longest"),
        (["optimizer.lr=0"], "optimizer.lr"),
    ],
)
def test_a_class_of_etude_does_not(words: list[str], key: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{key} = "):
        compose(*words)
