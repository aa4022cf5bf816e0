from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from etude.checkpoints.checkpoint import snapshot, write
from etude.checkpoints.integrity import checkpoint_folder, checkpoints, newest_valid
from etude.checkpoints.retention import Retention, Saved, apply

RULES = st.builds(
    Retention,
    keep_last=st.integers(2, 5),
    keep_best=st.integers(0, 4),
    mode=st.sampled_from(["min", "max"]),
    keep_every=st.none() | st.integers(1, 9),
    keep_scored=st.integers(0, 3),
)
SCORES = st.one_of(st.none(), st.floats(), st.integers(-2, 2).map(float))
HISTORIES = st.dictionaries(st.integers(1, 99), SCORES, max_size=20).map(
    lambda scores: [Saved(step, score) for step, score in sorted(scores.items())]
)


@given(RULES, HISTORIES)
def test_the_last_ones_are_kept_and_not_too_many(rule: Retention, saved: list[Saved]) -> None:
    kept = rule.kept(saved)
    steps = [one.step for one in saved]
    assert set(steps[-rule.keep_last :]) <= kept <= set(steps)
    milestones = {step for step in steps if rule.keep_every is not None and step % rule.keep_every == 0}
    assert milestones <= kept
    assert len(kept - milestones) <= rule.keep_last + rule.keep_best + rule.keep_scored
    scored = [one.step for one in saved if one.score is not None]
    assert set(scored[len(scored) - rule.keep_scored :]) <= kept


@given(RULES, HISTORIES)
def test_no_removed_one_is_better_than_a_kept_one_of_the_best(rule: Retention, saved: list[Saved]) -> None:
    ranked = rule.ranked(saved)
    assert set(ranked[: rule.keep_best]) <= rule.kept(saved)
    scores = [dict(saved)[step] or 0.0 for step in ranked]
    assert scores == sorted(scores, reverse=rule.mode == "max")


@given(RULES, HISTORIES)
def test_removing_after_every_save_keeps_what_removing_once_keeps(rule: Retention, saved: list[Saved]) -> None:
    there: list[Saved] = []
    for one in saved:
        there.append(one)
        kept = rule.kept(there)
        there = [other for other in there if other.step in kept]
    assert {one.step for one in there} == rule.kept(saved)


@given(RULES, HISTORIES)
def test_links_point_to_what_is_kept(rule: Retention, saved: list[Saved]) -> None:
    links = rule.links(saved)
    assert set(links.values()) <= rule.kept(saved)
    assert links.get("last") == (max(one.step for one in saved) if saved else None)


def test_worked_by_hand() -> None:
    saved = [Saved(10, 3.0), Saved(20, 1.0), Saved(30, None), Saved(40, 1.0), Saved(50, float("nan")), Saved(60, 2.0)]
    assert Retention(2, 1, "min").kept(saved) == {50, 60, 20}
    assert Retention(2, 2, "min").kept(saved) == {50, 60, 20, 40}
    assert Retention(2, 0, "min", keep_scored=3).kept(saved) == {50, 60, 40}
    assert Retention(3, 1, "max").kept(saved) == {40, 50, 60, 10}
    assert Retention(2, 0, "max").kept(saved) == {50, 60}
    assert Retention(2, 1, "min").links(saved) == {"last": 60, "best": 20}
    assert Retention(2, 0, "min").links(saved) == {"last": 60}


def save(folder: Path, step: int, score: float | None) -> None:
    write(
        snapshot({"global_step": step, "state_dict": {}, "etude": {"score": score}}),
        checkpoint_folder(folder, step),
        {},
    )


def test_folders_and_links_follow_the_rule(tmp_path: Path) -> None:
    rule = Retention(keep_last=2, keep_best=1, mode="max")
    for step, score in enumerate([None, 5.0, 7.0, 6.0, None, 6.5], start=1):
        save(tmp_path, step, score)
        apply(rule, tmp_path, step)
        assert (tmp_path / "last").resolve() == checkpoint_folder(tmp_path, step)
        assert not (tmp_path / "best").is_symlink() or (tmp_path / "best").exists()
    assert list(checkpoints(tmp_path)) == [3, 5, 6]
    assert (tmp_path / "best").readlink() == Path("step-00000003")
    assert {path.name for path in tmp_path.iterdir() if path.is_symlink()} == {"best", "last"}


def test_links_go_with_the_folder(tmp_path: Path) -> None:
    save(tmp_path / "here", 3, 1.0)
    apply(Retention(), tmp_path / "here", 3)
    (tmp_path / "here").rename(tmp_path / "there")
    assert (tmp_path / "there" / "last" / "manifest.json").exists()


def test_a_best_that_is_not_kept_has_no_link(tmp_path: Path) -> None:
    save(tmp_path, 3, 1.0)
    apply(Retention(keep_best=1), tmp_path, 3)
    apply(Retention(keep_best=0), tmp_path, 3)
    assert not (tmp_path / "best").is_symlink()


def test_later_checkpoints_of_a_run_that_went_back_do_not_count(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save(tmp_path, step, None)
    os.truncate(tmp_path / "step-00000030" / "state.json", 0)
    assert newest_valid(tmp_path) == tmp_path / "step-00000020"
    save(tmp_path, 25, None)
    apply(Retention(keep_last=2), tmp_path, 25)
    assert list(checkpoints(tmp_path)) == [20, 25, 30]
    assert (tmp_path / "last").resolve().name == "step-00000025"


def test_what_has_no_manifest_is_neither_counted_nor_removed(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save(tmp_path, step, None)
    (tmp_path / "step-00000020" / "manifest.json").unlink()
    apply(Retention(keep_last=2), tmp_path, 30)
    assert list(checkpoints(tmp_path)) == [10, 20, 30]
