"""Laws of searching, on toy models: each against an independent way to the same answer."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float, Int
from torch import Tensor

from etude.errors import ConfigurationError
from etude.models.generation.beam_search import beam_search
from etude.models.generation.constraint import Constraint
from etude.models.generation.greedy_search import greedy_search
from etude.models.generation.hypothesis import Hypothesis
from etude.models.generation.length_penalty import GNMT, LengthNormalized, LengthPenalty, Unnormalized
from etude.models.generation.rows import SMALLEST_PART
from etude.models.generation.search import Beam, Greedy, Sample, Search

VOCABULARY, BOS, EOS = 5, 1, 2
WIDTH, LONGEST = 3, 128
PENALTIES = [Unnormalized(), GNMT(0.6), GNMT(2.5), LengthNormalized()]


@dataclass
class Memory:
    """What a toy remembers: which source each row has, and a state for each token so far."""

    sources: Int[Tensor, " B"]
    states: Float[Tensor, "B L D"]

    def select(self, rows: Int[Tensor, " B"]) -> Memory:
        return Memory(self.sources[rows], self.states[rows])


Model = Callable[[Tensor, Memory], tuple[Tensor, Memory]]


def markov(seed: int, sources: int) -> Model:
    """The next token depends on the source and the last token: a table of logits."""
    table = 3 * torch.randn(sources, VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed))
    return lambda tokens, cache: (table[cache.sources, tokens], cache)


def attention(seed: int, sources: int) -> Model:
    """The next token depends on the source and all tokens so far and their places: a growing cache is attended to.

    Without places, the same tokens in another order would be equally probable but for rounding.
    """
    random = torch.Generator().manual_seed(seed)
    embedding, source, output, place = (
        2 * torch.randn(rows, WIDTH, generator=random, dtype=torch.float64)
        for rows in (VOCABULARY, sources, VOCABULARY, LONGEST)
    )

    def step(tokens: Tensor, cache: Memory) -> tuple[Tensor, Memory]:
        query = embedding[tokens] + source[cache.sources] + 0.1 * place[cache.states.shape[1]]  # [B, D]
        states = torch.cat([cache.states, query[:, None]], dim=1)  # [B, L, D]
        weights = torch.einsum("bd,bld->bl", query, states).softmax(dim=-1)
        context = torch.einsum("bl,bld->bd", weights, states) + torch.tanh(states.sum(dim=1))
        return context @ output.T, Memory(cache.sources, states)

    return step


MODELS = (markov, attention)


def start(*sources: int) -> Memory:
    return Memory(torch.tensor(sources), torch.zeros(len(sources), 0, WIDTH, dtype=torch.float64))


def forced(model: Model, source: int, tokens: tuple[int, ...], finished: bool) -> float:
    """Return the log-probability of tokens, and of eos after them if finished, given to the model one by one."""
    cache, total = start(source), 0.0
    labels = [*tokens, EOS] if finished else list(tokens)
    for given_token, label in zip([BOS, *tokens], labels, strict=False):
        logits, cache = model(torch.tensor([given_token]), cache)
        total += float(logits[0].float().log_softmax(-1)[label])
    return total


def ranked(hypotheses: list[Hypothesis]) -> list[Hypothesis]:
    return sorted(hypotheses, key=lambda hypothesis: (not hypothesis.finished, -hypothesis.score))


def make(tokens: tuple[int, ...], log_probability: float, finished: bool, penalty: LengthPenalty) -> Hypothesis:
    score = log_probability / penalty.divisor(len(tokens) + finished)
    return Hypothesis(tokens, score, finished, log_probability)


def exhaustive(
    model: Model, source: int, limit: int, penalty: LengthPenalty, least: int = 0, prefix: tuple[int, ...] = ()
) -> list[Hypothesis]:
    """Return every hypothesis of at least `least` tokens that starts with the prefix, best first."""
    others = [token for token in range(VOCABULARY) if token != EOS]
    return ranked(
        [
            make(tokens, forced(model, source, tokens, length < limit), length < limit, penalty)
            for length in range(least, limit + 1)
            for tokens in itertools.product(others, repeat=length)
            if tokens[: len(prefix)] == prefix
        ]
    )


def patient(model: Model, source: int, limit: int, beams: int, penalty: LengthPenalty, least: int) -> list[Hypothesis]:
    """Search with beams, one row alone, one beam at a time, with lists, and never stop before the limit."""
    live, found = [(0.0, (), start(source))], list[Hypothesis]()
    for length in range(1, limit + 1):
        candidates = []
        for place, (total, tokens, cache) in enumerate(live):
            logits, after = model(torch.tensor([tokens[-1] if tokens else BOS]), cache)
            for token, log_probability in enumerate(logits[0].float().log_softmax(-1).tolist()):
                if token != EOS or length > least:
                    candidates.append((-total - log_probability, place, token, tokens, after))
        candidates.sort(key=lambda candidate: candidate[:3])
        for cost, _, token, tokens, _ in candidates[:beams]:
            if token == EOS:
                found.append(make(tokens, -cost, True, penalty))
        others = [candidate for candidate in candidates if candidate[2] != EOS][:beams]
        live = [(-cost, (*tokens, token), after) for cost, _, token, tokens, after in others]  # type: ignore[misc]
    return ranked(found + [make(tokens, total, False, penalty) for total, tokens, _ in live])


def same(ours: list[Hypothesis], theirs: list[Hypothesis]) -> None:
    assert [(hypothesis.tokens, hypothesis.finished) for hypothesis in ours] == [
        (hypothesis.tokens, hypothesis.finished) for hypothesis in theirs
    ]
    for one, other in zip(ours, theirs, strict=True):
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-5)
        assert one.score == pytest.approx(other.score, abs=1e-5)


@pytest.mark.parametrize("toy", MODELS)
@given(
    seed=st.integers(0, 10**6),
    beams=st.integers(1, 7),
    penalty=st.sampled_from(PENALTIES),
    best=st.integers(1, 4),
    least=st.integers(0, 3),
    limits=st.lists(st.integers(1, 11), min_size=1, max_size=3),
)
@settings(max_examples=40, deadline=None)
def test_stopping_early_and_batching_change_nothing(
    toy: Callable[[int, int], Model],
    seed: int,
    beams: int,
    penalty: LengthPenalty,
    best: int,
    least: int,
    limits: list[int],
) -> None:
    model = toy(seed, len(limits))
    best = min(best, beams)
    found = beam_search(
        model,
        start(*range(len(limits))),
        bos=BOS,
        limits=torch.tensor(limits),
        constraint=Constraint(EOS, least),
        penalty=penalty,
        beams=beams,
        n_best=best,
    )
    for source, limit in enumerate(limits):
        same(found[source], patient(model, source, limit, beams, penalty, least)[:best])


@pytest.mark.parametrize("toy", MODELS)
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize(("least", "prefix"), [(0, ()), (2, ()), (0, (4, 3)), (3, (1,))])
def test_a_huge_beam_is_exhaustive(
    toy: Callable[[int, int], Model], penalty: LengthPenalty, least: int, prefix: tuple[int, ...]
) -> None:
    model, limits = toy(7, 2), [4, 3]
    search = Beam(beams=400, length_penalty=penalty, max_length=4, min_length=least, n_best=90)
    found = search(
        model, start(0, 1), bos=BOS, eos=EOS, rows=2, max_lengths=torch.tensor(limits), prefixes=[prefix, ()]
    )
    for source, limit in enumerate(limits):
        everything = exhaustive(model, source, limit, penalty, least, (prefix, ())[source])
        scores = {(hypothesis.tokens, hypothesis.finished): hypothesis.score for hypothesis in everything}
        ours = [hypothesis.score for hypothesis in found[source]]
        assert ours == pytest.approx([hypothesis.score for hypothesis in everything[:90]], abs=1e-5)
        assert ours == pytest.approx([scores[row.tokens, row.finished] for row in found[source]], abs=1e-5)
        assert len({row.tokens for row in found[source]}) == min(90, len(everything))


@pytest.mark.parametrize("toy", MODELS)
@given(seed=st.integers(0, 10**6), least=st.integers(0, 3), penalty=st.sampled_from(PENALTIES))
@settings(max_examples=25, deadline=None)
def test_one_beam_is_greedy(toy: Callable[[int, int], Model], seed: int, least: int, penalty: LengthPenalty) -> None:
    model, limits = toy(seed, 3), torch.tensor([11, 5, 7])

    def greedy(ranked_by: LengthPenalty) -> list[Hypothesis]:
        constraint = Constraint(EOS, least)
        return greedy_search(model, start(0, 1, 2), bos=BOS, limits=limits, constraint=constraint, penalty=ranked_by)

    def beam(ranked_by: LengthPenalty) -> list[list[Hypothesis]]:
        constraint = Constraint(EOS, least)
        return beam_search(
            model, start(0, 1, 2), bos=BOS, limits=limits, constraint=constraint, penalty=ranked_by, beams=1
        )

    for one, other in zip(greedy(Unnormalized()), beam(Unnormalized()), strict=True):
        same([one], other)
    # With a length penalty one beam goes on after eos where a longer hypothesis may still win: never worse than greedy.
    for one, (best,) in zip(greedy(penalty), beam(penalty), strict=True):
        assert (best.finished, best.score) >= (one.finished, one.score - 1e-5)
    # The object with one beam is greedy search, whatever the penalty.
    search = Beam(beams=1, length_penalty=penalty, min_length=least)
    found = search(model, start(0, 1, 2), bos=BOS, eos=EOS, rows=3, max_lengths=limits)
    same([row[0] for row in found], greedy(penalty))


SEARCHES = [
    Greedy(),
    Beam(beams=3, length_penalty=1.0, n_best=3),
    Beam(beams=4, length_penalty=LengthNormalized(), n_best=2),
    Sample(samples=3, seed=5),
    Sample(temperature=0.7, top_k=3, top_p=0.9, min_p=0.05),
]


@pytest.mark.parametrize("toy", MODELS)
@pytest.mark.parametrize("search", SEARCHES)
@given(seed=st.integers(0, 10**6), sources=st.permutations(range(5)), limits=st.lists(st.integers(1, 13), min_size=5))
@settings(max_examples=8, deadline=None)
def test_a_row_does_not_depend_on_the_others(
    toy: Callable[[int, int], Model], search: Search, seed: int, sources: list[int], limits: list[int]
) -> None:
    model, prefixes = toy(seed, 5), [(), (3,), (), (4, 0, 3), ()]
    together = search(
        model,
        start(*sources),
        bos=BOS,
        eos=EOS,
        rows=5,
        max_lengths=torch.tensor([limits[source] for source in sources]),
        prefixes=[prefixes[source] for source in sources],
        keys=sources,
    )
    for source, found in zip(sources, together, strict=True):
        (alone,) = search(
            model,
            start(source),
            bos=BOS,
            eos=EOS,
            rows=1,
            max_lengths=torch.tensor([limits[source]]),
            prefixes=[prefixes[source]],
            keys=[source],
        )
        same(found, alone)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("toy", MODELS)
@pytest.mark.parametrize("search", SEARCHES)
def test_parts_of_a_batch_find_what_the_batch_finds(toy: Callable[[int, int], Model], search: Search) -> None:
    count = 3 * SMALLEST_PART + 5
    model, within = toy(5, count), set[tuple[int, int, bool, bool]]()

    def step(tokens: Tensor, cache: Memory) -> tuple[Tensor, Memory]:
        inference, autocast = torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
        within.add((threading.get_ident(), torch.get_num_threads(), inference, autocast))
        return model(tokens, cache)

    def found(number: int) -> list[list[Hypothesis]]:
        torch.set_num_threads(number)
        within.clear()
        outputs = search(
            step,
            start(*range(count)),
            bos=BOS,
            eos=EOS,
            rows=count,
            max_lengths=torch.arange(count) % 13,
            prefixes=[(3,) * (row % 3) for row in range(count)],
            keys=range(7, 7 + count),
        )
        assert torch.get_num_threads() == number
        return outputs

    whole = found(1)
    assert within == {(threading.get_ident(), 1, False, False)}
    # Seven threads are two for each of three parts; what a thread is set to holds in those of the parts.
    for number, each, inference in ((2, 1, False), (7, 2, True)):
        with torch.inference_mode(inference), torch.autocast("cpu", torch.bfloat16, enabled=inference):
            for ours, theirs in zip(found(number), whole, strict=True):
                same(ours, theirs)
        assert threading.get_ident() not in {kept[0] for kept in within} and 1 <= len(within) <= min(number, 3)
        assert {kept[1:] for kept in within} == {(each, inference, inference)}


@pytest.mark.usefixtures("threads")
def test_an_error_in_a_part_is_that_of_the_search() -> None:
    def step(tokens: Tensor, cache: Memory) -> tuple[Tensor, Memory]:
        raise MemoryError("no room")

    torch.set_num_threads(2)
    count = 2 * SMALLEST_PART
    with pytest.raises(MemoryError, match="no room"):
        Greedy()(step, start(*range(count)), bos=BOS, eos=EOS, rows=count)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("toy", MODELS)
@pytest.mark.parametrize("search", SEARCHES)
def test_log_probabilities_are_the_models_own(toy: Callable[[int, int], Model], search: Search) -> None:
    model, search = toy(3, 7), dataclasses.replace(search, max_length=53, min_length=17)
    penalty = search.penalty if isinstance(search, Beam) else Unnormalized()
    prefixes = [(), (3,), (4, 4, 1), (), (), (), ()]
    found = search(model, start(*range(7)), bos=BOS, eos=EOS, rows=7, prefixes=prefixes)
    for source, hypotheses in enumerate(found):
        for hypothesis in hypotheses:
            assert len(hypothesis.tokens) >= 17 if hypothesis.finished else len(hypothesis.tokens) == 53
            assert hypothesis.tokens[: len(prefixes[source])] == prefixes[source]
            expected = forced(model, source, hypothesis.tokens, hypothesis.finished)
            same([hypothesis], [make(hypothesis.tokens, expected, hypothesis.finished, penalty)])


@pytest.mark.parametrize("toy", MODELS)
@pytest.mark.parametrize("search", [Greedy(), Sample(seed=3), Sample(top_p=0.8)])
def test_a_prefix_of_what_would_be_chosen_anyway_changes_nothing(
    toy: Callable[[int, int], Model], search: Search
) -> None:
    model = toy(11, 5)
    free = search(model, start(*range(5)), bos=BOS, eos=EOS, rows=5)
    prefixes = [row[0].tokens[:length] for length, row in enumerate(free)]
    assert any(prefixes)
    for ours, theirs in zip(
        search(model, start(*range(5)), bos=BOS, eos=EOS, rows=5, prefixes=prefixes), free, strict=True
    ):
        same(ours, theirs)


@pytest.mark.parametrize("toy", MODELS)
@pytest.mark.parametrize(
    "search",
    [Greedy(max_length=9), Greedy(max_length=9, min_length=7), Beam(beams=3, length_penalty=0.0, max_length=9)],
)
def test_an_end_inside_of_a_prefix_ends_nothing(toy: Callable[[int, int], Model], search: Search) -> None:
    """What follows a prefix is what a search finds that begins where the prefix has been read."""
    model, prefixes = toy(7, 4), [(EOS,), (3, EOS, 4), (EOS, EOS, 0, 3, EOS), (4, 3)]
    rows = range(len(prefixes))
    found = search(model, start(*rows), bos=BOS, eos=EOS, rows=len(prefixes), prefixes=prefixes)
    for source, prefix in enumerate(prefixes):
        cache = start(source)
        for token in (BOS, *prefix[:-1]):
            _, cache = model(torch.tensor([token]), cache)
        left = dataclasses.replace(
            search,
            max_length=search.max_length - len(prefix),
            min_length=max(0, search.min_length - len(prefix)),
        )
        (expected,) = left(model, cache, bos=prefix[-1], eos=EOS, rows=1)
        assert [(one.tokens, one.finished) for one in found[source]] == [
            ((*prefix, *one.tokens), one.finished) for one in expected
        ]


@pytest.mark.parametrize("beams", [1, 3])
def test_finished_rows_leave_the_batch(beams: int) -> None:
    """Row 0 ends at once, row 1 at its limit of 3, row 2 at all rows' of 7: 3, 2, 2, 1, 1, 1, 1 rows are left."""
    sizes: list[int] = []

    def step(tokens: Tensor, cache: Memory) -> tuple[Tensor, Memory]:
        sizes.append(len(tokens))
        logits = torch.full((len(tokens), VOCABULARY), -20.0)
        logits[:, 3] = 0
        logits[cache.sources == 0, EOS] = 20
        return logits, cache

    limits = torch.tensor([9, 3, 99])
    found = Beam(beams=beams, max_length=7)(step, start(0, 1, 2), bos=BOS, eos=EOS, rows=3, max_lengths=limits)
    assert [(row[0].tokens, row[0].finished) for row in found] == [((), True), ((3,) * 3, False), ((3,) * 7, False)]
    rows = [3, 2, 2, 1, 1, 1, 1]
    widths = [1] + [beams] * 6
    assert sizes == [count * width for count, width in zip(rows, widths, strict=True)]


