"""Causal language models for transformers: etude's own as GPT2LMHeadModel, wrapped ones as what they were.

Axes: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from etude.commands.export.huggingface_files import (
    load_peer,
    logits_of,
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

LOGITS = 2**26
"""Most logits of a batch, if it has more than one text: 256 MiB in float32."""

PROMPTS = 16
"""Texts whose beginnings are continued."""

PROMPT = 32
"""Most tokens of such a beginning, bos included."""

CONTINUED = 64
"""Most tokens that are added to it, eos included."""


class HuggingFaceDecoder:
    """config.json, generation_config.json, model.safetensors and the tokenizer's files of a causal language model.

    The tokenizer puts bos before a text, as the run does, and nothing behind it: so `generate` continues the text.
    """

    def write(self, examples: ProofTexts, folder: Path) -> None:
        """Write the model into an empty folder.

        Raises:
            ConfigurationError: If GPT-2 has not the decoder's parts.
        """
        task = causal_lm(examples)
        positions = task.model.max_length
        self.write_weights(task, folder)
        # transformers cannot go on where positions end, as a run's decoder does: half of them are left for the prompt.
        write_generation(folder, task.facts, task.decoding, max(positions // 2, 1))
        write_tokenizer(folder, examples.tokenizer, positions, starts=True, ends=False)

    def write_weights(self, task: CausalLM, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        decoder = cast(Decoder, task.model)
        weights, config = to_gpt2(decoder), gpt2_config(decoder, task.facts)
        write_model(folder, config.pop("model_type"), config, weights)

    def prove(self, examples: ProofTexts, folder: Path) -> dict[str, Any]:
        """Compare ids, logits on padded batches, and what transformers' `generate` adds to beginnings of texts."""
        task, texts = causal_lm(examples), examples.texts
        begun = [[task.facts.bos, *ids] for ids in examples.tokenizer.encode(texts)]
        rows = [ids[: task.model.max_length] for ids in begun]
        # It warns of texts that are longer than the model, and of what generation_config.json says of samples.
        with quiet():
            peer = load_peer(folder, "AutoModelForCausalLM")
            return {
                "class": type(peer).__name__,
                "tokenizer": prove_tokenizer(folder, examples.tokenizer, texts, begun),
                "logits": {"texts": len(rows), "largest_difference": logits_difference(peer, task, rows)},
                "greedy": same_continuations(peer, task, rows[:PROMPTS]),
            }


class HuggingFaceWrappedDecoder(HuggingFaceDecoder):
    """Its own `save_pretrained`, and the tokenizer's files; proved as native decoders are."""

    def write_weights(self, task: CausalLM, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        save_whole(cast(WrappedModel, task.model), folder)


def save_whole(model: WrappedModel, folder: Path) -> None:
    """Write config.json and model.safetensors of a wrapped model."""
    with quiet():
        model.whole().save_pretrained(folder)


def causal_lm(examples: ProofTexts) -> CausalLM:
    """Return the task of the examples, which is known to be a causal language model."""
    return cast(CausalLM, examples.task)


def logits_difference(peer: torch.nn.Module, task: CausalLM, rows: Sequence[Sequence[int]]) -> float:
    """Return the largest difference of logits at the real tokens of texts that begin with bos, batches padded.

    Raises:
        MismatchError: If it is too large.
    """
    cells = len(task.model.output_weight) * max(map(len, rows))
    size, largest = max(1, min(BATCH, LOGITS // cells)), 0.0
    for start in range(0, len(rows), size):
        batch = Padded(rows[start : start + size], task.facts.pad)
        with torch.no_grad():
            ours = task.model(batch.tokens, batch.mask)[batch.mask]
            theirs = logits_of(peer(input_ids=batch.tokens, attention_mask=batch.mask.long()))[batch.mask]
        largest = max(largest, largest_difference(ours, theirs, "logits"))
    return largest


def same_continuations(peer: torch.nn.Module, task: CausalLM, rows: Sequence[Sequence[int]]) -> dict[str, int]:
    """Count the texts that both libraries continue alike by greedy search, up to GPT-2's last position.

    Args:
        peer: The model in transformers.
        task: The run's.
        rows: Ids of texts that begin with bos, of which at most `PROMPT` are kept.

    Raises:
        MismatchError: If one is continued otherwise, and not because two tokens are equally probable.
    """
    positions, facts = task.model.max_length, task.facts
    prompts = [list(row[: max(1, min(PROMPT, positions // 2))]) for row in rows]
    # The last token that is added is not read: it needs no position.
    limit = min(CONTINUED, positions + 1 - max(map(len, prompts)))
    found = task.continuations([prompt[1:] for prompt in prompts], Greedy(max_length=limit))
    ours = [first.tokens[len(prompt) - 1 :] for prompt, (first,) in zip(prompts, found, strict=True)]
    theirs = [_generated(peer, prompt, limit, facts.eos) for prompt in prompts]

    def following(row: int, begun: Sequence[int]) -> Float[Tensor, " V"]:
        tokens = torch.tensor([[*prompts[row], *begun]])
        with torch.no_grad():
            return cast(Tensor, task.model(tokens, torch.ones_like(tokens, dtype=torch.bool))[0, -1])

    says = f"{type(peer).__name__} continues text"
    return {"texts": len(prompts), **same_greedy(ours, theirs, following, facts.eos, limit, says)}


def _generated(peer: torch.nn.Module, prompt: list[int], limit: int, eos: int) -> tuple[int, ...]:
    """Return the tokens that transformers' `generate` adds to one text."""
    tokens = torch.tensor([prompt])
    found = cast(Any, peer).generate(
        input_ids=tokens, attention_mask=torch.ones_like(tokens), num_beams=1, do_sample=False, max_new_tokens=limit
    )
    return until_eos(found[0, len(prompt) :].tolist(), eos)
