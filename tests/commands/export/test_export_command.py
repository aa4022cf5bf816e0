"""An export is a whole folder with its proof or nothing, of the weights that were asked for, in the format that fits the task."""

from __future__ import annotations

import errno
import json
import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from etude.atomic import replace_link
from etude.commands.export import command, documented_use
from etude.commands.export.command import CHANGEABLE, FORMATS, export
from etude.commands.export.proof import MismatchError, ProofTexts
from etude.config.compose import compose
from etude.config.schema import Config
from etude.errors import ConfigurationError, StorageError
from etude.hub import FolderFiles
from etude.models.base import EncoderDecoder, TextDecoder
from etude.models.decoder import Decoder
from etude.models.encoder import Encoder
from etude.models.generation.search import Greedy
from etude.models.wrapped.wrapped_decoder import WrappedDecoder
from etude.models.wrapped.wrapped_encoder import WrappedEncoder
from etude.models.wrapped.wrapped_seq2seq import WrappedEncoderDecoder
from etude.optim.finetune.lora import LoRA, LoRALinear
from etude.optim.schedules import Constant
from etude.packages import file_sha256
from etude.runs.folder import EXPORT
from etude.runs.saved_run import SavedRun
from etude.tasks.base import Task
from etude.tasks.causal_lm import CausalLM
from etude.tasks.classification import Classification
from etude.tasks.masked_lm import MaskedLM
from etude.tasks.question_answering import QuestionAnswering
from etude.tasks.running_sums import Row
from etude.tasks.token_classification import TokenClassification
from etude.tasks.translation import Translation
from etude.tokenization.base import Tokenizer
from etude.tokenization.windows import Windows
from etude.types import Facts
from tests.runs.doors import ask_here

ROWS = 7
"""Validation texts of a run."""

SHAPE: dict[str, Any] = {"width": 6, "heads": 2, "feed_forward": 9, "dropout": 0.1, "max_length": 40}
Make = Callable[..., Task]


def exactly(line: str) -> str:
    return f"^{re.escape(line)}$"


@pytest.fixture(scope="module")
def config() -> Config:
    return compose()


class Data:
    """Validation texts that say what they are."""

    splits = {"val": SimpleNamespace(counts=[1] * ROWS)}  # noqa: RUF012

    def text(self, split: str, field: str, index: int) -> str:
        return f"{split} {field} {index}"


@pytest.fixture
def given(
    tmp_path: Path, config: Config, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Task], SavedRun]:
    """Makes a run of a task that is already built, whose checkpoints are named and hold nothing."""

    def make(task: Task, weights: Callable[[Path], dict[str, Tensor]] | None = None) -> SavedRun:
        run = SavedRun(tmp_path / "run", config)
        vars(run)["tokenizer"] = tokenizer
        for step in (3, 8):
            (run.checkpoints / f"step-{step:08d}").mkdir(parents=True, exist_ok=True)
        replace_link(run.checkpoints / "best", "step-00000003")
        state = dict(task.state_dict())
        monkeypatch.setattr(command, "build", lambda *_: SimpleNamespace(task=task, data=Data()))
        monkeypatch.setattr(command, "read_weights", weights or (lambda _: state))
        monkeypatch.setattr(command, "model_card", lambda *_: "what a stranger needs")
        return run

    return make


class Copied:
    """A format that writes the texts, and proves nothing."""

    def __init__(self, seen: list[tuple[Copied, ProofTexts]], name: str, *arguments: Any) -> None:
        self.seen, self.name, self.arguments = seen, name, arguments

    def write(self, examples: ProofTexts, folder: Path) -> None:
        assert not list(folder.iterdir())
        self.folder = folder
        self.seen.append((self, examples))
        (folder / "texts.json").write_text(json.dumps([examples.texts, examples.references]))

    def prove(self, examples: ProofTexts, folder: Path) -> dict[str, Any]:
        assert self.seen[-1] == (self, examples) and (folder / "texts.json").exists()
        return {"texts": len(examples.texts)}


