"""The count of operations is that of torch's own counter, for every task and for whatever part of a model trains.

Three things set the two apart, and are taken away here. torch's counter does not know the CPU's fused attention, so
attention is computed by plain products; nor the product in place that sums the gradient of the output matrix, which is
added; and it counts padding, of which these batches have none. What is left is equal, operation for operation, except
where it is said.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Int
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from etude.models.decoder import Decoder
from etude.models.encoder import Encoder
from etude.models.generation.search import Greedy
from etude.models.layers.embeddings import SeparateEmbeddings
from etude.models.layers.feed_forward import GatedFeedForward
from etude.models.layers.residual import PostNorm
from etude.models.losses.consistency import RDrop
from etude.models.seq2seq import Seq2Seq
from etude.optim.finetune.base import Finetune
from etude.optim.finetune.lora import LoRA
from etude.optim.finetune.selection import BitFit, Head, TopLayers
from etude.optim.schedules import Constant
from etude.tasks.base import Task
from etude.tasks.causal_lm import CausalLM
from etude.tasks.classification import Classification
from etude.tasks.masked_lm import MaskedLM
from etude.tasks.question_answering import QuestionAnswering
from etude.tasks.token_classification import TokenClassification
from etude.tasks.translation import Translation
from etude.tokenization.windows import Windows
from etude.types import (
    IGNORED,
    Batch,
    CausalLMBatch,
    ClassificationBatch,
    Facts,
    MaskedLMBatch,
    QuestionBatch,
    TokenClassificationBatch,
    TranslationBatch,
)

FACTS = Facts(vocabulary=31, pad=0, bos=1, eos=2, mask=3, classes=("a", "b", "c"))
ROWS, SOURCE, TARGET = 4, 7, 5
SCHEDULE: Any = Constant()  # frozen, which a protocol's attributes cannot say
ADAM = partial(torch.optim.AdamW, lr=1e-3)

Case = tuple[Task, Batch, Int[np.ndarray, "..."], Int[np.ndarray, " N"]]


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(4, FACTS.vocabulary, shape, generator=torch.Generator().manual_seed(1))


def translation(consistency: RDrop | None = None, **parts: Any) -> Case:
    model = Seq2Seq(FACTS, 12, 3, 2, 3, 20, dropout=0.1, max_length=9, **parts)
    task = Translation(FACTS, model, ADAM, SCHEDULE, Greedy(), consistency=consistency)
    source, target = ids(ROWS, SOURCE), ids(ROWS, TARGET)
    real = torch.ones_like
    batch = TranslationBatch(
        source, real(source, dtype=torch.bool), target, target, real(target, dtype=torch.bool), 20, torch.arange(ROWS)
    )
    return task, batch, np.array([[SOURCE, TARGET]] * ROWS), np.full(ROWS, TARGET)


def masked_lm() -> Case:
    task = MaskedLM(FACTS, encoder(), ADAM, SCHEDULE)
    tokens = ids(ROWS, SOURCE)
    labels = torch.where(torch.arange(SOURCE) < 2, tokens, IGNORED)
    batch = MaskedLMBatch(tokens, torch.ones_like(tokens, dtype=torch.bool), labels, 2 * ROWS, torch.arange(ROWS))
    return task, batch, np.full(ROWS, SOURCE), np.full(ROWS, 2)


def classification(**parts: Any) -> Case:
    task = Classification(FACTS, encoder(**parts), ADAM, SCHEDULE, pooling="first")
    tokens, labels = ids(ROWS, SOURCE), torch.tensor([0, 2, 1, 1])
    batch = ClassificationBatch(tokens, torch.ones_like(tokens, dtype=torch.bool), labels, ROWS, torch.arange(ROWS))
    return task, batch, np.full(ROWS, SOURCE), np.ones(ROWS, np.int64)


def causal_lm(**parts: Any) -> Case:
    task = CausalLM(FACTS, Decoder(FACTS, 12, 3, 2, 20, 0.1, 9, **parts), ADAM, SCHEDULE, Greedy())
    tokens = ids(ROWS, SOURCE)
    mask, sizes = torch.ones_like(tokens, dtype=torch.bool), torch.ones(ROWS, dtype=torch.long)
    batch = CausalLMBatch(tokens, mask, tokens, None, ROWS * SOURCE, torch.arange(ROWS), sizes)
    return task, batch, np.full(ROWS, SOURCE), np.full(ROWS, SOURCE)


def token_classification() -> Case:
    task = TokenClassification(FACTS, encoder(), ADAM, SCHEDULE)
    tokens = ids(ROWS, SOURCE)
    labels = torch.where(torch.arange(SOURCE) < 2, tokens % 3, IGNORED)
    mask, numbers = torch.ones_like(tokens, dtype=torch.bool), torch.arange(ROWS)
    batch = TokenClassificationBatch(tokens, mask, labels, 2 * ROWS, numbers, numbers)
    return task, batch, np.full(ROWS, SOURCE), np.full(ROWS, 2)


def question_answering() -> Case:
    task = QuestionAnswering(FACTS, encoder(), ADAM, SCHEDULE, Windows(9, 2, 2))
    tokens, three = ids(ROWS, SOURCE), torch.full((ROWS,), 3)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    batch = QuestionBatch(tokens, mask, three, three * 0, three, three + 1, ROWS, three, three)
    return task, batch, np.full(ROWS, SOURCE), np.ones(ROWS, np.int64)


def encoder(**parts: Any) -> Encoder:
    return Encoder(FACTS, 12, 3, 3, 20, dropout=0.1, max_length=9, residual=PostNorm, **parts)


def counted_by_torch(task: Task, batch: Batch) -> int:
    def in_place(_sum: Any, left: list[int], right: list[int], **_: Any) -> int:
        return 2 * left[0] * left[1] * right[1]

    known = {torch.ops.aten.addmm_: in_place}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=known) as counter:
        task.train().training_loss(batch)[0].backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("case", "finetune"),
    [
        (translation, None),
        (partial(translation, embeddings=SeparateEmbeddings), None),
        (partial(translation, residual=PostNorm, feed_forward_layer=GatedFeedForward), None),
        (partial(translation, query_key_norm=True, logit_cap=3.0), None),
        (partial(translation, query_key_norm=True), TopLayers(4)),
        (masked_lm, None),
        (classification, None),
        (partial(classification, query_key_norm=True), None),
        (partial(classification, query_key_norm=True), BitFit()),
        (partial(causal_lm, query_key_norm=True, logit_cap=3.0, zero_residual=True), None),
        (causal_lm, None),
        (causal_lm, TopLayers(1)),
        (question_answering, None),
        (token_classification, None),
        (classification, Head()),
        (classification, TopLayers(1)),
        (classification, BitFit()),
        (translation, TopLayers(2)),
        (translation, TopLayers(4)),
        (translation, BitFit()),
        (partial(translation, residual=PostNorm), BitFit()),
    ],
)
def test_the_count_is_that_of_torch(case: Any, finetune: Finetune | None) -> None:
    task, batch, lengths, counts = case()
    if finetune is not None:
        task.adjust(finetune)
    found = task.training_flops(lengths, counts)
    assert found is not None
    assert int(found.sum()) == counted_by_torch(task, batch)


def test_two_passes_are_counted_twice() -> None:
    task, batch, lengths, counts = translation(RDrop())
    found, once = task.step_flops(lengths, counts), task.training_flops(lengths, counts)
    assert found is not None
    assert once is not None
    assert (found == 2 * once).all()
    # The two passes add to the gradient of one output matrix by the same products.
    assert int(found.sum()) == counted_by_torch(task, batch)


def test_adapters_are_counted_but_for_what_makes_their_matrices() -> None:
    """A product of an adapter's factors with constants is made once for a batch, whatever its size: a hundredth here."""
    task, batch, lengths, counts = classification()
    task.adjust(LoRA(rank=2, modules=("query", "value", "outer")))
    found = task.training_flops(lengths, counts)
    assert found is not None
    assert int(found.sum()) == pytest.approx(counted_by_torch(task, batch), rel=0.02)


def test_of_a_large_model_it_is_six_for_each_parameter_and_token() -> None:
    """The rule of Kaplan et al. 2020, section 2.1, where attention and embeddings are small beside the rest."""
    with torch.device("meta"):
        model = Encoder(FACTS, 1024, 8, 6, 4096, dropout=0.0, max_length=64)
    task = MaskedLM(FACTS, model, ADAM, SCHEDULE)
    found = task.training_flops(np.array([64]), np.array([64]))
    assert found is not None
    matrices = sum(module.weight.numel() for module in task.modules() if isinstance(module, nn.Linear))
    assert found[0] == pytest.approx(6 * matrices * 64, rel=0.02)
