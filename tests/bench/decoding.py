"""Beam search, side by side: etude, by hand with cached keys and values, Hugging Face's generate, CTranslate2.

The weights are the same in all, in single precision.

    python -m tests.bench.decoding                           # a model that has not learned, embedded interface texts
    python -m tests.bench.decoding --run outputs/translation/multi30k/…      # a trained one and its own validation split

Three comparisons of the same shape (3 + 3 layers, width 256, 8,000 pieces), 4 beams, batches of 64 sentences:

    fixed    every translation has 16 tokens
    mixed    a model that has not learned: every translation is as long as its reference, whose tokens it is not allowed to
             end before. A trained one: as long as it finds right, ranked by log-probability, at most 2 x source + 10
    single   as mixed, one sentence at a time: the latency of an answer

etude and the search by hand take sentences by their length, since order changes no output; generate takes them as they
come, and once more by their length. CTranslate2 is given all of them at once, which it sorts itself, with a worker for each
core; single ones with as many threads. It can give no translation a length of its own, so that a model that has not learned is
compared with it at the fixed length alone. The share of equal translations is reported too: without it a ratio says nothing.
Only a model with PostNorm is a MarianMTModel; of a run with PreNorm, the peer is Pegasus, which computes the same.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from torch import Tensor

from etude.commands.bench.decoding import NEVER
from etude.commands.export.ctranslate import CTranslate2, vocabulary_of
from etude.commands.export.huggingface_files import load_peer, write_model
from etude.commands.export.huggingface_translation import seq2seq_config, sines_first
from etude.commands.export.proof import ProofTexts, native_translator
from etude.config.compose import compose
from etude.models.generation.search import Beam
from etude.models.layers.positions import Sinusoidal
from etude.models.layers.residual import PostNorm
from etude.models.pretrained.bart import to_bart
from etude.runs.saved_run import SavedRun
from etude.tasks.translation import Translation
from etude.training.build import Experiment, build
from etude.training.restore import load_run
from etude.types import Facts
from tests.bench.hand_layers import copy_weights
from tests.bench.hand_translation import HandTranslation
from tests.bench.huggingface import padded
from tests.bench.rounds import Contender, Work, arguments, compare
from tests.bench.translation import overrides

BEAMS, BATCH, FIXED = 4, 64, 16
Outputs = dict[int, list[int]]


@dataclass
class Sentences:
    """What is to be translated.

    Attributes:
        source: Ids of each sentence, without eos.
        lengths: The most tokens of each translation, eos included.
        ends: Whether a translation may end before.
        batch: Sentences that are translated together.
    """

    source: list[list[int]]
    lengths: Tensor
    ends: bool
    batch: int = BATCH
    outputs: dict[str, Outputs] = field(default_factory=dict)

    def batches(self, by_length: bool) -> list[np.ndarray]:
        """Return the sentences of each batch."""
        sizes = np.array([len(ids) for ids in self.source])
        keys = (self.lengths.numpy(), sizes) if by_length else (np.zeros_like(sizes),)
        order = np.lexsort(keys)
        return [order[start : start + self.batch] for start in range(0, len(order), self.batch)]

    def all_at_once(self, name: str, translate: Callable[[list[list[int]]], list[list[int]]]) -> Callable[[int], Work]:
        """Return what does a round with all sentences in one call."""

        def work(_: int) -> Work:
            started = time.perf_counter()
            self.outputs[name] = dict(enumerate(translate(self.source)))
            return Work(len(self.source), time.perf_counter() - started)

        return work

    def contender(
        self, name: str, translate: Callable[[np.ndarray], list[list[int]]], *, by_length: bool = True
    ) -> Callable[[int], Work]:
        """Return what does a round: all the sentences."""

        def work(_: int) -> Work:
            started = time.perf_counter()
            found: Outputs = {}
            for rows in self.batches(by_length):
                found.update(zip(rows.tolist(), translate(rows), strict=True))
            self.outputs[name] = found
            return Work(len(self.source), time.perf_counter() - started)

        return work

    def equal(self) -> dict[str, float]:
        """Return the share of sentences that each contender translates as the first one does."""
        first, *_ = self.outputs.values()
        return {name: sum(rows[i] == first[i] for i in first) / len(first) for name, rows in self.outputs.items()}


def ours(task: Translation, sentences: Sentences) -> Callable[[np.ndarray], list[list[int]]]:
    """Return etude's search."""
    search = Beam(beams=BEAMS, length_penalty=0.0, max_length=int(sentences.lengths.max()))
    facts = task.facts

    @torch.no_grad()
    def translate(rows: np.ndarray) -> list[list[int]]:
        source = padded([[*sentences.source[row], facts.eos] for row in rows], facts.pad)
        start = task.model.start(task.model.encode(source, _mask(sentences, rows)))
        found = search(
            task.model.step,
            start,
            bos=facts.bos,
            eos=facts.eos if sentences.ends else NEVER,
            rows=len(rows),
            max_lengths=sentences.lengths[rows],
        )
        return [list(hypotheses[0].tokens) for hypotheses in found]

    return translate


