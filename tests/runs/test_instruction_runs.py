"""Instruction tuning in whole runs: from public weights and from a run of one's own, killed, asked and exported."""

from __future__ import annotations

import io
import json
import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from etude.api import Run
from etude.cli.main import main
from etude.config.compose import compose
from etude.errors import ConfigurationError, DataError
from etude.runs.saved_run import SavedRun
from etude.tokenization.conversation import Message, as_json
from etude.training.build import build
from tests.data.conversations.small_conversations import some, write
from tests.runs.conftest import SMALL
from tests.runs.doors import evaluate, export, inspect, load_run, predict, train
from tests.runs.killing import EXACT, assert_killed_is_the_same, begin
from tests.runs.test_continued import continue_from_every_step
from tests.runs.test_exact_loss import assert_cut_alike
from tests.tokenization.chat_templates import CHATML, MARKED, make_tokenizer, save_tokenizer

ASKED = as_json((Message("user", "star tree"), Message("assistant", "tree star"), Message("user", "bird")))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with conversations for each split, and texts for the base of a run of one's own."""
    folder = tmp_path_factory.mktemp("conversations")
    for number, (split, count) in enumerate({"train": 90, "val": 11, "test": 7}.items()):
        write(folder / f"{split}.jsonl", some(count, seed=number))
        texts = [message.content for one in some(count, seed=number) for message in one]
        (folder / f"{split}.txt").write_text("\n\n".join(texts))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama of random weights as transformers saves it, with a tokenizer that has a chat template."""
    folder, tokenizer = tmp_path_factory.mktemp("llama"), make_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.vocabulary + 3,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=24,
        max_position_embeddings=128,
        attention_dropout=0.1,
        pad_token_id=tokenizer.pad,
        bos_token_id=tokenizer.bos,
        eos_token_id=tokenizer.eos,
    )
    torch.manual_seed(2)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return save_tokenizer(folder, CHATML)


def words_of(files: Path, weights: Path, folder: Path, *more: str) -> list[str]:
    """What is written on a command line for a small run on conversations, from public weights unless a run is named."""
    own = any(word.startswith("start=") for word in more)
    return [
        "experiment=causal_lm/instruct",
        *(word for word in SMALL if not word.startswith("model.")),
        *(f"data.{split}={files}/{split}.jsonl" for split in ("train", "val", "test")),
        *("data.max_length=96", "batch.tokens=600", "decoding.max_length=6", "finetune.rank=2"),
        *([] if own else [f"model.name={weights}"]),
        *(f"paths.outputs={folder}/outputs", f"paths.cache={folder}/cache"),
        *("budget=4step", "validate.every=2step", "scheduler.warmup=1step", "optimizer.lr=1e-2"),
        *more,
    ]


@pytest.fixture
def words(files: Path, weights: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The same of a folder of the test's own."""
    return partial(words_of, files, weights, tmp_path)


