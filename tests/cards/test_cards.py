"""Numbers of the documentation are those of its cards, and the cards are as young as the code allows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.cards.attempt import SkippedError, attempt, head
from tests.cards.card import Card, Held, Result, Spent, Stamp, names, read
from tests.cards.pages import filled, pages, shown, unproven
from tests.cards.trace import ChangedError, compared, first_losses, hold
from tests.conftest import ROOT

STAMP = Stamp("0000000", "2026-01-01", "a machine", 217.0, {"bleu": [26.61], "interval": [[22.64, 30.61]]})
CARD = Card(
    command="etude train experiment=translation/demo",
    says="BLEU {bleu} {interval}",
    code=["src"],
    allowance=1,
    results={"bleu": Result(key="scores bleu", digits=1, within=(25, 29)), "interval": Result(key="i", digits=1)},
    stamp=STAMP,
)


def in_history(commit: str) -> bool:
    words = ["git", "cat-file", "-e", f"{commit}^{{commit}}"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_shows_its_cards_as_they_are_and_claims_nothing_without_one(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert filled(text) == text, "write it anew: python -m tests.cards pages"
    assert not unproven(text), "a claimed result needs a card: docs/measured.md, Verification cards"


def test_every_card_is_shown() -> None:
    assert {name for page in pages() for name in shown(page.read_text(encoding="utf-8"))} == set(names())


@pytest.mark.parametrize("name", names())
def test_a_card_holds_and_is_young_enough(name: str) -> None:
    card = read(name)
    assert card.stamp is not None
    assert card.faults(card.stamp.values) == []
    assert set(card.stamp.values) == set(card.results)
    assert card.text()
    for path in card.code:
        assert (ROOT / path).exists(), path
    if not in_history(card.stamp.proven):
        pytest.skip(f"the history that is here does not have {card.stamp.proven}")
    since = card.commits_since()
    assert since is not None
    assert since <= card.allowance, (
        f'{since} commits touched its code since; try it again: make verify CARDS={name}, or CARDS="hold {name}"'
    )


def test_values_are_shown_as_a_reader_wants_them() -> None:
    assert CARD.text() == "BLEU 26.6 [22.6, 30.6]"
    assert CARD.duration() == "3 min 37 s"
    seeds = msgspec.structs.replace(
        STAMP, values={**STAMP.values, "bleu": [26.0, 28.0]}, seconds=9000.0, remark="Busy."
    )
    several = msgspec.structs.replace(CARD, stamp=seeds, remark="Of three.")
    assert several.text() == "BLEU 27.0 ± 1.4 (26.0, 28.0) [22.6, 30.6]. Of three. Busy"
    assert several.duration() == "2 h 30 min"


def test_the_cost_of_trainings_stands_beside_what_came_out() -> None:
    def costing(*spent: Spent) -> str:
        stamp = msgspec.structs.replace(STAMP, spent=list(spent))
        return msgspec.structs.replace(CARD, stamp=stamp).cost()

    assert costing() == ""
    assert costing(Spent(124.0, 3_120_000_000_000, 1844.0, True)) == "2 min 4 s, 3.12 TFLOP, 1.84 kJ (estimated)"
    assert costing(Spent(3.0, 999, 0.5, False), Spent(5.0, 1001, 1.5, False)) == "4 s, 1 kFLOP, 1 J; mean of 2"
    assert costing(Spent(3.0, None, 2.0, False), Spent(3.0, 10, 2.0, False)) == "3 s, FLOPs unknown, 2 J; mean of 2"


def test_a_value_that_is_missing_or_out_of_its_range_is_named() -> None:
    assert CARD.faults(STAMP.values) == []
    assert CARD.faults({"bleu": [20.0], "interval": [[1.0, 2.0]]}) == ["bleu is 20.0, and should be from 25 to 29"]
    assert CARD.faults({"bleu": [26.0]}) == ["interval: nothing came out"]


def test_losses_that_differ_are_another_training() -> None:
    assert compared([2.0, 4.0], [2.0, 4.00002]) == pytest.approx(5e-6)
    with pytest.raises(ChangedError, match=r"the loss of step 2 was 4\.000000 and is 4\.001000"):
        compared([2.0, 4.0], [2.0, 4.001])


def test_a_card_is_as_old_as_its_last_proof() -> None:
    held = msgspec.structs.replace(STAMP, held=Held("1111111", "2026-01-02", 24, 0.0))
    assert (STAMP.proven, held.proven) == ("0000000", "1111111")


def test_only_a_training_can_be_held() -> None:
    with pytest.raises(ChangedError, match="no training"):
        hold(typed("make demo", stamp={"commit": head(), "date": "", "machine": ""}))


@pytest.mark.slow
def test_a_training_is_held_beside_its_old_code() -> None:
    command = "etude train -m experiment=classification/demo model.width=32 model.feed_forward=64 seed=3,4"
    card = hold(typed(command, stamp={"commit": head(), "date": "", "machine": ""}), steps=3)
    assert card.stamp is not None
    assert card.stamp.held is not None
    assert (card.stamp.held.commit, card.stamp.held.difference) == (head(), 0.0)


@pytest.mark.slow
def test_a_training_that_ends_too_early_holds_nothing() -> None:
    with pytest.raises(ChangedError, match=r"0 of 3 losses came: .*no_such_key"):
        first_losses(["train", "experiment=classification/demo", "model.no_such_key=1"], ROOT, 3)


def typed(command: str, **fields: object) -> Card:
    return msgspec.convert({"command": command, "says": "", "code": [], "allowance": 0, **fields}, Card)


COST = '{"seconds": 1.5, "flops": 10, "energy_joules": 2.0, "energy_estimated": true, "steps": 3}'
RUN = (
    "mkdir -p out/a && touch out/a/config.yaml && "
    f"echo '{COST}' > out/a/cost.json && "
    'echo \'{"s": {"x/y": 2.5}}\' > out/a/scores.json && echo out/a'
)


def test_values_come_from_runs_standard_output_and_lines() -> None:
    card = typed(
        RUN,
        then="ls RUN1 >&2 && echo '[{\"best\": 7}]'",
        files=["scores.json"],
        results={
            "of_the_run": {"file": "scores.json", "key": "s x/y"},
            "of_stdout": {"key": "0 best"},
            "of_a_line": {"line": r'best": (\d+)'},
        },
    )
    stamp, faults = attempt(card)
    assert faults == []
    assert stamp.values == {"of_the_run": [2.5], "of_stdout": [7], "of_a_line": [7.0]}
    assert stamp.spent == [Spent(1.5, 10, 2.0, True)]
    assert in_history(stamp.commit)


def test_the_runs_of_a_sweep_are_its_members() -> None:
    members = " && ".join(
        f'mkdir -p s/{name} && touch s/{name}/config.yaml && echo {{\\"a\\": {value}}} > s/{name}/x.json'
        for name, value in (("000", 1), ("001", 3))
    )
    card = typed(
        f"{members} && touch s/sweep.json && echo s", then="echo RUN2", results={"a": {"file": "x.json", "key": "a"}}
    )
    stamp, faults = attempt(card)
    assert (stamp.values, faults) == ({"a": [1, 3]}, [])


@pytest.mark.parametrize(
    ("card", "fault"),
    [
        (typed("echo why >&2; exit 3"), "exit code 3, and should be 0: why"),
        (typed("true", exit=78), "exit code 0, and should be 78: "),
        (typed(RUN, files=["report.html"]), "report.html was not written"),
        (typed("echo '{}'", results={"a": {"line": "a=(.)"}}), "a: nothing came out"),
    ],
)
def test_what_does_not_come_out_is_said(card: Card, fault: str) -> None:
    assert attempt(card)[1] == [fault]


def test_a_command_has_the_environment_of_a_reader() -> None:
    program = (
        "import os; before = dict(os.environ); import tests.cards.__main__; assert os.environ == before, os.environ"
    )
    variables = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "WANDB_MODE")}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=variables, check=True)


def test_without_its_corpus_a_card_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETUDE_CORPORA", str(tmp_path))
    with pytest.raises(SkippedError, match="set ETUDE_CORPORA"):
        attempt(typed("cat FOLDER/x", corpus="multi30k"))
    (tmp_path / "multi30k").mkdir()
    (tmp_path / "multi30k" / "x").write_text(json.dumps({"a": 1}))
    stamp, faults = attempt(typed("cat FOLDER/x", corpus="multi30k", results={"a": {"key": "a"}}))
    assert (stamp.values, faults) == ({"a": [1]}, [])


@pytest.mark.parametrize(
    ("line", "claims"),
    [
        ("It has BLEU 26.6 there.", True),
        ("accuracy 0.76", True),
        ("which is 2.5 times as fast", True),
        ("8,000 tokens/s", True),
        ("it took 3 min", True),
        ("it had 624 MB at its peak", True),
        ("Measured: it fits.", True),
        ("Write `stop.accuracy 0.7` there.", False),
        ("each score with its 95 % interval", False),
        ("a checkpoint every 10 s", False),
    ],
)
def test_a_claim_is_found(line: str, claims: bool) -> None:
    assert unproven(f"before\n{line}\nafter") == ([line] if claims else [])
    block = f"<!-- cards table: x -->\n{line}\n<!-- end of cards -->"
    assert unproven(block) == []
