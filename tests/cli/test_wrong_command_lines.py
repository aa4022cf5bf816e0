"""A wrong command line ends in one line that says what is wrong, what is right and where it was written; exit 78."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from etude.cli.command_table import Command
from etude.cli.main import main
from etude.config import modules, signatures

FILES = {
    "experiment/typo.yaml": "# @package _global_\nmodel: {witdh: 128}\n",
    "experiment/typo_deep.yaml": "# @package _global_\ndata:\n  corpus:\n    max_wrods: 3\n",
    "experiment/typo_root.yaml": "# @package _global_\nbudgte: 3step\n",
    "experiment/octal.yaml": "# @package _global_\nseed: 012\n",
    "experiment/sixties.yaml": "# @package _global_\nmodel:\n  width: 3:12\n",
    "experiment/clock.yaml": "# @package _global_\nbudget: 1:30\n",
    "experiment/norway.yaml": "# @package _global_\ndata:\n  corpus:\n    target: no\n",
    "experiment/exponent.yaml": "# @package _global_\nmodel: {width: 1e3}\n",
    "experiment/quoted.yaml": "# @package _global_\nmodel: {width: '192'}\n",
    "experiment/group.yaml": "# @package _global_\ndefaults:\n  - override /modell: encoder\n",
    "experiment/option.yaml": "# @package _global_\ndefaults:\n  - override /model: encodr\n",
    "experiment/nothing.yaml": "# @package _global_\nmodel: {width: '${modle.heads}'}\n",
    "experiment/broken.yaml": "# @package _global_\nmodel: {width: [1\n",
    "experiment/twice.yaml": "# @package _global_\nseed: 1\nseed: 2\n",
    "experiment/evil.yaml": "# @package _global_\nmodel: {_target_: os.system, command: ls}\n",
    "experiment/through.yaml": "# @package _global_\nmodel: {_target_: etude.training.launch.subprocess.Popen}\n",
    "experiment/unlisted.yaml": "# @package _global_\ntask: {_target_: badpackage.Task}\n",
    "experiment/listed.yaml": "# @package _global_\ntrust: [badpackage]\ntask: {_target_: badpackage.Tsak}\n",
    "experiment/reexport.yaml": "# @package _global_\ntrust: [badpackage]\ndata: {_target_: badpackage.run}\n",
    "experiment/cannot_parse.yaml": "# @package _global_\ntrust: [badsyntax]\nmodel: {_target_: badsyntax.M}\n",
    "experiment/incomplete.yaml": (
        "# @package _global_\ntrust: [badpackage]\ncallbacks:\n  mine: {_target_: badpackage.Task}\n"
    ),
    "experiment/named_class.yaml": "# @package _global_\nmodel: {positions: learned}\n",
    "experiment/no_class.yaml": "# @package _global_\ncallbacks: {mine: {count: 3}}\n",
    "experiment/other_model.yaml": "# @package _global_\ndefaults:\n  - override /model: encoder\n",
    "experiment/other_data.yaml": "# @package _global_\ndefaults:\n  - override /data: reviews\n",
    "model/mine.yaml": "_target_: etude.models.seq2seq.Seq2Seq\nmax_length: ???\n",
}
PACKAGES = {
    "badpackage/__init__.py": "from subprocess import run\n\nclass Task:\n    def __init__(self, count: int): ...\n",
    "badsyntax.py": "class M(:\n",
}

USER = "--config-dir mine"
CASES = [
    # the machine
    ("train precision=32", ["precision = 32", "'32-true', 'bf16-mixed'"]),
    ("train precision=bf16-mix", ["precision = 'bf16-mix'", "'bf16-mixed'"]),
    ("train trainer.accelerator=gpux", ["trainer.accelerator = 'gpux'", "'gpu'"]),
    ("train trainer.strategy=deepspeed", ["trainer.strategy = 'deepspeed'", "'ddp', 'fsdp'"]),
    ("train trainer.profiler=cpu", ["trainer.profiler = 'cpu'", "'simple'"]),
    # the command
    ("tarin", ["'tarin'", "etude train"]),
    ("", ["etude --help"]),
    ("train --fast", ["--fast"]),
    ("train --cfg job -m", ["--multirun and --cfg"]),
    ("train --resolve", ["--resolve", "--cfg job"]),
    ("train --config-dir nowhere", ["nowhere", "not a folder"]),
    ("train --config-path mine", ["--config-dir"]),
    # words that are no key=value
    ("train model.width", ["'model.width'", "="]),
    ("train =3", ["'=3'"]),
    # typos at every level
    ("train sead=3", ["sead is not a key", "did you mean seed?", "(command line)"]),
    ("train +foo=1", ["foo is not a key", "(command line)"]),
    ("train modle=seq2seq", ["modle is not a key", "did you mean model?"]),
    ("train model.witdh=128", ["model.witdh is not a key of Seq2Seq", "did you mean model.width?", "(command line)"]),
    ("train width=128", ["width is not a key", "did you mean model.width?"]),
    (
        "train data.corpus.max_wrods=3",
        ["data.corpus.max_wrods is not a key of InterfaceTexts", "data.corpus.max_words"],
    ),
    ("train model.positions.widht=3", ["model.positions.widht is not a key of Sinusoidal"]),
    ("train optimizer.learning_rate=1", ["optimizer.learning_rate is not a key of AdamW"]),
    ("train callbacks.samples.cuont=2", ["callbacks.samples.cuont", "callbacks.samples.count"]),
    ("train optimizer=sgd optimizer.betas=[0.9,0.9]", ["optimizer.betas is not a key of SGD"]),
    ("train ~model.witdh", ["model.witdh", "does not exist"]),
    ("train ~model", ["model.width is given, but model names no class", "choose model="]),
    # wrong types
    ("train model.width=wide", ["model.width = 'wide'", "Seq2Seq takes int", "(command line)"]),
    ("train model.width=192.0", ["model.width = 192.0", "int", "write 192"]),
    ("train optimizer.lr=fast", ["optimizer.lr = 'fast'", "float"]),
    ("train run.name=2026", ["run.name = 2026", "str", "quote it"]),
    ("train seed=012", ["seed = '012'", "int"]),
    ("train batch=4096", ["batch = 4096", "tokens, examples"]),
    ("train validate.mode=up", ["validate.mode = 'up'", "'min', 'max'"]),
    # the clock
    ("train budget=3steps_", ["budget = '3steps_'", "10epoch"]),
    ("train budget=0step", ["budget = 0step"]),
    ("train budget=0epoch", ["budget = 0epoch"]),
    ("train budget=0.0Mtok", ["budget = 0.0Mtok"]),
    ("train budget=0min scheduler.warmup=0s", ["budget = 0min"]),
    ("train limit.train=0", ["limit.train = 0", "at least 1"]),
    ("train limit.val=-1", ["limit.val = -1", "at least 1"]),
    ("train batch.tokens=0", ["batch.tokens = 0", "at least 1"]),
    ("train non_finite=ignore", ["ignore", "skip", "stop"]),
    ("train non_finite=skip non_finite.limit=0.5", ["non_finite.limit = 0.5", "int"]),
    (
        "train non_finite._target_=etude.optim.schedules.Cosine",
        ["Cosine does not derive from etude.tasks.non_finite.NonFinitePolicy"],
    ),
    ("train scheduler.warmup=10fortnight", ["scheduler.warmup", "10fortnight"]),
    ("train scheduler.warmup=30s", ["scheduler.warmup = 30s", "budget = 20epoch"]),
    ("train budget=30min", ["scheduler.warmup = 400step", "budget = 30min", "60s"]),
    # numbers that no machine has
    ("train model.width=99999999999999999999", ["model.width = 99999999999999999999 is too large"]),
    ("train model.width=99999999999", ["does not divide model.width = 99999999999", "try model.heads=3"]),
    ("train seed=-1", ["seed = -1 is negative", "0 or more"]),
    ("train seed=9223372036854775808", ["seed = 9223372036854775808 is too large", "9223372036854775807"]),
    ("train limit.train=10**30", ["limit.train = '10**30'", "int or null"]),
    ("train optimizer.lr=1e300", ["optimizer.lr = 1e+300 is too large", "3.4e+38"]),
    ("train optimizer.lr=inf", ["optimizer.lr = inf", "float"]),
    ("train optimizer.lr=nan", ["optimizer.lr = nan", "float"]),
    # groups and choices
    ("train model=encodr", ["model=encodr does not exist", "did you mean model=encoder?", "(command line)"]),
    ("train experiment=translation/dmeo", ["experiment=translation/dmeo", "did you mean experiment=translation/demo?"]),
    ("train -m experiment=glob(nothing*)", ["glob(nothing*)", "translation/demo"]),
    ("train experiment=minilm", ["did you mean experiment=classification/minilm?"]),
    ("train -m seed=interval(1,3)", ["seed of the search space is a range", "seed=1,2,3"]),
    ("train seed=1,2", ["seed=1,2", "-m", "[1,2]"]),
    ("train -m seed=1,2 model.heads=4,5", ["model.heads = 5", "(command line)"]),
    ("train data=table", ["data.train has no value", "data.train=", "conf/data/table.yaml:4"]),
    # combinations that cannot work
    ("train model.heads=5", ["model.heads = 5", "does not divide model.width = 128", "(command line)"]),
    ("train model.width=190", ["model.heads = 4", "model.width = 190", "conf/experiment/translation/demo.yaml:"]),
    (f"train {USER} experiment=other_model", ["models.encoder.Encoder does not fit the task", "EncoderDecoder"]),
    (f"train {USER} experiment=other_data", ["TranslationBatch", "ClassificationBatch"]),
    ("train model=encoder", ["model.encoder_layers is not a key of Encoder", "model.layers"]),
    ("train decoding=null", ["decoding is null", "decoding=greedy"]),
    ("train decoding=none decoding.beams=3", ["decoding.beams", "decoding=…"]),
    ("train experiment=classification/demo decoding=beam", ["decoding is given", "decoding=none"]),
    ("train experiment=masked_lm/demo decoding=beam", ["Beam does not fit the task", "MaskedAnswers"]),
    ("train experiment=masked_lm/demo decoding.fillers=0", ["decoding.fillers = 0", "at least 1"]),
    ("train experiment=masked_lm/demo data/masking=span", ["data/masking=span does not exist", "data/masking=spans"]),
    ("train experiment=masked_lm/demo data.masking.rate=0.3", ["data.masking.rate is not a key of TokenMasking"]),
    ("train experiment=masked_lm/text", ["data.train has no value", "data.train="]),
    ("train validate.metric=val/blue", ["validate.metric = val/blue", "val/bleu"]),
    ("train batch.examples=32", ["batch.examples = 32", "batch.tokens=null"]),
    ("train batch.tokens=null", ["batch has no size"]),
    ("train stop.patience=0", ["stop.patience = 0", "at least 1"]),
    ("train stop.min_delta=-0.1", ["stop.min_delta = -0.1", "at least 0"]),
    ("train stop.patients=3", ["stop.patients is not a key", "did you mean stop.patience?"]),
    ("train average.last=[3,1]", ["average.last has 1", "2 or more", "[3, 5]"]),
    ("train average.last=3", ["average.last = 3", "a list of int"]),
    ("train data.sampling=0.1", ["data.sampling = 0.1", "takes a Sampling", "or null"]),
    ("train task.consistency._target_=etude.models.losses.consistency.RDrop task.consistency.weight=1", ["alpha"]),
    ("train decoding.beams=0", ["decoding.beams = 0", "at least 1"]),
    ("train tokenizer.vocabulary=5", ["tokenizer.vocabulary = 5", "at least 8"]),
    ("train model/positions=rotari", ["model/positions=rotari does not exist", "did you mean model/positions=rotary?"]),
    ("train model=positions/rotary", ["model.encoder_layers is not a key of Rotary"]),
    ("train model/positions=rotary model.width=132", ["model.width / model.heads = 33 is odd", "try model.width=136"]),
    ("train model.positions.heads=3", ["model.positions.heads cannot be given", "Sinusoidal"]),
    ("train model.norm.normalized_shape=[3]", ["model.norm.normalized_shape cannot be given", "LayerNorm"]),
    ("train model.norm.epz=1e-6", ["model.norm.epz is not a key of LayerNorm", "did you mean model.norm.eps?"]),
    ("train model.feed_forward_layer.dropout=0.3", ["model.feed_forward_layer.dropout cannot be given"]),
    (
        "train model.embeddings._target_=etude.models.layers.positions.ALiBi",
        ["etude.models.layers.positions.ALiBi", "maker of Embeddings"],
    ),
    ("train model.attention_dropout=1.0", ["model.attention_dropout = 1.0", "[0, 1)"]),
    ("train experiment=classification/minilm model/norm=rms", ["Could not override 'model/norm'"]),
    ("train model.dropout=1.0", ["model.dropout = 1.0", "[0, 1)"]),
    ("train optimizer.lr=0", ["optimizer.lr = 0", "positive"]),
    ("train task.facts=3", ["task.facts"]),
    # what may be instantiated
    ("train model._target_=os.system", ["os.system", "trust"]),
    ("train model._target_=etude.models.seq2seq.Seq2Sqe", ["did you mean etude.models.seq2seq.Seq2Seq?"]),
    (
        "train model._target_=etude.cli.command_table.load",
        ["not a class to choose from", "choose model=", "TextEncoder"],
    ),
    ("train model.norm._target_=torch.nn.Module.__init__", ["model.norm", "torch.nn.Module.__init__"]),
    (
        "train callbacks.mine._target_=torch.nn.Identity",
        ["callbacks.mine", "torch.nn.Identity does not derive from lightning"],
    ),
    ("train trust=[../evil]", ["'../evil'", "not the name of a package", "trust=[mine]"]),
    ("train trust=[nowhere_at_all] model._target_=nowhere_at_all.M", ["nowhere_at_all is not installed"]),
    # the same and more in one's own files
    (f"train {USER} experiment=typo", ["model.witdh", "model.width", "(mine/experiment/typo.yaml:2)"]),
    (f"train {USER} experiment=typo_deep", ["data.corpus.max_wrods", "(mine/experiment/typo_deep.yaml:4)"]),
    (f"train {USER} experiment=typo_root", ["budgte", "did you mean budget?", "(mine/experiment/typo_root.yaml:2)"]),
    (f"train {USER} experiment=octal", ["seed = 012", "10", "(mine/experiment/octal.yaml:2)"]),
    (f"train {USER} experiment=sixties", ["model.width = 3:12", "192", "(mine/experiment/sixties.yaml:3)"]),
    (f"train {USER} experiment=clock", ["budget = 1:30", "90", "(mine/experiment/clock.yaml:2)"]),
    (f"train {USER} experiment=norway", ["data.corpus.target = false", "'no'", "(mine/experiment/norway.yaml:4)"]),
    (f"train {USER} experiment=exponent", ["model.width = 1000.0", "write 1000", "exponent.yaml:2"]),
    (f"train {USER} experiment=quoted", ["model.width = '192'", "int", "quoted.yaml:2"]),
    (f"train {USER} experiment=group", ["modell", "experiment/group"]),
    (f"train {USER} experiment=option", ["model=encodr", "model=encoder", "(mine/experiment/option.yaml:3)"]),
    (f"train {USER} experiment=nothing", ["model.width", "modle.heads", "nothing.yaml:2"]),
    (f"train {USER} experiment=broken", ["broken.yaml:"]),
    (f"train {USER} experiment=twice", ["duplicate key seed", "twice.yaml:3"]),
    (f"train {USER} experiment=evil", ["os.system", "(mine/experiment/evil.yaml:2)"]),
    (f"train {USER} experiment=through", ["subprocess.Popen", "outside etude"]),
    (f"train {USER} experiment=unlisted", ["badpackage", "trust", "unlisted.yaml:2"]),
    (f"train {USER} experiment=listed", ["badpackage.Tsak", "did you mean badpackage.Task?"]),
    (f"train {USER} experiment=reexport", ["badpackage.run", "subprocess.run"]),
    (f"train {USER} experiment=cannot_parse", ["badsyntax.py:1", "not valid Python"]),
    (f"train {USER} experiment=named_class", ["model.positions = 'learned'", "named_class.yaml:2"]),
    (f"train {USER} experiment=no_class", ["callbacks.mine", "_target_", "no_class.yaml:2"]),
    (f"train {USER} model=mine", ["model.max_length has no value", "(mine/model/mine.yaml:2)"]),
    (f"train {USER} experiment=incomplete", ["callbacks.mine.count is missing: Task needs it", "incomplete.yaml:4"]),
    # a wrong value that goes through an interpolation is told where it was written
    ("train data=parallel data.root=[1]", ["data.root = [1]", "(command line)"]),
    # the other commands that compose
    ("prepare model.witdh=128", ["model.witdh", "(command line)"]),
    ("train --cfg job model.witdh=128 --package seed", ["model.witdh", "(command line)"]),
    # commands on runs
    ("resume", ["etude resume", "RUN", "last"]),
    ("predict last other", ["one RUN", "last other"]),
    ("report --now last", ["--now", "etude report"]),
    ("report last a=1", ["etude report", "a"]),
    ("inspect", ["etude inspect", "RUN", "last"]),
    ("inspect last a b c", ["text and target", "'c' is one more"]),
    ("inspect last --now", ["--now", "etude inspect"]),
    ("evaluate nowhere", ["nowhere"]),
    ("evaluate last --config-dir", ["--config-dir needs a folder"]),
    ("evaluate last --config-dir=nowhere decoding=mine", ["--config-dir nowhere is not a folder"]),
    ("evaluate last --config-dir mine decoding=yours", ["decoding=yours does not exist"]),
    ("resume last", ["last"]),
    ("evaluate last split=a,b", ["split=a,b"]),
    ("evaluate last ~split=test", ["~split"]),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a user's own groups and packages."""
    for name, text in {**{f"mine/{name}": text for name, text in FILES.items()}, **PACKAGES}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(Command, "function", lambda command: pytest.fail("a wrong configuration was not refused"))
    yield tmp_path
    modules.find_module.cache_clear()
    signatures.signature.cache_clear()


