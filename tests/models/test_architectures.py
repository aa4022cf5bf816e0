"""Every combination of parts that `conf/model` offers: what no choice may break."""

from __future__ import annotations

from functools import cache, partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.config.check import check, plain
from etude.config.compose import CONF, Composer
from etude.config.schema import Node
from etude.models.encoder import Encoder
from etude.models.layers.dropout import Dropout
from etude.models.seq2seq import Seq2Seq
from etude.training.build import factory
from etude.types import Facts

COMPOSER = Composer(CONF, "train")
GROUPS = {part: COMPOSER.options(f"model/{part}") for part in COMPOSER.parts("model")}
B, S, T, WIDTH, HEADS, VOCABULARY = 3, 7, 5, 12, 3, 29
FACTS = Facts(vocabulary=VOCABULARY, pad=0, bos=1, eos=2)
SIZES = {"width": WIDTH, "heads": HEADS, "feed_forward": 17, "max_length": 11, "dropout": 0.0}
SOURCE_MASK = torch.arange(S) < torch.tensor([[7], [4], [2]])
TARGET_MASK = torch.arange(T) < torch.tensor([[3], [5], [1]])


@cache
def part(experiment: str, group: str, choice: str) -> Any:
    """Make one part of a model as `model/group=choice` does, once for all combinations."""
    composition = COMPOSER.compose([f"experiment={experiment}", f"model/{group}={choice}"])
    check(composition.tree, composition.overrides, composition.sources)
    key = {"feed_forward": "feed_forward_layer"}.get(group, group)
    return factory(Node(plain(composition.tree)["model"][key]))


COMBINATIONS = list(product(*(GROUPS[group] for group in GROUPS)))
# A stride without a factor in common with the numbers of choices: every pair of choices is among these.
SOME = COMBINATIONS[::7]
REST = [pytest.param(combination, marks=pytest.mark.slow) for combination in COMBINATIONS if combination not in SOME]


def parts_of(combination: tuple[str, ...]) -> dict[str, Any]:
    chosen = {group: part("translation/demo", group, choice) for group, choice in zip(GROUPS, combination, strict=True)}
    return {**chosen, "feed_forward_layer": chosen["feed_forward"], **SIZES}


def seq2seq(combination: tuple[str, ...], **more: Any) -> Seq2Seq:
    torch.manual_seed(1)
    return Seq2Seq(FACTS, **{**parts_of(combination), "encoder_layers": 1, "decoder_layers": 2, **more})


def encoder(combination: tuple[str, ...], **more: Any) -> Encoder:
    torch.manual_seed(1)
    parts = {key: value for key, value in parts_of(combination).items() if key != "embeddings"}
    return Encoder(FACTS, **{**parts, "layers": 2, **more})


def ids(length: int, seed: int) -> Tensor:
    return torch.randint(3, VOCABULARY, (B, length), generator=torch.Generator().manual_seed(seed))


def other(tokens: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, 3 + (tokens - 2) % (VOCABULARY - 3), tokens)


def named(combination: tuple[str, ...]) -> str:
    return "-".join(combination)


