"""Proofs of exports: comparisons with the run on its own validation texts that report the first difference.

Axes: B sentences, S source positions, T target positions, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from etude.errors import EtudeError
from etude.models.base import EncoderDecoder
from etude.models.generation.hypothesis import Step
from etude.models.generation.search import Beam
from etude.models.seq2seq import Seq2Seq
from etude.tasks.base import Task
from etude.tasks.translation import Translation
from etude.tokenization.base import Tokenizer
from etude.types import Direction, Facts

TOLERANCE = 1e-4
"""Largest difference of logits that another order of float32 sums explains."""

BATCH = 64
"""Number of texts in a batch of a proof."""

Outputs = list[tuple[int, ...]]
"""Token ids of the translation of each sentence, or of the continuation of each text, without bos and eos."""

NextLogits = Callable[[int, Sequence[int]], Float[Tensor, " V"]]
"""Returns the run's logits of the next token, given the index of an output and a prefix of it."""


class MismatchError(EtudeError):
    """An exported model does not reproduce the outputs of the run."""


@dataclass(frozen=True)
class ProofTexts:
    """The task and the texts on which an export is proved.

    Attributes:
        task: The task with the run's weights, in evaluation mode, on the CPU.
        tokenizer: Tokenizer of the run.
        texts: Sources of translations, or texts to classify, fill in or continue.
        references: Reference translations; for tasks on pairs, the second texts; else empty.
        targets: The run's tokenizer of targets, if `tokenizer` is that of sources.
    """

    task: Task
    tokenizer: Tokenizer
    texts: list[str]
    references: list[str]
    targets: Tokenizer | None = None


class ExportFormat(Protocol):
    """Exports models to the format of a library."""

    def write(self, examples: ProofTexts, folder: Path) -> None:
        """Write the model into an empty folder."""

    def prove(self, examples: ProofTexts, folder: Path) -> dict[str, Any]:
        """Load the written model with the library, compare it with the run, and return the measurements.

        Raises:
            MismatchError: If the outputs differ.
        """


class Padded:
    """Sequences of ids as a padded batch.

    Args:
        rows: Ids of each sequence.
        pad: Id of padding.

    Attributes:
        tokens: Padded ids.
        mask: True at real tokens.
    """

    tokens: Int[Tensor, "B L"]
    mask: Bool[Tensor, "B L"]

    def __init__(self, rows: Sequence[Sequence[int]], pad: int) -> None:
        tensors = [torch.tensor(list(row)) for row in rows]
        self.tokens = pad_sequence(tensors, batch_first=True, padding_value=pad)
        self.mask = pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in tensors], batch_first=True)


@dataclass(frozen=True)
class ProofPairs:
    """Tokenized sentence pairs.

    Attributes:
        facts: The special ids.
        way: What stands around the texts.
        sources: Ids of each source, and of its prefix, without what stands around it.
        targets: Ids of each reference, likewise.
        limit: Largest number of tokens of a translation, eos included, in the run and in the library; tokens that a search
            is given do not count.
    """

    facts: Facts
    way: Direction
    sources: list[list[int]]
    targets: list[list[int]]
    limit: int

    @classmethod
    def of(cls, examples: ProofTexts) -> ProofPairs:
        """Tokenize the examples of a translation task, leaving out texts without tokens.

        Raises:
            MismatchError: If no text is left.
        """
        task = translation(examples)
        way, positions = task.direction, task.model.max_length
        sources = [ids[: task.text_limit] for ids in task.encode(examples.texts, examples.tokenizer)]
        targets = [ids[: positions - way.target_room] for ids in examples.tokenizer.encode(examples.references)]
        nonempty = [index for index, source in enumerate(sources) if source]
        if not nonempty:
            raise MismatchError("the validation split has no sentence to prove an export on")
        limit = min(task.decoding.max_length, positions - len(way.before_target))
        sources, targets = ([side[index] for index in nonempty] for side in (sources, targets))
        return cls(task.facts, way, sources, targets, limit)

    def batches(self) -> Iterator[list[int]]:
        """Yield the indices of sentences of similar length, at most `BATCH` at once."""
        order = sorted(range(len(self.sources)), key=lambda index: len(self.sources[index]))
        for start in range(0, len(order), BATCH):
            yield order[start : start + BATCH]

    def source(self, rows: Sequence[int]) -> Padded:
        """Return the sources of some sentences, with what stands around them."""
        return Padded([self.way.source(self.sources[row]) for row in rows], self.facts.pad)

    def target(self, rows: Sequence[int]) -> Padded:
        """Return the decoder inputs of some sentences: bos, then the reference; languages where they are written."""
        return Padded([self.way.inputs(self.targets[row]) for row in rows], self.facts.pad)

    def translate(self, translate_batch: Callable[[Padded], Outputs]) -> tuple[Outputs, float]:
        """Return the translations of all sentences, and the seconds."""
        outputs: Outputs = [()] * len(self.sources)
        started = time.perf_counter()
        for rows in self.batches():
            for row, output in zip(rows, translate_batch(self.source(rows)), strict=True):
                outputs[row] = output
        return outputs, time.perf_counter() - started

    def searched(self, step: Step[Any], cache: Any, beams: int, rows: int) -> Outputs:
        """Return the best translations by log-probability, without length penalty, since libraries define it differently."""
        search = Beam(beams=beams, length_penalty=0.0, max_length=self.limit)
        given = torch.tensor([self.way.given(())] * rows)
        results = search(step, cache, bos=given, eos=self.facts.eos, rows=rows, device=torch.device("cpu"))
        return [hypotheses[0].tokens for hypotheses in results]

    def native(self, model: EncoderDecoder, beams: int) -> tuple[Outputs, float]:
        """Return the run's translations, and the seconds."""

        def translate_batch(batch: Padded) -> Outputs:
            with torch.no_grad():
                cache = model.start(model.encode(batch.tokens, batch.mask))
            return self.searched(model.step, cache, beams, len(batch.tokens))

        return self.translate(translate_batch)