NAMES = [name for name in vars(command) if name.startswith("HuggingFace")] + ["CTranslate2", "OnnxTranslation"]


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Copied, ProofTexts]]:
    """What was exported, in which format: all formats are replaced by copies of the texts."""
    seen: list[tuple[Copied, ProofTexts]] = []
    for name in NAMES:
        monkeypatch.setattr(command, name, partial(Copied, seen, name))
    monkeypatch.setattr(command, "prove_use", lambda *_, **__: {"by": "nobody"})
    return seen


@pytest.fixture
def make(tokenizer: Tokenizer, examples: Callable[..., ProofTexts]) -> Make:
    """Makes a task of a kind, around an own model or another one."""

    def made(kind: type[Task], model: Any = None, **facts: Any) -> Task:
        torch.manual_seed(1)
        known = Facts(tokenizer.vocabulary, tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.mask, **facts)
        schedule: Any = Constant()
        training: dict[str, Any] = {"optimizer": partial(torch.optim.SGD, lr=0.1), "scheduler": schedule}
        if kind is Translation:
            return examples(model=model).task
        if kind is CausalLM:
            return CausalLM(known, model or Decoder(known, layers=1, **SHAPE), decoding=Greedy(), **training)
        if kind is QuestionAnswering:
            training["windows"] = Windows(max_length=40, stride=8, max_question=9)
        return kind(facts=known, model=model or Encoder(known, layers=1, **SHAPE), **training)

    return made


CLASSES = {"classes": ("cold", "warm")}


# What is refused before anything is built


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({}, "to=? is not a format; write to=huggingface, to=ctranslate2, to=onnx"),
        ({"to": "gguf"}, "to=gguf is not a format; write to=huggingface, to=ctranslate2, to=onnx"),
        (
            {"to": "onnx", "quantization": "int8"},
            "quantization=int8 is for to=ctranslate2, not to=onnx; leave it out",
        ),
        (
            {"to": "huggingface", "quantization": False},
            "quantization=False is for to=ctranslate2, not to=huggingface; leave it out",
        ),
        (
            {"to": "onnx", "changes": {"model.width": 3}},
            "model.width cannot be changed here; what can: decoding, paths, trainer, limit (command line)",
        ),
        (
            {"to": "onnx", "checkpoint": 5},
            "RUN has no checkpoint '5'; there are: step-00000003, step-00000008",
        ),
        ({"to": "onnx", "path": "RUN"}, "RUN exists and is not an earlier export; remove it or set path=FOLDER"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    given: Any, make: Make, monkeypatch: pytest.MonkeyPatch, words: dict[str, Any], line: str
) -> None:
    run = given(make(Translation))
    monkeypatch.setattr(command, "build", lambda *_: pytest.fail("a model was built"))
    own: dict[str, Any] = {name: str(run.path) if value == "RUN" else value for name, value in words.items()}
    with pytest.raises(ConfigurationError, match=exactly(line.replace("RUN", str(run.path)))):
        export(run, **own)
    assert not (run.path / "exports").exists()


def test_a_run_without_a_checkpoint_says_what_comes_first(tmp_path: Path, config: Config) -> None:
    line = f"{tmp_path} has no checkpoint yet; first: etude resume {tmp_path}"
    with pytest.raises(ConfigurationError, match=exactly(line)):
        export(SavedRun(tmp_path, config), to="onnx")


