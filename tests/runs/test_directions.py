"""Languages and prefixes in whole runs: several directions by one model, and pretrained models with their codes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import transformers

from etude.commands.bench.decoding import sentence_batches
from etude.config.compose import compose as compose_words
from etude.data.sizes import BatchSize
from etude.errors import ConfigurationError, DataError
from etude.runs.saved_run import SavedRun
from etude.tasks.translation import Translation
from etude.training.build import build
from tests.parity.pretrained_families import FAMILIES, made
from tests.runs.conftest import SMALL
from tests.runs.doors import compare, evaluate, export, fit, inspect, load_run, predict, train
from tests.runs.killing import BATCH, EXACT, assert_killed_is_the_same, begin
from tests.runs.test_continued import continue_from_every_step

PAIRS = ["en-de", "en-fr", "de-en"]
DIRECTIONS = ("data=directions", f"data.pairs=[{','.join(PAIRS)}]")


@pytest.fixture(scope="module")
def folder(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files in three languages: the third has the words of the second in reverse order."""
    made_folder = tmp_path_factory.mktemp("languages")
    for split in ("train", "val", "test"):
        for language in ("en", "de"):
            (made_folder / f"{split}.{language}").write_text((small_data / f"{split}.{language}").read_text())
        lines = (small_data / f"{split}.de").read_text().splitlines()
        (made_folder / f"{split}.fr").write_text("".join(f"{' '.join(line.split()[::-1])}\n" for line in lines))
    return made_folder


