"""What proves an export: the run's own validation sentences, and comparisons that name the first difference.

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
from etude.types import Facts

TOLERANCE = 1e-4
"""Largest difference of logits that float32 in another order of sums explains."""

BATCH = 64
"""Sentences that are proved together."""

Outputs = list[tuple[int, ...]]
"""Token ids of each sentence's translation, or of what was added to each text, without bos and eos."""

Next = Callable[[int, Sequence[int]], Float[Tensor, " V"]]
"""Takes the number of an output and the tokens that it begins with; returns the run's logits of the token after them."""


class MismatchError(EtudeError):
    """An exported model does not give the outputs of the run."""


@dataclass(frozen=True)
class ProofTexts:
    """What an export is proved on.

    Attributes:
        task: With the run's weights, in evaluation mode, on the CPU.
        tokenizer: The run's.
        texts: Sources of translations, or texts that are classified, filled in or continued.
        references: The wanted translations; of tasks that read pairs, the second texts; else empty.
    """

    task: Task
    tokenizer: Tokenizer
    texts: list[str]
    references: list[str]


class Format(Protocol):
    """A library's layout of models."""

    def write(self, examples: ProofTexts, folder: Path) -> None:
        """Write the model into an empty folder."""

    def prove(self, examples: ProofTexts, folder: Path) -> dict[str, Any]:
        """Load what `write` wrote with the library itself and compare; returns what was measured.

        Raises:
            MismatchError: If the outputs differ.
        """


class Padded:
    """Sequences of ids as a padded batch.

    Args:
        rows: The ids.
        pad: Id of padding.

    Attributes:
        tokens: The ids.
        mask: True at real tokens.
    """

    tokens: Int[Tensor, "B L"]
    mask: Bool[Tensor, "B L"]

    def __init__(self, rows: Sequence[Sequence[int]], pad: int) -> None:
        tensors = [torch.tensor(list(row)) for row in rows]
        self.tokens = pad_sequence(tensors, batch_first=True, padding_value=pad)
        self.mask = pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in tensors], batch_first=True)


@dataclass(frozen=True)
class Sentences:
    """Tokenized sentence pairs.

    Attributes:
        facts: The special ids.
        sources: Ids of each source, without eos.
        targets: Ids of each reference, without bos and eos.
        limit: The most tokens of a translation, eos included: the same for every library.
    """

    facts: Facts
    sources: list[list[int]]
    targets: list[list[int]]
    limit: int

    @classmethod
    def of(cls, examples: ProofTexts) -> Sentences:
        """Tokenize the examples of a translation; texts without a token are left out.

        Raises:
            MismatchError: If no text is left.
        """
        task = translation(examples)
        room = task.model.max_length - 1
        sources, targets = (
            [ids[:room] for ids in examples.tokenizer.of(field).encode(texts)]
            for field, texts in (("source", examples.texts), ("target", examples.references))
        )
        kept = [index for index, source in enumerate(sources) if source]
        if not kept:
            raise MismatchError("the validation split has no sentence to prove an export on")
        limit = min(task.decoding.max_length, task.model.max_length)
        return cls(task.facts, [sources[index] for index in kept], [targets[index] for index in kept], limit)

    def batches(self) -> Iterator[list[int]]:
        """Yield the numbers of sentences of like length, at most `BATCH` at once."""
        order = sorted(range(len(self.sources)), key=lambda index: len(self.sources[index]))
        for start in range(0, len(order), BATCH):
            yield order[start : start + BATCH]

    def source(self, rows: Sequence[int]) -> Padded:
        """Return the sources of some sentences, each with its eos."""
        return Padded([[*self.sources[row], self.facts.eos] for row in rows], self.facts.pad)

    def target(self, rows: Sequence[int]) -> Padded:
        """Return the decoder's inputs of some sentences: bos, then the reference."""
        return Padded([[self.facts.bos, *self.targets[row]] for row in rows], self.facts.pad)

    def translate(self, one_batch: Callable[[Padded], Outputs]) -> tuple[Outputs, float]:
        """Return the translations of all sentences, and the seconds they took."""
        outputs: Outputs = [()] * len(self.sources)
        started = time.perf_counter()
        for rows in self.batches():
            for row, output in zip(rows, one_batch(self.source(rows)), strict=True):
                outputs[row] = output
        return outputs, time.perf_counter() - started

    def searched(self, step: Step[Any], cache: Any, beams: int, rows: int) -> Outputs:
        """Return the best translations by log-probability: that needs no length penalty, of which libraries differ."""
        search = Beam(beams=beams, length_penalty=0.0, max_length=self.limit)
        found = search(step, cache, bos=self.facts.bos, eos=self.facts.eos, rows=rows, device=torch.device("cpu"))
        return [hypotheses[0].tokens for hypotheses in found]

    def native(self, model: EncoderDecoder, beams: int) -> tuple[Outputs, float]:
        """Return the run's own translations, and the seconds they took."""

        def one_batch(batch: Padded) -> Outputs:
            with torch.no_grad():
                cache = model.start(model.encode(batch.tokens, batch.mask))
            return self.searched(model.step, cache, beams, len(batch.tokens))

        return self.translate(one_batch)


