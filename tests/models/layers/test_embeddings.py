"""Embeddings: which matrices are one."""

from __future__ import annotations

import pytest
import torch

from etude.errors import ConfigurationError
from etude.models.layers.embeddings import Embeddings, SeparateEmbeddings, SharedEmbeddings, TiedOutputEmbeddings

WIDTH, SOURCE, TARGET = 3, 5, 7


def matrices(embeddings: Embeddings) -> tuple[torch.Tensor, torch.Tensor]:
    return embeddings.source(torch.arange(SOURCE)), embeddings.target(torch.arange(TARGET))


def test_shared_is_one_matrix() -> None:
    shared = SharedEmbeddings(TARGET, TARGET, WIDTH)
    source, target = matrices(shared)
    assert torch.equal(source, shared.output_weight[:SOURCE])
    assert torch.equal(target, shared.output_weight)
    assert list(shared.state_dict()) == ["weight"]


def test_a_tied_output_is_the_targets_matrix() -> None:
    tied = TiedOutputEmbeddings(SOURCE, TARGET, WIDTH)
    source, target = matrices(tied)
    assert source.shape == (SOURCE, WIDTH)
    assert torch.equal(target, tied.output_weight)
    assert len(list(tied.parameters())) == 2


def test_separate_is_three_matrices() -> None:
    separate = SeparateEmbeddings(SOURCE, TARGET, WIDTH)
    _, target = matrices(separate)
    assert separate.output_weight.shape == target.shape == (TARGET, WIDTH)
    assert not torch.equal(target, separate.output_weight)
    assert len(list(separate.parameters())) == 3


@pytest.mark.parametrize(
    "embeddings", [SharedEmbeddings(TARGET, TARGET, WIDTH), TiedOutputEmbeddings(SOURCE, TARGET, WIDTH)]
)
def test_both_sides_are_each_one_after_the_other(embeddings: Embeddings) -> None:
    source, target = torch.tensor([4, 0, 4]), torch.tensor([6, 4])
    expected = torch.cat([embeddings.source(source), embeddings.target(target)])
    assert torch.equal(embeddings.both(source, target), expected)


def test_two_vocabularies_cannot_be_shared() -> None:
    with pytest.raises(ConfigurationError, match=r"vocabularies of 5 and 7.*model/embeddings=tied_output"):
        SharedEmbeddings(SOURCE, TARGET, WIDTH)