@pytest.fixture
def several(composed: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    """The configuration of a small experiment in three directions."""
    return lambda *more: composed("translation", *DIRECTIONS, f"data.root={folder}", *more)


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in three directions, which tests ask and do not change."""
    place = tmp_path_factory.mktemp("several")
    return train(
        compose_words(
            *("experiment=translation/demo", *SMALL, *DIRECTIONS, f"data.root={folder}", "callbacks=default"),
            *("model.encoder_layers=1", "model.decoder_layers=1", "tokenizer.vocabulary=60", "batch.tokens=180"),
            *("budget=12step", "optimizer.lr=1e-2", "validate.metric=val/chrf_en-fr", "decoding=greedy"),
            *("decoding.max_length=24", f"paths.outputs={place}/outputs", f"paths.cache={place}/cache"),
        )
    )


@pytest.fixture
def adapted(folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """The configuration of a small experiment from a tiny pretrained model of a family."""

    def configuration(kind: str, *more: str) -> Any:
        made(kind, tmp_path / "model")
        return compose_words(
            *("experiment=translation/adapt", f"model.name={tmp_path}/model"),
            *(word for word in SMALL if not word.startswith("model.")),
            *("data=parallel", f"data.root={folder}", "data.max_length=40", "batch.tokens=300"),
            *("decoding.beams=2", "decoding.max_length=8", "validate.metric=val/bleu"),
            *("budget=2step", "validate.every=2step", "scheduler.warmup=1step"),
            *(f"paths.outputs={tmp_path}/outputs", f"paths.cache={tmp_path}/cache"),
            *more,
        )

    return configuration


def keys(kind: str) -> list[str]:
    languages = FAMILIES[kind].languages
    return [f"data.source_language={languages['en']}", f"data.target_language={languages['de']}"]


def answers(run: Path, **options: Any) -> list[str]:
    out = io.StringIO()
    predict(run, options, io.BytesIO(b"sun moon\nlake\n"), out)
    return out.getvalue().splitlines()


def test_each_direction_has_its_scores_and_their_mean_is_the_runs(run: Path) -> None:
    lines = [json.loads(line)["values"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "val/loss" in line][-1]
    for score in ("bleu", "chrf", "ter"):
        each = [last[f"val/{score}_{pair}"] for pair in PAIRS]
        assert last[f"val/{score}"] == pytest.approx(sum(each) / 3)
    assert len({last[f"val/loss_{pair}"] for pair in PAIRS}) == 3
    assert json.loads((run / "data.json").read_text())["directions"]["de-en"] == {"train": 203, "val": 23, "test": 19}
    found = evaluate([run], {"split": "val"})
    assert found["scores"]["val/chrf_en-fr"] == max(line.get("val/chrf_en-fr", 0) for line in lines)
    assert found["signatures"]["val/chrf"].endswith("|directions:3")
    assert "directions" not in found["signatures"]["val/chrf_en-fr"]
    rows = [json.loads(line) for line in (run / "evaluations/val.jsonl").read_text().splitlines()]
    assert [row["direction"] for row in rows] == [pair for pair in PAIRS for _ in range(23)]
    assert (run / "report.html").exists()


def test_directions_have_weights_as_parts_of_a_mixture(folder: Path, tmp_path: Path) -> None:
    files = "splits: {train: train, val: val, test: null}"
    parts = ", ".join(
        f"{name}: {{_target_: etude.data.corpora.DirectionFiles, root: {folder}, pairs: [{pair}], {files}}}"
        for name, pair in (("german", "en-de"), ("french", "en-fr"))
    )
    path = train(
        compose_words(
            *("experiment=translation/demo", *SMALL, "data=mixture", "data/of=directions"),
            *("data.of.pairs=[en-de,en-fr]", f"data.parts={{{parts}}}", "data.weights={german: 1, french: 3}"),
            *("batch.shuffle=keyed", "batch.pool=2", "batch.tokens=180", "budget=2step", "validate.every=2step"),
            *("model.encoder_layers=1", "model.decoder_layers=1", "tokenizer.vocabulary=60", "callbacks=default"),
            *("decoding=greedy", "decoding.max_length=9", "validate.metric=val/chrf"),
            *(f"paths.outputs={tmp_path}/outputs", f"paths.cache={tmp_path}/cache"),
        )
    )
    described = json.loads((path / "data.json").read_text())["parts"]
    assert {name: part["share"] for name, part in described.items()} == {"german": 0.25, "french": 0.75}
    assert [way.name for way in SavedRun.open(path).facts.directions] == ["en-de", "en-fr"]
    scores = evaluate([path], {"split": "val"})["scores"]
    assert {"val/bleu", "val/german/bleu", "val/french/bleu"} <= scores.keys()
    assert answers(path, direction="en-fr") != [] != answers(path, direction="en-de")
    with pytest.raises(ConfigurationError, match="direction=en-de"):
        answers(path)


def test_a_direction_is_chosen_for_texts(run: Path) -> None:
    chosen = {pair: answers(run, direction=pair) for pair in PAIRS}
    assert all(len(lines) == 2 for lines in chosen.values())
    assert len({tuple(lines) for lines in chosen.values()}) > 1
    with pytest.raises(
        ConfigurationError, match=r"translates in 3 directions; say which: direction=en-de or direction=en"
    ):
        answers(run)
    with pytest.raises(
        ConfigurationError, match=r"direction=fr-en: this run was trained on en-de, en-fr, de-en; did you"
    ):
        answers(run, direction="fr-en")
    page = inspect(run, {"text": "sun moon", "direction": "en-fr"})
    (looked,) = json.loads((page.parent / "attention.json").read_text())
    assert looked["maps"][0]["rows"][0] == "<2fr>"
    assert json.loads((run / "attention.json").read_text())[0]["maps"][0]["rows"][0] == "<2de>"


def test_files_of_ones_own_are_scored_in_a_direction(run: Path, folder: Path) -> None:
    files = {"source": str(folder / "val.en"), "reference": str(folder / "val.fr")}
    found = evaluate([run], {**files, "direction": "en-fr"})
    scores = evaluate([run], {"split": "val"})["scores"]
    assert found["scores"]["val.en.en-fr/chrf"] == pytest.approx(scores["val/chrf_en-fr"])
    assert (run / "evaluations/val.en.en-fr.json").exists()
    for arguments, message in (
        (files, "source= is given without its direction: write direction=en-de or"),
        ({**files, "direction": "en-it"}, "direction=en-it: write direction=en-de or"),
        ({"direction": "en-fr"}, "direction=en-fr is that of source=FILE"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            evaluate([run], arguments)


def test_a_direction_is_exported_with_its_tag(run: Path) -> None:
    with pytest.raises(ConfigurationError, match="say which: direction=en-de"):
        export(run, {"to": "huggingface"})
    written = export(run, {"to": "huggingface", "direction": "en-fr", "sentences": 6})
    proof = json.loads((written / "export.json").read_text())["proof"]
    assert proof["tokenizer"] == {"texts": 6, "equal": 6} and proof["greedy"]["equal"] == 6
    tokenizer = transformers.AutoTokenizer.from_pretrained(written)
    assert tokenizer.convert_ids_to_tokens(tokenizer("sun")["input_ids"])[0] == "<2fr>"
    task, _ = load_run(run)
    assert task.facts.all_directions[1].before_source == (tokenizer.convert_tokens_to_ids("<2fr>"),)


@pytest.mark.parametrize("to", ["ctranslate2", "onnx"])
@pytest.mark.slow
def test_other_formats_take_the_tag_too(run: Path, to: str) -> None:
    proof = json.loads((export(run, {"to": to, "direction": "de-en", "sentences": 8}) / "export.json").read_text())[
        "proof"
    ]
    assert proof["greedy"]["equal"] + proof["greedy"]["ties"] == 8
    assert proof["as_documented"]["greedy"]["sentences"] == 8


@pytest.mark.slow
def test_several_directions_continued_from_any_step_end_alike(several: Callable[..., Any], tmp_path: Path) -> None:
    settings = (*EXACT, BATCH["translation"], "budget=9step", "checkpoint.every=1step", "checkpoint.keep_last=100")
    continue_from_every_step(begin(tmp_path / "whole", several(*settings)), [4, 8])


@pytest.mark.slow
def test_several_directions_killed_are_the_same_run(several: Callable[..., Any], tmp_path: Path) -> None:
    values = several(*EXACT, "batch.tokens=600")
    assert_killed_is_the_same(tmp_path, values)


@pytest.mark.slow
def test_runs_of_several_directions_are_compared(several: Callable[..., Any], tmp_path: Path) -> None:
    runs = [begin(tmp_path / f"seed{seed}", several(f"seed={seed}", "budget=2step")) for seed in (1, 2)]
    for run in runs:
        fit(run)
    assert "chrf" in json.dumps(compare(runs, {"metric": "chrf", "format": "json"}))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nllb legacy", "m2m100", "mbart", "marian"])
def test_a_pretrained_model_keeps_its_languages(adapted: Callable[..., Any], kind: str, tmp_path: Path) -> None:
    run = train(adapted(kind, *keys(kind)))
    (way,) = SavedRun.open(run).facts.directions
    languages = FAMILIES[kind].languages
    assert way.name == f"{languages['en']}-{languages['de']}"
    scores = evaluate([run], {"split": "val"})["scores"]
    before = answers(run)
    assert before == answers(run, direction=way.name)
    written = export(run, {"to": "huggingface", "sentences": 6})
    proof = json.loads((written / "export.json").read_text())["proof"]
    assert proof["greedy"]["equal"] == proof["tokenizer"]["equal"] == 6 and proof["logits"]["largest_difference"] < 1e-4
    told = json.loads((written / "generation_config.json").read_text())
    assert told["decoder_start_token_id"] == way.start
    assert told.get("forced_bos_token_id") == (way.before_target[0] if way.before_target else None)
    tokenizer = transformers.AutoTokenizer.from_pretrained(written)
    assert type(tokenizer).__name__ == {"nllb legacy": "NllbTokenizer", "mbart": "MBartTokenizer"}.get(
        kind, type(tokenizer).__name__
    )
    for file in (tmp_path / "model").iterdir():
        file.unlink()
    assert answers(run) == before and evaluate([run], {"split": "val"})["scores"] == scores


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["m2m100", "marian"])
def test_what_was_exported_begins_another_run_in_other_languages(adapted: Callable[..., Any], kind: str) -> None:
    first = train(adapted(kind, *keys(kind)))
    written = export(first, {"to": "huggingface", "sentences": 3})
    others = ("data.source_language=de", "data.target_language=fr", f"model.name={written}", "run.name=others")
    run = SavedRun.open(train(adapted(kind, *others)))
    assert run.facts.directions[0].name == "de-fr"
    lines, before = ["sun moon", "Sonne über dem See", "lune"], SavedRun.open(first).tokenizer
    for field in ("source", "target"):
        assert run.tokenizer.of(field).encode(lines) == before.of(field).encode(lines)
    assert (kind == "marian") == (before.of("source").encode(lines) != before.encode(lines))


@pytest.mark.slow
def test_a_prefix_is_kept_with_the_run(adapted: Callable[..., Any]) -> None:
    config = adapted("t5", "data.source_prefix='into german: '", "task.label_smoothing=0.0")
    run = train(config)
    (way,) = SavedRun.open(run).facts.directions
    assert way.prefix == "into german:" and not way.name
    task, tokenizer = load_run(run)
    (ids,) = cast(Translation, task).encode(["sun moon"], tokenizer)
    assert ids == tokenizer.encode(["into german: sun moon"])[0]
    first = (run / "evaluations/test.jsonl").read_text().splitlines()[0]
    data = build(config, tokenizer, SavedRun.open(run)).data
    source = data.text("test", "source", 0)
    assert "german" not in source and task.predictions([source], tokenizer)[0].text == json.loads(first)["output"]
    written = export(run, {"to": "huggingface", "sentences": 4})
    assert json.loads((written / "export.json").read_text())["proof"]["greedy"]["equal"] == 4
    assert 'tokenizer(["into german: Delete all files?"]' in (written / "README.md").read_text()
    with pytest.raises(ConfigurationError, match=r"direction=en-de: this run has no named directions; leave it out"):
        answers(run, direction="en-de")


@pytest.mark.slow
def test_a_pretrained_model_translates_in_several_directions(adapted: Callable[..., Any]) -> None:
    names = "{en: eng_Latn, de: deu_Latn, fr: fra_Latn}"
    config = adapted("nllb", *DIRECTIONS, f"data.languages={names}", "validate.metric=val/bleu_de-en")
    run = train(config)
    facts = SavedRun.open(run).facts
    assert [way.name for way in facts.directions] == PAIRS
    assert len({way.before_target for way in facts.directions}) == 3
    data = build(config, SavedRun.open(run).tokenizer, SavedRun.open(run)).data
    (batch,) = sentence_batches(data, 6, BatchSize(examples=6))
    assert batch.directions is not None and len(set(batch.directions.tolist())) == 3
    for row, number in enumerate(batch.directions.tolist()):
        assert batch.inputs[row, 1] == facts.all_directions[number].before_target[0]


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        (
            "nllb",
            ("data.source_language=en", "data.target_language=deu_Latn"),
            "no language 'en'; near ones are eng_Latn",
        ),
        ("nllb", (), r"the tokenizer writes languages .* beside the texts; say which: data.source_language="),
        ("t5", ("data.source_language=en", "data.target_language=de"), "data.source_language=en: .* no language codes"),
        ("t5", DIRECTIONS, r"has neither language codes nor tags of directions.*data.source_prefix="),
        ("nllb", DIRECTIONS, r"data.pairs has en-de: .* no language 'en'.*data.languages='\{en: CODE\}'"),
    ],
)
def test_what_a_tokenizer_does_not_write_is_one_line(
    adapted: Callable[..., Any], kind: str, words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        train(adapted(kind, *words))


def test_a_direction_without_files_is_one_line(several: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match=r"no train.it or train.it.gz in "):
        train(several("data.pairs=[en-de,en-it]"))


def test_the_metric_of_a_direction_must_be_one_of_the_pairs(several: Callable[..., Any]) -> None:
    with pytest.raises(
        ConfigurationError, match="val/bleu_en-it is not a metric of Translation; did you mean val/bleu_en"
    ):
        several("validate.metric=val/bleu_en-it")
