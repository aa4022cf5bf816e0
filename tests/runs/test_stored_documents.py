"""The files of a run's folder: what is written is read, and whatever else is there is one line with file and field."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.runs import documents, reading
from etude.runs.documents import Document
from etude.runs.reading import ADVICE
from etude.types import Direction, Facts
from etude.untrusted import BrokenFileError, decode_json

HASH = "3c2b7f42bdcf71d501d18bc0aceca2fe52a732b9e67e9351ea42ac82bd799171"
START = {"run": "outputs/a", "checkpoint": "step-00000004", "weights": HASH, "start": None}
MANIFEST = {
    "command": ["etude", "train"],
    "seed": 1,
    "data": {"fingerprint": HASH},
    "parameters": {"total": 10, "trainable": 9},
    "first_weights": HASH,
    "pretrained": {"name": "bert", "version": None, "sha256": {"config.json": HASH}},
    "code": {"commit": None, "changes": HASH, "sources": {"etude": HASH, "mine": None}},
    "packages": {"torch": "2.13.0", "wandb": None},
    "python": "3.11.7",
    "platform": "Linux",
    "processor": {
        "name": "EPYC",
        "machine": "x86_64",
        "cores": 2,
        "vectors": "AVX512",
        "flags": ["avx"],
        "threads": 1,
        "threads_between_operations": 2,
    },
    "accelerators": ["A GPU"],
    "precision": "32-true",
    "torch": {
        "deterministic": True,
        "matmul_precision": "highest",
        "default_dtype": "torch.float32",
        "built_with": ["OpenMP"],
        "mkl": True,
        "onednn": False,
        "cuda": None,
        "cudnn": 90100,
        "cudnn_deterministic": False,
        "cudnn_benchmark": False,
        "cudnn_tf32": True,
    },
    "environment": {"OMP_NUM_THREADS": "1"},
    "start": {**START, "start": START},
}
DATA = {
    "rows": {"train": 10, "val": 2},
    "dropped": {"train": {"repeated": 3}, "val": {}},
    "fingerprint": HASH,
    "classes": ["no", "yes"],
    "tokenizer": {"vocabulary": 100, "fingerprint": HASH},
    "batch": {"tokens": 64, "examples": None, "pool": None},
    "steps_per_epoch": 5,
    "tokens_per_step": 60.5,
}
WAY = Direction("en-de", 1, (2, 7), (2,), before_target=(8,), prefix="into German:")
FACTS = json.loads(
    json.dumps(Facts(100, pad=0, bos=1, eos=2, mask=4, classes=("no", "yes"), directions=(WAY,), turn_end=6).to_json())
)
COST = {
    "parameters": {"total": 10, "trainable": 9},
    "steps": 5,
    "tokens": 300,
    "flops": 1 << 70,
    "flops_are": "products",
    "model_flops_utilisation": None,
    "peak_flops": 1e12,
    "peak_is": "measured",
    "seconds": 1.5,
    "validation_seconds": 0.5,
    "cpu_seconds": 1.5,
    "gpu_seconds": 0.0,
    "peak_memory_mb": 600.5,
    "peak_gpu_memory_mb": 0.0,
    "energy_joules": 12.5,
    "energy_estimated": True,
    "energy_estimated_joules": 12.5,
    "energy_is": "estimated",
}
SCORED = {
    "split": "test",
    "checkpoint": "step-00000004",
    "examples": 2,
    "files": {"source": "a.en", "references": ["a.de"]},
    "settings": {"decoding.beams": 1},
    "left_out_or_changed": {"repeated": 1},
    "scores": {"test/loss": 1.5, "test/bleu": 20.25},
    "intervals": {"test/bleu": [19.5, 21.0]},
    "signatures": {"test/bleu": "nrefs:1"},
    "ensemble": ["outputs/b"],
}
DETAILS = {
    "calibration": {"bins": 10, "error": 0.25, "fitted_on": "val"},
    "confusion": {"no": {"yes": 3}},
    "errors": [{"text": "a", "label": "no"}],
}
CONCLUSION = {"step": 5, "ended": "the budget is spent", **SCORED, "averages": {"step-00000004-mean-last-2": 2.5}}
HEAD = dict.fromkeys(("entropy", "distance", "diagonal", "previous", "next", "first", "last"), 0.5)
MAP = {"name": "encoder.0", "rows": ["a"], "columns": ["b", "c"], "weights": [[[0.25, 0.75]]], "heads": [HEAD]}
INSPECTION = {
    "text": "b c",
    "target": None,
    "given": False,
    "maps": [MAP],
    "alignment": {"by": "encoder.0", "source": ["b", "c"], "target": ["a"], "links": [[1, 0]]},
}
CHANGE = {"step": 3, "changed": {"trainer.threads": "1 -> 2"}}
SECTION = {"same": False, "is": {"python": "3.11"}, "differs": {"python": "'3.10' -> '3.11'"}}
REPRODUCTION = {
    "run": "outputs/a",
    "reproduction": "outputs/a-reproduced-1",
    **{name: dict(SECTION) for name in ("code", "packages", "hardware", "settings", "data")},
    "deterministic": True,
    "continued": [CHANGE],
    "identical": False,
    "first_line": {"line": 2, "step": 3, "values": {"train/loss": [0.5, "nan"], "val/loss": [None, 2]}},
    "first_tensor": {"file": "model.safetensors", "tensor": "embedding", "largest_difference": 0.5},
    "scores": {"test/bleu": [1.5, None]},
}
EXPORT = {"run": "outputs/a", "checkpoint": "step-00000004", "to": "onnx", "proof": {"texts": 3}}

Reader = Callable[[Path], Any]
FILES: dict[str, tuple[dict[str, Any], Reader, type[Document]]] = {
    "manifest.json": (MANIFEST, reading.read_manifest, documents.RunManifest),
    "data.json": (DATA, reading.read_data, documents.Data),
    "facts.json": (FACTS, reading.read_facts, documents.StoredFacts),
    "cost.json": (COST, reading.read_cost, documents.Cost),
    "finished.json": (CONCLUSION, reading.read_conclusion, documents.Conclusion),
    "evaluations/test.json": (
        {**SCORED, "details": DETAILS},
        lambda run: reading.read_evaluation(run, "test"),
        documents.Evaluation,
    ),
    "reproduction.json": (REPRODUCTION, reading.read_reproduction, documents.Reproduction),
    "export.json": (EXPORT, reading.read_export, documents.Export),
}
WRITABLE = st.characters(exclude_categories=["Cs"])
FREE = ("settings", "proof", "is")
"""Keys whose content may be anything."""

each_file = pytest.mark.parametrize("name", FILES)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with all its documents."""
    (tmp_path / "evaluations").mkdir()
    (tmp_path / "samples").mkdir()
    for name, (values, _, _) in FILES.items():
        (tmp_path / name).write_text(json.dumps(values, indent=2))
    (tmp_path / "attention.json").write_text(json.dumps([INSPECTION]))
    (tmp_path / "changes.jsonl").write_text(json.dumps(CHANGE) + "\n")
    (tmp_path / "evaluations/test.jsonl").write_text('{"id": 0, "output": "a"}\n{"id": 1, "output": "b"}\n')
    (tmp_path / "samples/step-00000004.jsonl").write_text('{"text": "a", "output": "b"}\n')
    (tmp_path / "id").write_text("0a1b2c3d")
    (tmp_path / "overrides.yaml").write_text("- seed=1\n- optimizer.lr=1e-3\n")
    return tmp_path


