"""Query-key normalisation, soft-capped logits and sublayers that start at zero: laws of whole models."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, TypeVar, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.errors import ConfigurationError
from etude.models.decoder import Decoder
from etude.models.encoder import Encoder
from etude.models.generation.search import Beam, Greedy
from etude.models.layers.attention import SelfAttention, record_attention
from etude.models.layers.feed_forward import GatedFeedForward
from etude.models.layers.head_norm import EPS, HeadNorm
from etude.models.layers.positions import ALiBi, Learned, Rotary
from etude.models.layers.residual import PostNorm
from etude.models.layers.unpad import Unpadding
from etude.models.seq2seq import Seq2Seq
from etude.optim.schedules import Constant
from etude.tasks.causal_lm import CausalLM
from etude.tasks.translation import Translation
from etude.types import CausalLMBatch, Facts, TranslationBatch

B, S, T, WIDTH, HEADS, VOCABULARY = 3, 7, 5, 24, 2, 29
FACTS = Facts(vocabulary=VOCABULARY, pad=0, bos=1, eos=2)
SOURCE_MASK = torch.arange(S) < torch.tensor([[7], [4], [2]])
TARGET_MASK = torch.arange(T) < torch.tensor([[3], [5], [1]])
SIZES = {"width": WIDTH, "heads": HEADS, "feed_forward": 31, "dropout": 0.0, "max_length": 11}
ADAM = partial(torch.optim.AdamW, lr=1e-3)
ALL_POSITIONS = pytest.mark.parametrize("positions", [Learned, Rotary, ALiBi])


def ids(length: int, seed: int) -> Tensor:
    return torch.randint(3, VOCABULARY, (B, length), generator=torch.Generator().manual_seed(seed))


SOURCE, TARGET = ids(S, 2), ids(T, 3)
Drawn = TypeVar("Drawn", bound=nn.Module)


def drawn(model: Drawn) -> Drawn:
    """Large random weights, so that no part is negligible."""
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    return model.eval()


def decoder(**parts: Any) -> Decoder:
    torch.manual_seed(1)
    return Decoder(FACTS, **{**SIZES, "layers": 3, **parts})


def encoder(**parts: Any) -> Encoder:
    torch.manual_seed(1)
    return Encoder(FACTS, **{**SIZES, "layers": 3, **parts})


def seq2seq(**parts: Any) -> Seq2Seq:
    torch.manual_seed(1)
    return Seq2Seq(FACTS, **{**SIZES, "encoder_layers": 2, "decoder_layers": 3, **parts})


def translated(model: Seq2Seq) -> Tensor:
    logits: Tensor = model(SOURCE, TARGET, SOURCE_MASK, TARGET_MASK)
    return logits


# Query-key normalisation


@ALL_POSITIONS
@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_the_plain_one_of_normalised_queries_and_keys(positions: Any, causal: bool) -> None:
    relative = positions(width=WIDTH, heads=HEADS, max_length=11).relative
    ours = drawn(SelfAttention(WIDTH, HEADS, causal=causal, relative=relative, query_key_norm=True))
    layout, x = Unpadding.from_mask(SOURCE_MASK), torch.randn(int(SOURCE_MASK.sum()), WIDTH)
    out = ours(x, layout).split(SOURCE_MASK.sum(dim=1).tolist())
    norm = cast(HeadNorm, ours.query_key_norm)
    for text, found in zip(x.split(SOURCE_MASK.sum(dim=1).tolist()), out, strict=True):
        query, key, value = ours.query_key_value(text).unflatten(1, (3, HEADS, -1)).unbind(1)
        query, key = (
            F.rms_norm(y, y.shape[-1:], g, EPS) for y, g in zip((query, key), norm.weight.chunk(2), strict=True)
        )
        length = len(text)
        query, key, _ = relative.rotate(torch.stack([query, key, value], 1), torch.arange(length)).unbind(1)
        scores = torch.einsum("qhk,lhk->hql", query, key) / math.sqrt(WIDTH // HEADS)
        bias = relative.bias(Unpadding.from_mask(torch.ones(1, length, dtype=torch.bool)))
        scores = scores if bias is None else scores + bias[0]
        if causal:
            scores = scores.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), -math.inf)
        mixed = torch.einsum("hql,lhk->qhk", scores.softmax(-1), value).flatten(1)
        torch.testing.assert_close(found, ours.output(mixed), rtol=1e-4, atol=1e-5)


def enlarged(linear: nn.Linear, rows: slice, factor: float) -> None:
    with torch.no_grad():
        linear.weight[rows] *= factor
        linear.bias[rows] *= factor


@ALL_POSITIONS
def test_larger_queries_and_keys_change_nothing(positions: Any) -> None:
    """Of every attention, that to the source included; without the norm the outputs move."""
    for norm in (True, False):
        model = drawn(seq2seq(positions=positions, query_key_norm=norm))
        before = translated(model)
        for module in model.modules():
            if isinstance(module, SelfAttention):
                enlarged(module.query_key_value, slice(WIDTH), 100.0)
                enlarged(module.query_key_value, slice(WIDTH, 2 * WIDTH), 30.0)
        for index, layer in enumerate(cast(list[Any], model.decoder)):
            enlarged(layer.cross_attention.query, slice(None), 50.0)
            enlarged(model.memory, slice(2 * index * WIDTH, (2 * index + 1) * WIDTH), 20.0)
        assert torch.allclose(translated(model), before, rtol=1e-3, atol=1e-3) is norm


@ALL_POSITIONS
@pytest.mark.parametrize("cap", [None, 2.0])
def test_step_by_step_is_the_whole(positions: Any, cap: float | None) -> None:
    parts = {"positions": positions, "query_key_norm": True, "logit_cap": cap}
    alone, pair = drawn(decoder(**parts)), drawn(seq2seq(**parts))
    with torch.no_grad():
        logits, past = alone(TARGET, torch.ones_like(TARGET, dtype=torch.bool)), alone.start(B)
        outputs, cache = translated(pair), pair.start(pair.encode(SOURCE, SOURCE_MASK))
        for place in range(T):
            step, past = alone.step(TARGET[:, place], past)
            torch.testing.assert_close(step, logits[:, place], rtol=1e-4, atol=1e-4)
            step, cache = pair.step(TARGET[:, place], cache)
            rows = TARGET_MASK[:, place]
            torch.testing.assert_close(step[rows], outputs[rows, place], rtol=1e-4, atol=1e-4)


@ALL_POSITIONS
def test_padding_and_other_rows_change_nothing(positions: Any) -> None:
    parts = {"positions": positions, "query_key_norm": True}
    model, pair = drawn(encoder(**parts)), drawn(seq2seq(logit_cap=2.0, **parts))
    states, logits = model(SOURCE, SOURCE_MASK), translated(pair)
    padded = torch.where(SOURCE_MASK, SOURCE, 5)
    assert torch.equal(model(padded, SOURCE_MASK), states)
    for row in range(B):
        source, target = SOURCE[row][SOURCE_MASK[row]][None], TARGET[row][TARGET_MASK[row]][None]
        real = torch.ones_like
        alone = model(source, real(source, dtype=torch.bool))[0]
        torch.testing.assert_close(states[row][SOURCE_MASK[row]], alone, rtol=1e-4, atol=1e-4)
        alone = pair(source, target, real(source, dtype=torch.bool), real(target, dtype=torch.bool))[0]
        torch.testing.assert_close(logits[row][TARGET_MASK[row]], alone, rtol=1e-4, atol=1e-4)


def test_the_first_token_alone_is_that_of_all() -> None:
    model = drawn(encoder(query_key_norm=True))
    assert not any(cast(Any, layer).attention.folds for layer in model.layers)
    torch.testing.assert_close(model.cls_states(SOURCE, SOURCE_MASK), model(SOURCE, SOURCE_MASK)[:, 0])


def test_recorded_attention_is_that_of_normalised_queries_and_keys() -> None:
    """It too is blind to the size of the queries, and every map's rows sum to 1."""
    model = drawn(seq2seq(query_key_norm=True))
    recorded = []
    for factor in (1.0, 100.0):
        for layer in cast(list[Any], model.decoder):
            enlarged(layer.cross_attention.query, slice(None), factor)
            enlarged(layer.self_attention.query_key_value, slice(2 * WIDTH), factor)
        with record_attention(model) as maps:
            translated(model)
        recorded.append(dict(maps))
    assert len(recorded[0]) == 2 + 2 * 3
    for name, weights in recorded[0].items():
        torch.testing.assert_close(recorded[1][name], weights, rtol=1e-3, atol=1e-4)
    first = recorded[0]["decoder.0.cross_attention"][0]
    torch.testing.assert_close(first.sum(-1), torch.ones_like(first[..., 0]))