def test_what_may_be_changed_reaches_the_model(
    given: Any, make: Make, copied: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, found = make(Translation), list[Config]()
    run = given(task)

    def build(config: Config, tokenizer: Tokenizer, restored: SavedRun) -> Any:
        assert tokenizer is run.tokenizer and restored is run
        found.append(config)
        return SimpleNamespace(task=task, data=Data())

    monkeypatch.setattr(command, "build", build)
    export(run, to="onnx")
    export(run, to="onnx", changes={"limit.val": 5})
    assert found[0] is run.config and found[1].values["limit"]["val"] == 5
    assert {key.partition(".")[0] for key in CHANGEABLE} <= set(run.config.values)


@pytest.mark.parametrize("number", [0, -3, True, 2.0, "many", None])
def test_a_number_of_sentences_is_one_or_more(given: Any, make: Make, copied: Any, number: Any) -> None:
    run = given(make(Translation))
    line = f"sentences={number} is not a number of sentences; write 1 or more"
    with pytest.raises(ConfigurationError, match=exactly(line)):
        export(run, to="onnx", sentences=number)
    assert not copied and not (run.path / "exports").exists()


# Formats and tasks


class Unheard(Task):
    """A task that no format takes."""

    def loss(self, batch: Any) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def judge(self, batch: Any, split: str) -> tuple[Tensor, Tensor, list[Row]]:
        raise NotImplementedError

    def sample(self, row: Row, split: str) -> dict[str, str]:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("to", "kind", "line"),
    [
        (
            "onnx",
            Classification,
            "to=onnx exports Translation, and this run is Classification; write to=huggingface",
        ),
        ("ctranslate2", CausalLM, "to=ctranslate2 exports Translation, and this run is CausalLM; write to=huggingface"),
        ("onnx", Unheard, "to=onnx exports Translation, and this run is Unheard; no format takes this task"),
        (
            "huggingface",
            Unheard,
            "to=huggingface exports Translation, CausalLM, Classification, Multilabel, Regression, "
            "TokenClassification, QuestionAnswering, MaskedLM, and this run is Unheard; no format takes this task",
        ),
    ],
)
def test_a_format_that_does_not_take_the_task_is_refused(
    given: Any, make: Make, to: str, kind: type[Task], line: str
) -> None:
    run = given(make(kind, **(CLASSES if kind is Classification else {})))
    with pytest.raises(ConfigurationError, match=exactly(line)):
        export(run, to=to)
    assert not (run.path / "exports").exists()


