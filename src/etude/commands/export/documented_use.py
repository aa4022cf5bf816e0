"""Proof that an exported folder, used as the other library's documentation says, gives what the run gives.

The other library works in a process of its own that imports nothing of etude (`documented/`).
"""

from __future__ import annotations

import json
import operator
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from etude.commands.export.huggingface_heads import encode_rows, is_text_classifier, whole_rows
from etude.commands.export.proof import (
    BATCH,
    TOLERANCE,
    MismatchError,
    Outputs,
    ProofPairs,
    ProofTexts,
    proven_beams,
    same_best,
    same_greedy,
    same_translations,
    translation,
    until_eos,
)
from etude.models.generation.hypothesis import Hypothesis
from etude.models.generation.search import Greedy, Search
from etude.tasks.causal_lm import CausalLM
from etude.tasks.dialogue.instruction_tuning import InstructionTuning
from etude.tasks.masked_lm import MaskedLM
from etude.tasks.multilabel import Multilabel
from etude.tasks.pooled import Pooled
from etude.tasks.question_answering import QuestionAnswering
from etude.tasks.regression import Regression
from etude.tasks.token_classification import TokenClassification
from etude.tasks.translation import Translation
from etude.tokenization.base import SOURCE
from etude.tokenization.chat_template import template_of
from etude.tokenization.conversation import Message
from etude.tokenization.languages import with_prefix
from etude.tokenization.word_tokens import BETWEEN

PROMPTS, PROMPT_WORDS, CONTINUED = 16, 8, 32
"""Number of texts that are continued, words of each beginning, and tokens of each continuation."""

MASKED_WORDS, FILLERS = 32, 5
"""Words of a text in which one is masked, and number of tokens in its place whose probabilities are compared."""


WORD_ANSWERS = ("words", "tags", "probabilities")
"""What a tagged sentence is answered with for each of its words."""