def by_hand(task: Translation, sentences: Sentences) -> Callable[[np.ndarray], list[list[int]]]:
    """Return the search by hand, with etude's weights."""
    facts, model = task.facts, native_translator(task)
    hand = HandTranslation(
        facts.vocabulary,
        width=model.width,
        heads=model.heads,
        layers=len(model.decoder),
        inner=cast(Any, model.decoder[0]).feed_forward.inner.out_features,
        post_norm=isinstance(cast(Any, model.decoder[0]).self_residual, PostNorm),
    ).eval()
    copy_weights(hand, model)

    def translate(rows: np.ndarray) -> list[list[int]]:
        source, lengths = [sentences.source[row] for row in rows], sentences.lengths[rows]
        found = hand.beam(source, lengths, facts.bos, facts.eos, BEAMS, never_ends=not sentences.ends)
        if not sentences.ends:
            return [row[:length].tolist() for row, length in zip(found, lengths.tolist(), strict=True)]
        return [_until(row, facts.eos) for row in found.tolist()]

    return translate


class EndAt(transformers.LogitsProcessor):  # type: ignore[misc]
    """Ends each translation after its last token, and none before."""

    def __init__(self, lengths: Tensor, facts: Facts) -> None:
        self.lengths, self.facts = lengths.repeat_interleave(BEAMS), facts

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        # The first of the ids is the decoder's start. `generate` ends a sentence by a token: one that nothing else chooses.
        last = input_ids.shape[1] > self.lengths
        scores[:, self.facts.pad] = -torch.inf
        scores[last] = -torch.inf
        scores[last, self.facts.pad] = 0.0
        return scores


def generate(task: Translation, peer: Any, sentences: Sentences) -> Callable[[np.ndarray], list[list[int]]]:
    """Return Hugging Face's beam search."""
    facts = task.facts

    @torch.no_grad()
    def translate(rows: np.ndarray) -> list[list[int]]:
        lengths = sentences.lengths[rows]
        forced: dict[str, Any] = {}
        if not sentences.ends:
            forced = {"eos_token_id": facts.pad, "logits_processor": [EndAt(lengths, facts)]}
        found = peer.generate(
            input_ids=padded([[*sentences.source[row], facts.eos] for row in rows], facts.pad),
            attention_mask=_mask(sentences, rows).long(),
            num_beams=BEAMS,
            do_sample=False,
            length_penalty=0.0,
            max_new_tokens=int(lengths.max()) + (not sentences.ends),
            **forced,
        )
        ids = found[:, 1:].tolist()
        if sentences.ends:
            return [_until(row, facts.eos) for row in ids]
        return [row[:length] for row, length in zip(ids, lengths.tolist(), strict=True)]

    return translate


def ctranslate2_of(
    experiment: Experiment, sentences: Sentences, threads: int
) -> Callable[[list[list[int]]], list[list[int]]]:
    """Return CTranslate2's beam search over many sentences, in its own order and with its own parallelism."""
    task, tokenizer = cast(Translation, experiment.task), experiment.data.prepared.tokenizer
    library = CTranslate2(None)
    vocabulary = vocabulary_of(tokenizer)
    ids = {piece: index for index, piece in enumerate(vocabulary)}
    workers = 1 if sentences.batch == 1 else threads
    with tempfile.TemporaryDirectory() as folder:
        library.save(ProofTexts(task, tokenizer, [], []), Path(folder) / "model", None)
        translator = library.library.Translator(
            str(Path(folder) / "model"), compute_type="float32", inter_threads=workers, intra_threads=threads // workers
        )
    longest = int(sentences.lengths.max())

    def translate(source: list[list[int]]) -> list[list[int]]:
        pieces = [[vocabulary[token] for token in [*row, task.facts.eos]] for row in source]
        found = translator.translate_batch(
            pieces,
            beam_size=BEAMS,
            length_penalty=0.0,
            max_batch_size=sentences.batch,
            min_decoding_length=0 if sentences.ends else longest,
            max_decoding_length=longest,
            max_input_length=0,
        )
        return [[ids[piece] for piece in one.hypotheses[0]] for one in found]

    return translate