@pytest.mark.parametrize("combination", [*SOME, *REST], ids=named)
def test_a_seq2seq_of_any_parts(combination: tuple[str, ...]) -> None:
    """Padding and other rows never matter, nor does a later token; steps equal the whole; everything is trained."""
    model, source, target = seq2seq(combination), ids(S, 2), ids(T, 3)
    logits = model(source, target, SOURCE_MASK, TARGET_MASK)
    logits.square().sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []
    padded = other(source, ~SOURCE_MASK), other(target, ~TARGET_MASK)
    assert torch.equal(model(*padded, SOURCE_MASK, TARGET_MASK), logits)
    with torch.no_grad():
        logits = model(source, target, SOURCE_MASK, TARGET_MASK)
        assert torch.equal(model(*padded, SOURCE_MASK, TARGET_MASK), logits)
        where = torch.zeros(B, T, dtype=torch.bool)
        where[1, 2] = True
        seen = (model(source, other(target, where), SOURCE_MASK, TARGET_MASK) != logits).any(dim=2)
        assert torch.equal(seen, TARGET_MASK & torch.tensor([[False], [True], [False]]) & (torch.arange(T) >= 2))
        cache = model.eval().start(model.encode(source, SOURCE_MASK))
        for position in range(T):
            step, cache = model.step(target[:, position], cache)
            rows = TARGET_MASK[:, position]
            torch.testing.assert_close(step[rows], logits[rows, position], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("combination", [*SOME, *REST], ids=named)
def test_an_encoder_of_any_parts(combination: tuple[str, ...]) -> None:
    model, tokens = encoder(combination), ids(S, 2)
    states = model(tokens, SOURCE_MASK)
    states.sin().sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    assert torch.equal(model(other(tokens, ~SOURCE_MASK), SOURCE_MASK), states)
    with torch.no_grad():
        states = model(tokens, SOURCE_MASK)
        assert torch.equal(model(other(tokens, ~SOURCE_MASK), SOURCE_MASK), states)
        text = tokens[1][SOURCE_MASK[1]][None]
        alone = model(text, torch.ones_like(text, dtype=torch.bool))[0]
        torch.testing.assert_close(states[1][SOURCE_MASK[1]], alone, rtol=1e-5, atol=1e-5)


DEFAULTS = ("shared", "relu", "layer", "sinusoidal", "pre_norm")


@pytest.mark.parametrize("positions", GROUPS["positions"])
def test_order_is_seen_with_any_positions(positions: str) -> None:
    model = encoder(("shared", "gelu", "layer", positions, "pre_norm"))
    tokens, mask = ids(S, 2)[:1], torch.ones(1, S, dtype=torch.bool)
    order = torch.tensor([3, 0, 5, 1, 6, 2, 4])  # not backwards: ALiBi counts distances in both directions alike
    assert not torch.allclose(model(tokens[:, order], mask), model(tokens, mask)[:, order], atol=1e-3)


def test_attention_dropout_reaches_every_attention_and_follows_the_seed() -> None:
    model = seq2seq(DEFAULTS, attention_dropout=0.5)
    rates = [module.dropout.probability for name, module in model.named_modules() if name.endswith(".attend")]
    assert rates == [0.5] * 5
    inputs = (ids(S, 2), ids(T, 3), SOURCE_MASK, TARGET_MASK)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(model(*inputs))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert torch.equal(model.eval()(*inputs), seq2seq(DEFAULTS)(*inputs))


@pytest.mark.parametrize(
    ("given", "inside"), [({}, 0.1), ({"activation_dropout": 0.0}, 0.0), ({"activation_dropout": 0.3}, 0.3)]
)
def test_activation_dropout_is_inside_feed_forward_layers(given: dict[str, float], inside: float) -> None:
    for model in (seq2seq(DEFAULTS, dropout=0.1, **given), encoder(DEFAULTS, dropout=0.1, **given)):
        rates = {
            name.rpartition(".")[0].rpartition(".")[2]: module.probability
            for name, module in model.named_modules()
            if isinstance(module, Dropout)
        }
        assert rates.pop("feed_forward") == inside and rates.pop("attend") == 0.0
        assert set(rates.values()) == {0.1}


def test_the_defaults_of_the_constructor_are_those_of_the_configuration() -> None:
    inputs = (ids(S, 2), ids(T, 3), SOURCE_MASK, TARGET_MASK)
    torch.manual_seed(1)
    plainly = Seq2Seq(FACTS, **SIZES, encoder_layers=1, decoder_layers=2)  # type: ignore[arg-type]
    assert torch.equal(plainly(*inputs), seq2seq(DEFAULTS)(*inputs))
    assert list(plainly.state_dict()) == list(seq2seq(DEFAULTS).state_dict())


def test_root_mean_squares_replace_every_norm() -> None:
    parts = ("shared", "gelu", "rms", "alibi", "pre_norm")
    for model in (seq2seq(parts), encoder(parts)):
        kinds = {type(module) for module in model.modules() if "Norm" in type(module).__name__}
        assert nn.RMSNorm in kinds
        assert nn.LayerNorm not in kinds


def test_a_parameter_of_a_norm_reaches_it() -> None:
    model = seq2seq(DEFAULTS, norm=partial(nn.LayerNorm, eps=0.25))
    assert {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)} == {0.25}
