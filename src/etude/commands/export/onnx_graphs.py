"""Export of translation models to ONNX: a graph of the encoder, and a graph of a decoding step with a key-value cache.

Axes: B rows, S source positions, P target positions so far, H heads, K head width, D model width, V vocabulary.
"""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from etude.commands.export.huggingface_files import write_tokenizer
from etude.commands.export.onnx_sessions import Sessions
from etude.commands.export.proof import (
    Outputs,
    Padded,
    ProofPairs,
    ProofTexts,
    largest_difference,
    native_translator,
    same_translations,
    translation,
)
from etude.extras import optional
from etude.models.layers.key_value_cache import KeyValueCache
from etude.models.layers.positions import Absolute
from etude.models.layers.unpad import Unpadding
from etude.models.pretrained.bart import Bart, position_tables
from etude.models.seq2seq import DecoderLayer, DecoderMemory, Seq2Seq

OPSET = 18
ENCODER, DECODER = "encoder.onnx", "decoder_step.onnx"
PROVED = 128
"""Number of sentences whose logits are compared step by step; all sentences are translated."""


class PaddedLayout(Unpadding):
    """A layout that keeps padding, so that no shape in a graph depends on the values of a mask."""

    def unpad(self, grid: Shaped[Tensor, "B L ..."]) -> Shaped[Tensor, "cells ..."]:
        """Return all positions, padding included."""
        return grid.flatten(0, 1)

    def pad(self, unpadded: Shaped[Tensor, "cells ..."]) -> Shaped[Tensor, "B L ..."]:
        """Return the positions as a grid."""
        return unpadded.unflatten(0, self.mask.shape)

    @property
    def key_mask(self) -> Bool[Tensor, "B 1 1 L"]:
        """Attention mask of the keys, shared by all queries of a row."""
        return self.mask[:, None, None, :]

    @classmethod
    def from_mask(cls, mask: Bool[Tensor, "B L"]) -> PaddedLayout:
        """Return the layout of a mask."""
        return cls(mask, torch.empty(0, dtype=torch.long), full=False)


class PositionTable(Absolute):
    """A table of position vectors without a check of the length, which a graph cannot perform.

    Args:
        vectors: Vector of each position.
    """

    vectors: Float[Tensor, "max_length D"]

    def __init__(self, vectors: Float[Tensor, "max_length D"]) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors)

    def forward(self, positions: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """Return the vector of each position."""
        return self.vectors.index_select(0, positions)


class EncoderGraph(nn.Module):
    """Graph from source ids to the memory that the decoder attends to.

    Args:
        model: Model with `PositionTable` positions.
    """

    def __init__(self, model: Seq2Seq) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Float[Tensor, "B S layers 2 H K"]:
        """Return keys and values for every decoder layer; those at padding must be masked."""
        layout = PaddedLayout.from_mask(mask)
        positions = torch.arange(tokens.shape[1]).expand_as(tokens).flatten()
        return self.model.remember(self.model.embed_source(tokens.flatten(), positions), layout).states


class ConcatenatedCache(KeyValueCache):
    """A cache that concatenates each position, because a graph cannot write into preallocated memory."""

    def append(self, states: Float[Tensor, "B 1 2 H K"]) -> None:
        """Append a position."""
        super().__init__(torch.cat([self.states, states], dim=1))


class DecoderGraph(nn.Module):
    """Graph from the last token of each row and the cache to the logits of the next token and the extended cache.

    Args:
        model: Model with `PositionTable` positions.
    """

    def __init__(self, model: Seq2Seq) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        tokens: Int[Tensor, " B"],
        memory: Float[Tensor, "B S layers 2 H K"],
        memory_mask: Bool[Tensor, "B S"],
        past: Float[Tensor, "B P layers 2 H K"],
    ) -> tuple[Float[Tensor, "B V"], Float[Tensor, "B P+1 layers 2 H K"]]:
        """Return the logits, and the cache with the new position."""
        model, caches = self.model, []
        layout = PaddedLayout.from_mask(torch.ones_like(tokens, dtype=torch.bool)[:, None])
        mask = memory_mask[:, None, None, :]
        position = torch.full_like(tokens, past.shape[1])
        x = model.embed_target(tokens, position)
        for index, (layer, keys_values) in enumerate(
            zip(model.decoder, DecoderMemory(memory, mask).layers(), strict=True)
        ):
            cache = ConcatenatedCache(past[:, :, index])
            x = cast(DecoderLayer, layer).step(x, layout, cache, keys_values, mask)
            caches.append(cache.states)
        return model.logits(model.decoder_norm(x)), torch.stack(caches, dim=2)


