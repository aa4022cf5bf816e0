"""Decoders for transformers: etude's own as GPT-2, wrapped ones as what they were.

Axes: B texts, L positions, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from etude.export.hugging_face_files import load_peer, logits_of, prove_tokenizer, write_model, write_tokenizer
from etude.export.proof import BATCH, Examples, Padded, largest_difference
from etude.models.decoder import Decoder
from etude.models.gpt2 import gpt2_config, to_gpt2
from etude.models.huggingface_files import quiet
from etude.models.huggingface_whole import WrappedModel
from etude.tasks.causal_lm import CausalLM


class HuggingFaceDecoder:
    """config.json, model.safetensors and the tokenizer's files, whose texts begin with bos and have no end."""

    def write(self, examples: Examples, folder: Path) -> None:
        """Write the model into an empty folder."""
        task = causal_lm(examples)
        decoder = cast(Decoder, task.model)
        config, weights = gpt2_config(decoder, task.facts), to_gpt2(decoder)
        write_model(folder, config.pop("model_type"), config, weights)
        write_tokenizer(folder, examples.tokenizer, decoder.max_length, starts=True, ends=False)

    def prove(self, examples: Examples, folder: Path) -> dict[str, Any]:
        """Compare ids, and logits on padded batches."""
        task, peer = causal_lm(examples), load_peer(folder, "AutoModelForCausalLM")
        rows = [[task.facts.bos, *ids[: task.text_limit]] for ids in examples.tokenizer.encode(examples.texts)]
        largest = 0.0
        for start in range(0, len(rows), BATCH):
            batch = Padded(rows[start : start + BATCH], task.facts.pad)
            with torch.no_grad():
                ours = task.model(batch.tokens, batch.mask)[batch.mask]
                theirs = logits_of(peer(input_ids=batch.tokens, attention_mask=batch.mask.long()))[batch.mask]
            largest = max(largest, largest_difference(ours, theirs, "logits"))
        return {
            "class": type(peer).__name__,
            "tokenizer": prove_tokenizer(folder, examples.tokenizer, examples.texts, starts=True, ends=False),
            "logits": {"texts": len(rows), "largest_difference": largest},
        }


class HuggingFaceWrappedDecoder(HuggingFaceDecoder):
    """Its own `save_pretrained`, and the tokenizer's files; proved as native decoders are."""

    def write(self, examples: Examples, folder: Path) -> None:
        """Write the model into an empty folder."""
        task = causal_lm(examples)
        save_whole(cast(WrappedModel, task.model), folder)
        write_tokenizer(folder, examples.tokenizer, task.model.max_length, starts=True, ends=False)


def causal_lm(examples: Examples) -> CausalLM:
    """Return the task of the examples, which is known to continue texts."""
    return cast(CausalLM, examples.task)


def save_whole(model: WrappedModel, folder: Path) -> None:
    """Write config.json and model.safetensors of a wrapped model."""
    with quiet():
        model.whole().save_pretrained(folder)