def translation(examples: ProofTexts) -> Translation:
    """Return the task of the examples, which is known to translate."""
    return cast(Translation, examples.task)


def native_translator(task: Translation) -> Seq2Seq:
    """Return the model of a translation, which is known to be etude's own."""
    return cast(Seq2Seq, task.model)


def proven_beams(task: Translation) -> int:
    """Return the beams that a proof compares beam search with: the run's own, and at least two."""
    return max(task.decoding.beams, 2) if isinstance(task.decoding, Beam) else 2


def until_eos(ids: Sequence[int], eos: int) -> tuple[int, ...]:
    """Return the ids before the first eos."""
    found = list(ids)
    return tuple(found[: found.index(eos)] if eos in found else found)


def largest_difference(
    ours: Float[Tensor, "*shape"], theirs: Float[Tensor, "*shape"], what: str, tolerance: float = TOLERANCE
) -> float:
    """Return the largest absolute difference.

    Raises:
        MismatchError: If it is above the tolerance, or not a number.
    """
    difference = float((ours - theirs).abs().max())
    if not difference <= tolerance:
        raise MismatchError(f"{what} differ by {difference:.2e}, more than {tolerance:.0e}; nothing was exported")
    return difference


def same_translations(
    model: EncoderDecoder, sentences: Sentences, ours: Outputs, theirs: Outputs, library: str
) -> dict[str, int]:
    """Count equal greedy translations, and those that part where two tokens are equally probable.

    Raises:
        MismatchError: If one parts elsewhere.
    """

    def following(row: int, begun: Sequence[int]) -> Float[Tensor, " V"]:
        source = sentences.source([row])
        target = Padded([[sentences.facts.bos, *begun]], sentences.facts.pad)
        with torch.no_grad():
            return cast(Tensor, model(source.tokens, target.tokens, source.mask, target.mask)[0, -1])

    ends = sentences.facts.eos, sentences.limit
    return {"sentences": len(ours), **same_greedy(ours, theirs, following, *ends, f"{library} translates sentence")}


def same_greedy(ours: Outputs, theirs: Outputs, following: Next, eos: int, limit: int, says: str) -> dict[str, int]:
    """Count equal greedy outputs, and those that part where two tokens are equally probable.

    Args:
        ours: The run's.
        theirs: The library's.
        following: The run's logits.
        eos: The token that ends an output.
        limit: The most tokens of an output, eos included.
        says: How a message begins, up to the number of an output.

    Raises:
        MismatchError: If one parts elsewhere.
    """
    ties = 0
    for row, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        if own != other:
            first, second = ([*tokens, eos][:limit] for tokens in (own, other))
            gap = _gap(partial(following, row), first, second)
            if not gap <= 10 * TOLERANCE:
                raise MismatchError(
                    f"{says} {row + 1} otherwise: {list(other)[:12]}, not {list(own)[:12]} "
                    f"(logits {gap:.2e} apart where they part); nothing was exported"
                )
            ties += 1
    return {"equal": len(ours) - ties, "ties": ties}


def same_best(
    model: EncoderDecoder, sentences: Sentences, ours: Outputs, theirs: Outputs, library: str, beams: int
) -> dict[str, Any]:
    """Count equal beam-searched translations, and others that are as probable.

    Raises:
        MismatchError: If the library found a less probable one.
    """
    ties = 0
    for row, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        if own != other:
            lost = _log_probability(model, sentences, row, own) - _log_probability(model, sentences, row, other)
            if not lost <= 10 * TOLERANCE:
                raise MismatchError(
                    f"{library} finds {list(other)[:12]} for sentence {row + 1} with {beams} beams, which is {lost:.2e} nats "
                    f"less probable than {list(own)[:12]}; nothing was exported"
                )
            ties += 1
    counts = {"sentences": len(ours), "equal": len(ours) - ties, "ties": ties}
    return {"beams": beams, "length_penalty": 0.0, **counts}


def _log_probability(model: EncoderDecoder, sentences: Sentences, row: int, tokens: Sequence[int]) -> float:
    """Return the run's log-probability of a translation, and of eos after it unless it was cut."""
    facts = sentences.facts
    labels = [*tokens, facts.eos][: sentences.limit]
    source, target = sentences.source([row]), Padded([[facts.bos, *labels[:-1]]], facts.pad)
    with torch.no_grad():
        logits = model(source.tokens, target.tokens, source.mask, target.mask)[0]
    return float(logits.double().log_softmax(-1).gather(1, torch.tensor(labels)[:, None]).sum())


def _gap(following: Callable[[Sequence[int]], Float[Tensor, " V"]], own: Sequence[int], other: Sequence[int]) -> float:
    """Return how far apart the run's logits are of the first two tokens that differ; infinity where none do."""
    for place, (first, second) in enumerate(zip(own, other, strict=False)):
        if first != second:
            logits = following(own[:place])
            return float((logits[first] - logits[second]).abs())
    return float("inf")
