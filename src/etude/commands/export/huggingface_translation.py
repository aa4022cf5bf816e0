"""Export of translation models to transformers: Marian for PostNorm, Pegasus for PreNorm, wrapped ones in their own class.

Axes: D model width.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Int
from torch import Tensor

from etude.commands.export.huggingface_decoder import save_wrapped
from etude.commands.export.huggingface_files import (
    activation_name,
    load_peer,
    logits_of,
    prove_tokenizer,
    write_generation,
    write_model,
    write_tokenizer,
)
from etude.commands.export.proof import (
    Outputs,
    Padded,
    ProofPairs,
    ProofTexts,
    largest_difference,
    native_translator,
    proven_beams,
    same_best,
    same_translations,
    translation,
    until_eos,
)
from etude.models.base import EncoderDecoder
from etude.models.layers.encoder_layer import EncoderLayer
from etude.models.layers.positions import Sinusoidal
from etude.models.pretrained.bart import Bart, to_bart
from etude.models.wrapped.base import WrappedModel
from etude.tasks.translation import Translation
from etude.tokenization.base import TARGET
from etude.tokenization.languages import with_prefix

INPUTS = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "fc1.weight", "shared.weight", "embed_positions.weight")
OUTPUTS = ("out_proj.weight", "out_proj.bias", "fc2.weight", "fc2.bias")


class HuggingFaceTranslation:
    """Writes config.json, generation_config.json, model.safetensors and the files of the tokenizer."""

    def write(self, examples: ProofTexts, folder: Path) -> None:
        """Write the model into an empty folder."""
        task = translation(examples)
        facts, longest, way, tokenizer = task.facts, task.model.max_length, task.direction, examples.tokenizer
        self.write_weights(task, folder)
        forced = {} if not way.before_target else {"forced_bos_token_id": way.before_target[0]}
        more = {"decoder_start_token_id": way.start, **forced}
        write_generation(folder, facts, task.decoding, longest, given=len(way.before_target), **more)
        languages = {} if tokenizer.languages is None else tokenizer.languages.settings(way)
        write_tokenizer(folder, tokenizer, longest, way.before_source, way.after_source, languages)
        if examples.targets is not None:
            write_tokenizer(folder / TARGET, examples.targets, longest, after=(facts.eos,))

    def write_weights(self, task: Translation, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        model = native_translator(task)
        family, weights = to_bart(model)
        if isinstance(model.positions, Sinusoidal):
            weights = sines_first(weights, model.width)
        config = seq2seq_config(task) | {"architectures": [family.architecture]}
        write_model(folder, family.model_type, config, weights)

    def prove(self, examples: ProofTexts, folder: Path) -> dict[str, Any]:
        """Compare ids, logits at the references, and translations by greedy and beam search."""
        task, sentences = translation(examples), ProofPairs.of(examples)
        peer = load_peer(folder, "AutoModelForSeq2SeqLM")
        beams = proven_beams(task)
        (greedy, _), (searched, _) = (sentences.native(task.model, count) for count in (1, beams))
        (peer_greedy, _), (peer_searched, _) = (
            sentences.translate(partial(generate, peer, sentences, beams=count)) for count in (1, beams)
        )
        texts = [with_prefix(task.direction.prefix, text) for text in examples.texts]
        whole = [task.direction.source(ids) for ids in task.encode(examples.texts, examples.tokenizer)]
        return {
            "class": type(peer).__name__,
            "tokenizer": prove_tokenizer(folder, examples.tokenizer, texts, whole),
            "logits": {"largest_difference": logits_difference(peer, task.model, sentences)},
            "greedy": same_translations(task.model, sentences, greedy, peer_greedy, type(peer).__name__),
            "beam": same_best(task.model, sentences, searched, peer_searched, type(peer).__name__, beams),
        }


class HuggingFaceWrappedTranslation(HuggingFaceTranslation):
    """Writes a wrapped model with its own `save_pretrained`; the proof is that of native models."""

    def write_weights(self, task: Translation, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        save_wrapped(cast(WrappedModel, task.model), folder)


def seq2seq_config(task: Translation) -> dict[str, Any]:
    """Return the arguments of the config of a BART-like model."""
    model, facts = native_translator(task), task.facts
    layers = [*model.encoder, *model.decoder]
    inner = layers[0].feed_forward.inner.out_features
    return {
        "vocab_size": model.vocabulary,
        "d_model": model.width,
        "encoder_layers": len(model.encoder),
        "decoder_layers": len(model.decoder),
        **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), model.heads),
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), inner),
        "max_position_embeddings": model.max_length,
        "activation_function": activation_name(layers[0].feed_forward.activation),
        "scale_embedding": model.scale != 1.0 if isinstance(model, Bart) else True,
        "dropout": model.dropout.probability,
        "attention_dropout": cast(EncoderLayer, model.encoder[0]).attention.attend.dropout.probability,
        "activation_dropout": layers[0].feed_forward.dropout.probability,
        **{f"{name}_token_id": getattr(facts, name) for name in ("pad", "bos", "eos")},
        "decoder_start_token_id": facts.bos,
        "forced_eos_token_id": None,
        "tie_word_embeddings": True,
    }


def sines_first(weights: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    """Reorder the D axis of all weights so that positions have Marian's order: first all sines, then all cosines.

    No output depends on the order, and the table that transformers computes itself where a file has none is then the same.
    """
    order = torch.cat([torch.arange(0, width, 2), torch.arange(1, width, 2)])
    return {name: _reordered(name, tensor, order) for name, tensor in weights.items()}


def _reordered(name: str, tensor: Tensor, order: Int[Tensor, " D"]) -> Tensor:
    if name.endswith(INPUTS):
        return tensor.index_select(1, order)
    if name.endswith(OUTPUTS) or "norm" in name:
        return tensor.index_select(0, order)
    return tensor


def logits_difference(peer: torch.nn.Module, model: EncoderDecoder, sentences: ProofPairs) -> float:
    """Return the largest difference of logits at the references, over padded batches."""
    largest = 0.0
    for rows in sentences.batches():
        source, target = sentences.source(rows), sentences.target(rows)
        with torch.no_grad():
            logits = model(source.tokens, target.tokens, source.mask, target.mask)[target.mask]
            output = peer(
                input_ids=source.tokens,
                attention_mask=source.mask.long(),
                decoder_input_ids=target.tokens,
                decoder_attention_mask=target.mask.long(),
            )
        largest = max(largest, largest_difference(logits, logits_of(output)[target.mask], "logits"))
    return largest


def generate(peer: torch.nn.Module, sentences: ProofPairs, batch: Padded, beams: int) -> Outputs:
    """Return transformers' translations of a batch, ranked by log-probability."""
    penalty = {"length_penalty": 0.0, "early_stopping": "never"} if beams > 1 else {}
    given = len(sentences.way.before_target)
    generated = cast(Any, peer).generate(
        input_ids=batch.tokens,
        attention_mask=batch.mask.long(),
        num_beams=beams,
        do_sample=False,
        max_new_tokens=sentences.limit + given,
        **penalty,
    )
    # The first token is the decoder's start, the second the language where one is given.
    return [until_eos(row[1 + given :], sentences.facts.eos) for row in generated.tolist()]