@pytest.fixture(scope="module")
def tuned(files: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from public weights, whose template was a file that is gone."""
    folder = tmp_path_factory.mktemp("tuned")
    (folder / "template.jinja").write_text(MARKED)
    template = f"data.chat_template={folder}/template.jinja"
    run = train(compose(*words_of(files, weights, folder, template, "callbacks=default")))
    scores = evaluate([run], {"split": "val"})["scores"]
    assert scores == json.loads((run / "evaluations/val.json").read_text())["scores"]
    (folder / "template.jinja").unlink()
    return run


def answers(run: Path, *lines: str, **changes: Any) -> list[str]:
    out = io.StringIO()
    predict(run, changes, io.BytesIO("".join(f"{line}\n" for line in lines).encode()), out)
    return out.getvalue().splitlines()


@pytest.mark.slow
def test_a_mixture_of_conversations(words: Callable[..., list[str]], files: Path) -> None:
    """Two files, of which the second is read twice as often; each is scored by itself besides."""
    own = [word for word in words() if not word.startswith(("data.train", "data.val", "data.test"))]
    target = "_target_: etude.data.corpora.ConversationFiles"
    parts = [
        f"+data.parts.{name}={{{target}, train: {files}/{split}.jsonl, val: {files}/val.jsonl, test: null}}"
        for name, split in (("large", "train"), ("small", "test"))
    ]
    mixed = ["data=mixture", "data/of=conversations", *parts, "+data.weights={large: 1, small: 2}"]
    run = Run.open(train(compose(*own, *mixed, "batch.shuffle=keyed", "batch.pool=2", "callbacks=default")))
    assert {"val/loss", "val/large/loss", "val/small/loss"} <= run.metrics.keys()
    assert run.scores["large/loss"] == pytest.approx(run.scores["small/loss"])  # the same conversations
    (record,) = sorted((run.path / "samples").glob("*4.jsonl"))
    sample = json.loads(record.read_text().splitlines()[0])
    assert {"text", "output", "reference"} <= sample.keys() and sample["reference"]


def test_from_public_weights(tuned: Path) -> None:
    run = tuned
    data = json.loads((run / "data.json").read_text())
    assert data["conversations"] == {"train": 90, "val": 11, "test": 7} and data["rows"]["train"] < 90
    assert (run / "tokenizer/chat_template.jinja").read_text() == MARKED
    (sample, *_) = [json.loads(line) for line in (run / "samples/step-00000004.jsonl").read_text().splitlines()]
    assert sample["reference"] == some(11, seed=1)[0][-1].content and set(sample) == {"text", "output", "reference"}
    parameters = json.loads((run / "manifest.json").read_text())["parameters"]
    assert 0 < parameters["trainable"] < 0.5 * parameters["total"]

    replies = answers(run, "sun moon", ASKED)
    assert [answers(run, line)[0] for line in ("sun moon", ASKED)] == replies
    page = inspect(run, {"text": ASKED})
    assert isinstance(page, Path) and page.is_file()


def test_an_export_has_the_template_and_the_merged_adapters(
    tuned: Path,
) -> None:
    # An export reads texts to prove itself on, and with them the template that the data is written by.
    template = Path(str(SavedRun.open(tuned).config.data.arguments["chat_template"]))
    template.write_text(MARKED)
    folder = export(tuned, {"to": "huggingface", "sentences": 10})
    proof = json.loads((folder / "export.json").read_text())["proof"]
    assert proof["class"] == "LlamaForCausalLM" and proof["logits"]["largest_difference"] < 1e-4
    assert proof["chat_template"]["equal"] == 10 and proof["as_documented"]["texts"] == 10
    assert proof["as_documented"]["equal"] + proof["as_documented"]["ties"] == 10
    assert (folder / "chat_template.jinja").read_text() == MARKED
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert ends == make_tokenizer().backend.token_to_id("<|im_end|>")

    task, tokenizer = load_run(tuned)
    moved = [p for name, p in task.named_parameters() if name.endswith("lora_b")]
    assert len(moved) == 14 and all(bool(p.any()) for p in moved)  # the seven linear layers of both layers
    peer, own = (
        getattr(transformers, auto).from_pretrained(folder) for auto in ("AutoModelForCausalLM", "AutoTokenizer")
    )
    assert tokenizer.chat_template == own.chat_template and "lora" not in "".join(peer.state_dict())
    messages = [{"role": "user", "content": "sun moon star"}, {"role": "assistant", "content": "star moon sun"}]
    ids = torch.tensor([own.apply_chat_template(messages, return_dict=False)])
    with torch.no_grad():
        before = task.model(ids, torch.ones_like(ids, dtype=torch.bool))
        after = peer.eval()(input_ids=ids).logits
    torch.testing.assert_close(after, before, rtol=0, atol=2e-6)


def test_from_a_run_of_ones_own(
    words: Callable[..., list[str]], overrides: Callable[..., list[str]], files: Path
) -> None:
    text = [f"data.{split}={files}/{split}.txt" for split in ("train", "val", "test")]
    base = train(compose(*overrides("causal_lm", *text, "model.max_length=128", "run.name=base")))
    run = train(compose(*words(f"start={base}", "run.name=tuned", "finetune.rank=2")))
    config = SavedRun.open(run).config
    assert config.model.target == "etude.models.decoder.Decoder"
    assert (run / "tokenizer/tokenizer.json").read_bytes() == (base / "tokenizer/tokenizer.json").read_bytes()
    assert (run / "tokenizer/chat_template.jinja").is_file()
    assert not (base / "tokenizer/chat_template.jinja").exists()
    assert json.loads((run / "manifest.json").read_text())["start"]["run"] == str(base.resolve())
    replies = answers(run, "sun moon", ASKED, "{}")
    proof = json.loads((export(run, {"to": "huggingface"}) / "export.json").read_text())["proof"]
    assert proof["class"] == "GPT2LMHeadModel" and proof["logits"]["largest_difference"] < 1e-4
    assert proof["chat_template"]["equal"] > 0
    shutil.rmtree(base)
    assert answers(run, "sun moon", ASKED, "{}") == replies


def test_lines_that_cannot_be_answered(tuned: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tuned
    wrong = '[{"role": "robot", "content": "a"}]'
    with caplog.at_level(logging.WARNING, logger="etude"):
        first, second, third = answers(run, "sun", wrong, "moon")
    assert first and second == "" and third == answers(run, "moon")[0]
    assert "1 of 3 lines have no answer: line 2 has a message 1 of the role 'robot'" in caplog.text
    refused = json.loads(answers(run, wrong, format="json")[0])
    assert refused == {"text": wrong, "error": refused["error"]} and "'robot'" in refused["error"]
    with pytest.raises(ConfigurationError, match="reads lines of text; write format=json"):
        answers(run, wrong, format="jsonl")
    own = Run.open(run)
    with pytest.raises(DataError, match="text 2 has a message 1 of the role 'robot'"):
        own.predict(["sun", wrong])
    assert own.predict(["sun"]) == [first]
    assert [bool(one.error) for one in own.predictions(["sun", wrong])] == [False, True]


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["data.train={0}/wrong.jsonl"], 65, "wrong.jsonl:2 is not JSON: Expecting value at column 1; mend that line"),
        (["data.train={0}/unanswered.jsonl"], 65, "has no conversation with an assistant's turn; dropped: 1 without"),
        (["data.chat_template={0}/refusing.jinja"], 78, "the chat template refuses the conversation: Never, says"),
        (["data.chat_template={0}/nowhere.jinja"], 65, "no such file"),
        (["data.overflow=cut"], 78, "data.overflow"),
        (["task=causal_lm"], 78, "takes CausalLMBatch, but data (ConversationData) gives ConversationBatch"),
    ],
)
def test_one_line_says_what_is_wrong(
    words: Callable[..., list[str]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    more: list[str],
    code: int,
    said: str,
) -> None:
    (tmp_path / "wrong.jsonl").write_text(f"{ASKED}\nsun moon\n")
    (tmp_path / "unanswered.jsonl").write_text('[{"role": "user", "content": "a"}]\n')
    (tmp_path / "refusing.jinja").write_text("{{ raise_exception('Never, says the template') }}")
    assert main(["train", *words(*(word.format(tmp_path) for word in more))]) == code
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("etude: error:")]
    assert said in line


@pytest.mark.parametrize(("world", "micro_batches"), [(2, 1), (1, 4), (1, 64)])
def test_gradients_do_not_depend_on_how_a_batch_is_cut(
    words: Callable[..., list[str]], world: int, micro_batches: int
) -> None:
    experiment = build(compose(*words("model.dropout=0.0")))
    for name, parameter in experiment.task.named_parameters():
        if name.endswith("lora_b"):  # at zero, nothing else would have a gradient
            torch.nn.init.normal_(parameter, std=0.1)
    whole = assert_cut_alike(experiment, world, micro_batches)
    assert all("lora" in name for name in whole)


@pytest.mark.slow
def test_killed_it_is_the_same_run(words: Callable[..., list[str]], tmp_path: Path) -> None:
    config = compose(*words(*EXACT, "batch.tokens=500"))
    assert_killed_is_the_same(tmp_path, config, calls=(3, 11, 13))


@pytest.mark.slow
def test_continued_from_any_step_it_ends_alike(words: Callable[..., list[str]], tmp_path: Path) -> None:
    settings = (*EXACT, "batch.tokens=500", "budget=9step", "checkpoint.every=1step", "checkpoint.keep_last=100")
    continue_from_every_step(begin(tmp_path / "whole", compose(*words(*settings))), [1, 4, 8])


@pytest.mark.slow
def test_it_learns_to_answer_and_to_end(
    words: Callable[..., list[str]], overrides: Callable[..., list[str]], files: Path, tmp_path: Path
) -> None:
    """A word is said again: what it takes is to have learnt where the question is, and where an answer ends."""
    vocabulary = "sun moon star tree lake road bird song".split()  # noqa: SIM905
    pairs = [(Message("user", word), Message("assistant", word)) for word in vocabulary]
    for split in ("train", "val", "test"):
        write(tmp_path / f"{split}.jsonl", pairs * 20)
    text = [f"data.{split}={files}/{split}.txt" for split in ("train", "val", "test")]
    sizes = ("model.max_length=128", "model.width=32", "model.feed_forward=64", "model.layers=2")
    base = train(compose(*overrides("causal_lm", *text, *sizes, "run.name=base")))
    data = [f"data.{split}={tmp_path}/{split}.jsonl" for split in ("train", "val", "test")]
    kept = [word for word in words(f"start={base}", *data) if not word.startswith("finetune.")]
    run = train(
        compose(
            *kept,
            "finetune=full",
            "budget=600step",
            "validate.every=200step",
            "optimizer.lr=5e-3",
            "scheduler.warmup=20step",
        )
    )
    assert answers(run, *vocabulary) == vocabulary