@pytest.mark.parametrize("make", [decoder, encoder, seq2seq])
def test_off_a_model_has_the_tensors_and_values_of_before(make: Any) -> None:
    off, on = make().state_dict(), make(query_key_norm=True).state_dict()
    new = on.keys() - off.keys()
    assert new and all(
        name.endswith(("query_key_norm.weight", "query_norm.weight", "memory_norm.weight")) for name in new
    )
    assert all(on[name].dim() == 1 for name in new)
    assert all(torch.equal(on[name], tensor) for name, tensor in off.items())


def test_everything_is_trained() -> None:
    for model in (decoder(query_key_norm=True), seq2seq(query_key_norm=True)):
        logits = model(TARGET, TARGET_MASK) if isinstance(model, Decoder) else translated(model)
        logits.square().sum().backward()
        assert [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_autocast_keeps_each_kind_of_tensor() -> None:
    model = drawn(seq2seq(query_key_norm=True, positions=Rotary, logit_cap=5.0))
    with torch.autocast("cpu", torch.bfloat16):
        logits, (step, _) = translated(model), model.step(TARGET[:, 0], model.start(model.encode(SOURCE, SOURCE_MASK)))
    # Up to the rounding of eight bits.
    assert float((logits - translated(model)).detach().abs().mean()) < 0.15
    assert float((step - logits[:, 0]).detach().abs().mean()) < 0.15


# Soft-capped logits


def test_logits_are_those_without_a_cap_bent() -> None:
    cases: list[Any] = [(decoder, lambda model: model(TARGET, TARGET_MASK)), (seq2seq, translated)]
    for make, logits_of in cases:
        free = logits_of(drawn(make()))
        assert float(free.abs().max()) > 3
        torch.testing.assert_close(logits_of(drawn(make(logit_cap=1.5))), 1.5 * torch.tanh(free / 1.5))
        torch.testing.assert_close(logits_of(drawn(make(logit_cap=1e4))), free, rtol=1e-4, atol=1e-4)


def test_the_loss_of_a_task_is_that_of_its_logits() -> None:
    real, schedule = torch.ones_like(TARGET, dtype=torch.bool), cast(Any, Constant())
    labels = ids(T, 4)
    whole = CausalLMBatch(TARGET, real, labels, None, B * T, torch.arange(B), torch.ones(B, dtype=torch.long))
    task = CausalLM(FACTS, drawn(decoder(logit_cap=1.5)), ADAM, schedule, Greedy()).eval()
    pairs = TranslationBatch(SOURCE, SOURCE_MASK, TARGET, labels, real, B * T, torch.arange(B))
    other = Translation(FACTS, drawn(seq2seq(logit_cap=1.5)), ADAM, schedule, Beam()).eval()
    for total, logits in ((task.loss(whole)[0], task(whole)), (other.loss(pairs)[0], other(pairs))):
        assert float(logits.detach().abs().max()) <= 1.5
        torch.testing.assert_close(total, F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum"))


def test_the_scores_of_a_search_are_those_of_capped_logits() -> None:
    model = drawn(seq2seq(logit_cap=1.5))
    task = Translation(
        FACTS, model, ADAM, cast(Any, Constant()), Beam(beams=3, max_length=4, length_penalty=0.0)
    ).eval()
    for row, (best, *_) in enumerate(task.translate(SOURCE, SOURCE_MASK)):
        predicted = [*best.tokens, FACTS.eos] if best.finished else [*best.tokens]
        inputs = torch.tensor([[FACTS.bos, *predicted[:-1]]])
        logits = model(SOURCE[row][None], inputs, SOURCE_MASK[row][None], torch.ones_like(inputs, dtype=torch.bool))[0]
        logs = logits.log_softmax(1)[torch.arange(len(predicted)), predicted]
        assert best.score == pytest.approx(float(logs.sum()), abs=1e-4)


@pytest.mark.parametrize("make", [decoder, seq2seq])
def test_a_cap_that_is_no_bound_is_refused(make: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^model.logit_cap = -1.0 is out of range"):
        make(logit_cap=-1.0)


# Sublayers that start at zero


@pytest.mark.parametrize("make", [decoder, encoder, seq2seq])
@pytest.mark.parametrize("parts", [{}, {"feed_forward_layer": GatedFeedForward, "norm": nn.RMSNorm}])
def test_the_last_matrix_of_each_sublayer_is_zero_and_all_others_are_as_drawn(make: Any, parts: dict[str, Any]) -> None:
    drawn_as, zero = make(**parts).state_dict(), make(zero_residual=True, **parts).state_dict()
    last = {name for name in zero if name.endswith(("attention.output.weight", "feed_forward.outer.weight"))}
    assert len(last) == {decoder: 6, encoder: 6, seq2seq: 2 * 2 + 3 * 3}[make]
    for name, tensor in zero.items():
        assert (not tensor.any()) if name in last else torch.equal(tensor, drawn_as[name]), name


def test_each_layer_starts_as_the_identity_and_learns() -> None:
    model = decoder(zero_residual=True)
    x = torch.randn(int(TARGET_MASK.sum()), WIDTH)
    assert all(torch.equal(layer(x, Unpadding.from_mask(TARGET_MASK)), x) for layer in model.layers)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(TARGET, TARGET_MASK).square().sum().backward()
        optimizer.step()
    assert [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []


@pytest.mark.parametrize("make", [decoder, encoder, seq2seq])
def test_post_norm_is_refused(make: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"PostNorm normalises .*; write model/residual=pre_norm or"):
        make(zero_residual=True, residual=PostNorm)


def test_a_sublayer_without_a_linear_layer_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"feed_forward \(Identity\) has none; write model.zero_residual=false$"
    ):
        decoder(zero_residual=True, feed_forward_layer=nn.Identity)