@pytest.mark.parametrize("beams", [1, 2])
def test_equal_probabilities_are_broken_by_the_smaller_token(beams: int) -> None:
    def step(tokens: Tensor, cache: Memory) -> tuple[Tensor, Memory]:
        return torch.zeros(len(tokens), VOCABULARY), cache

    search = Beam(beams=beams, max_length=3, min_length=2)
    (found,) = search(step, start(0), bos=BOS, eos=EOS, rows=1)
    assert (found[0].tokens, found[0].finished) == ((0, 0, 0), False)


def test_no_rows() -> None:
    for search in SEARCHES:
        assert search(markov(1, 1), start(), bos=BOS, eos=EOS, rows=0) == []


@pytest.mark.parametrize(
    ("search", "values", "advice"),
    [
        (Beam, {"beams": 0}, r"decoding.beams=0 .* write 1 or more"),
        (Beam, {"length_penalty": -0.5}, r"decoding.length_penalty=-0.5 .* write 0 or more"),
        (Beam, {"length_penalty": float("nan")}, r"decoding.length_penalty=nan"),
        (Greedy, {"max_length": 0}, r"decoding.max_length=0"),
        (Greedy, {"min_length": 7, "max_length": 7}, r"write decoding.min_length=6 or less"),
        (Sample, {"samples": 0}, r"decoding.samples=0 .* write 1 or more"),
        (Sample, {"temperature": 0.0}, r"decoding.temperature=0.0 .* decoding=greedy"),
        (Sample, {"temperature": float("inf")}, r"decoding.temperature=inf"),
        (Sample, {"top_k": 0}, r"decoding.top_k=0"),
        (Sample, {"top_p": 0.0}, r"decoding.top_p=0.0 .* at most 1"),
        (Sample, {"top_p": 1.5}, r"decoding.top_p=1.5"),
        (Sample, {"min_p": -0.1}, r"decoding.min_p=-0.1 .* 0 to 1"),
    ],
)
def test_values_out_of_range_are_refused(search: type[Search], values: dict[str, Any], advice: str) -> None:
    with pytest.raises(ConfigurationError, match=advice):
        search(**values)


