"""Export of causal language models to transformers: etude's own as GPT2LMHeadModel, wrapped ones in their own class.

Axes: V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from etude.commands.export.huggingface_files import (
    load_peer,
    logits_of,
    prove_chat_template,
    prove_tokenizer,
    write_generation,
    write_model,
    write_tokenizer,
)
from etude.commands.export.proof import BATCH, Padded, ProofTexts, largest_difference, same_greedy, until_eos
from etude.models.decoder import Decoder
from etude.models.generation.search import Greedy
from etude.models.pretrained.gpt2 import gpt2_config, to_gpt2
from etude.models.wrapped.base import WrappedModel
from etude.models.wrapped.files import quiet
from etude.tasks.causal_lm import CausalLM
from etude.tasks.dialogue.instruction_tuning import InstructionTuning

LOGITS = 2**26
"""Largest number of logits of a batch of several texts: 256 MiB in float32."""

PROMPTS = 16
"""Number of texts whose beginnings are continued."""

PROMPT = 32
"""Largest number of tokens of such a beginning, bos included."""

CONTINUED = 64
"""Largest number of tokens of a continuation, eos included."""


class HuggingFaceDecoder:
    """Writes config.json, generation_config.json, model.safetensors and the files of the tokenizer.

    The tokenizer puts bos before a text, as the run does, and nothing after it, so that `generate` continues the text.
    """

    def write(self, examples: ProofTexts, folder: Path) -> None:
        """Write the model into an empty folder.

        Raises:
            ConfigurationError: If GPT-2 lacks a part of the decoder.
        """
        task = causal_lm(examples)
        positions = task.model.max_length
        self.write_weights(task, folder)
        # Unlike a run's decoder, transformers cannot generate past the last position: half of them are left for the prompt.
        ending = dataclasses.replace(task.facts, eos=task.end)
        write_generation(folder, ending, task.decoding, max(positions // 2, 1))
        write_tokenizer(folder, examples.tokenizer, positions, before=(task.facts.bos,))

    def write_weights(self, task: CausalLM, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        decoder = cast(Decoder, task.model)
        weights, config = to_gpt2(decoder), gpt2_config(decoder, task.facts)
        write_model(folder, config.pop("model_type"), config, weights)

    def prove(self, examples: ProofTexts, folder: Path) -> dict[str, Any]:
        """Compare ids, logits on padded batches, and greedy continuations of the beginnings of texts."""
        task, texts = causal_lm(examples), examples.texts
        with_bos = [[task.facts.bos, *ids] for ids in examples.tokenizer.encode(texts)]
        rows = [ids[: task.model.max_length] for ids in with_bos]
        # transformers warns of texts longer than the model, and of sampling options in generation_config.json.
        with quiet():
            peer = load_peer(folder, "AutoModelForCausalLM")
            proof: dict[str, Any] = {
                "class": type(peer).__name__,
                "tokenizer": prove_tokenizer(folder, examples.tokenizer, texts, with_bos),
                "logits": {"texts": len(rows), "largest_difference": logits_difference(peer, task, rows)},
                "greedy": same_continuations(peer, task, rows[:PROMPTS]),
            }
            if isinstance(task, InstructionTuning):
                proof["chat_template"] = prove_chat_template(folder, examples.tokenizer, texts)
            return proof


class HuggingFaceWrappedDecoder(HuggingFaceDecoder):
    """Writes a wrapped model with its own `save_pretrained`; the proof is that of native decoders."""

    def write_weights(self, task: CausalLM, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        save_wrapped(cast(WrappedModel, task.model), folder)


def save_wrapped(model: WrappedModel, folder: Path) -> None:
    """Write config.json and model.safetensors of a wrapped model."""
    with quiet():
        model.whole().save_pretrained(folder)


def causal_lm(examples: ProofTexts) -> CausalLM:
    """Return the task of the examples, known to be a causal language model."""
    return cast(CausalLM, examples.task)


def logits_difference(peer: torch.nn.Module, task: CausalLM, rows: Sequence[Sequence[int]]) -> float:
    """Return the largest difference of logits at real tokens, over padded batches of texts that begin with bos.

    Raises:
        MismatchError: If it exceeds the tolerance.
    """
    logits_per_text = len(task.model.output_weight) * max(map(len, rows))
    size, largest = max(1, min(BATCH, LOGITS // logits_per_text)), 0.0
    for start in range(0, len(rows), size):
        batch = Padded(rows[start : start + size], task.facts.pad)
        with torch.no_grad():
            logits = task.model(batch.tokens, batch.mask)[batch.mask]
            peer_logits = logits_of(peer(input_ids=batch.tokens, attention_mask=batch.mask.long()))[batch.mask]
        largest = max(largest, largest_difference(logits, peer_logits, "logits"))
    return largest


def same_continuations(peer: torch.nn.Module, task: CausalLM, rows: Sequence[Sequence[int]]) -> dict[str, int]:
    """Count the texts that the run and transformers continue alike by greedy search, up to the last position.

    Args:
        peer: The exported model in transformers.
        task: Task of the run.
        rows: Ids of texts that begin with bos, of which the first `PROMPT` become the prompt.

    Raises:
        MismatchError: If a continuation differs, other than where two tokens are equally probable.
    """
    positions = task.model.max_length
    prompts = [list(row[: max(1, min(PROMPT, positions // 2))]) for row in rows]
    # The last generated token is not read, and needs no position.
    limit = min(CONTINUED, positions + 1 - max(map(len, prompts)))
    continuations = task.continuations([prompt[1:] for prompt in prompts], Greedy(max_length=limit))
    outputs = [first.tokens[len(prompt) - 1 :] for prompt, (first,) in zip(prompts, continuations, strict=True)]
    peer_outputs = [_generate(peer, prompt, limit, task.end) for prompt in prompts]

    def next_logits(row: int, prefix: Sequence[int]) -> Float[Tensor, " V"]:
        tokens = torch.tensor([[*prompts[row], *prefix]])
        with torch.no_grad():
            return cast(Tensor, task.model(tokens, torch.ones_like(tokens, dtype=torch.bool))[0, -1])

    message = f"{type(peer).__name__} continues text"
    return {"texts": len(prompts), **same_greedy(outputs, peer_outputs, next_logits, task.end, limit, message)}


def _generate(peer: torch.nn.Module, prompt: list[int], limit: int, eos: int) -> tuple[int, ...]:
    """Return the tokens that transformers' `generate` adds to one text."""
    tokens = torch.tensor([prompt])
    generated = cast(Any, peer).generate(
        input_ids=tokens, attention_mask=torch.ones_like(tokens), num_beams=1, do_sample=False, max_new_tokens=limit
    )
    return until_eos(generated[0, len(prompt) :].tolist(), eos)
