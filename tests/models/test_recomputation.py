"""Layers that compute their activations anew: the same bits, dropout included, and fewer tensors kept."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from etude.models.decoder import Decoder
from etude.models.encoder import Encoder
from etude.models.layers.residual import PostNorm
from etude.models.recomputation import recompute_activations
from etude.models.seq2seq import Seq2Seq
from etude.types import Facts

FACTS = Facts(50, pad=0, bos=1, eos=2, mask=3)
SHAPE = {"width": 12, "heads": 2, "feed_forward": 20, "dropout": 0.2, "max_length": 16, "attention_dropout": 0.1}
STEPS = 5

Loss = Callable[[Tensor, Tensor], Tensor]


def pretraining(model: Encoder) -> Loss:
    head = model.masked_lm_head()
    return lambda tokens, mask: head(model.hidden(tokens, mask)).logsumexp(1).sum()


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[..., Loss]]] = {
    "causal_lm": (
        lambda: Decoder(FACTS, layers=3, **SHAPE),  # type: ignore[arg-type]
        lambda model: lambda tokens, mask: model.logits(model.hidden(tokens, mask)).logsumexp(1).sum(),
    ),
    "masked_lm": (lambda: Encoder(FACTS, layers=3, residual=PostNorm, **SHAPE), pretraining),  # type: ignore[arg-type]
    "classification": (
        lambda: Encoder(FACTS, layers=3, **SHAPE),  # type: ignore[arg-type]
        lambda model: lambda tokens, mask: model.cls_states(tokens, mask).logsumexp(1).sum(),
    ),
    "translation": (
        lambda: Seq2Seq(FACTS, encoder_layers=2, decoder_layers=3, **SHAPE),  # type: ignore[arg-type]
        lambda model: lambda tokens, mask: model.hidden(tokens, tokens, mask, mask).logsumexp(1).sum(),
    ),
}


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    lengths = torch.randint(1, 15, (4,), generator=generator)
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return torch.randint(4, 50, mask.shape, generator=generator), mask


def trained(model: nn.Module, loss: Loss) -> list[Tensor]:
    """Train for some steps, each with a seed of its own as in a run; return losses, what is drawn next, and the weights."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    found = []
    for step in range(STEPS):
        torch.manual_seed(step)
        total = loss(*batch(step))
        total.backward()
        found += [total.detach(), torch.rand(3)]
        optimizer.step()
        optimizer.zero_grad()
    return [*found, *model.state_dict().values()]


@pytest.mark.parametrize("name", CASES)
def test_every_step_has_the_same_bits(name: str) -> None:
    make, loss = CASES[name]
    torch.manual_seed(1)
    model = make().train()
    again = copy.deepcopy(model)
    recompute_activations(again)
    assert list(again.state_dict()) == list(model.state_dict())
    torch.manual_seed(2)
    plain = trained(model, loss(model))
    torch.manual_seed(2)
    for ours, theirs in zip(trained(again, loss(again)), plain, strict=True):
        assert torch.equal(ours, theirs)


def kept(loss: Loss) -> int:
    """The bytes of all tensors that are saved for the gradient of a loss."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        total = loss(*batch(1))
    assert total.requires_grad
    return sum(sizes.values())


@pytest.mark.parametrize("name", CASES)
def test_activations_are_not_kept(name: str) -> None:
    make, loss = CASES[name]
    model = make().train()
    computed, plain = loss(model), kept(loss(model))
    recompute_activations(model)
    assert kept(computed) < 0.7 * plain


def test_an_evaluation_and_a_copy_of_the_model_are_what_they_were() -> None:
    model = Decoder(FACTS, layers=2, **SHAPE).eval()  # type: ignore[arg-type]
    expected = model(*batch(3))
    recompute_activations(model)
    assert torch.equal(model(*batch(3)), expected)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for weight in changed.layers.parameters():
            weight.zero_()
    assert not torch.equal(changed(*batch(3)), expected)  # its layers are its own
    assert torch.equal(model(*batch(3)), expected)
