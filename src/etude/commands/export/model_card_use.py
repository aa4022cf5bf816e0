"""How an exported folder is used, as the program that its card shows: by format, and by what the run's task does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from etude.commands.export.huggingface_heads import is_text_classifier
from etude.models.pooling import Mean
from etude.tasks.base import Task
from etude.tasks.causal_lm import CausalLM
from etude.tasks.dialogue.instruction_tuning import InstructionTuning
from etude.tasks.masked_lm import MaskedLM
from etude.tasks.pooled import Pooled
from etude.tasks.question_answering import QuestionAnswering
from etude.tasks.token_classification import TokenClassification
from etude.tasks.translation import Translation
from etude.tokenization.languages import with_prefix

TEXT_CLASSIFICATION = """\
from transformers import pipeline

classify = pipeline("text-classification", model=folder)
print(classify("A film to remember.", top_k=None, truncation=True))
"""

PAIR_CLASSIFICATION = """\
from transformers import pipeline

classify = pipeline("text-classification", model=folder)
print(classify({"text": "A film to remember.", "text_pair": "It is good."}, top_k=None, truncation=True))
"""

TAGGED_WORDS = """\
from transformers import pipeline

tag = pipeline("token-classification", model=folder)
print([(one["word"], one["entity"]) for one in tag("Ann lives in Paris")])
"""

FILL_MASK = """\
from transformers import pipeline

fill = pipeline("fill-mask", model=folder)
print(fill(f"A film to {fill.tokenizer.mask_token}."))
"""

TEXT_GENERATION = """\
from transformers import pipeline

generate = pipeline("text-generation", model=folder)
print(generate("A film", max_new_tokens=16, do_sample=False))
"""

CONVERSATION = """\
from transformers import pipeline

generate = pipeline("text-generation", model=folder)
conversation = [{"role": "user", "content": "What is a film?"}]
print(generate(conversation, max_new_tokens=64, do_sample=False)[0]["generated_text"][-1]["content"])
"""

TRANSLATION = """\
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSeq2SeqLM.from_pretrained(folder)
inputs = tokenizer(["Delete all files?"], return_tensors="pt", padding=True, truncation=True)
print(tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True))
"""

QUESTION_ANSWERING = """\
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForQuestionAnswering.from_pretrained(folder)
inputs = tokenizer("Who wrote it?", "It was written by Ann.", return_tensors="pt", truncation="only_second")
with torch.no_grad():
    outputs = model(**inputs)
first, last = int(outputs.start_logits.argmax()), int(outputs.end_logits.argmax())
print(tokenizer.decode(inputs["input_ids"][0, first : last + 1]))
"""

LABELS_OF_ALL = """\
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForTokenClassification.from_pretrained(folder)
with torch.no_grad():  # one text at a time; no pipeline takes the mean over tokens
    logits = model(**tokenizer("A film to remember.", return_tensors="pt", truncation=True)).logits
print(logits.POOLED)
"""

CTRANSLATE2 = """\
import ctranslate2
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
translator = ctranslate2.Translator(folder)
tokens = tokenizer.convert_ids_to_tokens(tokenizer.encode("Delete all files?"))
# Without the tokenizer's special tokens, the end is added by hand: [TAG*tokenizer.tokenize(text), tokenizer.eos_token]
result = translator.translate_batch([tokens], beam_size=BEAMS, max_decoding_length=LIMIT)
print(tokenizer.decode(tokenizer.convert_tokens_to_ids(result[0].hypotheses[0])))
"""

ONNX = """\
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

source, target = Tokenizer.from_file(f"{folder}SOURCE/tokenizer.json"), Tokenizer.from_file(f"{folder}/tokenizer.json")
encoder = onnxruntime.InferenceSession(f"{folder}/encoder.onnx")
decoder = onnxruntime.InferenceSession(f"{folder}/decoder_step.onnx")
tokens = np.array([source.encode("Delete all files?").ids])  # the end included
mask = np.ones_like(tokens, dtype=bool)
(memory,) = encoder.run(None, {"tokens": tokens, "mask": mask})
past, last, answer = memory[:, :0], BOS, []
while last != EOS and len(answer) < LIMIT:
    inputs = {"tokens": np.array([last]), "memory": memory, "memory_mask": mask, "past": past}
    logits, past = decoder.run(None, inputs)
    last = int(logits[0].argmax())
    answer.append(last)
print(target.decode(answer))
"""


ASKED = "Delete all files?"
"""What programs translate."""

TAGS: Mapping[type[Any], str] = {
    Pooled: "text-classification",
    TokenClassification: "token-classification",
    QuestionAnswering: "question-answering",
    MaskedLM: "fill-mask",
    CausalLM: "text-generation",
}
"""The hub's names of what models do, by task; those of a translation depend on the experiment."""

PROGRAMS: Mapping[type[Any], str] = {
    TokenClassification: TAGGED_WORDS,
    QuestionAnswering: QUESTION_ANSWERING,
    MaskedLM: FILL_MASK,
    InstructionTuning: CONVERSATION,
    CausalLM: TEXT_GENERATION,
}
"""Programs that fit every model of a task."""


def pipeline_tag(task: Task, experiment: str) -> str:
    """Return the hub's name of what a model does."""
    if isinstance(task, Translation):
        return "summarization" if experiment.startswith("summarization") else "translation"
    return next(tag for kind, tag in TAGS.items() if isinstance(task, kind))


def program(task: Task, to: str, two_vocabularies: bool, tags: Sequence[str] = ()) -> str:
    """Return the program that uses a folder of a format.

    Args:
        task: Task of the run.
        to: Name of the format.
        two_vocabularies: Whether sources have a vocabulary of their own.
        tags: Tokens before a source, such as the tag of a direction.
    """
    text = _program(task, to, two_vocabularies, tags)
    prefix = task.direction.prefix if isinstance(task, Translation) else ""
    return text.replace(f'"{ASKED}"', json.dumps(with_prefix(prefix, ASKED), ensure_ascii=False))


def _program(task: Task, to: str, two_vocabularies: bool, tags: Sequence[str]) -> str:
    if to == "onnx" and isinstance(task, Translation):
        values = {"BOS": task.direction.start, "EOS": task.facts.eos, "LIMIT": task.decoding.max_length}
        return _filled(ONNX, {**values, "SOURCE": "/source" if two_vocabularies else ""})
    if to == "ctranslate2" and isinstance(task, Translation):
        tag = "".join(f'"{name}", ' for name in tags)
        beams, limit = getattr(task.decoding, "beams", 1), task.decoding.max_length
        return _filled(CTRANSLATE2, {"TAG": tag, "BEAMS": beams, "LIMIT": limit})
    if isinstance(task, Translation):
        return TRANSLATION.replace("(folder)", '(folder, subfolder="source")', 1) if two_vocabularies else TRANSLATION
    if isinstance(task, Pooled):
        if not is_text_classifier(task):
            pooled = "mean(dim=1)" if isinstance(task.pooling, Mean) else "select(1, 0)"
            return _filled(LABELS_OF_ALL, {"POOLED": pooled})
        return PAIR_CLASSIFICATION if task.facts.segments > 1 else TEXT_CLASSIFICATION
    return next(text for kind, text in PROGRAMS.items() if isinstance(task, kind))


def _filled(text: str, values: Mapping[str, object]) -> str:
    for name, value in values.items():
        text = text.replace(name, str(value))
    return text