def refused(action: Callable[[], Any], *words: str) -> str:
    with pytest.raises(BrokenFileError) as caught:
        action()
    message = str(caught.value)
    assert message.isprintable() and message.endswith(f"; {ADVICE}") and caught.value.exit_code == 65, message
    for word in words:
        assert word in message, (word, message)
    return message


# What is written is read


@each_file
def test_what_is_written_comes_back(run: Path, name: str) -> None:
    values, read, _ = FILES[name]
    found = read(run)
    assert found.plain() == values
    assert json.loads(json.dumps(found.plain())) == values  # lists are lists


def test_the_other_files_come_back(run: Path) -> None:
    assert [one.plain() for one in reading.read_attention(run)] == [INSPECTION]
    assert [one.plain() for one in reading.read_changes(run)] == [CHANGE]
    assert reading.read_rows(run, "test") == [{"id": 0, "output": "a"}, {"id": 1, "output": "b"}]
    assert reading.read_samples(run, 4) == [{"text": "a", "output": "b"}]
    assert reading.read_identity(run) == "0a1b2c3d"
    assert reading.read_overrides(run) == ["seed=1", "optimizer.lr=1e-3"]
    (run / "changes.jsonl").unlink()
    assert reading.read_changes(run) == []


def test_facts_are_those_of_the_data(run: Path) -> None:
    assert Facts.from_json(reading.read_facts(run).plain()) == Facts.from_json(FACTS)


