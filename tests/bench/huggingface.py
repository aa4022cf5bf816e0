"""Hugging Face's Trainer as a contender, with models of the same shape. Needs the extra `bench` (accelerate)."""

from __future__ import annotations

import random
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from etude.types import IGNORED, Facts
from tests.bench.rounds import Stopwatch, Work

MEGA_BATCH = 50
"""Batches whose examples `group_by_length` sorts together: a round has to train them all, long and short ones."""

Example = dict[str, Any]
Collate = Callable[[Sequence[Example]], dict[str, Tensor]]


class _Watch(transformers.TrainerCallback):  # type: ignore[misc]
    """Stops the training when the round is over."""

    def __init__(self, watch: Stopwatch, units: deque[float], whole: bool) -> None:
        self.watch, self.units, self.whole = watch, units, whole

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        over = self.watch.over(self.units.popleft())
        control.should_training_stop = control.should_training_stop or (over and not self.whole)


class HuggingFaceTraining:
    """Trains on random examples for some seconds, or on one mega-batch of examples grouped by length.

    Args:
        model: The model.
        examples: Each with `input_ids`, by whose length they are grouped.
        collate: Makes the model's arguments of a batch.
        units: What a batch counts for.
        seconds: Of a round; 0: only a step, also where examples are grouped.
        batch: Examples of a batch.
        grouped: Whether batches are grouped by length.
        arguments: More of the Trainer's arguments.
    """

    def __init__(
        self,
        model: nn.Module,
        examples: Sequence[Example],
        collate: Collate,
        units: Callable[[Sequence[Example]], float],
        *,
        seconds: float,
        batch: int,
        grouped: bool = False,
        **arguments: Any,
    ) -> None:
        self.model, self.examples, self.collate, self.units = model, examples, collate, units
        self.seconds, self.batch, self.grouped, self.arguments = seconds, batch, grouped, arguments

    def __call__(self, number: int) -> Work:
        """Do a round."""
        chosen = random.Random(number).sample(self.examples, min(MEGA_BATCH * self.batch, len(self.examples)))
        counted: deque[float] = deque()

        def collate(rows: Sequence[Example]) -> dict[str, Tensor]:
            counted.append(self.units(rows))
            return self.collate(rows)

        watch = Stopwatch(self.seconds)
        with tempfile.TemporaryDirectory() as folder:
            trainer = transformers.Trainer(
                model=self.model,
                args=self._arguments(folder, number),
                train_dataset=chosen,
                data_collator=collate,
                callbacks=[_Watch(watch, counted, whole=self.grouped and self.seconds > 0)],
            )
            trainer.remove_callback(transformers.PrinterCallback)  # stdout is for the result
            found = trainer.train()
        return replace(watch.work, loss=found.training_loss)

    def _arguments(self, folder: str, number: int) -> Any:
        return transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=self.batch,
            train_sampling_strategy="group_by_length" if self.grouped else "random",
            num_train_epochs=100,
            max_steps=MEGA_BATCH if self.grouped else -1,
            optim="adamw_torch_fused",
            max_grad_norm=1.0,
            lr_scheduler_type="constant",
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
            seed=number,
            **self.arguments,
        )


def padded(rows: Sequence[Any], value: int) -> Tensor:
    """[B, L] of rows of ids."""
    return pad_sequence([torch.as_tensor(row) for row in rows], batch_first=True, padding_value=value)


def real_tokens(rows: Sequence[Example]) -> float:
    """Real tokens of source and, where there is one, target."""
    return sum(len(row["input_ids"]) + (len(row["labels"]) if "decoder" in row else 0) for row in rows)


def pair(source: Sequence[int], target: Sequence[int], facts: Facts) -> Example:
    """A sentence pair as an example."""
    return {"input_ids": [*source, facts.eos], "decoder": [facts.bos, *target], "labels": [*target, facts.eos]}


def pair_collate(facts: Facts) -> Collate:
    """Make the arguments of a sequence-to-sequence model."""

    def collate(rows: Sequence[Example]) -> dict[str, Tensor]:
        source = padded([row["input_ids"] for row in rows], facts.pad)
        return {
            "input_ids": source,
            "attention_mask": padded([[1] * len(row["input_ids"]) for row in rows], 0),
            "decoder_input_ids": padded([row["decoder"] for row in rows], facts.pad),
            "labels": padded([row["labels"] for row in rows], IGNORED),
        }

    return collate


def marian(facts: Facts, *, width: int, heads: int, layers: int, inner: int, dropout: float) -> nn.Module:
    """MarianMTModel with dropout in the places that etude's model has it."""
    config = transformers.MarianConfig(
        vocab_size=facts.vocabulary,
        decoder_vocab_size=facts.vocabulary,
        d_model=width,
        **dict.fromkeys(("encoder_layers", "decoder_layers"), layers),
        **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), heads),
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), inner),
        dropout=dropout,
        activation_dropout=dropout,
        attention_dropout=0.0,
        activation_function="relu",
        max_position_embeddings=256,
        scale_embedding=True,
        share_encoder_decoder_embeddings=True,
        pad_token_id=facts.pad,
        eos_token_id=facts.eos,
        decoder_start_token_id=facts.bos,
        forced_eos_token_id=None,
    )
    return transformers.MarianMTModel(config)