@pytest.mark.parametrize(("line", "fragments"), CASES, ids=[line or "nothing" for line, _ in CASES])
def test_one_line_says_what_is_wrong(
    here: Path, line: str, fragments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    before = {path for path in here.rglob("*") if "__pycache__" not in path.parts}
    code = main(line.split())
    out, error = capfd.readouterr()
    assert code == 78, error
    assert error.startswith("etude: error: ")
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    missing = [fragment for fragment in fragments if fragment not in error]
    assert not missing, error
    assert "--cfg" in line or not out
    assert {path for path in here.rglob("*") if "__pycache__" not in path.parts} == before


@pytest.mark.parametrize("options", [["--cfg", "job"], ["--cfg", "job", "--resolve"]])
def test_a_configuration_that_needs_a_value_is_shown_and_says_which(
    here: Path, options: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "experiment=masked_lm/text", *options]) == 0
    out, error = capfd.readouterr()
    assert "train: ???" in out
    assert error == "etude: data.train needs a value: write data.train=…\n"


@pytest.mark.parametrize(
    "line", ["train model.witdh=128", "evaluate nowhere", "train --config-dir mine experiment=norway"]
)
def test_a_process_says_the_same_without_loading_torch(here: Path, line: str) -> None:
    script = (
        "import sys; from etude.cli.main import main; code = main(); sys.exit(99 if 'torch' in sys.modules else code)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run(
        [sys.executable, "-c", script, *line.split()], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 78, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("etude: error: ")