def test_what_a_file_may_leave_out(run: Path) -> None:
    optional = {
        "manifest.json": {"start"},
        "facts.json": {"directions", "turn_end"},
        "finished.json": {"files", "settings", "left_out_or_changed", "ensemble", "averages"},
        "evaluations/test.json": {"files", "settings", "left_out_or_changed", "ensemble", "details"},
    }
    for name, keys in optional.items():
        values, read, _ = FILES[name]
        fewer = {key: value for key, value in values.items() if key not in keys}
        (run / name).write_text(json.dumps(fewer))
        assert read(run).plain() == fewer
    (run / "manifest.json").write_text(json.dumps({**MANIFEST, "pretrained": {}}))
    assert reading.read_manifest(run).plain() == {**MANIFEST, "pretrained": {}}


# What a module of somebody else adds


def test_what_is_free_is_passed_over(run: Path) -> None:
    (run / "data.json").write_text(json.dumps({**DATA, "documents": {"train": 3}, "mine": [1, {"a": None}]}))
    assert reading.read_data(run).plain() == DATA
    (run / "evaluations/test.json").write_text(json.dumps({**SCORED, "details": {**DETAILS, "mine": [1]}}))
    assert reading.read_evaluation(run, "test").details.plain() == DETAILS


# What lies


def _places(values: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The paths of all values inside values, but for free ones."""
    if path:
        yield path
    for key, value in (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    ):
        if key not in FREE:
            yield from _places(value, (*path, key))


def _changed(values: Any, path: tuple[str | int, ...], value: Any) -> Any:
    values = copy.deepcopy(values)
    here = values
    for key in path[:-1]:
        here = here[key]
    here[path[-1]] = value
    return values


def _kind(value: Any) -> str:
    return {bool: "bool", int: "number", float: "number", str: "text", list: "list", dict: "object"}.get(
        type(value), "null"
    )


@each_file
def test_any_value_of_another_type_is_named(run: Path, name: str) -> None:
    values, read, _ = FILES[name]
    for place in _places(values):
        refusals = 0
        now = values
        for key in place:
            now = now[key]  # type: ignore[index]
        for other in (None, True, 1.5, "x", [7], {"?": 7}):
            if _kind(other) != _kind(now):
                (run / name).write_text(json.dumps(_changed(values, place, other)))
                try:
                    read(run)
                except BrokenFileError:
                    named = next(str(key) for key in reversed(place) if isinstance(key, str))
                    message = refused(lambda: read(run), str(run / name))
                    assert named in message or str(place[0]) in message, (place, message)
                    refusals += 1
        assert refusals or place[-1] in FREE, place


@each_file
def test_any_missing_key_is_named(run: Path, name: str) -> None:
    values, read, kind = FILES[name]
    optional = {field.encode_name for field in msgspec.structs.fields(kind) if not field.required}
    for key in values:
        if key not in optional:
            (run / name).write_text(json.dumps({other: value for other, value in values.items() if other != key}))
            refused(lambda: read(run), f"{run / name}: {key} is missing")


@each_file
def test_a_key_of_another_version_is_named(run: Path, name: str) -> None:
    values, read, _ = FILES[name]
    (run / name).write_text(json.dumps({**values, "newer": 1}))
    if name == "data.json":
        assert read(run).plain() == values
    else:
        refused(lambda: read(run), f"{run / name}: newer is not a key that this version of etude writes")


@each_file
def test_every_truncation_is_one_line(run: Path, name: str) -> None:
    values, _, kind = FILES[name]
    text = json.dumps(values).encode()
    assert decode_json(text, kind, name, ADVICE).plain() == values
    for length in range(len(text)):
        refused(partial(decode_json, text[:length], kind, name, ADVICE), name)


@each_file
@pytest.mark.parametrize("harm", ["absent", "empty", "deep", "repeated", "pipe", "zeros", "folder", "outside", "huge"])
def test_harm_is_one_line(run: Path, name: str, harm: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path, (_, read, _) = run / name, FILES[name]
    text = path.read_text()
    path.unlink()
    said = {
        "absent": "No such file",
        "empty": "is not JSON",
        "deep": "is nested more than 64 levels deep",
        "repeated": "twice",
        "pipe": "is a named pipe",
        "zeros": "leads out of",
        "folder": "is a folder",
        "outside": "leads out of",
        "huge": "bytes, more than the",
    }
    contents = {
        "empty": "",
        "deep": '{"a":' * 100_000,
        "repeated": text.rstrip()[:-1] + f",{text.lstrip()[1:]}",
        "huge": "",
    }
    links = {"zeros": Path("/dev/zero"), "outside": _elsewhere(tmp_path_factory, text)}
    if harm in contents:
        path.write_text(contents[harm])
    if harm in links:
        path.symlink_to(links[harm])
    if harm == "huge":
        os.truncate(path, 1 << 40)
    if harm == "pipe":
        os.mkfifo(path)
    if harm == "folder":
        path.mkdir()
    refused(lambda: read(run), str(path), said[harm])


def _elsewhere(tmp_path_factory: pytest.TempPathFactory, text: str) -> Path:
    path = tmp_path_factory.mktemp("elsewhere") / "sound.json"
    path.write_text(text)
    return path


def test_names_of_evaluations_do_not_lead_out(run: Path) -> None:
    for name in ("../manifest", "/etc/passwd", "a/../../x"):
        refused(partial(reading.read_evaluation, run, name), "is not the name of a file in its folder")
        refused(partial(reading.read_rows, run, name), "is not the name of a file in its folder")


# What does not fit together


@pytest.mark.parametrize(
    ("name", "place", "value", "said"),
    [
        ("facts.json", ("eos",), 100, "eos is 100, no id of a vocabulary of 100"),
        (
            "facts.json",
            ("directions", 0, "after_source", 1),
            100,
            "directions[0] has 100, no id of a vocabulary of 100",
        ),
        ("facts.json", ("directions", 0, "start"), 101, "directions[0] has 101, no id of a vocabulary of 100"),
        ("facts.json", ("mask",), -2, "mask is a number that is not >= -1"),
        ("facts.json", ("segments",), 3, "segments is a number that is not <= 2"),
        ("data.json", ("rows", "val"), -1, "rows['val'] is a number that is not >= 0"),
        ("data.json", ("steps_per_epoch",), 0, "steps_per_epoch is a number that is not >= 1"),
        ("manifest.json", ("pretrained",), {"name": "bert"}, "pretrained: name, version and sha256 are there together"),
        ("manifest.json", ("processor", "threads"), 0, "processor.threads is a number that is not >= 1"),
        ("manifest.json", ("start", "start", "run"), 1, "start.start.run is a whole number, not a text"),
        ("manifest.json", ("code", "sources", "mine"), 1, "code.sources['mine'] is a whole number, not a text or null"),
        ("finished.json", ("intervals", "test/bleu"), [1.5], "intervals['test/bleu'] has a length that is not >= 2"),
        ("finished.json", ("scores", "test/loss"), "low", "scores['test/loss'] is a text, not a number"),
        ("reproduction.json", ("data", "same"), 1, "data.same is a whole number, not true or false"),
        ("reproduction.json", ("first_line", "values", "val/loss"), [1], "first_line.values['val/loss'] has a length"),
    ],
)
def test_values_that_do_not_fit(run: Path, name: str, place: tuple[str, ...], value: Any, said: str) -> None:
    values, read, _ = FILES[name]
    (run / name).write_text(json.dumps(_changed(values, place, value)))
    refused(lambda: read(run), f"{name}: {said}")


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (
            ("maps", 0, "rows"),
            ["a", "b"],
            "[0].maps[0]: the weights are not one for each of 1 heads, 2 rows, 2 columns",
        ),
        (("maps", 0, "weights"), [[[0.5]]], "[0].maps[0]: the weights are not one for each"),
        (("maps", 0, "heads"), [], "[0].maps[0]: the weights are not one for each of 0 heads"),
        (("maps", 0, "weights", 0, 0, 1), "x", "[0].maps[0].weights[0][0][1] is a text, not a number"),
        (("alignment", "links"), [[2, 0]], "[0].alignment: a link 2-0 between 2 and 1 words leads nowhere"),
        (("alignment", "links"), [[0, -1]], "[0].alignment.links[0][1] is a number that is not >= 0"),
    ],
)
def test_attention_that_does_not_fit(run: Path, place: tuple[str | int, ...], value: Any, said: str) -> None:
    (run / "attention.json").write_text(json.dumps([_changed(INSPECTION, place, value)]))
    refused(lambda: reading.read_attention(run), f"attention.json: {said}")


@pytest.mark.parametrize(
    ("name", "text", "read", "said"),
    [
        (
            "changes.jsonl",
            '{"step": 1, "changed": {}}\n{"step": 1}\n',
            reading.read_changes,
            ", line 2: changed is miss",
        ),
        (
            "changes.jsonl",
            '{"step": 1, "changed": {"a": 1}}\n',
            reading.read_changes,
            ", line 1: changed['a'] is a whole",
        ),
        (
            "evaluations/test.jsonl",
            "[]\n",
            lambda run: reading.read_rows(run, "test"),
            ", line 1 is a list, not an obj",
        ),
        (
            "evaluations/test.jsonl",
            '{"id": true}\n',
            lambda run: reading.read_rows(run, "test"),
            ", line 1: id is miss",
        ),
        (
            "samples/step-00000004.jsonl",
            '{"text": 1}\n',
            lambda run: reading.read_samples(run, 4),
            "['text'] is a whole",
        ),
        ("id", "not an id", reading.read_identity, "id: 'not an id' is not an id of letters, digits, - and _"),
        ("id", "0" * 100, reading.read_identity, "id has 100 bytes, more than the 64"),
        ("overrides.yaml", "a: 1\n", reading.read_overrides, "overrides.yaml is an object, not a list"),
        ("overrides.yaml", "- a\n- 1\n", reading.read_overrides, "overrides.yaml: [1] is not text"),
        ("overrides.yaml", "- &a x\n- *a\n", reading.read_overrides, "line 1 has an anchor or alias"),
        ("overrides.yaml", "- [", reading.read_overrides, "is not YAML"),
    ],
)
def test_the_other_files_are_named_too(run: Path, name: str, text: str, read: Reader, said: str) -> None:
    (run / name).write_text(text)
    refused(lambda: read(run), str(run / name), said)


# Any values of the types


@given(
    st.builds(
        documents.Change,
        step=st.integers(0),
        changed=st.dictionaries(st.text(WRITABLE), st.text(WRITABLE)),
    )
)
def test_changes_of_any_text_come_back(change: documents.Change) -> None:
    for ascii_only in (True, False):
        text = json.dumps(change.plain(), ensure_ascii=ascii_only).encode()
        assert decode_json(text, documents.Change, "changes.jsonl", ADVICE) == change


@given(
    st.dictionaries(st.text(WRITABLE), st.floats()),
    st.dictionaries(st.text(WRITABLE), st.lists(st.floats(), min_size=2, max_size=2)),
)
def test_scores_of_any_number_come_back(scores: dict[str, float], intervals: dict[str, list[float]]) -> None:
    values = {**CONCLUSION, "scores": scores, "intervals": intervals}
    found = decode_json(json.dumps(values).encode(), documents.Conclusion, "finished.json", ADVICE)
    assert repr(found.scores) == repr(scores) and repr(found.intervals) == repr(intervals)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(WRITABLE, max_size=3),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(WRITABLE, max_size=3), inner),
        max_leaves=6,
    )
)
def test_any_json_is_a_document_or_one_line(value: Any) -> None:
    text = json.dumps(value).encode()
    for name, (_, _, kind) in FILES.items():
        refused(partial(decode_json, text, kind, name, ADVICE), name)