def peer_of(task: Translation) -> torch.nn.Module:
    """Return the transformers model with a task's weights."""
    model = native_translator(task)
    family, weights = to_bart(model)
    if isinstance(model.positions, Sinusoidal):
        weights = sines_first(weights, model.width)
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), family.model_type, seq2seq_config(task), weights)
        return load_peer(Path(folder), "AutoModelForSeq2SeqLM")


def trained(run: Path) -> Experiment:
    """Return the experiment of a run, with its weights."""
    saved = SavedRun.open(run)
    return replace(build(saved.config, saved.tokenizer), task=load_run(saved))


def chosen(experiment: Experiment, count: int) -> tuple[list[list[int]], Tensor]:
    """Return the source ids of so many sentences of the validation split, and the lengths of their references."""
    split = experiment.data.prepared.splits["val"]
    source, target = split.tokens["source"], split.tokens["target"]
    rows = np.random.default_rng(1).permutation(len(source))[:count]
    return [source[row].tolist() for row in rows], torch.tensor([len(target[row]) + 1 for row in rows])


def race(
    title: str, experiment: Experiment, sentences: Sentences, wanted: float | None, options: argparse.Namespace
) -> None:
    """Compare on some sentences."""
    task = cast(Translation, experiment.task)
    peer = peer_of(task)
    searches = {
        "etude": (ours(task, sentences), True, None),
        "by hand": (by_hand(task, sentences), True, None),
        "Hugging Face generate": (generate(task, peer, sentences), False, wanted),
        "Hugging Face generate, by length": (generate(task, peer, sentences), True, None),
    }
    contenders = {
        name: Contender(sentences.contender(name, search, by_length=by_length), wanted)
        for name, (search, by_length, wanted) in searches.items()
    }
    if sentences.ends or int(sentences.lengths.min()) == int(sentences.lengths.max()):
        search = ctranslate2_of(experiment, sentences, options.threads)
        if sentences.batch == 1:
            work = sentences.contender("CTranslate2", lambda rows: search([sentences.source[row] for row in rows]))
        else:
            work = sentences.all_at_once("CTranslate2", search)
        contenders["CTranslate2"] = Contender(work, 0.9)
    compare(f"beam {BEAMS}, {title}, sentences per second", contenders, options)
    sys.stderr.write(f"equal to etude's translations: {sentences.equal()}\n")


def main() -> None:
    """Compare."""
    parser = arguments(__doc__, seconds=0)
    parser.add_argument("--root", help="folder of Multi30k; default: interface texts, embedded")
    parser.add_argument("--run", type=Path, help="a trained run; default: a model that has not learned")
    parser.add_argument("--sentences", type=int, default=512)
    options = parser.parse_args()
    if options.run is None:
        postnorm = "model.residual._target_=etude.models.layers.residual.PostNorm"
        experiment = build(compose(*overrides(options.root), postnorm))
    else:
        experiment = trained(options.run)
    task = cast(Translation, experiment.task.eval())
    source, lengths = chosen(experiment, options.sentences)
    race(
        f"{FIXED} tokens each", experiment, Sentences(source, torch.full_like(lengths, FIXED), ends=False), 1.4, options
    )
    ends = options.run is not None
    if ends:
        lengths = (2 * torch.tensor([len(ids) + 1 for ids in source]) + 10).clamp(max=task.model.max_length)
    race("real sentences", experiment, Sentences(source, lengths, ends), 2.0, options)
    few = options.sentences // 8
    race("one sentence at a time", experiment, Sentences(source[:few], lengths[:few], ends, batch=1), None, options)


def _mask(sentences: Sentences, rows: Sequence[int] | np.ndarray) -> Tensor:
    return padded([torch.ones(len(sentences.source[row]) + 1, dtype=torch.bool) for row in rows], 0)


def _until(ids: list[int], eos: int) -> list[int]:
    return ids[: ids.index(eos)] if eos in ids else ids


if __name__ == "__main__":
    main()
