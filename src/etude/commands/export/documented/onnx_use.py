"""Asks exported graphs through ONNX Runtime alone: python onnx_use.py REQUEST.json ANSWERS.json.

No module of etude is imported here, and neither torch nor transformers: the graphs, `tokenizer.json`, and NumPy are enough.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


def translations(folder: str, source: str, texts: list[str], bos: int, eos: int, limit: int) -> list[list[int]]:
    """Return the ids of the greedy translation of each text, one after the other.

    Args:
        folder: The folder of both graphs.
        source: The folder of the sources' tokenizer.
        texts: The texts.
        bos: Id that a translation starts from.
        eos: Id that ends it.
        limit: Largest number of tokens, eos included.
    """
    tokenizer = Tokenizer.from_file(f"{source}/tokenizer.json")
    encoder, decoder = (
        onnxruntime.InferenceSession(f"{folder}/{name}.onnx", providers=["CPUExecutionProvider"])
        for name in ("encoder", "decoder_step")
    )
    longest = json.loads((Path(source) / "tokenizer_config.json").read_text(encoding="utf-8"))["model_max_length"]
    answers = []
    for text in texts:
        ids = tokenizer.encode(text).ids  # eos included
        tokens = np.array([ids if len(ids) <= longest else [*ids[: longest - 1], eos]])
        mask = np.ones_like(tokens, dtype=bool)
        (memory,) = encoder.run(None, {"tokens": tokens, "mask": mask})
        past, last, answer = memory[:, :0], bos, list[int]()
        while last != eos and len(answer) < limit:
            inputs = {"tokens": np.array([last]), "memory": memory, "memory_mask": mask, "past": past}
            logits, past = decoder.run(None, inputs)
            last = int(logits[0].argmax())
            answer.append(last)
        answers.append(answer)
    return answers


if __name__ == "__main__":
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(translations(**request)), encoding="utf-8")
