"""Asks an exported folder through transformers: python transformers_use.py REQUEST.json ANSWERS.json.

No module of etude is imported here. A request names the `folder`, the `use`, and the arguments of its function below.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForQuestionAnswering, AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

BATCH = 32
"""Number of texts that are read at once."""


def text_classification(folder: str, texts: list[str], pairs: list[str]) -> list[dict[str, float]]:
    """Return the score of each label of each text, or of each pair of texts."""
    classify = pipeline("text-classification", model=folder)
    if pairs:  # a pipeline batches plain texts only
        rows = [{"text": text, "text_pair": pair} for text, pair in zip(texts, pairs, strict=True)]
        answers = [classify(row, top_k=None, truncation=True) for row in rows]
    else:
        answers = classify(texts, top_k=None, truncation=True, batch_size=BATCH)
    return [{one["label"]: one["score"] for one in answer} for answer in answers]


def token_classification(folder: str, texts: list[str]) -> list[list[tuple[int, int, str, float]]]:
    """Return the tokens of each text: first and one past the last character, the likeliest label, and its score."""
    tag = pipeline("token-classification", model=folder, ignore_labels=[])
    answers = [tag(text) for text in texts]
    return [[(one["start"], one["end"], one["entity"], float(one["score"])) for one in answer] for answer in answers]


def fill_mask(folder: str, texts: list[str], top_k: int) -> list[list[tuple[int, float]]]:
    """Return the likeliest tokens at the one mask of each text, as ids, with their probabilities."""
    fill = pipeline("fill-mask", model=folder)
    answers = [fill(text, top_k=top_k) for text in texts]
    return [[(one["token"], one["score"]) for one in answer] for answer in answers]


def text_generation(folder: str, texts: list[str], max_new_tokens: int) -> list[list[int]]:
    """Return the ids of the beginning and the continuation of each text."""
    generate = pipeline("text-generation", model=folder)
    answers = generate(texts, max_new_tokens=max_new_tokens, do_sample=False, return_tensors=True)
    return [[int(token) for token in answer[0]["generated_token_ids"]] for answer in answers]


def conversation(folder: str, texts: list[str], max_new_tokens: int) -> list[list[int]]:
    """Return the ids of a conversation that a user begins with each text, and of its answer."""
    generate = pipeline("text-generation", model=folder)
    chats = [[{"role": "user", "content": text}] for text in texts]
    answers = generate(chats, max_new_tokens=max_new_tokens, do_sample=False, return_tensors=True)
    return [[int(token) for token in answer[0]["generated_token_ids"]] for answer in answers]


def translation(folder: str, texts: list[str], source: str, options: dict[str, Any]) -> list[list[int]]:
    """Return the ids that `generate` makes of each text, behind the decoder's start."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    answers: list[list[int]] = []
    for start in range(0, len(texts), BATCH):
        inputs = tokenizer(texts[start : start + BATCH], return_tensors="pt", padding=True, truncation=True)
        answers += [row[1:] for row in model.generate(**inputs, **options).tolist()]
    return answers


def question_answering(folder: str, texts: list[str], pairs: list[str]) -> list[tuple[list[float], list[float]]]:
    """Return the scores of the starts and of the ends of answers to each question in its passage."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    answers = []
    for question, passage in zip(texts, pairs, strict=True):
        inputs = tokenizer(question, passage, return_tensors="pt", truncation="only_second")
        with torch.no_grad():
            outputs = model(**inputs)
        answers.append((outputs.start_logits[0].tolist(), outputs.end_logits[0].tolist()))
    return answers


USES = {
    function.__name__: function
    for function in (
        text_classification,
        token_classification,
        fill_mask,
        text_generation,
        conversation,
        translation,
        question_answering,
    )
}

if __name__ == "__main__":
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(USES[request.pop("use")](**request)), encoding="utf-8")
