"""Asks an exported folder through CTranslate2: python ctranslate2_use.py REQUEST.json ANSWERS.json.

No module of etude is imported here. Texts become tokens as CTranslate2's documentation says of transformers' models, by
`convert_ids_to_tokens(encode(text))`, or by `tokenize(text)`, which leaves the end out, followed by the end.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ctranslate2
from transformers import AutoTokenizer


def translations(
    folder: str, texts: list[str], plain: bool, before: list[str], compute: str, options: dict[str, Any]
) -> list[list[int]]:
    """Return the ids of the best translation of each text.

    Args:
        folder: The exported folder.
        texts: The texts.
        plain: Whether the tokens are those of the text alone, and the end is added by hand.
        before: Tokens that are then added before it: the tag of a direction.
        compute: Type that CTranslate2 computes in.
        options: Options of `translate_batch`.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    translator = ctranslate2.Translator(folder, device="cpu", compute_type=compute)
    if plain:
        rows = [[*before, *tokenizer.tokenize(text), tokenizer.eos_token] for text in texts]
    else:
        rows = [tokenizer.convert_ids_to_tokens(tokenizer.encode(text)) for text in texts]
    results = translator.translate_batch(rows, max_batch_size=32, **options)
    return [tokenizer.convert_tokens_to_ids(result.hypotheses[0]) for result in results]


if __name__ == "__main__":
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(translations(**request)), encoding="utf-8")