class OnnxTranslation:
    """Writes two graphs and the files of the tokenizer.

    encoder.onnx computes `memory` from `tokens` and `mask`; decoder_step.onnx computes `logits` and `present` from `tokens`,
    `memory`, `memory_mask` and `past`. Decoding starts from bos and an empty `past`.

    Raises:
        ConfigurationError: If onnx, onnxscript or onnxruntime is not installed.
    """

    def __init__(self) -> None:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            optional(package, "to=onnx", "export")

    def write(self, examples: ProofTexts, folder: Path) -> None:
        """Write both graphs into an empty folder."""
        model = _with_tables(native_translator(translation(examples)))
        rows, source, past = (torch.export.Dim(name) for name in ("rows", "source", "past"))
        heads = (len(model.decoder), 2, model.heads, model.width // model.heads)
        tokens, mask = torch.ones(3, 5, dtype=torch.long), torch.ones(3, 5, dtype=torch.bool)
        grid = {0: rows, 1: source}
        _write_graph(
            EncoderGraph(model), (tokens, mask), (grid, grid), ["tokens", "mask"], ["memory"], folder / ENCODER
        )
        inputs = (tokens[:, 0], torch.zeros(3, 5, *heads), mask, torch.zeros(3, 4, *heads))
        shapes = ({0: rows}, grid, grid, {0: rows, 1: past})
        names = ["tokens", "memory", "memory_mask", "past"]
        _write_graph(DecoderGraph(model), inputs, shapes, names, ["logits", "present"], folder / DECODER)
        way = translation(examples).direction
        write_tokenizer(folder, examples.tokenizer, model.max_length, way.before_source, way.after_source)

    def prove(self, examples: ProofTexts, folder: Path) -> dict[str, Any]:
        """Compare logits at the references, position by position, and greedy translations."""
        model, sentences = translation(examples).model, ProofPairs.of(examples)
        sessions = Sessions.load(folder / ENCODER, folder / DECODER)
        largest, batches = 0.0, []
        for rows in _growing_batches(min(len(sentences.sources), PROVED)):
            source, target = sentences.source(rows), sentences.target(rows)
            batches.append([*source.tokens.shape, target.tokens.shape[1]])
            with torch.no_grad():
                logits = model(source.tokens, target.tokens, source.mask, target.mask)
            peer_logits = sessions.logits(source, target.tokens)
            largest = max(largest, largest_difference(logits[target.mask], peer_logits[target.mask], "logits"))

        def translate_batch(batch: Padded) -> Outputs:
            return sentences.searched(sessions.step, sessions.start(batch), 1, len(batch.tokens))

        peer_outputs, _ = sentences.translate(translate_batch)
        outputs, _ = sentences.native(model, 1)
        return {
            "logits": {"largest_difference": largest, "batches_rows_source_target": batches},
            "greedy": same_translations(model, sentences, outputs, peer_outputs, "ONNX Runtime"),
        }


def _growing_batches(count: int) -> list[list[int]]:
    """Split the first sentences into batches of 1, 2, 4, …, to prove many sizes and lengths."""
    batches, start, size = [], 0, 1
    while start < count:
        batches.append(list(range(start, min(start + size, count))))
        start, size = start + size, 2 * size
    return batches


def _with_tables(model: Seq2Seq) -> Seq2Seq:
    """Return a copy with its positions as tables."""
    tables = [PositionTable(table) for table in position_tables(model)]
    clone = copy.deepcopy(model).eval()
    clone.positions = tables[0]
    if isinstance(clone, Bart):
        clone.add_module("target_positions", tables[1])
    return clone


def _write_graph(
    graph: nn.Module, inputs: tuple[Tensor, ...], shapes: Any, names: list[str], outputs: list[str], path: Path
) -> None:
    """Export a module in evaluation mode, with named inputs and outputs and dynamic axes."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph.eval(),
                inputs,
                str(path),
                input_names=names,
                output_names=outputs,
                dynamic_shapes=shapes,
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    finally:
        exporter.setLevel(level)