IDS = {"vocab_size": 70, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
THEIRS: dict[type[Task], tuple[str, str, dict[str, Any], Callable[..., Any]]] = {
    Translation: (
        "AutoModelForSeq2SeqLM",
        "marian",
        {
            "d_model": 6,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 9,
            "decoder_ffn_dim": 9,
            "decoder_start_token_id": 1,
            "forced_eos_token_id": None,
        },
        WrappedEncoderDecoder,
    ),
    CausalLM: ("AutoModelForCausalLM", "gpt2", {"n_embd": 6, "n_layer": 1, "n_head": 2}, WrappedDecoder),
    MaskedLM: (
        "AutoModelForMaskedLM",
        "bert",
        {"hidden_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 9},
        WrappedEncoder,
    ),
}


def wrapped(kind: type[Task], tokenizer: Tokenizer, folder: Path) -> EncoderDecoder | TextDecoder | WrappedEncoder:
    """A model as transformers computes it."""
    auto, architecture, sizes, wrapper = THEIRS[kind]
    ids = {**IDS, "vocab_size": tokenizer.vocabulary}
    config = transformers.AutoConfig.for_model(architecture, **ids, **sizes)
    getattr(transformers, auto).from_config(config).save_pretrained(folder)
    facts = Facts(tokenizer.vocabulary, tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.mask)
    return wrapper(facts, FolderFiles(folder))


@pytest.mark.parametrize(
    ("kind", "own", "theirs"),
    [
        (Translation, "HuggingFaceTranslation", "HuggingFaceWrappedTranslation"),
        (CausalLM, "HuggingFaceDecoder", "HuggingFaceWrappedDecoder"),
        (MaskedLM, "HuggingFaceEncoder", "HuggingFaceWrapped"),
    ],
)
def test_the_format_is_that_of_the_model(
    given: Any, make: Make, copied: Any, tokenizer: Tokenizer, tmp_path: Path, kind: type[Task], own: str, theirs: str
) -> None:
    export(given(make(kind)), to="huggingface")
    export(given(make(kind, wrapped(kind, tokenizer, tmp_path / "theirs"))), to="huggingface")
    assert [one.name for one, _ in copied] == [own, theirs]


@pytest.mark.parametrize("to", ["ctranslate2", "onnx"])
def test_a_model_of_transformers_is_no_other_librarys(
    given: Any, make: Make, tokenizer: Tokenizer, tmp_path: Path, to: str
) -> None:
    run = given(make(Translation, wrapped(Translation, tokenizer, tmp_path / "theirs")))
    line = f"to={to} exports etude's own models, and this run's is a WrappedEncoderDecoder; write to=huggingface"
    with pytest.raises(ConfigurationError, match=exactly(line)):
        export(run, to=to)


def test_each_format_is_for_tasks() -> None:
    assert list(FORMATS) == ["huggingface", "ctranslate2", "onnx"]
    assert all(issubclass(kind, Task) for kinds in FORMATS.values() for kind in kinds)


# Texts and weights


@pytest.mark.parametrize(
    ("kind", "facts", "fields"),
    [
        (Translation, {}, ("source", "target")),
        (CausalLM, {}, ("text",)),
        (MaskedLM, {}, ("text",)),
        (Classification, CLASSES, ("text",)),
        (Classification, {**CLASSES, "segments": 2}, ("text", "pair")),
        (QuestionAnswering, {"segments": 2}, ("question", "context")),
        (TokenClassification, CLASSES, ("text",)),
    ],
)
@pytest.mark.parametrize(("most", "count"), [(3, 3), (1000, ROWS)])
def test_a_proof_reads_the_first_validation_texts(
    given: Any,
    make: Make,
    copied: Any,
    kind: type[Task],
    facts: dict[str, Any],
    fields: tuple[str, ...],
    most: int,
    count: int,
) -> None:
    run = given(make(kind, **facts))
    export(run, to="huggingface", sentences=most)
    ((_, examples),) = copied
    columns = [[f"val {field} {index}" for index in range(count)] for field in fields]
    assert [examples.texts, examples.references] == [*columns, []][:2]
    assert examples.tokenizer is run.tokenizer


@pytest.mark.parametrize(
    ("words", "step"), [({}, 3), ({"checkpoint": "best"}, 3), ({"checkpoint": 8}, 8), ({"checkpoint": "8"}, 8)]
)
def test_weights_are_those_of_the_checkpoint_and_the_task_is_evaluated(
    given: Any, make: Make, copied: Any, words: dict[str, Any], step: int
) -> None:
    task = make(MaskedLM).train()

    def weights(checkpoint: Path) -> dict[str, Tensor]:
        number = int(checkpoint.name.removeprefix("step-"))
        return {name: torch.full_like(tensor, number) for name, tensor in task.state_dict().items()}

    folder = export(given(task, weights), to="huggingface", **words)
    ((_, examples),) = copied
    assert all((tensor == step).all() for tensor in examples.task.state_dict().values())
    assert not any(module.training for module in examples.task.modules())
    assert json.loads((folder / EXPORT).read_text())["checkpoint"] == f"step-{step:08d}"


def test_adapters_are_merged_into_the_weights_that_they_adapt(given: Any, make: Make, copied: Any) -> None:
    task, tokens = make(MaskedLM), torch.tensor([[1, 9, 4, 7, 2]])
    task.adjust(LoRA(2))
    adapters = [module for module in task.modules() if isinstance(module, LoRALinear)]
    for adapter in adapters:
        torch.nn.init.normal_(adapter.lora_b)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    expected = task.eval().model(tokens, mask)
    export(given(task), to="huggingface")
    ((_, examples),) = copied
    assert adapters and not any(isinstance(module, LoRALinear) for module in examples.task.modules())
    torch.testing.assert_close(examples.task.model(tokens, mask), expected)


# The folder


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ({"to": "onnx"}, "onnx"),
        ({"to": "ctranslate2"}, "ctranslate2"),
        ({"to": "ctranslate2", "quantization": "int8"}, "ctranslate2-int8"),
    ],
)
def test_an_export_is_a_folder_with_a_record_of_its_proof(
    given: Any, make: Make, copied: Any, words: dict[str, Any], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = given(make(Translation))
    with caplog.at_level(logging.INFO):
        folder = export(run, **words, sentences=2)
    assert folder == run.path / "exports" / name
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "export.json", "texts.json"]
    proof = {"texts": 2, "as_documented": {"by": "nobody"}}
    files = {file: file_sha256(folder / file) for file in ("README.md", "texts.json")}
    record = {"run": str(run.path), "checkpoint": "step-00000003", "to": name, "proof": proof, "files": files}
    assert json.loads((folder / "export.json").read_text()) == record
    assert folder.stat().st_mode & 0o777 == 0o755
    assert list(folder.parent.iterdir()) == [folder]
    assert caplog.messages[-1] == f"proved on 2 validation texts: {json.dumps(proof)}"
    ((written, _),) = copied
    assert written.folder.parent == folder.parent and written.folder.name.startswith(f".{name}-")
    assert written.arguments == (() if words["to"] == "onnx" else (words.get("quantization"),))


