"""What must hold between values: every rule by a configuration that breaks it, and by one at its edge."""

from __future__ import annotations

import pytest

from etude.config.case import Case
from etude.config.compose import compose
from etude.config.origins import Origins
from etude.config.rules import RULES, check_given
from etude.errors import ConfigurationError

BROKEN = {
    "check_numbers": ("seed=-1", "seed = -1 is negative"),
    "check_counts": ("model.dropout=1.0", r"model.dropout = 1.0 is not in \[0, 1\)"),
    "check_heads": ("model.heads=3", "does not divide model.width = 128; try model.heads=2"),
    "check_lengths": ("decoding.n_best=6", "decoding.n_best = 6 is more than decoding.beams = 5"),
    "check_batch": ("batch.examples=32", "batch.examples = 32 is given besides batch.tokens = 2048"),
    "check_shuffle": ("batch.shuffle=keyed", "batch.shuffle = keyed sorts one pool at a time, and batch.pool is null"),
    "check_budget": ("scheduler.warmup=60s", "scheduler.warmup = 60s cannot be compared with budget = 20epoch"),
    "check_average": ("average.last=[1]", "average.last has 1, but an average is of 2 or more"),
    "check_task_and_data": ("data=reviews", "does not fit the data"),
    "check_task_and_parts": ("decoding=null", "decoding is null, but Translation writes sequences"),
    "check_metric": ("validate.metric=val/blue", "val/blue is not a metric of Translation; did you mean val/bleu"),
}
EDGE = [
    "seed=0",
    "model.dropout=0.999",
    "model.heads=128",
    "model.zero_residual=true",
    "model.logit_cap=0.001",
    "decoding.n_best=5",
    "average.last=[2]",
    "scheduler.warmup=0step",
]


def test_the_rules_that_are_broken_here_exist() -> None:
    assert BROKEN.keys() <= {rule.__name__ for rule in RULES}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_rule_refuses_in_one_line(rule: str) -> None:
    override, said = BROKEN[rule]
    with pytest.raises(ConfigurationError, match=said) as refused:
        compose("experiment=translation/demo", override)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("override", EDGE)
def test_a_rule_lets_its_edge_pass(override: str) -> None:
    compose("experiment=translation/demo", override)


@pytest.mark.parametrize(("heads", "fits"), [("32", True), ("128", False)])
def test_rotation_wants_pairs_of_elements(heads: str, fits: bool) -> None:
    words = ["experiment=translation/demo", "model/positions=rotary", f"model.heads={heads}"]
    if fits:
        compose(*words)
    else:
        with pytest.raises(ConfigurationError, match=r"turns pairs of elements, but .* = 1 is odd"):
            compose(*words)


@pytest.mark.parametrize("every", ["60s", "0epoch"])
def test_unfreezing_is_counted_in_steps(every: str) -> None:
    with pytest.raises(ConfigurationError, match=f"finetune.every = {every} is not a number of steps above 0"):
        compose("experiment=classification/minilm", "finetune=gradual", f"finetune.every={every}")


def test_what_etude_gives_cannot_be_given() -> None:
    values = {"model": {"_target_": "mine.Model", "facts": 1}}
    said = r"^model\.facts cannot be given: etude gives it to mine\.Model \(command line\)"
    with pytest.raises(ConfigurationError, match=said):
        check_given(Case(values, values, Origins(["model.facts=1"], ())))


@pytest.mark.parametrize(
    ("experiment", "residual"),
    [("translation/demo", "pre_norm"), ("masked_lm/demo", "post_norm"), ("causal_lm/demo", "")],
)
def test_sublayers_start_at_zero_only_where_a_layer_is_then_the_identity(experiment: str, residual: str) -> None:
    words = [
        f"experiment={experiment}",
        "model.zero_residual=true",
        *([f"model/residual={residual}"] if residual else []),
    ]
    if residual != "post_norm":
        compose(*words)
    else:
        with pytest.raises(ConfigurationError, match=r"write model/residual=pre_norm or model.zero_residual=false"):
            compose(*words)
