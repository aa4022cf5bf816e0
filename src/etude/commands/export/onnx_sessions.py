"""Exported translation models in ONNX Runtime, decoded as `etude.models.generation` decodes.

Axes: B rows, T target positions, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from etude.commands.export.proof import MismatchError, Padded
from etude.extras import optional


@dataclass(frozen=True)
class GraphCache:
    """The decoding state of each row, for `etude.models.generation`.

    Attributes:
        memory: Keys and values of the source.
        mask: True at real source tokens.
        past: Keys and values of the target positions so far.
    """

    memory: np.ndarray
    mask: np.ndarray
    past: np.ndarray

    def select(self, rows: Int[Tensor, " R"]) -> GraphCache:
        """Return the cache of the given rows."""
        indices = rows.numpy()
        return GraphCache(self.memory[indices], self.mask[indices], self.past[indices])


@dataclass(frozen=True)
class Sessions:
    """Both graphs loaded in ONNX Runtime.

    Attributes:
        encoder: Session of `encoder.onnx`.
        decoder: Session of `decoder_step.onnx`.
    """

    encoder: Any
    decoder: Any

    @classmethod
    def load(cls, encoder: Path, decoder: Path) -> Sessions:
        """Load both files.

        Raises:
            ConfigurationError: If onnxruntime is not installed.
            MismatchError: If ONNX Runtime cannot load them.
        """
        runtime = optional("onnxruntime", "to=onnx", "export")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            sessions = (
                runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
                for path in (encoder, decoder)
            )
            return cls(*sessions)
        except Exception as error:  # the runtime's errors share no base class
            raise MismatchError(f"ONNX Runtime cannot load the graphs: {str(error).splitlines()[0]}") from error

    def start(self, source: Padded) -> GraphCache:
        """Encode the source, and return the cache before the first target position."""
        mask = source.mask.numpy()
        (memory,) = self.encoder.run(None, {"tokens": source.tokens.numpy(), "mask": mask})
        return GraphCache(memory, mask, memory[:, :0])

    def step(self, tokens: Int[Tensor, " B"], cache: GraphCache) -> tuple[Float[Tensor, "B V"], GraphCache]:
        """Decode one position, and return its logits and the extended cache."""
        inputs = {"tokens": tokens.numpy(), "memory": cache.memory, "memory_mask": cache.mask, "past": cache.past}
        logits, present = self.decoder.run(None, inputs)
        return torch.from_numpy(logits), GraphCache(cache.memory, cache.mask, present)

    def logits(self, source: Padded, inputs: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Return the logits at given decoder inputs, computed position by position."""
        cache, columns = self.start(source), []
        for column in inputs.unbind(1):
            logits, cache = self.step(column, cache)
            columns.append(logits)
        return torch.stack(columns, dim=1)