def test_a_folder_of_ones_own_may_be_anywhere(
    given: Any, make: Make, copied: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run = given(make(Translation))
    assert export(run, to="onnx", path="~/models/mine") == tmp_path / "home" / "models" / "mine"
    assert (tmp_path / "home" / "models" / "mine" / EXPORT).is_file()
    assert not (run.path / "exports").exists()


def test_an_earlier_export_is_replaced_whole(given: Any, make: Make, copied: Any) -> None:
    run = given(make(Translation))
    folder = export(run, to="onnx", sentences=2)
    (folder / "of-before").write_text("")
    assert export(run, to="onnx", sentences=3) == folder
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "export.json", "texts.json"]
    assert json.loads((folder / EXPORT).read_text())["proof"]["texts"] == 3
    assert list(folder.parent.iterdir()) == [folder]


def test_a_file_in_the_way_is_left(given: Any, make: Make, copied: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    line = f"{path} exists and is not an earlier export; remove it or set path=FOLDER"
    with pytest.raises(ConfigurationError, match=exactly(line)):
        export(given(make(Translation)), to="onnx", path=path)
    assert path.read_text() == "mine"


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["write", "prove"])
@pytest.mark.parametrize(
    "error", [MismatchError("logits differ"), KeyboardInterrupt(), FULL], ids=lambda one: type(one).__name__
)
def test_a_failure_leaves_what_was_there_before(
    given: Any, make: Make, copied: Any, monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException
) -> None:
    run = given(make(Translation))
    folder = export(run, to="onnx", sentences=2)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fails(self: Copied, examples: ProofTexts, folder: Path) -> dict[str, Any]:
        (folder / "half").write_text("written")
        raise error

    monkeypatch.setattr(Copied, where, fails)
    expected = StorageError if error is FULL else type(error)
    with pytest.raises(expected) as caught:
        export(run, to="onnx", sentences=3)
    assert list(folder.parent.iterdir()) == [folder]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    if error is FULL:
        advice = "free some space and run the same command again"
        assert str(caught.value) == f"cannot write {folder}: No space left on device; {advice}"
    with pytest.raises(expected):
        export(run, to="onnx", path=folder.with_name("new"))
    assert list(folder.parent.iterdir()) == [folder]


def test_a_real_export_is_read_by_transformers(given: Any, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documented_use, "ask", ask_here)
    task = make(Classification, **CLASSES)
    folder = export(given(task), to="huggingface", sentences=3)
    record = json.loads((folder / EXPORT).read_text())
    assert record["to"] == "huggingface" and record["proof"]["logits"]["texts"] == 3
    model, report = transformers.AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and model.config.id2label == {0: "cold", 1: "warm"}
