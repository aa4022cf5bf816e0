"""Pretrained encoders in whole runs: trained, evaluated, killed, exported, and loaded by transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import transformers
from tokenizers import ByteLevelBPETokenizer

from etude.checkpoints.saver import read_weights
from etude.config.compose import compose as compose_words
from etude.errors import ConfigurationError, DataError
from etude.runs.folder import PRETRAINED
from etude.training.build import build_task
from etude.types import Facts
from tests.runs.conftest import SMALL, WORDS
from tests.runs.doors import evaluate, export, find_checkpoint, load_run, replay, reproduce, resume, train
from tests.runs.killing import EXACT, assert_killed_is_the_same

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 66,
}
SPLITS = ("train", "val", "test")
SPECIAL = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a folder as transformers saves it: a tiny model of random weights, with RoBERTa's kind of tokenizer."""

    def make(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        backend = ByteLevelBPETokenizer()
        texts = [" ".join(WORDS)] * 3
        backend.train_from_iterator(texts, vocab_size=300, special_tokens=list(SPECIAL.values()), show_progress=False)
        backend.save(str(folder / "tokenizer.json"))
        tokens = {f"{name}_token": token for name, token in SPECIAL.items()}
        (folder / "tokenizer_config.json").write_text(json.dumps(tokens | {"cls_token": "<s>", "sep_token": "</s>"}))
        ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
        config = transformers.AutoConfig.for_model(kind, vocab_size=backend.get_vocab_size(), **ids, **SIZES)
        torch.manual_seed(2)
        transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def composed(small_data: Path, tmp_path: Path, weights: Callable[[str], Path]) -> Callable[..., Any]:
    """The checked configuration of a small run from pretrained weights."""
    data = {
        "classification/minilm": ["data=table", *(f"data.{split}={small_data}/{split}.tsv" for split in SPLITS)],
        "masked_lm/adapt": [
            "data=text",
            "data.max_length=16",
            *(f"data.{split}={small_data}/{split}.txt" for split in SPLITS),
        ],
    }

    def compose(experiment: str, model: str, kind: str, *more: str) -> Any:
        folder = weights(kind)
        words = [
            f"experiment={experiment}",
            *(word for word in SMALL if not word.startswith("model.")),
            *data[experiment],
            f"model={model}",
            f"model.name={folder}",
            f"tokenizer.name={folder}",
            f"paths.outputs={tmp_path}/outputs",
            f"paths.cache={tmp_path}/cache",
            "budget=2step",
            "validate.every=2step",
            "scheduler.warmup=1step",
            *more,
        ]
        # The model is not a word of the command line, where a run with a warm start has no model of its own.
        return compose_words(*words).updated({}, more)

    return compose


SMALL_BATCH = {"classification/minilm": "batch.examples=13", "masked_lm/adapt": "batch.tokens=150"}
CASES = [
    ("classification/minilm", "pretrained", "roberta", "RobertaForSequenceClassification"),
    ("classification/minilm", "pretrained", "distilbert", "DistilBertForSequenceClassification"),
    ("classification/minilm", "huggingface", "albert", "AlbertForTokenClassification"),
    ("masked_lm/adapt", "pretrained", "roberta", "RobertaForMaskedLM"),
    ("masked_lm/adapt", "pretrained", "distilbert", "DistilBertForMaskedLM"),
    ("masked_lm/adapt", "huggingface", "albert", "AlbertForMaskedLM"),
]


@pytest.mark.parametrize(
    ("experiment", "model", "kind", "architecture"),
    [pytest.param(*case, marks=() if index in (0, 4, 5) else pytest.mark.slow) for index, case in enumerate(CASES)],
)
def test_trained_evaluated_and_exported(
    composed: Callable[..., Any], experiment: str, model: str, kind: str, architecture: str
) -> None:
    run = train(composed(experiment, model, kind, SMALL_BATCH[experiment]))
    assert run is not None
    scores = evaluate([run], {"split": "val"})
    recorded = json.loads((run / "manifest.json").read_text())["pretrained"]
    assert recorded["version"] is None and set(recorded["sha256"]) == {"config.json", "model.safetensors"}
    folder = export(run, {"to": "huggingface", "sentences": 10})
    proof = json.loads((folder / "export.json").read_text())["proof"]
    assert proof["class"] == architecture and proof["tokenizer"]["equal"] == 10
    task, tokenizer = load_run(run)
    line = "sun <mask> star" if tokenizer.mask >= 0 else "sun"
    assert len(task.predictions([line], tokenizer)) == 1 and scores
    peer, report = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not [key for key in report["missing_keys"] if "pooler" not in key]
    assert peer.config.model_type == kind


@pytest.mark.parametrize(
    ("experiment", "model", "kind", "_architecture"),
    [pytest.param(*case, marks=() if index == 0 else pytest.mark.slow) for index, case in enumerate(CASES)],
)
def test_a_run_needs_no_files_but_its_own(
    composed: Callable[..., Any], tmp_path: Path, experiment: str, model: str, kind: str, _architecture: str
) -> None:
    """Its pretrained model may be gone, or be another one by now: only a reproduction begins from its weights again."""
    config = composed(experiment, model, kind, SMALL_BATCH[experiment], "run.name=first")
    run = train(config)
    assert run is not None
    copied = Path(shutil.copytree(run, run.with_name("copied"), symlinks=True))
    scores = evaluate([run], {"split": "val"})["scores"]
    resume(run, {"budget": "4step"})
    shutil.rmtree(config.model.arguments["name"])

    assert evaluate([copied], {"split": "val"})["scores"] == scores
    assert export(copied, {"to": "huggingface", "sentences": 3}).is_dir()
    with pytest.raises(DataError, match=f"no such folder: {config.model.arguments['name']}"):
        reproduce(copied, {})
    resume(copied, {"budget": "4step"})
    assert_same_weights(copied, run)
    assert (find_checkpoint(copied, "last") / PRETRAINED).read_bytes() == (run / PRETRAINED).read_bytes()
    moved = shutil.move(run, tmp_path / "elsewhere")
    assert "loss" in replay(Path(moved), {"step": 4})

    again = train(composed(experiment, model, kind, SMALL_BATCH[experiment], f"start={copied}", "run.name=next"))
    assert again is not None
    manifests = [json.loads((one / "manifest.json").read_text()) for one in (copied, again)]
    assert manifests[0]["pretrained"] == manifests[1]["pretrained"]


def test_a_classifier_with_a_pooler_is_a_sequence_classifier(composed: Callable[..., Any]) -> None:
    """Written as such, and its pooler and head are read again from there."""
    words = ("task.pooling=pooler", SMALL_BATCH["classification/minilm"], "data.pair=text", "data.max_length=60")
    run = train(composed("classification/minilm", "pretrained", "roberta", *words))
    assert run is not None
    folder = export(run, {"to": "huggingface"})
    proof = json.loads((folder / "export.json").read_text())["proof"]
    assert proof["class"] == "RobertaForSequenceClassification" and proof["tokenizer"]["texts"] == 23
    more = (f"model.name={folder}", f"tokenizer.name={folder}", "optimizer.lr=1e-12", "run.name=again")
    again = train(composed("classification/minilm", "pretrained", "roberta", *words, *more))
    assert again is not None
    ours, theirs = (cast(Any, load_run(one)[0]) for one in (run, again))
    for part in ("pooler.dense", "head"):
        torch.testing.assert_close(theirs.get_submodule(part).weight, ours.get_submodule(part).weight)


def test_a_wrapped_classifier_with_a_pooler_is_not_exported(composed: Callable[..., Any]) -> None:
    words = ("task.pooling=pooler", SMALL_BATCH["classification/minilm"])
    run = train(composed("classification/minilm", "huggingface", "albert", *words))
    assert run is not None
    with pytest.raises(ConfigurationError, match=r"task.pooling=pooler with model=huggingface cannot be exported"):
        export(run, {"to": "huggingface"})


@pytest.mark.parametrize(("model", "kind"), [("pretrained", "roberta"), ("huggingface", "albert")])
def test_a_head_that_no_run_has_comes_from_the_pretrained_model(
    composed: Callable[..., Any], model: str, kind: str
) -> None:
    """Of a masked language model that starts from a classifier: nothing of its head is in that run."""
    config = composed("classification/minilm", model, kind, SMALL_BATCH["classification/minilm"], "run.name=first")
    run = train(config)
    assert run is not None
    words = ("masked_lm/adapt", model, kind, SMALL_BATCH["masked_lm/adapt"], f"start={run}", "optimizer.lr=1e-12")
    again = train(composed(*words, "run.name=second"))
    assert again is not None
    ours = [tensor for name, tensor in load_run(again)[0].state_dict().items() if not name.startswith("model.")]
    peer = transformers.AutoModelForMaskedLM.from_pretrained(config.model.arguments["name"])
    theirs = [tensor for name, tensor in peer.state_dict().items() if name.startswith(("lm_head", "predictions"))]
    matrices = [tensor for tensor in ours if tensor.dim() == 2]
    assert matrices
    for matrix in matrices:
        assert any(one.shape == matrix.shape and torch.allclose(one, matrix, atol=1e-6) for one in theirs)
    shutil.rmtree(config.model.arguments["name"])
    with pytest.raises(DataError, match=f"no such folder: {config.model.arguments['name']}"):
        train(composed(*words, "run.name=third"))


def test_pairs_from_a_run_that_read_single_texts(composed: Callable[..., Any]) -> None:
    """BERT's vector of the first segment is a part of that run's positions: it is not added once more."""
    alone = train(composed("masked_lm/adapt", "pretrained", "bert", SMALL_BATCH["masked_lm/adapt"]))
    assert alone is not None
    words = (
        f"start={alone}",
        "data.pair=text",
        "data.max_length=60",
        "optimizer.lr=1e-12",
        SMALL_BATCH["classification/minilm"],
    )
    pairs = train(composed("classification/minilm", "pretrained", "bert", *words))
    assert pairs is not None
    tokens = torch.tensor([[0, 7, 9, 11, 2]])
    before, after = (cast(Any, load_run(run)[0].model) for run in (alone, pairs))
    assert before.segments is None and len(after.segments.weight) == 2
    with torch.no_grad():
        torch.testing.assert_close(after(tokens, tokens >= 0, tokens * 0), before(tokens, tokens >= 0))


def assert_same_weights(run: Path, other: Path) -> None:
    ours, theirs = (read_weights(find_checkpoint(one, "last")) for one in (run, other))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_killed_it_is_the_same_run(composed: Callable[..., Any], tmp_path: Path) -> None:
    """Dropout of transformers' own, and parts that begin to train one after the other."""
    exact = ("batch.examples=29", *EXACT, "finetune=gradual", "finetune.every=3step")
    values = composed("classification/minilm", "huggingface", "albert", *exact)
    assert_killed_is_the_same(tmp_path, values)


def test_a_model_of_another_kind_is_refused_when_its_files_are_read(
    composed: Callable[..., Any], weights: Callable[[str], Path]
) -> None:
    folder = weights("roberta")
    config = composed("classification/minilm", "pretrained", "roberta").updated(
        {
            "task": {"_target_": "etude.tasks.translation.Translation"},
            "decoding": {"_target_": "etude.models.generation.search.Greedy"},
            "model.name": str(folder),
        }
    )
    with pytest.raises(ConfigurationError, match=r"Translation takes .*EncoderDecoder, .* a PretrainedEncoder;"):
        build_task(config, Facts(*vocabulary_of(folder)))


def vocabulary_of(folder: Path) -> tuple[int, int, int, int]:
    return json.loads((folder / "config.json").read_text())["vocab_size"], 1, 0, 2
