"""Laws of drawn segmentations: functions of (seed, epoch, example), counted exactly, in training only."""

from __future__ import annotations

import pickle
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etude.data.base import DataSettings
from etude.data.corpora.parallel.parallel_files import ParallelFiles
from etude.data.loader import PlanLoader, PlanSampler
from etude.data.sizes import BatchSize
from etude.data.subword_regularization import BPEDropout, Sampling, UnigramSampling
from etude.data.translation import TranslationData
from etude.errors import ConfigurationError
from etude.tokenization.trained import BPE, Unigram
from etude.types import IGNORED, TranslationBatch

WORDS = ["sunset", "moonlight", "starling", "treetop", "lakeside", "roadway", "birdsong", "windmill", "rainstorm"]
RECIPES: dict[type, BPE | Unigram] = {BPEDropout: BPE(90), UnigramSampling: Unigram(90)}
Rows = dict[int, tuple[list[int], list[int], float]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place, source = tmp_path_factory.mktemp("pairs"), random.Random(3)
    for split, rows in (("train", 83), ("val", 11)):
        texts = [" ".join(source.choice(WORDS) for _ in range(source.randint(1, 9))) for _ in range(rows)]
        (place / f"{split}.en").write_text("".join(f"{text}\n" for text in texts))
        (place / f"{split}.de").write_text("".join(f"{text[::-1]}\n" for text in texts))
    return place


def data(folder: Path, sampling: Sampling | None, *, max_length: int = 128, seed: int = 1) -> TranslationData:
    corpus = ParallelFiles(str(folder), "en", "de", {"train": "train", "val": "val"})
    recipe = RECIPES[type(sampling)] if sampling else BPE(90)
    return TranslationData(
        corpus,
        max_length,
        sampling=sampling,
        settings=DataSettings(recipe, seed=seed, batch=BatchSize(tokens=300), cache=folder / "cache"),
    )


def loader(of: TranslationData, rank: int = 0, world: int = 1, micro_batches: int = 1, workers: int = 0) -> PlanLoader:
    sampler = PlanSampler(of.plan, rank=rank, world=world, micro_batches=micro_batches)
    return PlanLoader(of.splits["train"], sampler, workers)


def rows(batches: list[TranslationBatch]) -> Rows:
    """Source, target and denominator of each example."""
    found = {}
    for batch in batches:
        for i, example in enumerate(batch.ids.tolist()):
            if example >= 0:
                source = batch.source[i][batch.source_mask[i]].tolist()
                found[example] = (source, batch.labels[i][batch.labels[i] != IGNORED].tolist(), batch.step_count)
    return found


def epoch(source: Any) -> Rows:
    return rows(list(source))


SAMPLINGS = [BPEDropout(0.2, 0.3), UnigramSampling(0.01, 0.02), BPEDropout(0.0, 0.3), UnigramSampling(0.2, None)]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_ids_and_counts_do_not_depend_on_how_a_batch_is_cut(folder: Path, sampling: Sampling) -> None:
    """For 1 and 2 ranks, 1, 2 and 4 micro-batches, 0 and 2 workers, and a data module that starts anew in an epoch."""
    whole = data(folder, sampling)
    source = loader(whole)
    first, second = epoch(source), epoch(source)
    assert len(first) == len(second) == 83
    for world, micro_batches, workers in ((1, 2, 0), (1, 4, 2), (2, 1, 0), (2, 2, 0)):
        again = data(folder, sampling)
        found: Rows = {}
        for rank in range(world):
            found |= epoch(loader(again, rank, world, micro_batches, workers))
        assert found == first, (world, micro_batches, workers)
    continued = loader(data(folder, sampling))
    continued.load_state_dict({"epoch": 1, "step": 2})
    rest = epoch(continued)
    assert 0 < len(rest) < 83
    assert rest == {example: second[example] for example in rest}


@pytest.mark.parametrize("sampling", SAMPLINGS[:2], ids=str)
def test_a_denominator_is_the_number_of_labels_of_its_step(folder: Path, sampling: Sampling) -> None:
    for batch in loader(data(folder, sampling)):
        assert isinstance(batch, TranslationBatch)
        assert batch.step_count == int((batch.labels != IGNORED).sum())


@pytest.mark.parametrize("sampling", SAMPLINGS[:2], ids=str)
def test_texts_stay_and_segmentations_change_with_epoch_and_seed(folder: Path, sampling: Sampling) -> None:
    of, other = data(folder, sampling), data(folder, sampling, seed=2)
    source = loader(of)
    epochs = [epoch(source), epoch(source), epoch(loader(other))]
    plain = of.prepared.splits["train"]
    for side, field in enumerate(("source", "target")):
        ids = [{example: row[:2][side][:-1] for example, row in found.items()} for found in epochs]
        for found in ids:
            assert of.decode(list(found.values())) == [plain.texts[field][example] for example in found]
            differing = sum(found[example] != plain.tokens[field][example].tolist() for example in found)
            assert differing > 30
        for one, two in ((0, 1), (0, 2)):
            assert sum(ids[one][example] != ids[two][example] for example in ids[one]) > 30


def test_steps_tokens_and_lengths_are_those_of_the_plain_segmentation(folder: Path) -> None:
    """Batches are of the same examples, so that every epoch has the same steps, and budgets mean what they meant."""
    plain, sampled = data(folder, None), data(folder, BPEDropout(0.3, 0.3))
    assert plain.clock == sampled.clock
    for number in range(2):
        (one,), (other,) = plain.plan(number).parts(), sampled.plan(number).parts()
        np.testing.assert_array_equal(one.order, other.order)
        np.testing.assert_array_equal(one.starts, other.starts)
        counts = [
            [of.plan(number).count(step) for step in range(plain.clock.steps_per_epoch)] for of in (plain, sampled)
        ]
        assert all(drawn > without for without, drawn in zip(*counts, strict=True))


def test_nothing_drawn_is_nothing_changed(folder: Path) -> None:
    source, without = loader(data(folder, BPEDropout(0.0, 0.0))), loader(data(folder, None))
    assert [epoch(source), epoch(source)] == [epoch(without), epoch(without)]


def test_evaluation_is_plain(folder: Path) -> None:
    found, expected = (data(folder, sampling).val_dataloader() for sampling in (BPEDropout(0.5, 0.5), None))
    assert epoch(found) == epoch(expected)


def test_what_is_drawn_too_long_is_plain(folder: Path) -> None:
    longest = int(data(folder, None).splits["train"].lengths.max())
    of = data(folder, BPEDropout(0.5, 0.5), max_length=longest)
    plain = of.prepared.splits["train"].tokens["target"]
    found = epoch(loader(of))
    assert len(found) == 83
    assert max(len(target) for _, target, _ in found.values()) <= longest
    long = [example for example in found if len(plain[example]) > longest - 4]
    assert long
    assert all(found[example][1][:-1] == plain[example].tolist() for example in long)


def test_another_process_draws_the_same(folder: Path) -> None:
    of = data(folder, BPEDropout(0.3, 0.3))
    examples: Any = of.splits["train"]
    moved = pickle.loads(pickle.dumps(examples))
    assert [moved._tokens("target", i, 5).tolist() for i in range(9)] == [
        examples._tokens("target", i, 5).tolist() for i in range(9)
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BPEDropout(1.0, 0.1), r"data.sampling.source=1.0 is not in \[0, 1\); write 0.1"),
        (lambda: BPEDropout(0.1, -0.1), r"data.sampling.target=-0.1 is not in"),
        (lambda: UnigramSampling(0.1, 0.0), r"data.sampling.target=0.0 is not positive; write 0.2, or null"),
    ],
)
def test_wrong_values_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_a_tokenizer_of_another_kind_is_refused(folder: Path) -> None:
    of = data(folder, BPEDropout())
    of.settings = replace(of.settings, tokenizer=Unigram(90))
    with pytest.raises(ConfigurationError, match=r"the tokenizer is Unigram; write tokenizer=bpe"):
        _ = of.splits
