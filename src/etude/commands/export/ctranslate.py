"""Export of translation models to CTranslate2, in float32 or quantized.

CTranslate2's converter of transformers models cannot be used: for Marian it drops the last row of the vocabulary and starts
from a zero embedding, and for Pegasus it starts from padding and adds no eos to the source, none of which etude's models do.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etude.commands.export.huggingface_files import write_tokenizer
from etude.commands.export.huggingface_translation import seq2seq_config
from etude.commands.export.proof import (
    Outputs,
    Padded,
    ProofPairs,
    ProofTexts,
    native_translator,
    proven_beams,
    same_best,
    same_translations,
    translation,
)
from etude.errors import ConfigurationError
from etude.extras import optional
from etude.metrics.text_metrics import text_scores
from etude.metrics.translation import BLEU
from etude.models.layers.residual import PreNorm
from etude.models.pretrained.bart import to_bart
from etude.models.pretrained.encoder_decoder_families import BIAS, POSITIONS, SHARED, SIDES, EncoderDecoderFamily
from etude.tokenization.base import Tokenizer

QUANTIZATIONS = ("int8", "int8_float32", "int16")
EXACT = "float32"
"""Name of the temporary folder, inside the export, of the model without quantization."""


class CTranslate2:
    """Writes model.bin, config.json, shared_vocabulary.json, and the files of the tokenizer.

    Args:
        quantization: Quantization of the weights; None: float32.

    Raises:
        ConfigurationError: If there is no such quantization, or CTranslate2 is not installed.
    """

    def __init__(self, quantization: Any) -> None:
        if quantization not in (None, *QUANTIZATIONS):
            raise ConfigurationError(
                f"quantization={quantization} is not one of {', '.join(QUANTIZATIONS)}; leave it out for float32"
            )
        self.library = optional("ctranslate2", "to=ctranslate2", "export")
        self.quantization = quantization

    def write(self, examples: ProofTexts, folder: Path) -> None:
        """Write the model into an empty folder."""
        self.save(examples, folder, self.quantization)
        task, way = translation(examples), translation(examples).direction
        write_tokenizer(folder, examples.tokenizer, task.model.max_length, way.before_source, way.after_source)

    def save(self, examples: ProofTexts, folder: Path, quantization: str | None) -> None:
        """Write the files of the model."""
        specification = self.specification(examples)
        specification.validate()
        specification.optimize(quantization=quantization)
        folder.mkdir(exist_ok=True)
        specification.save(str(folder))

    def specification(self, examples: ProofTexts) -> Any:
        """Return CTranslate2's specification of the model, with its weights."""
        task = translation(examples)
        model = native_translator(task)
        family, weights = to_bart(model)
        config = seq2seq_config(task)
        name = config["activation_function"]
        if name not in ACTIVATIONS:
            raise ConfigurationError(
                f"CTranslate2 has no activation {name}, only {', '.join(ACTIVATIONS)}; write to=huggingface or to=onnx, or "
                "train with model/feed_forward=relu"
            )
        activation = getattr(self.library.specs.Activation, ACTIVATIONS[name])
        specification = self.library.specs.TransformerSpec.from_config(
            (len(model.encoder), len(model.decoder)),
            model.heads,
            pre_norm=family.residual is PreNorm,
            activation=activation,
            layernorm_embedding=family.embedding_norm,
        )
        scale = model.width**0.5 if config["scale_embedding"] else 1.0
        for side in SIDES:
            _fill_stack(getattr(specification, side), side, weights, family, scale)
        specification.decoder.projection.weight = weights[SHARED]
        if weights[BIAS].any():
            specification.decoder.projection.bias = weights[BIAS][0]
        _describe(specification, examples.tokenizer)
        return specification

    def prove(self, examples: ProofTexts, folder: Path) -> dict[str, Any]:
        """Compare translations in float32, and measure BLEU and speed, also of the quantized model."""
        task, sentences = translation(examples), ProofPairs.of(examples)
        beams = proven_beams(task)
        exact = folder
        if self.quantization is not None:
            exact = folder / EXACT
            self.save(examples, exact, None)
        native = [sentences.native(task.model, count) for count in (1, beams)]
        peer = self._translations(exact, "float32", examples.tokenizer, sentences, beams)
        proof = {
            "greedy": same_translations(task.model, sentences, native[0][0], peer[0][0], "CTranslate2"),
            "beam": same_best(task.model, sentences, native[1][0], peer[1][0], "CTranslate2", beams),
            "run": _measurements(examples, sentences, native),
            "float32": _measurements(examples, sentences, peer),
        }
        if self.quantization is not None:
            for file in exact.iterdir():
                file.unlink()
            exact.rmdir()
            quantized = self._translations(folder, self.quantization, examples.tokenizer, sentences, beams)
            proof[self.quantization] = _measurements(examples, sentences, quantized)
        return proof

    def _translations(
        self, folder: Path, compute: str, tokenizer: Tokenizer, sentences: ProofPairs, beams: int
    ) -> list[tuple[Outputs, float]]:
        """Return CTranslate2's translations by greedy and by beam search, each with its seconds."""
        vocabulary = vocabulary_of(tokenizer)
        ids = {piece: index for index, piece in enumerate(vocabulary)}
        translator = self.library.Translator(
            str(folder), device="cpu", compute_type=compute, inter_threads=1, intra_threads=torch.get_num_threads()
        )
        # By default an output has at least one token, and sources are truncated at 1,024.
        search = {
            "length_penalty": 0.0,
            "min_decoding_length": 0,
            "max_decoding_length": sentences.limit,
            "max_input_length": 0,
        }

        def translate_batch(batch: Padded, beams: int) -> Outputs:
            lengths = batch.mask.sum(dim=1).tolist()
            rows = [row[:end] for row, end in zip(batch.tokens.tolist(), lengths, strict=True)]
            pieces = [[vocabulary[token] for token in row] for row in rows]
            results = translator.translate_batch(pieces, beam_size=beams, **search)
            return [tuple(ids[piece] for piece in result.hypotheses[0]) for result in results]

        return [sentences.translate(partial(translate_batch, beams=count)) for count in (1, beams)]


