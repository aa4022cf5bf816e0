"""Alignments are read as they were written, and their error rate is that of the links counted by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from etude.errors import ConfigurationError, DataError
from etude.metrics.word_alignment import Gold, align, word_of_each
from etude.report.alignment_errors import AlignedPair, alignment_errors, read_alignments, word_weights
from etude.tasks.attention_maps import Attention, AttentionMap
from etude.tokenization.base import Tokenizer
from etude.tokenization.trained import BPE, Bytes

BYTES = Bytes().build(iter(()))
CROSS = "decoder.1.cross_attention"
FORM = 'write a list of objects such as {"source": "…", "target": "…", "sure": "0-1 1-0", "possible": ""}'
WORD = st.text("abc", min_size=1, max_size=3)

Rows = Sequence[Sequence[float]]
"""What each target word gives to each source word."""


def attended(source: str, target: str, rows: Rows) -> Tensor:
    """Return weights of the tokens of a target and eos to those of a source between bos and eos.

    Each token of a target word spreads what the word gives to a source word over that word's tokens. The tokens of no word
    give all to eos.
    """
    owners, targets = (word_of_each(BYTES.pieces(BYTES.encode([text])[0])) for text in (source, target))
    weights = torch.zeros(len(targets) + 1, len(owners) + 2, dtype=torch.float64)
    for token, word in enumerate([*targets, -1]):
        for place, owner in enumerate(owners, start=1):
            if word >= 0 and owner >= 0:
                weights[token, place] = rows[word][owner] / owners.count(owner)
    weights[:, -1] = 1 - weights.sum(dim=1)
    return weights


class Shown(NamedTuple):
    """A task whose heads attend as they are told; in each further attention, the last one comes first."""

    heads: Callable[[str, str], Tensor]
    names: tuple[str, ...] = (CROSS,)
    cross: bool = True

    def look_inside(self, text: str, target: str | None, tokenizer: Tokenizer) -> Attention:
        assert target is not None
        source, own = (tokenizer.encode([words])[0] for words in (text, target))
        read = [tokenizer.bos, *source, tokenizer.eos]
        itself = AttentionMap("decoder.0.self_attention", own, own, torch.eye(len(own), dtype=torch.float64)[None])
        heads = self.heads(text, target)
        maps = [
            AttentionMap(name, [*own, tokenizer.eos], read, heads.roll(number, dims=0), cross=self.cross)
            for number, name in enumerate(self.names)
        ]
        return Attention(read, [tokenizer.bos, *own], [itself, *maps])


def pair(source: str, target: str, sure: set[tuple[int, int]], possible: set[tuple[int, int]] | None = None) -> Any:
    return AlignedPair(source, target, Gold(frozenset(sure), frozenset(sure | (possible or set()))))


# Files


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("alignments") / "pairs.json"


@st.composite
def aligned_pairs(draw: st.DrawFn) -> AlignedPair:
    source, target = (draw(st.lists(WORD, min_size=1, max_size=4)) for _ in range(2))
    links = st.frozensets(st.tuples(st.integers(0, len(source) - 1), st.integers(0, len(target) - 1)))
    sure, possible = draw(links), draw(links)
    return AlignedPair(" ".join(source), " ".join(target), Gold(sure, sure | possible))


def written(links: frozenset[tuple[int, int]]) -> str:
    return " ".join(f"{source}-{target}" for source, target in links)


@given(st.lists(aligned_pairs(), min_size=1, max_size=5))
def test_what_is_written_is_read(file: Path, pairs: list[AlignedPair]) -> None:
    rows = [
        {
            "source": one.source,
            "target": one.target,
            "sure": written(one.gold.sure),
            "possible": written(one.gold.possible - one.gold.sure),
        }
        for one in pairs
    ]
    file.write_text(json.dumps(rows))
    assert read_alignments(file) == pairs


def test_the_sure_links_are_possible_and_punctuation_marks_are_words(tmp_path: Path) -> None:
    row = {"source": "Delete it?", "target": "Löschen?", "sure": "2-1", "possible": "0-0 1-0"}
    (tmp_path / "pairs.json").write_text(json.dumps([row], ensure_ascii=False))
    (read,) = read_alignments(tmp_path / "pairs.json")
    assert read.target == "Löschen?"
    assert read.gold == Gold(frozenset({(2, 1)}), frozenset({(2, 1), (0, 0), (1, 0)}))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{}", " is an object, not a list"),
        ("[]", " has no pairs"),
        ("[{]", " is not JSON (Expecting property name enclosed in double quotes: line 1 column 3 (char 2))"),
        ('[{"source": "a"}]', ": [0].target is missing"),
        ('["a b"]', ": [0] is a text, not an object"),
        ('[{"source": null, "target": "a", "sure": "", "possible": ""}]', ": [0].source is null, not a text"),
        ('[{"source": "a", "source": "b"}]', " has the key 'source' twice"),
        ("[" * 100_000, " is nested more than 64 levels deep"),
    ],
)
def test_a_malformed_file_is_one_line(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "pairs.json"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_alignments(path)
    assert str(caught.value) == f"{path}{problem}; {FORM}"


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.json"
    with pytest.raises(DataError) as caught:
        read_alignments(path)
    assert str(caught.value) == f"{path} cannot be read: No such file or directory; {FORM}"


@pytest.mark.parametrize("links", ["0", "0-1-1", "0-12-1", "a-1", "0:1", "-1-0", "0-1,1-1"])
@pytest.mark.parametrize("kind", ["sure", "possible"])
def test_links_of_another_form_are_refused_with_the_pair(tmp_path: Path, kind: str, links: str) -> None:
    whole = {"source": "a b", "target": "c d e", "sure": "1-2", "possible": ""}
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([whole, {**whole, kind: links}]))
    with pytest.raises(DataError) as caught:
        read_alignments(path)
    assert str(caught.value) == f"{path}: [1].{kind} has the wrong form; {FORM}"


@pytest.mark.parametrize(("kind", "links"), [("sure", "1-2 2-0"), ("sure", "1-3"), ("possible", "2-0")])
def test_links_of_words_that_are_not_there_are_refused(tmp_path: Path, kind: str, links: str) -> None:
    row = {"source": "a b", "target": "c d e", "sure": "1-2", "possible": "", kind: links}
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([row]))
    with pytest.raises(DataError) as caught:
        read_alignments(path)
    wrong = links.split()[-1]
    assert str(caught.value) == (
        f"{path}, pair 1 has 2 source and 3 target words, and links {wrong}; count words from 0, punctuation marks among them"
    )


# Weights between words


def test_weights_between_words_are_those_of_their_tokens() -> None:
    """Summed over the tokens of `ab`, averaged over those of `xyz`; what bos, eos and spaces have is left out."""
    shares = [[0.25, 0.5], [0.75, 0.125], [0.0, 1.0]]
    weights = attended("ab c", "xyz u w", shares)
    weights[0, 1:3] += torch.tensor([0.5, 0.25])  # the token x gives 0.75 more to the word ab: its word 0.25
    shown = AttentionMap(
        CROSS,
        [*BYTES.encode(["xyz u w"])[0], BYTES.eos],
        [BYTES.bos, *BYTES.encode(["ab c"])[0], BYTES.eos],
        weights[None],
        cross=True,
    )
    shares[0][0] += 0.25
    torch.testing.assert_close(word_weights(shown, weights, BYTES), torch.tensor(shares, dtype=torch.float64))


def test_the_step_that_reads_a_token_is_the_one_after_it() -> None:
    shares = [[0.25, 0.5], [0.75, 0.125], [0.0, 1.0]]
    weights = attended("ab c", "xyz u w", shares)
    later = weights.roll(1, dims=0)
    rows, columns = [*BYTES.encode(["xyz u w"])[0], BYTES.eos], [BYTES.bos, *BYTES.encode(["ab c"])[0], BYTES.eos]
    shown = AttentionMap(CROSS, rows, columns, later[None], cross=True)
    expected = torch.tensor(shares, dtype=torch.float64)
    torch.testing.assert_close(word_weights(shown, later, BYTES, reading=True), expected)
    assert not torch.allclose(word_weights(shown, later, BYTES), expected)


def test_each_side_is_read_with_its_own_tokenizer() -> None:
    source, target = (BPE(300).build([text] * 9) for text in ("abcd efgh", "rs tu vw"))
    tokenizer = Tokenizer(target.backend, target.special, source=source)
    columns, rows = source.encode(["abcd efgh"])[0], target.encode(["rs tu vw"])[0]
    assert target.decode([columns]) != ["abcd efgh"]
    weights = torch.rand(len(rows), len(columns), dtype=torch.float64)
    shown = AttentionMap(CROSS, rows, columns, weights[None], cross=True)
    assert word_weights(shown, weights, tokenizer).shape == (3, 2)


# Error rates


@given(st.permutations(range(4)), st.integers(2, 3))
def test_heads_that_attend_to_the_gold_links_have_no_errors(order: list[int], heads: int) -> None:
    rows = torch.eye(4, dtype=torch.float64)[order].tolist()
    gold = {(source, target) for target, source in enumerate(order)}
    task = Shown(lambda source, target: attended(source, target, rows).expand(heads, -1, -1))
    for symmetric in (False, True):
        found = alignment_errors(task, BYTES, [pair("a bb ccc d", "ee f gg h", gold)], symmetric)
        assert found["layers"][CROSS]["predicting"] == {"mean": 0.0, "heads": [0.0] * heads}


def test_the_entropy_is_the_mean_over_tokens_heads_and_sentences() -> None:
    texts = [("ab c", "x yz u"), ("abc d", "r s t")]
    found = alignment_errors(Shown(two_heads), BYTES, [pair(*text, {(0, 0)}) for text in texts])
    means = [mean(map(entropy, rows)) for text in texts for rows in two_heads(*text).tolist()]
    assert found["layers"][CROSS]["entropy"] == pytest.approx(mean(means), abs=1e-4)


def entropy(shares: Sequence[float]) -> float:
    return -sum(share * math.log(share) for share in shares if share)


SHARP: Rows = [[1.0, 0.0], [0.0, 1.0], [0.8, 0.2]]
"""Links 0-0, 1-1 and 0-2; symmetrically 0-0 and 1-1."""
BLUNT: Rows = [[0.6, 0.4]] * 3
"""Links 0-0, 0-1 and 0-2, and the mean of the two heads has those of the sharp one."""


def two_heads(source: str, target: str) -> Tensor:
    return torch.stack([attended(source, target, rows) for rows in (SHARP, BLUNT)])


def test_error_rates_are_those_worked_out_by_hand() -> None:
    """Sure are 0-0 and 1-1, possible 1-2 besides: S = 2.

    Sharp: A = 3, of them 2 sure and 2 possible, 1 - 4 / 5. Blunt: 1 and 1 of 3, 1 - 2 / 5. The diagonal, 0-0 0-1 1-2:
    1 and 2 of 3, 1 - 3 / 5.
    """
    pairs = [pair("ab c", "x yz u", {(0, 0), (1, 1)}, {(1, 2)})]
    found = alignment_errors(Shown(two_heads), BYTES, pairs)
    assert {name: found[name] for name in ("sentences", "sure", "possible", "diagonal")} == {
        "sentences": 1,
        "sure": 2,
        "possible": 3,
        "diagonal": 0.4,
    }
    assert found["layers"][CROSS]["predicting"] == {"mean": 0.2, "heads": [0.2, 0.6]}
    symmetric = alignment_errors(Shown(two_heads), BYTES, pairs, symmetric=True)
    assert symmetric["layers"][CROSS]["predicting"]["heads"][0] == 0.0
    assert symmetric["diagonal"] == 0.4


def test_links_are_counted_over_all_sentences_together() -> None:
    """(2 + 2 + 1 + 1) of (3 + 2 + 3 + 1) are right: 1 - 6 / 9, which is no mean of 1 - 4 / 5 and 1 - 2 / 4."""
    pairs = [pair("ab c", "x yz u", {(0, 0), (1, 1)}, {(1, 2)}), pair("a b", "r s t", {(0, 0)})]
    found = alignment_errors(Shown(two_heads), BYTES, pairs)
    assert (found["sentences"], found["sure"], found["possible"]) == (2, 3, 4)
    assert found["layers"][CROSS]["predicting"]["heads"][0] == round(1 - 6 / 9, 4)


def test_the_step_that_reads_is_measured_beside_the_step_that_predicts() -> None:
    """Each token is given its row one step late, so that each word of `x?u` is predicted with the row of the one before.

    The sharp head then links 0-0, 0-1 and 1-2, of which 1 is sure and 2 are possible: 1 - 3 / 5.
    """
    late = Shown(lambda source, target: two_heads(source, target).roll(1, dims=1))
    found = alignment_errors(late, BYTES, [pair("ab c", "x?u", {(0, 0), (1, 1)}, {(1, 2)})])["layers"][CROSS]
    assert found["reading"] == {"mean": 0.2, "heads": [0.2, 0.6]}
    assert found["predicting"] == {"mean": 0.4, "heads": [0.4, 0.6]}


def test_each_attention_to_a_source_is_measured_and_no_other() -> None:
    names = ("decoder.0.cross_attention", CROSS)
    found = alignment_errors(Shown(two_heads, names), BYTES, [pair("ab c", "x yz u", {(0, 0), (1, 1)}, {(1, 2)})])
    assert list(found["layers"]) == list(names)
    assert [layer["predicting"]["heads"] for layer in found["layers"].values()] == [[0.2, 0.6], [0.6, 0.2]]


@given(st.lists(st.lists(st.integers(1, 9), min_size=2, max_size=2), min_size=3, max_size=3))
def test_a_head_alone_is_its_own_mean(shares: list[list[int]]) -> None:
    rows = [[share / sum(row) for share in row] for row in shares]
    one = Shown(lambda source, target: attended(source, target, rows)[None])
    found = alignment_errors(one, BYTES, [pair("ab c", "x yz u", {(0, 0), (1, 1)}, {(1, 2)})])["layers"][CROSS]
    assert found["predicting"]["heads"] == [found["predicting"]["mean"]]
    links = align(torch.tensor(rows, dtype=torch.float64))
    right = len(links & {(0, 0), (1, 1)}) + len(links & {(0, 0), (1, 1), (1, 2)})
    assert found["predicting"]["mean"] == round(1 - right / 5, 4)


def test_a_task_without_attention_to_a_source_is_refused() -> None:
    with pytest.raises(ConfigurationError) as caught:
        alignment_errors(Shown(two_heads, cross=False), BYTES, [pair("ab c", "x yz u", {(0, 0)})])
    assert str(caught.value) == "alignments: Shown has no attention from a target to a source"


class Joining(Tokenizer):
    """Reads texts without their spaces."""

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [piece.strip() for piece in super().pieces(ids)]


JOINING = Joining(Bytes().build(iter(())).backend, BYTES.special)


@pytest.mark.parametrize(
    ("source", "target", "changed"), [("a b", "x y z", "'a b' as 'ab'"), ("a", "x y z", "'x y z' as 'xyz'")]
)
def test_a_tokenizer_that_changes_the_words_of_a_text_is_refused(source: str, target: str, changed: str) -> None:
    with pytest.raises(DataError) as caught:
        alignment_errors(Shown(two_heads), JOINING, [pair(source, target, {(0, 0)})])
    assert str(caught.value) == f"alignments: the tokenizer reads {changed}, whose words are not those aligned"


def test_a_tokenizer_may_change_spaces_between_words() -> None:
    pairs = [pair("ab ?", "x ? u", {(0, 0), (1, 1)}, {(1, 2)})]
    found = alignment_errors(Shown(two_heads), JOINING, pairs)
    assert found["layers"][CROSS]["predicting"]["heads"] == [0.2, 0.6]