def ask(program: str, request: Mapping[str, Any]) -> Any:
    """Run a program of `documented/` on a request, and return its answers.

    Raises:
        MismatchError: If it fails: the folder cannot be used that way.
    """
    path = Path(__file__).with_name("documented") / f"{program}.py"
    with tempfile.TemporaryDirectory(prefix="etude-export-") as place:
        asked, answered = Path(place) / "request.json", Path(place) / "answers.json"
        asked.write_text(json.dumps(request), encoding="utf-8")
        # -P keeps the program's folder off the path.
        words = [sys.executable, "-P", str(path), str(asked), str(answered)]
        ended = subprocess.run(words, capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            last = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise MismatchError(f"{program} cannot use the export: {last[:300]}; nothing was exported")
        return json.loads(answered.read_text(encoding="utf-8"))


def prove_use(examples: ProofTexts, folder: Path, to: str, *, quantized: bool = False) -> dict[str, Any]:
    """Use an exported folder as documented, and compare the answers with the run's.

    Args:
        examples: The task and the texts.
        folder: The exported folder.
        to: Name of the format.
        quantized: Whether its weights are not the run's: what is equal is counted then, and need not be all.

    Returns:
        What was used, and how far the answers agree; empty where the library has nothing that uses such a model.

    Raises:
        MismatchError: If they differ.
    """
    if to == "ctranslate2":
        return _ctranslate2(examples, folder, quantized)
    if to == "onnx":
        return _onnx(examples, folder)
    for kind, use in USES.items():
        if isinstance(examples.task, kind):
            return use(examples, folder)
    return {}


def _ctranslate2(examples: ProofTexts, folder: Path, quantized: bool) -> dict[str, Any]:
    """Compare translations from the tokens of both ways."""
    task, sentences = translation(examples), ProofPairs.of(examples)
    texts, beams = _with_tokens(examples), proven_beams(task)
    before = examples.tokenizer.of("source").names(task.direction.before_source)
    limits = {"max_decoding_length": sentences.limit, "min_decoding_length": 0, "max_input_length": 0}
    if (longest := max(map(len, sentences.sources))) >= task.text_limit:
        limits["max_input_length"] = longest + task.direction.source_room  # the run truncates there

    def answers(plain: bool, count: int) -> list[tuple[int, ...]]:
        request = {"folder": str(folder), "texts": texts, "plain": plain, "before": before}
        request |= {"compute": "default" if quantized else "float32"}
        options = {"beam_size": count, "length_penalty": 0.0, **limits}
        return [tuple(row) for row in ask("ctranslate2_use", {**request, "options": options})]

    greedy, searched = (sentences.native(task.model, count)[0] for count in (1, beams))
    by = "translate_batch(convert_ids_to_tokens(encode(text)))"
    if quantized:
        counted = ((greedy, answers(False, 1)), (searched, answers(False, beams)), (greedy, answers(True, 1)))
        names = ("greedy", "beam", "of_plain_tokens")
        return {"by": by, **{name: _equal(*both) for name, both in zip(names, counted, strict=True)}}
    return {
        "by": by,
        "greedy": same_translations(task.model, sentences, greedy, answers(False, 1), "CTranslate2"),
        "beam": same_best(task.model, sentences, searched, answers(False, beams), "CTranslate2", beams),
        "of_plain_tokens": same_translations(task.model, sentences, greedy, answers(True, 1), "CTranslate2"),
    }


def _equal(own: Outputs, theirs: Outputs) -> dict[str, int]:
    return {"sentences": len(own), "equal": sum(map(operator.eq, own, theirs))}


def _onnx(examples: ProofTexts, folder: Path) -> dict[str, Any]:
    task, sentences = translation(examples), ProofPairs.of(examples)
    request = {"folder": str(folder), "source": str(_source_folder(folder)), "texts": _with_tokens(examples)}
    ids = {"bos": task.facts.bos, "eos": task.facts.eos, "limit": sentences.limit}
    answers = [until_eos(row, task.facts.eos) for row in ask("onnx_use", {**request, **ids})]
    greedy, _ = sentences.native(task.model, 1)
    return {
        "by": "onnxruntime alone",
        "greedy": same_translations(task.model, sentences, greedy, answers, "ONNX Runtime"),
    }


def _translation(examples: ProofTexts, folder: Path) -> dict[str, Any]:
    """Compare what `generate` makes of texts; with the options of generation_config.json, count what is equal."""
    task, sentences = translation(examples), ProofPairs.of(examples)
    request = {"use": "translation", "folder": str(folder), "source": str(_source_folder(folder))}
    texts = _with_tokens(examples)

    given = len(task.direction.before_target)

    def answers(**options: Any) -> list[tuple[int, ...]]:
        rows = ask("transformers_use", {**request, "texts": texts, "options": options})
        return [until_eos(row[given:], task.facts.eos) for row in rows]

    greedy, _ = sentences.native(task.model, 1)
    same = same_translations(task.model, sentences, greedy, answers(num_beams=1, do_sample=False), "transformers")
    plain = [
        text for text, ids in zip(examples.texts, task.encode(examples.texts, examples.tokenizer), strict=True) if ids
    ]
    own = [prediction.text for prediction in task.predictions(plain, examples.tokenizer)]
    configured = examples.tokenizer.decode(answers())
    equal = sum(first == second for first, second in zip(own, configured, strict=True))
    return {
        "by": "AutoModelForSeq2SeqLM.generate",
        "greedy": same,
        "as_generation_config_says": {"texts": len(own), "equal": equal},
    }


def _classification(examples: ProofTexts, folder: Path) -> dict[str, Any]:
    """Compare the scores of all labels, of texts and of pairs that are read whole."""
    task = cast(Pooled, examples.task)
    if not is_text_classifier(task):
        return {}
    rows = whole_rows(examples)
    room = task.model.max_length - 1 - len(rows[0])
    # Of pairs that are too long, libraries cut one token more off the one text or the other.
    read = [number for number, texts in enumerate(rows) if len(texts) == 1 or sum(map(len, texts)) <= room]
    if not read:
        raise MismatchError("no validation text is short enough to prove the pipeline on; nothing was exported")
    own = torch.cat([_scores(task, [rows[number] for number in part]) for part in _parts(read)])
    chosen = [[column[number] for number in read] if column else [] for column in (examples.texts, examples.references)]
    request = {"use": "text_classification", "folder": str(folder), "texts": chosen[0], "pairs": chosen[1]}
    names = task.facts.classes or ("value",)
    theirs = torch.tensor([[answer[name] for name in names] for answer in ask("transformers_use", request)])
    unit = max(1.0, task.facts.scale) if isinstance(task, Regression) else 1.0
    return {
        "by": 'pipeline("text-classification")',
        "texts": len(read),
        "too_long": len(rows) - len(read),
        "largest_difference": _largest(own, theirs, "the scores of pipeline", TOLERANCE * unit),
    }


def _scores(task: Pooled, rows: Sequence[Sequence[Sequence[int]]]) -> Float[Tensor, "B O"]:
    """Return what the run says of rows: probabilities, or numbers in the data's unit."""
    batch = encode_rows(task, rows)
    with torch.no_grad():
        logits = task.logits(batch.tokens, batch.mask, batch.segments)
    if isinstance(task, Regression):
        return logits * task.facts.scale + task.facts.center
    return logits.sigmoid() if isinstance(task, Multilabel) else logits.softmax(dim=1)


def _token_classification(examples: ProofTexts, folder: Path) -> dict[str, Any]:
    """Compare the tag of each word, at its first token, and the tag's probability, in sentences that are read whole."""
    task = cast(TokenClassification, examples.task)
    sentences = [BETWEEN.join(text.split()) for text in examples.texts if text.split()]
    encoded = examples.tokenizer.encode(sentences)
    read = [text for text, ids in zip(sentences, encoded, strict=True) if len(ids) + 2 <= task.model.max_length]
    answers = ask("transformers_use", {"use": "token_classification", "folder": str(folder), "texts": read})
    largest, words = 0.0, 0
    for text, record, tokens in zip(
        read, task.answer_records([{"text": text} for text in read], examples.tokenizer), answers, strict=True
    ):
        place = 0
        for word, tag, probability in zip(*(record.values[name] for name in WORD_ANSWERS), strict=True):
            begin, place = place, place + len(word) + len(BETWEEN)
            if tag is None:  # the word has no token
                continue
            label, score = next(one[2:] for one in tokens if one[1] > begin)
            if label != tag:
                raise MismatchError(
                    f"pipeline tags {word!r} in {text!r} as {label}, the run as {tag}; nothing was exported"
                )
            largest = max(largest, _largest(torch.tensor(probability), torch.tensor(score), "the scores of pipeline"))
            words += 1
    return {
        "by": 'pipeline("token-classification")',
        "texts": len(read),
        "too_long": len(sentences) - len(read),
        "words": words,
        "largest_difference": largest,
    }


def _masked_lm(examples: ProofTexts, folder: Path) -> dict[str, Any]:
    """Compare the probabilities of the likeliest tokens in the place of a word in the middle of each text."""
    task, mask = cast(MaskedLM, examples.task), cast(str, examples.tokenizer.special.mask)
    special = examples.tokenizer.backend.get_added_tokens_decoder().values()
    # Where masks are read, transformers reads a text that looks like a special token as that token.
    plain = [text for text in examples.texts if text.split() and not any(one.content in text for one in special)]
    texts = [_with_mask(text, mask) for text in plain]
    encoded = [examples.tokenizer.encode_masked(text) for text in texts]
    kept = [number for number, ids in enumerate(encoded) if len(ids) <= task.text_limit]
    request = {"use": "fill_mask", "folder": str(folder), "texts": [texts[n] for n in kept], "top_k": FILLERS}
    largest = 0.0
    for number, answer in zip(kept, ask("transformers_use", request), strict=True):
        row = torch.tensor([[task.facts.bos, *encoded[number], task.facts.eos]])
        with torch.no_grad():
            guessed = task.log_probabilities(row, torch.ones_like(row, dtype=torch.bool), row == task.facts.mask)
        best = guessed[0].exp().topk(len(answer)).values
        ids, theirs = (list(column) for column in zip(*answer, strict=True))
        own = torch.stack([guessed[0].exp()[ids], best])  # the same tokens, and no likelier ones
        largest = max(largest, _largest(own, torch.tensor([theirs, theirs]), "the probabilities of pipeline"))
    left_out = len(examples.texts) - len(kept)
    return {"by": 'pipeline("fill-mask")', "texts": len(kept), "left_out": left_out, "largest_difference": largest}


def _with_mask(text: str, mask: str) -> str:
    words = text.replace(mask, " ").split()[:MASKED_WORDS] or [text]
    middle = len(words) // 2
    return " ".join([*words[:middle], mask, *words[middle + 1 :]])


def _causal_lm(examples: ProofTexts, folder: Path) -> dict[str, Any]:
    """Compare greedy continuations of the first words of texts."""
    task = cast(CausalLM, examples.task)
    beginnings = [" ".join(text.split()[:PROMPT_WORDS]) for text in examples.texts if text.split()]
    prompts = [[task.facts.bos, *ids] for ids in examples.tokenizer.encode(beginnings)]

    def continued(prompts: Sequence[Sequence[int]], search: Search) -> list[list[Hypothesis]]:
        return task.continuations([prompt[1:] for prompt in prompts], search)

    return _same_generated(task, folder, "text_generation", beginnings, prompts, continued)


def _instruction_tuning(examples: ProofTexts, folder: Path) -> dict[str, Any]:
    """Compare greedy answers to the first words of texts, as what a user says."""
    task, template = cast(InstructionTuning, examples.task), template_of(examples.tokenizer)
    if template.rendered_source != template.source:  # it writes the date
        return {}
    said = [" ".join(text.split()[:PROMPT_WORDS]) for text in examples.texts if text.split()]
    prompts = [template.prompt((Message("user", text),)) for text in said]
    return _same_generated(task, folder, "conversation", said, prompts, task.replies)


def _same_generated(
    task: CausalLM,
    folder: Path,
    use: str,
    texts: Sequence[str],
    prompts: Sequence[list[int]],
    search: Callable[[Sequence[Sequence[int]], Search], list[list[Hypothesis]]],
) -> dict[str, Any]:
    """Compare what the run and a pipeline generate behind those of some prompts that leave room for it.

    Args:
        task: The task.
        folder: The exported folder.
        use: Function of `documented/transformers_use.py`.
        texts: What the pipeline is given.
        prompts: Ids that the run reads in its place.
        search: Returns the run's hypotheses, which begin with all of a prompt but its first id.
    """
    positions = task.model.max_length
    pairs = zip(texts, prompts, strict=True)
    short = [(text, prompt) for text, prompt in pairs if len(prompt) <= max(1, positions // 2)][:PROMPTS]
    if not short:
        return {}
    kept = [prompt for _, prompt in short]
    limit = min(CONTINUED, positions - max(map(len, kept)))
    request = {"use": use, "folder": str(folder), "max_new_tokens": limit, "texts": [text for text, _ in short]}
    answers = ask("transformers_use", request)
    theirs = [until_eos(row[len(prompt) :], task.end) for row, prompt in zip(answers, kept, strict=True)]
    found = search(kept, Greedy(max_length=limit))
    own = [first.tokens[len(prompt) - 1 :] for (first,), prompt in zip(found, kept, strict=True)]

    def next_logits(row: int, prefix: Sequence[int]) -> Float[Tensor, " V"]:
        tokens = torch.tensor([[*kept[row], *prefix]])
        with torch.no_grad():
            return cast(Tensor, task.model(tokens, torch.ones_like(tokens, dtype=torch.bool))[0, -1])

    same = same_greedy(own, theirs, next_logits, task.end, limit, "pipeline continues text")
    return {"by": 'pipeline("text-generation")', "texts": len(short), **same}


def _question_answering(examples: ProofTexts, folder: Path) -> dict[str, Any]:
    """Compare the scores of starts and ends in passages that are read whole."""
    task, rows = cast(QuestionAnswering, examples.task), whole_rows(examples)
    read = [number for number, texts in enumerate(rows) if sum(map(len, texts)) + 3 <= task.model.max_length]
    if not read:
        return {}
    columns = {"texts": [examples.texts[n] for n in read], "pairs": [examples.references[n] for n in read]}
    answers = ask("transformers_use", {"use": "question_answering", "folder": str(folder), **columns})
    largest = 0.0
    for number, answer in zip(read, answers, strict=True):
        batch = encode_rows(task, [rows[number]])
        with torch.no_grad():
            starts, ends, _ = task.logits(batch.tokens, batch.mask, batch.starts)
        own, theirs = torch.cat([starts, ends]), torch.tensor(answer)
        real = own.isfinite()  # the run takes no answer from the question
        largest = max(largest, _largest(own[real], theirs[real], "the scores of answers"))
    return {"by": "AutoModelForQuestionAnswering", "texts": len(read), "largest_difference": largest}


USES: dict[type[Any], Callable[[ProofTexts, Path], dict[str, Any]]] = {
    Translation: _translation,
    InstructionTuning: _instruction_tuning,
    CausalLM: _causal_lm,
    MaskedLM: _masked_lm,
    QuestionAnswering: _question_answering,
    TokenClassification: _token_classification,
    Pooled: _classification,
}
"""How transformers' documentation says to use a model, by task."""


def _with_tokens(examples: ProofTexts) -> list[str]:
    """Return the sources that have tokens, which are those of `ProofPairs`, as a person types them: with their prefix."""
    task = translation(examples)
    encoded = task.encode(examples.texts, examples.tokenizer)
    return [with_prefix(task.direction.prefix, text) for text, ids in zip(examples.texts, encoded, strict=True) if ids]


def _source_folder(folder: Path) -> Path:
    """Return the folder of the sources' tokenizer."""
    return folder / SOURCE if (folder / SOURCE).is_dir() else folder


def _parts(numbers: Sequence[int]) -> list[Sequence[int]]:
    return [numbers[start : start + BATCH] for start in range(0, len(numbers), BATCH)]


def _largest(own: Tensor, theirs: Tensor, what: str, tolerance: float = TOLERANCE) -> float:
    difference = float((own - theirs).abs().max())
    if not difference <= tolerance:
        raise MismatchError(f"{what} differ from the run's by {difference:.2e}; nothing was exported")
    return difference