def translation(examples: ProofTexts) -> Translation:
    """Return the task of the examples, known to be a translation."""
    return cast(Translation, examples.task)


def native_translator(task: Translation) -> Seq2Seq:
    """Return the model of a translation, known to be etude's own."""
    return cast(Seq2Seq, task.model)


def proven_beams(task: Translation) -> int:
    """Return the number of beams of a proof: the run's own, but at least two."""
    return max(task.decoding.beams, 2) if isinstance(task.decoding, Beam) else 2


def until_eos(ids: Sequence[int], eos: int) -> tuple[int, ...]:
    """Return the ids before the first eos."""
    tokens = list(ids)
    return tuple(tokens[: tokens.index(eos)] if eos in tokens else tokens)


def largest_difference(
    outputs: Float[Tensor, "*shape"], peer_outputs: Float[Tensor, "*shape"], what: str, tolerance: float = TOLERANCE
) -> float:
    """Return the largest absolute difference.

    Raises:
        MismatchError: If it exceeds the tolerance or is nan.
    """
    difference = float((outputs - peer_outputs).abs().max())
    if not difference <= tolerance:
        raise MismatchError(f"{what} differ by {difference:.2e}, more than {tolerance:.0e}; nothing was exported")
    return difference


def same_translations(
    model: EncoderDecoder, sentences: ProofPairs, outputs: Outputs, peer_outputs: Outputs, library: str
) -> dict[str, int]:
    """Count equal greedy translations, and those that diverge where two tokens are equally probable.

    Raises:
        MismatchError: If one diverges elsewhere.
    """

    def next_logits(row: int, prefix: Sequence[int]) -> Float[Tensor, " V"]:
        source = sentences.source([row])
        target = Padded([sentences.way.given(prefix)], sentences.facts.pad)
        with torch.no_grad():
            return cast(Tensor, model(source.tokens, target.tokens, source.mask, target.mask)[0, -1])

    message = f"{library} translates sentence"
    counts = same_greedy(outputs, peer_outputs, next_logits, sentences.facts.eos, sentences.limit, message)
    return {"sentences": len(outputs), **counts}


def same_greedy(
    outputs: Outputs, peer_outputs: Outputs, next_logits: NextLogits, eos: int, limit: int, message: str
) -> dict[str, int]:
    """Count equal greedy outputs, and those that diverge where two tokens are equally probable.

    Args:
        outputs: Outputs of the run.
        peer_outputs: Outputs of the library.
        next_logits: Logits of the run.
        eos: Id of the token that ends an output.
        limit: Largest number of tokens of an output, eos included.
        message: Beginning of an error message, up to the number of the output.

    Raises:
        MismatchError: If one diverges elsewhere.
    """
    ties = 0
    for row, (own, other) in enumerate(zip(outputs, peer_outputs, strict=True)):
        if own != other:
            first, second = ([*tokens, eos][:limit] for tokens in (own, other))
            gap = _logits_gap(partial(next_logits, row), first, second)
            if not gap <= 10 * TOLERANCE:
                raise MismatchError(
                    f"{message} {row + 1} otherwise: {list(other)[:12]}, not {list(own)[:12]} "
                    f"(logits {gap:.2e} apart where they part); nothing was exported"
                )
            ties += 1
    return {"equal": len(outputs) - ties, "ties": ties}


def same_best(
    model: EncoderDecoder, sentences: ProofPairs, outputs: Outputs, peer_outputs: Outputs, library: str, beams: int
) -> dict[str, Any]:
    """Count equal translations of beam search, and different ones that are at least as probable.

    Raises:
        MismatchError: If the library's translation is less probable.
    """
    ties = 0
    for row, (own, other) in enumerate(zip(outputs, peer_outputs, strict=True)):
        if own != other:
            lost = _log_probability(model, sentences, row, own) - _log_probability(model, sentences, row, other)
            if not lost <= 10 * TOLERANCE:
                raise MismatchError(
                    f"{library} finds {list(other)[:12]} for sentence {row + 1} with {beams} beams, which is {lost:.2e} nats "
                    f"less probable than {list(own)[:12]}; nothing was exported"
                )
            ties += 1
    counts = {"sentences": len(outputs), "equal": len(outputs) - ties, "ties": ties}
    return {"beams": beams, "length_penalty": 0.0, **counts}


def _log_probability(model: EncoderDecoder, sentences: ProofPairs, row: int, tokens: Sequence[int]) -> float:
    """Return the run's log-probability of a translation, including its eos unless it reached the limit."""
    facts, way = sentences.facts, sentences.way
    labels = [*tokens, facts.eos][: sentences.limit]
    source, target = sentences.source([row]), Padded([way.given(labels[:-1])], facts.pad)
    with torch.no_grad():
        logits = model(source.tokens, target.tokens, source.mask, target.mask)[0, len(way.before_target) :]
    return float(logits.double().log_softmax(-1).gather(1, torch.tensor(labels)[:, None]).sum())


def _logits_gap(
    next_logits: Callable[[Sequence[int]], Float[Tensor, " V"]], own: Sequence[int], other: Sequence[int]
) -> float:
    """Return the difference between the run's logits of the first two tokens that differ; infinity if none do."""
    for index, (first, second) in enumerate(zip(own, other, strict=False)):
        if first != second:
            logits = next_logits(own[:index])
            return float((logits[first] - logits[second]).abs())
    return float("inf")