ACTIVATIONS = {"relu": "RELU", "gelu": "GELU", "gelu_new": "GELUTanh", "swish": "SWISH", "silu": "SWISH"}
"""CTranslate2's names of activations by their names in config.json."""


def _measurements(examples: ProofTexts, sentences: ProofPairs, searches: list[tuple[Outputs, float]]) -> dict[str, Any]:
    """Return BLEU and speed of greedy search and of beam search."""
    decode = examples.tokenizer.decode
    references = [[reference] for reference in decode(sentences.targets)]
    return {
        name: {
            "bleu": round(text_scores({"bleu": BLEU()}, decode(outputs), references)["bleu"].value, 2),
            "sentences_per_second": round(len(outputs) / seconds, 1),
        }
        for name, (outputs, seconds) in zip(("greedy", "beam"), searches, strict=True)
    }


def vocabulary_of(tokenizer: Tokenizer) -> list[str]:
    """Return the vocabulary in the order of ids; ids without a token get a name of their own."""
    return [tokenizer.backend.id_to_token(index) or f"<unused-{index}>" for index in range(tokenizer.vocabulary)]


def _describe(specification: Any, tokenizer: Tokenizer) -> None:
    """Set the vocabulary and the special tokens."""
    vocabulary = vocabulary_of(tokenizer)
    specification.register_source_vocabulary(vocabulary)
    specification.register_target_vocabulary(vocabulary)
    special = tokenizer.special
    specification.config.bos_token = special.bos
    specification.config.eos_token = special.eos
    specification.config.unk_token = special.unknown
    specification.config.decoder_start_token = special.bos
    # The tokenizer writes eos itself, as those of transformers' models do.
    specification.config.add_source_eos = False


def _fill_stack(
    stack: Any, side: str, weights: Mapping[str, Tensor], family: EncoderDecoderFamily, scale: float
) -> None:
    """Fill CTranslate2's encoder or decoder."""
    embeddings = stack.embeddings[0] if isinstance(stack.embeddings, list) else stack.embeddings
    embeddings.weight = weights[SHARED]
    stack.scale_embeddings = scale
    stack.position_encodings.encodings = weights[POSITIONS.format(side=side)][family.offset :].clone()
    if family.embedding_norm:
        _fill_norm(stack.layernorm_embedding, weights, f"model.{side}.layernorm_embedding")
    if family.residual is PreNorm:
        _fill_norm(stack.layer_norm, weights, f"model.{side}.layer_norm")
    for index, layer in enumerate(stack.layer):
        name = f"model.{side}.layers.{index}"
        fused = [[f"{name}.self_attn.{part}_proj" for part in "qkv"], [f"{name}.self_attn.out_proj"]]
        _fill_attention(layer.self_attention, weights, fused, f"{name}.self_attn_layer_norm")
        if side == "decoder":
            query, *keys_values = (f"{name}.encoder_attn.{part}_proj" for part in "qkv")
            fused = [[query], keys_values, [f"{name}.encoder_attn.out_proj"]]
            _fill_attention(layer.attention, weights, fused, f"{name}.encoder_attn_layer_norm")
        for linear, part in ((layer.ffn.linear_0, "fc1"), (layer.ffn.linear_1, "fc2")):
            _fill_linear(linear, weights, [f"{name}.{part}"])
        _fill_norm(layer.ffn.layer_norm, weights, f"{name}.final_layer_norm")


def _fill_attention(attention: Any, weights: Mapping[str, Tensor], fused: list[list[str]], norm: str) -> None:
    for linear, parts in zip(attention.linear, fused, strict=True):
        _fill_linear(linear, weights, parts)
    _fill_norm(attention.layer_norm, weights, norm)


def _fill_linear(linear: Any, weights: Mapping[str, Tensor], parts: list[str]) -> None:
    """Fill a linear layer with the concatenated weights of several."""
    linear.weight = torch.cat([weights[f"{part}.weight"] for part in parts])
    linear.bias = torch.cat([weights[f"{part}.bias"] for part in parts])


def _fill_norm(norm: Any, weights: Mapping[str, Tensor], name: str) -> None:
    norm.gamma, norm.beta = weights[f"{name}.weight"], weights[f"{name}.bias"]