@pytest.mark.parametrize("search", [Greedy(max_length=9), Beam(beams=3, max_length=9), Sample(max_length=9, samples=2)])
def test_tokens_that_a_row_is_given_are_read_and_neither_written_nor_counted(search: Search) -> None:
    model = attention(3, 4)
    given_tokens = torch.tensor([[BOS, 3, 4], [BOS, 4, 0], [0, 3, 3]])
    found = search(model, start(0, 1, 2), bos=given_tokens, eos=EOS, rows=3)
    for row, tokens in enumerate(given_tokens.tolist()):
        cache = start(row)
        for token in tokens[:-1]:
            _, cache = model(torch.tensor([token]), cache)
        # The model goes on from the last given token as from a bos.
        (alone,) = search(model, cache, bos=tokens[-1], eos=EOS, rows=1, keys=[row], device=torch.device("cpu"))
        assert [one.tokens for one in alone] == [one.tokens for one in found[row]]
        torch.testing.assert_close([one.score for one in alone], [one.score for one in found[row]])
        assert all(len(one.tokens) + one.finished <= 9 for one in found[row])
    together = [tuple(one.tokens for one in some) for some in found]
    same = search(model, start(0, 1, 2), bos=BOS, eos=EOS, rows=3, device=torch.device("cpu"))
    assert together != [tuple(one.tokens for one in some) for some in same]
