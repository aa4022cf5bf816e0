"""What the command line does when it is right: data alone on stdout, every member of a multirun, help."""

from __future__ import annotations

import importlib
import inspect
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TextIO

import hydra.experimental.callback
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf

from etude.cli.command_table import COMMANDS, Command
from etude.cli.main import main
from etude.config import modules, signatures
from etude.config.compose import compose
from etude.config.schema import Config
from etude.errors import DataError
from etude.runs.saved_run import SavedRun

SOURCE = Path(__file__).parents[2] / "src"
Calls = list[Config]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    modules.find_module.cache_clear()
    signatures.signature.cache_clear()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What `etude train` is called with. It writes where it should not, and fails for the seed 13."""
    seen: Calls = []

    def train(config: Config) -> Path:
        seen.append(config)
        print("a library's chatter")
        os.write(1, b"native chatter\n")
        if config.seed == 13:
            raise DataError("train.tsv is empty")
        return Path("outputs") / f"seed-{config.seed}"

    monkeypatch.setattr(Command, "function", lambda command: train)
    return seen


def test_the_only_line_on_stdout_is_the_run_folder(calls: Calls, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "seed=7", "model.width=64"]) == 0
    out, error = capfd.readouterr()
    assert out == "outputs/seed-7\n"
    assert "a library's chatter" in error
    assert "native chatter" in error
    config = calls[0]
    assert config.overrides == ("seed=7", "model.width=64")
    assert (config.seed, config.model.arguments["width"], config.run.experiment) == (7, 64, "translation/demo")


def test_nothing_is_written_into_the_working_folder(calls: Calls, here: Path) -> None:
    assert main(["train"]) == 0
    assert not list(here.iterdir())


class Told(hydra.experimental.callback.Callback):
    """A callback of Hydra that notes what it is told of a run."""

    notes: ClassVar[list[Any]] = []

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        self.notes.append(["run starts", config.seed])

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        self.notes.append(["job starts", config.hydra.job.name, list(config.hydra.overrides.task), os.environ["NOTED"]])

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        self.notes.append(["job ends", job_return.status.name, job_return.cfg.seed])  # type: ignore[union-attr]


def test_a_run_is_composed_once_and_hydras_callbacks_hear_of_it(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    composed, load = [], ConfigLoaderImpl._load_configuration_impl

    def counted(*given: Any, **named: Any) -> DictConfig:
        composed.append(given)
        return load(*given, **named)

    monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", counted)
    monkeypatch.setattr(Told, "notes", [])
    told = f"+hydra.callbacks.told._target_={__name__}.{Told.__name__}"
    assert main(["train", "seed=7", told, "+hydra.job.env_set.NOTED=here"]) == 0
    assert [config.seed for config in calls] == [7] and len(composed) == 1
    assert Told.notes == [
        ["run starts", 7],
        ["job starts", "etude", ["++seed=7"], "here"],
        ["job ends", "COMPLETED", 7],
    ]


ONE_BY_ONE = ("paths.outputs=runs", "hydra/launcher=basic")
"""A launcher that calls the command in this process for each member."""


def test_overrides_may_stand_on_both_sides_of_an_option(calls: Calls) -> None:
    assert main(["train", "seed=3", "-m", "model.width=64,96", *ONE_BY_ONE]) == 0
    assert [(config.seed, config.model.arguments["width"]) for config in calls] == [(3, 64), (3, 96)]


def test_an_argument_that_no_file_lists_is_set_without_plus(calls: Calls) -> None:
    assert main(["train", "optimizer.amsgrad=true", "++optimizer.eps=1e-6"]) == 0
    assert [calls[0].optimizer.arguments[name] for name in ("amsgrad", "eps")] == [True, 1e-6]


@pytest.mark.parametrize("line", ["decoding=null", "decoding=none", "~decoding"])
def test_a_group_is_taken_away_and_chosen_again(calls: Calls, line: str) -> None:
    assert main(["train", "experiment=masked_lm/demo", line, "logger=null"]) == 0
    assert calls[0].decoding is None
    assert not calls[0].logger


def test_defaults_then_experiment_then_debug_then_command_line(calls: Calls, here: Path) -> None:
    experiment = here / "mine" / "experiment" / "mine.yaml"
    experiment.parent.mkdir(parents=True)
    text = "# @package _global_\ndefaults:\n  - override /logger: csv\n  - override /decoding: beam\n"
    experiment.write_text(f"{text}budget: 9step\nseed: 5\nscheduler: {{warmup: 1step}}\nlog: {{every: 9step}}\n")
    assert main(["train", "--config-dir", "mine", "experiment=mine", "debug=fast", "log.every=2step"]) == 0
    config = calls[0]
    assert (config.seed, str(config.budget), str(config.log.every), config.logger) == (5, "3step", "2step", {})
    assert config.decoding is not None and config.decoding.arguments["beams"] == 5
    assert config.run.experiment == "mine"


def test_a_variable_beside_arguments_is_not_given_to_the_constructor(calls: Calls) -> None:
    own = ["experiment=null", "data=parallel", "data.root=texts", "data.corpus.target=fr"]
    assert main(["train", *own]) == 0
    data = calls[0].data.arguments
    assert (data["corpus"]["root"], data["corpus"]["target"]) == ("texts", "fr")
    assert not {"root", "source", "target"} & set(data)


def test_every_member_of_a_multirun_is_called_and_one_that_fails_stops_no_other(
    calls: Calls, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "-m", "seed=1,13,2", *ONE_BY_ONE]) == 1
    out, error = capfd.readouterr()
    assert [config.seed for config in calls] == [1, 13, 2]
    assert out == "outputs/seed-1\noutputs/seed-2\n"
    assert "etude: run 1: seed=13 paths.outputs=runs\n" in error
    assert error.count("etude: error: train.tsv is empty\n") == 1
    assert "Traceback" not in error


@pytest.mark.parametrize("launcher", ["local", "basic"])
def test_no_member_starts_before_every_configuration_is_checked(calls: Calls, launcher: str) -> None:
    assert main(["train", "-m", "model.heads=4,5", f"hydra/launcher={launcher}"]) == 78
    assert not calls


def test_glob_looks_into_the_folders_of_a_group(calls: Calls) -> None:
    assert main(["train", "-m", "experiment=glob(*/multi30k)", "seed=1,2", *ONE_BY_ONE]) == 0
    names = [(config.run.experiment, config.seed) for config in calls]
    assert names == [("translation/multi30k", 1), ("translation/multi30k", 2)]


def test_an_error_of_a_single_run_is_its_one_line_and_its_code(calls: Calls, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "seed=13"]) == 65
    assert capfd.readouterr().err.endswith("etude: error: train.tsv is empty\n")


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(config: Config) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Command, "function", lambda command: train)
    assert main(["train"]) == 130


def test_the_composed_configuration_is_shown_resolved(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "data=table", "data.train=a.tsv", "data.val=b.tsv", "--cfg", "job", "--resolve"]) == 78
    out, error = capfd.readouterr()  # a table under a translation experiment: shown, and then refused
    assert OmegaConf.create(out).data.corpus.train == "a.tsv"
    assert error.startswith("etude: error: ")
    assert main(["train", "--cfg", "job", "--resolve", "model.layers_=3", "~model.layers_"]) == 0
    assert OmegaConf.create(capfd.readouterr().out).budget == "20epoch"


def test_help_lists_commands_then_groups_then_usage(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    overview = capfd.readouterr().out
    assert all(f"\n  {name} " in overview for name in COMMANDS)
    assert main(["train", "--help"]) == 0
    groups = capfd.readouterr().out
    assert "model: decoder, encoder, gpt2, huggingface, minilm, pretrained, seq2seq" in groups
    assert "label_smoothing: 0.1" in groups
    assert main(["evaluate", "--help"]) == 0
    assert "usage: etude evaluate RUN…" in capfd.readouterr().out
    assert main(["--version"]) == 0
    assert capfd.readouterr().out.startswith("etude ")
    assert not list(here.iterdir())


ON_RUNS = [name for name, command in COMMANDS.items() if command.root is None and name != "report"]


@pytest.mark.parametrize("name", [name for name in ON_RUNS if not COMMANDS[name].browses])
def test_the_table_of_commands_is_that_of_their_functions(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    command = COMMANDS[name]
    taken = inspect.signature(command.function()).parameters
    options = {key.rpartition(".")[2] for key in command.options if key != "paths.outputs"}
    given = {"run", "runs", "lines", "out", "changes"}
    assert options == taken.keys() - given
    assert bool(command.changes) == ("changes" in taken)
    assert main([name, "--help"]) == 0
    said = re.findall(r"^  ([a-z][\w.]*)…?  +\S", capfd.readouterr().out, re.MULTILINE)
    assert said == [key.removesuffix("…") for key in command.keys]
    module = importlib.import_module(command.target.partition(":")[0])
    allowed = {*getattr(module, "CHANGEABLE", ())}
    shown = [key.removesuffix("…") for key in command.changes]
    assert all(any(f"{key}.".startswith(f"{place}.") for place in allowed) for key in shown if allowed)


def _run_folder(here: Path) -> Path:
    run = here / "outputs" / "translation" / "demo" / "one"
    run.mkdir(parents=True)
    SavedRun.begin(run, compose())
    (here / "outputs" / "last").symlink_to(run)
    return run


def test_of_several_runs_those_that_are_none_are_left_out_with_a_line_each(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _run_folder(here)
    (here / "outputs" / "translation" / "demo" / "one" / "metrics.jsonl").write_text("no record\n")
    assert main(["report", "absent", "translation/demo/one", "nowhere"]) == 0
    shown = capfd.readouterr()
    assert shown.out.strip().endswith("translation/demo/one/report.html")
    assert [line.partition(" here")[0] for line in shown.err.splitlines()] == [
        "left out: no run 'absent'",
        "left out: no run 'nowhere'",
    ]
    assert main(["report", "absent", "nowhere"]) == 78
    assert capfd.readouterr().err.startswith("etude: error: no run 'absent' here")
    assert main(["evaluate", "absent", "translation/demo/one"]) == 78  # no score goes missing unnoticed


def test_commands_on_runs_get_folders_and_plain_values(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = _run_folder(here)
    seen: list[Any] = []

    def evaluate(runs: Sequence[SavedRun], **arguments: Any) -> dict[str, Any]:
        seen.append(([saved.path for saved in runs], arguments))
        return {"test/bleu": 30.5, "text": "ü"}

    monkeypatch.setattr(Command, "function", lambda command: evaluate)
    assert main(["evaluate", "last", "translation/demo/one", "split=test", "decoding.beams=5", "a='x y'"]) == 0
    assert seen == [([run, run], {"split": "test", "changes": {"decoding.beams": 5, "a": "x y"}})]
    assert json.loads(capfd.readouterr().out) == {"test/bleu": 30.5, "text": "ü"}


def test_predict_reads_stdin_and_writes_lines(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    _run_folder(here)

    def predict(run: SavedRun, lines: io.BytesIO, out: TextIO, changes: Mapping[str, Any]) -> None:
        print("loading")
        out.writelines(line.decode().upper() for line in lines)

    monkeypatch.setattr(Command, "function", lambda command: predict)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("grün\nblau\n".encode())))
    assert main(["predict", "last"]) == 0
    assert capfd.readouterr().out == "GRÜN\nBLAU\n"


def test_a_package_of_ones_own_is_used_when_it_is_trusted(here: Path, calls: Calls) -> None:
    (here / "cli_own_package.py").write_text(
        "from etude.optim.schedules import Cosine\n\n\nclass Wavy(Cosine):\n"
        "    def __init__(self, waves: int, **rest):\n        super().__init__(**rest)\n"
    )
    target = ["scheduler._target_=cli_own_package.Wavy", "+scheduler.waves=3"]
    assert main(["train", *target]) == 78
    assert main(["train", "trust=[cli_own_package]", *target]) == 0
    assert main(["train", "trust=[cli_own_package]", *target, "scheduler.wafes=3"]) == 78
    assert calls[0].scheduler.arguments["waves"] == 3


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m etude --help | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[0].startswith("etude: train")


def ask(line: str) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "COMP_LINE": line, "COMP_POINT": str(len(line))}
    words = [sys.executable, "-m", "etude", "-sc", "query=bash"]
    return subprocess.run(words, capture_output=True, text=True, env=environment, check=True).stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("etude tr", {"train"}),
        ("etude train exp", {"experiment="}),
        ("etude train experiment=", {"experiment=translation/demo", "experiment=masked_lm/demo"}),
        ("etude train seed=1 model=", {"model=encoder", "model=seq2seq"}),
        ("etude train experiment=masked_lm/demo model.l", {"model.layers="}),
        ("etude evaluate ", {"last", "split=", "checkpoint="}),
        ("etude replay last st", {"step="}),
    ],
)
def test_the_shell_completes(line: str, expected: set[str]) -> None:
    assert expected <= set(ask(line))


def test_completion_is_installed_for_the_command(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/etude"])
    assert main(["-sc", "install=bash"]) == 0
    assert capfd.readouterr().out.rstrip().endswith("_etude_completion etude")
