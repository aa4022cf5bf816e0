"""`etude translate`: a corpus of a run's outputs, line for line, whatever was killed and however the work was shared."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import etude
from etude.cli.main import main
from etude.cli.run_commands import call
from etude.commands.derived import shared_work
from etude.commands.derived import translate as translate_module
from etude.commands.derived.shared_work import Shard, Shards, Share, cut_in_shards
from etude.commands.derived.translate import DESCRIPTION, translate
from etude.commands.predict import Predictor, predict
from etude.commands.train import train
from etude.config.compose import compose
from etude.errors import ConfigurationError, DataError
from etude.runs.saved_run import SavedRun
from etude.untrusted import BrokenFileError
from tests.runs.conftest import SMALL, small_data
from tests.runs.processes import Sent, run

__all__ = ["small_data"]  # a fixture

SEARCH = {"decoding.min_length": 2, "decoding.max_length": 7}
"""No output is empty, whatever the model has not learned."""


def words(data: Path, place: Path, *more: str) -> list[str]:
    return [
        *("experiment=translation/demo", *SMALL, "data=parallel", f"data.root={data}", "tokenizer.vocabulary=60"),
        *("model.encoder_layers=1", "model.decoder_layers=1", "batch.tokens=180", "decoding=greedy"),
        *(f"paths.outputs={place}/outputs", f"paths.cache={place}/cache", *more),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small_data: Path) -> Path:
    """The folder of a run that translates."""
    place = tmp_path_factory.mktemp("translated")
    return train(compose(*words(small_data, place, "optimizer.lr=2e-2", "limit.train=45", "run.name=teacher"))).path


@pytest.fixture
def teacher(folder: Path) -> SavedRun:
    return SavedRun.open(folder)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_work, "SHARD", 10)


def lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    return text[:-1].split("\n")


def content(corpus: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in corpus.iterdir()}


def made(saved: SavedRun, into: Path, **options: Any) -> Path:
    return translate(saved, into=into, changes=SEARCH, **options)


def test_each_source_has_the_output_that_predict_writes(teacher: SavedRun, small_data: Path, tmp_path: Path) -> None:
    corpus = made(teacher, tmp_path / "made")
    sources, outputs = lines(corpus / "train.source"), lines(corpus / "train.target")
    assert len(sources) == len(outputs) == 45
    assert set(sources) <= set(lines(small_data / "train.en"))
    asked, answered = "\n".join(sources) + "\n", io.StringIO()
    predict(teacher, io.BytesIO(asked.encode()), answered, changes=SEARCH)
    assert answered.getvalue().split("\n")[:-1] == outputs
    for split in ("val", "test"):
        for side, suffix in (("source", "en"), ("target", "de")):
            assert lines(corpus / f"{split}.{side}") == lines(small_data / f"{split}.{suffix}")
    described = json.loads((corpus / DESCRIPTION).read_text())
    assert described["lines"] == {"train": 45, "val": 23, "test": 19}
    assert described["run"]["run"] == str(teacher.path) and described["empty"] == 0 and len(described["files"]) == 6
    assert not (corpus / ".shards").exists()


@pytest.mark.slow
def test_a_run_learns_from_it_as_from_any_corpus(teacher: SavedRun, small_data: Path, tmp_path: Path) -> None:
    corpus = made(teacher, tmp_path / "made")
    own = ("data.source=source", "data.target=target", f"data.root={corpus}", "budget=2step", "validate.every=2step")
    student = train(compose(*words(small_data, tmp_path, *own, "scheduler.warmup=1step")))
    assert student.data.rows == {"train": 45, "val": 23, "test": 19}


def test_shared_by_several_processes_in_any_order_it_is_the_same(teacher: SavedRun, tmp_path: Path) -> None:
    whole = made(teacher, tmp_path / "whole")
    for part in ("3/3", "1/3"):
        shared = made(teacher, tmp_path / "shared", part=part)
        assert [path.name for path in shared.iterdir() if path.suffix != ".json"] == [".shards"]
    translate(teacher, into=shared, part="2/3", changes={**SEARCH, "batch.examples": 3})
    assert content(shared) == content(whole)


def test_parts_that_come_to_their_end_together_put_it_together_once(
    teacher: SavedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = made(teacher, tmp_path / "whole")
    made(teacher, tmp_path / "shared", part="1/2")
    caplog.clear()
    fill = translate_module._fill

    def filled(*arguments: Any) -> None:
        fill(*arguments)
        monkeypatch.setattr(translate_module, "_fill", fill)
        made(teacher, tmp_path / "shared", part="1/2")  # the other one sees the last shard, and is first

    monkeypatch.setattr(translate_module, "_fill", filled)
    assert content(made(teacher, tmp_path / "shared", part="2/2")) == content(whole)
    assert "waits for" not in caplog.text


def test_what_is_there_is_not_translated_again(
    teacher: SavedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, translated = made(teacher, tmp_path / "whole"), list[int]()
    predictions = Predictor.predictions

    def counted(self: Predictor, texts: list[str]) -> Any:
        if len(translated) == 3:
            raise KeyboardInterrupt
        translated.append(len(texts))
        return predictions(self, texts)

    monkeypatch.setattr(Predictor, "predictions", counted)
    with pytest.raises(KeyboardInterrupt):
        made(teacher, tmp_path / "stopped")
    assert translated == [10, 10, 10]
    translated.clear()
    assert content(made(teacher, tmp_path / "stopped")) == content(whole)
    assert translated == [10, 5]
    translated.extend([0])
    assert content(made(teacher, tmp_path / "stopped")) == content(whole)


def test_back_translation_writes_the_outputs_as_sources(teacher: SavedRun, tmp_path: Path) -> None:
    text = tmp_path / "mono.de.gz"
    text.write_bytes(gzip.compress(b"nus noom\n\nerif \xff\nwons\n"))
    corpus = made(teacher, tmp_path / "back", text=text, reverse=True)
    sources = lines(corpus / "train.source")
    assert lines(corpus / "train.target") == ["nus noom", "", "", "wons"]
    assert [bool(source) for source in sources] == [True, False, False, True]
    described = json.loads((corpus / DESCRIPTION).read_text())
    assert (described["reverse"], described["empty"], described["lines"]) == (True, 2, {"train": 4})
    assert sorted(described["files"]) == ["train.source", "train.target"]


def test_real_and_back_translated_pairs_are_mixed(teacher: SavedRun, small_data: Path, tmp_path: Path) -> None:
    corpus = made(teacher, tmp_path / "back", text=small_data / "test.de", reverse=True)
    files = f"root: {small_data}, source: en, target: de, splits: {{train: train, val: val}}"
    real = ("~data.parts.real", f"+data.parts.real={{_target_: etude.data.corpora.ParallelFiles, {files}}}")
    own = ("experiment=translation/back_translated", f"data.synthetic={corpus}", *real)
    rest = [word for word in words(small_data, tmp_path) if not word.startswith(("experiment", "data"))]
    config = compose(*own, *rest, "budget=2step", "validate.every=2step", "scheduler.warmup=1step")
    mixed = train(config)
    parts = json.loads((mixed.path / "data.json").read_text())["parts"]
    assert {name: part["rows"] for name, part in parts.items()} == {
        "real": {"train": 203, "val": 23},
        "synthetic": {"train": 19},
    }
    assert {part["share"] for part in parts.values()} == {0.5}


def changed_text(folder: Path) -> dict[str, Any]:
    (folder / "text").write_text("moon\n")
    return {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda folder: {"reverse": True},
            r"is of another reverse \(false, not true\); write another folder: into=FOLDER",
        ),
        (lambda folder: {"changes": {"decoding.min_length": 3}}, r"is of another decoding \(.*\"min_length\": 2"),
        (changed_text, r"is of another sha256 \("),
        (lambda folder: {"text": None}, r"is of another texts \("),
    ],
)
def test_another_corpus_in_the_folder_is_refused(
    teacher: SavedRun, tmp_path: Path, change: Callable[[Path], dict[str, Any]], said: str
) -> None:
    (tmp_path / "text").write_text("sun\n")
    asked: dict[str, Any] = {"into": tmp_path / "made", "text": tmp_path / "text", "changes": SEARCH}
    before = content(translate(teacher, **asked))
    with pytest.raises(ConfigurationError, match=said):
        translate(teacher, **{**asked, **change(tmp_path)})
    assert content(tmp_path / "made") == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"into": None}, r"into= is missing"),
        ({"reverse": "yes"}, r"reverse=yes is neither true nor false"),
        ({"part": "5/4"}, r"part=5/4 is no part; write the second of four as part=2/4"),
        ({"part": 2}, r"part=2 is no part"),
        ({"changes": {"seed": 3}}, r"seed cannot be changed here"),
        ({"ensemble": "nobody"}, r"no run 'nobody'"),
    ],
)
def test_wrong_words_are_refused(teacher: SavedRun, tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        translate(teacher, **{"into": tmp_path / "made", **options})
    assert not (tmp_path / "made").exists()


def test_other_folders_texts_and_tasks_are_refused(teacher: SavedRun, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="holds something else; write a new folder"):
        made(teacher, tmp_path / "notes")
    with pytest.raises(DataError, match="no such file"):
        made(teacher, tmp_path / "made", text=tmp_path / "nowhere")
    other = SavedRun(teacher.path, teacher.config.updated({"task._target_": "etude.tasks.causal_lm.CausalLM"}))
    with pytest.raises(ConfigurationError, match=r"does not turn texts into texts \(CausalLM\)"):
        made(other, tmp_path / "made")


@pytest.mark.slow
def test_an_ensemble_is_named_with_its_weights(teacher: SavedRun, small_data: Path, tmp_path: Path) -> None:
    second = train(compose(*words(small_data, tmp_path, "seed=2", "limit.train=45"))).path
    (tmp_path / "text").write_text("sun moon\n")
    # Of the same data, so that the vocabularies agree.
    corpus = made(teacher, tmp_path / "made", text=tmp_path / "text", ensemble=[str(second)])
    (member,) = json.loads((corpus / DESCRIPTION).read_text())["ensemble"]
    assert member["run"] == str(second) and len(member["weights"]) == 64


def test_a_damaged_shard_is_said(tmp_path: Path) -> None:
    some = Shards(tmp_path / ".shards")
    some.write(3, Shard(["a", "b"], 1, 0, 0))
    assert some.has(3) and not some.has(2) and some.read(3) == Shard(["a", "b"], 1, 0, 0)
    some.path(3).write_text('{"outputs": ["a"')
    with pytest.raises(BrokenFileError, match="remove it, and give the same command again"):
        some.read(3)
    some.remove()
    assert not some.folder.exists()


def test_parts_have_each_shard_once() -> None:
    assert [number for number, _ in cut_in_shards(map(str, range(31)))] == [0, 1, 2, 3]
    assert [len(some) for _, some in cut_in_shards(map(str, range(31)))] == [10, 10, 10, 1]
    parts = [Share.of(f"{number}/3") for number in (1, 2, 3)]
    assert all(sum(part.has(shard) for part in parts) == 1 for shard in range(20))


def test_the_command_line(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("sun moon\nstar\n")
    asked = ["translate", str(folder), f"into={tmp_path}/made", f"text={tmp_path}/text", "decoding.min_length=2"]
    assert main(asked) == 0
    assert capfd.readouterr().out == f"{tmp_path}/made\n"
    assert call(
        "translate", [folder], {"into": f"{tmp_path}/made", "text": f"{tmp_path}/text", "decoding.min_length": 2}
    )
    assert len(lines(tmp_path / "made/train.target")) == 2
    again = etude.load(folder).translate(tmp_path / "made", tmp_path / "text", "decoding.min_length=2")
    assert again == tmp_path / "made"


@pytest.mark.slow
def test_killed_and_given_again_it_is_the_same(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("".join(f"{word} moon\n" for word in ("sun", "star", "tree") * 800))
    asked = ["translate", str(folder), f"text={tmp_path}/text", "decoding.min_length=2", "decoding.max_length=5"]
    assert run(tmp_path / "whole-log", [*asked, f"into={tmp_path}/whole"]).code == 0
    for target, times in (
        ("etude.commands.derived.translate:write_json", 1),
        ("etude.commands.derived.shared_work:Shards.write", 2),
        ("etude.commands.derived.shared_work:write_json", 1),
        ("etude.commands.derived.translate:write_file", 2),
        ("etude.commands.derived.translate:write_json", 1),
    ):
        ended = run(tmp_path / "log", [*asked, f"into={tmp_path}/killed"], Sent(target, times, (9,)))
        assert ended.code == -9, (target, ended.log)
    assert run(tmp_path / "log", [*asked, f"into={tmp_path}/killed"]).code == 0
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
