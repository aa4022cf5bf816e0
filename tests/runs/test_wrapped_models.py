"""Decoders and encoder-decoders that transformers runs, in whole runs: trained, judged, killed, asked and exported."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import ByteLevelBPETokenizer
from torch import manual_seed

from etude.cli.main import main
from etude.config.compose import compose as compose_words
from etude.errors import ConfigurationError
from tests.runs.conftest import SMALL, WORDS
from tests.runs.doors import evaluate, export, inspect, load_run, train
from tests.runs.killing import EXACT, assert_killed_is_the_same

SIZES: dict[str, dict[str, Any]] = {
    "llama": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 24,
        "max_position_embeddings": 32,
        "attention_dropout": 0.1,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "t5": {
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 24,
        "num_layers": 2,
        "num_heads": 2,
        "n_positions": 64,
        "pad_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 0,
    },
}
AUTO = {"llama": "AutoModelForCausalLM", "t5": "AutoModelForSeq2SeqLM"}
TASK = {"llama": "causal_lm", "t5": "translation"}
ARCHITECTURE = {"llama": "LlamaForCausalLM", "t5": "T5ForConditionalGeneration"}
SPECIAL = {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "unk": "<unk>"}
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a folder as transformers saves it: a tiny model of random weights, with a tokenizer."""

    def make(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        backend = ByteLevelBPETokenizer()
        texts = [" ".join([*WORDS, *(word[::-1] for word in WORDS)])] * 3
        backend.train_from_iterator(texts, vocab_size=300, special_tokens=list(SPECIAL.values()), show_progress=False)
        backend.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(
            json.dumps({f"{name}_token": token for name, token in SPECIAL.items()})
        )
        # More rows than ids, as embeddings often have.
        config = transformers.AutoConfig.for_model(kind, vocab_size=backend.get_vocab_size() + 5, **SIZES[kind])
        manual_seed(2)
        getattr(transformers, AUTO[kind]).from_config(config).save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def words_of(small_data: Path, tmp_path: Path, weights: Callable[[str], Path]) -> Callable[..., list[str]]:
    """What is written on a command line for a small run from a pretrained model."""

    def written(kind: str, *more: str) -> list[str]:
        folder = weights(kind)
        data = {
            "llama": [
                "data=documents",
                *(f"data.{split}={small_data}/{split}.txt" for split in SPLITS),
                *("data.max_length=24", "batch.tokens=150", "decoding.max_length=5"),
            ],
            "t5": [
                *("data=parallel", f"data.root={small_data}", "batch.tokens=180"),
                *("decoding=beam", "decoding.beams=3", "decoding.max_length=8", "validate.metric=val/bleu"),
            ],
        }[kind]
        return [
            f"experiment={TASK[kind]}/adapt",
            *(word for word in SMALL if not word.startswith("model.")),
            *data,
            f"model.name={folder}",
            *(f"paths.outputs={tmp_path}/outputs", f"paths.cache={tmp_path}/cache"),
            *("budget=2step", "validate.every=2step", "scheduler.warmup=1step"),
            *more,
        ]

    return written


@pytest.fixture
def composed(words_of: Callable[..., list[str]]) -> Callable[..., Any]:
    """The checked configuration of such a run."""

    def compose(kind: str, *more: str) -> Any:
        return compose_words(*words_of(kind, *more))

    return compose


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "llama" else pytest.mark.slow) for kind in SIZES]
)
@pytest.mark.parametrize("finetune", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_trained_judged_asked_and_exported(composed: Callable[..., Any], kind: str, finetune: str) -> None:
    modules = {"llama": "[q_proj,v_proj]", "t5": "[q,v]"}[kind]
    adapters = ["finetune.rank=2", f"finetune.modules={modules}"] if finetune == "lora" else []
    config = composed(kind, f"finetune={finetune}", *adapters)
    run = train(config)
    assert run is not None
    scores = evaluate([run], {"split": "val"})["scores"]
    assert scores == json.loads((run / "evaluations/val.json").read_text())["scores"]
    recorded = json.loads((run / "manifest.json").read_text())["pretrained"]
    assert set(recorded["sha256"]) == {"config.json", "model.safetensors"}
    assert json.loads((run / "cost.json").read_text())["flops"] > 0
    task, tokenizer = load_run(run)
    texts = ["sun moon", "green old lake"]
    alone = [task.predictions([text], tokenizer)[0].text for text in texts]
    assert [prediction.text for prediction in task.predictions(texts, tokenizer)] == alone
    folder = export(run, {"to": "huggingface", "sentences": 10})
    proof = json.loads((folder / "export.json").read_text())["proof"]
    assert proof["class"] == ARCHITECTURE[kind] and proof["logits"]["largest_difference"] < 1e-4
    assert proof["tokenizer"]["equal"] == 10
    peer = getattr(transformers, AUTO[kind]).from_pretrained(folder)
    assert peer.config.vocab_size == tokenizer.vocabulary
    page = inspect(run, {"text": "sun moon"})
    assert isinstance(page, Path)
    names = [one["name"] for one in json.loads((page.parent / "attention.json").read_text())[0]["maps"]]
    assert names[-1] == {"llama": "layers.1.attention", "t5": "decoder.1.cross_attention"}[kind]
    answers = [prediction.text for prediction in task.predictions(texts, tokenizer)]
    shutil.rmtree(config.model.arguments["name"])
    assert [prediction.text for prediction in load_run(run)[0].predictions(texts, tokenizer)] == answers
    assert evaluate([run], {"split": "val"})["scores"] == scores


@pytest.mark.slow
def test_what_was_exported_trains_again(composed: Callable[..., Any], tmp_path: Path) -> None:
    run = train(composed("t5"))
    assert run is not None
    folder = export(run, {"to": "huggingface", "sentences": 5})
    again = train(composed("t5", f"model.name={folder}", "run.name=again"))
    assert again is not None
    facts = [json.loads((one / "facts.json").read_text()) for one in (run, again)]
    assert facts[0] == facts[1]
    for to in ("onnx", "ctranslate2"):
        with pytest.raises(ConfigurationError, match=f"to={to} exports etude's own models.*write to=huggingface"):
            export(run, {"to": to})


def test_a_native_decoder_is_exported_as_gpt2(
    overrides: Callable[..., list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *overrides("causal_lm", "budget=2step", "validate.every=2step")]) == 0
    run = Path(capfd.readouterr().out.strip())
    proof = json.loads((export(run, {"to": "huggingface"}) / "export.json").read_text())["proof"]
    assert proof["class"] == "GPT2LMHeadModel" and proof["logits"]["largest_difference"] < 1e-4
    with pytest.raises(ConfigurationError, match=r"to=onnx exports Translation, and this run is CausalLM"):
        export(run, {"to": "onnx"})


@pytest.mark.slow
@pytest.mark.parametrize("kind", SIZES)
def test_from_the_command_line(
    words_of: Callable[..., list[str]],
    kind: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(["train", *words_of(kind)]) == 0
    run = capfd.readouterr().out.strip()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"sun moon\nlake\n")))
    assert main(["predict", run]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 2
    assert main(["evaluate", run, "split=test"]) == 0
    assert json.loads(capfd.readouterr().out)["scores"]
    assert main(["train", *words_of(kind, "finetune=lora", "run.name=other")]) == 78
    (error,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("etude: error:")]
    assert "finetune.modules: query is not a linear layer of Wrapped" in error


@pytest.mark.slow
@pytest.mark.parametrize("kind", SIZES)
def test_killed_it_is_the_same_run(composed: Callable[..., Any], tmp_path: Path, kind: str) -> None:
    """Dropout of transformers' own, everywhere, and parts that begin to train one after the other."""
    exact = (*EXACT, "batch.tokens=400", "finetune=gradual", "finetune.every=3step")
    values = composed(kind, *exact)
    assert_killed_is_the_same(tmp_path, values)
