"""The loss on conversations, and its gradients, are those of TRL's SFTTrainer with `assistant_only_loss=True`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from etude.models.base import TextDecoder
from etude.models.generation.search import Greedy
from etude.models.wrapped.huggingface import HuggingFace
from etude.models.wrapped.wrapped_decoder import WrappedDecoder
from etude.optim.schedules import Constant
from etude.tasks.dialogue.instruction_tuning import InstructionTuning
from tests.data.conversations.small_conversations import batch_of, data_of, rows_of, some, write
from tests.tokenization.chat_templates import CONTENT_ALONE, MARKED, make_tokenizer, save_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny Llama of random weights, with a tokenizer and conversations."""
    tokenizer = make_tokenizer(MARKED)
    ids = {"pad_token_id": tokenizer.pad, "bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos}
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.vocabulary,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=128,
        initializer_range=0.2,
        **ids,
    )
    torch.manual_seed(2)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, MARKED)
    write(tmp_path / "train.jsonl", some(12))
    write(tmp_path / "val.jsonl", some(5, seed=2))
    return tmp_path


def their_loss(folder: Path) -> tuple[float, dict[str, torch.Tensor], list[tuple[list[int], list[int]]]]:
    """Return TRL's loss over all training conversations, its gradients by name, and the ids and labels of each."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    peer = transformers.AutoTokenizer.from_pretrained(folder)
    peer.split_special_tokens = False
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = [{"messages": [message._asdict() for message in one]} for one in some(12)]
    arguments: dict[str, Any] = {
        "output_dir": str(folder / "trl"),
        "assistant_only_loss": True,
        "per_device_train_batch_size": len(rows),
        "max_length": 128,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "loss_type": "nll",
        "eos_token": "</s>",
    }
    trainer = SFTTrainer(
        model, args=SFTConfig(**arguments), train_dataset=Dataset.from_list(rows), processing_class=peer
    )
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    found = {name: parameter.grad for name, parameter in trainer.model.named_parameters()}
    masks = batch["attention_mask"].bool()
    read = [
        (ids[mask].tolist(), labels[mask].tolist())
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], masks, strict=True)
    ]
    return float(loss.detach()), found, read


def our_task(folder: Path) -> tuple[InstructionTuning, WrappedDecoder]:
    data = data_of(folder, make_tokenizer(MARKED))
    model = HuggingFace(str(folder)).build(data.facts, TextDecoder)
    assert isinstance(model, WrappedDecoder)
    task = InstructionTuning(data.facts, model, partial(torch.optim.SGD, lr=0.1), Constant(), Greedy())
    return task.train(), model


@pytest.mark.parametrize("packing", [True, False])
def test_loss_and_gradients_are_those_of_trl(folder: Path, packing: bool) -> None:
    expected, gradients, read = their_loss(folder)
    rows = rows_of(data_of(folder, make_tokenizer(MARKED), packing=packing))
    batch = batch_of(rows)
    assert (batch.documents is not None) == packing
    task, model = our_task(folder)
    loss, count = task.loss(batch)
    assert int(count) == sum(label >= 0 for _, labels in read for label in labels)
    assert float((loss / count).detach()) == pytest.approx(expected, abs=1e-6)
    (loss / count).backward()
    own = _gradients(model)
    assert own.keys() == gradients.keys()
    for name, gradient in own.items():
        torch.testing.assert_close(gradient, gradients[name], rtol=1e-4, atol=1e-7, msg=name)


def _gradients(model: WrappedDecoder) -> dict[str, torch.Tensor | None]:
    """Return the gradients by the names of transformers; the output layer is a matrix of ours."""
    named = {name: parameter.grad for name, parameter in model.model.named_parameters()}
    return {**named, "lm_head.weight": model.matrix.grad}


def test_ids_and_labels_are_those_of_trl_up_to_the_last_answer(folder: Path) -> None:
    _, _, read = their_loss(folder)
    rows = rows_of(data_of(folder, make_tokenizer(MARKED), packing=False))
    batch = batch_of(rows)
    own = {}
    for ids, labels in zip((one for row in range(12) for one in rows.ids(row)), batch.labels.tolist(), strict=True):
        own[tuple(ids)] = labels[: len(ids) - 1]
    for ids, labels in read:
        cut = max(place + 1 for place, label in enumerate(labels) if label >= 0)
        assert own[tuple(ids[:cut])] == labels[1:cut]


def test_trl_warns_where_the_end_of_a_turn_is_outside_of_the_marks_and_we_learn_it(folder: Path) -> None:
    from trl.chat_template_utils import is_chat_template_stop_token_trained

    peer = transformers.AutoTokenizer.from_pretrained(folder)
    assert is_chat_template_stop_token_trained(peer, chat_template=MARKED)
    assert not is_chat_template_stop_token_trained(peer, chat_template=CONTENT_ALONE)
    inside, outside = (
        rows_of(data_of(folder, make_tokenizer(template))).counts.sum() for template in (MARKED, CONTENT_ALONE)
    )
    assert inside == outside
