"""The commands of etude: what each does, the configuration that it composes, and the function that it calls."""

from __future__ import annotations

import difflib
import gc
import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from etude.errors import ConfigurationError

ON_RUNS = "etude.cli.run_commands:run_on_runs"
BROWSING = "etude.cli.browse_commands:browse"
COMPOSED = "etude.cli.hydra_commands:run_composed"
ON_SWEEPS = "etude.cli.sweep_commands:run_on_sweeps"


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: Its name.
        help: What it does, in a line.
        target: `module:function`, imported when it is called, since torch takes seconds.
        example: What a person might type after the command's name.
        root: The root configuration that it composes; None for a command on existing runs.
        many: Whether it takes several runs.
        leaves_out: Whether, of several, those that are no runs or cannot be read are left out with a line each.
        folders: Whether a folder may stand for all the runs in it.
        sweeps: `module:function` that is called with a sweep where one stands in the place of the runs; empty: none may.
        kinds: Words that may follow the command's name, and the target of each in place of the command's own.
        texts: Keys of texts, which may also follow the RUN without a key, in this order.
        options: Arguments of the function of a command on runs, as they are typed, and what they mean. `run.name` is the
            argument `name`.
        changes: Keys of a run's configuration that the command may change, and what they mean; with an ellipsis, all keys
            below are meant too. Empty: the function takes no changes.
        runner: `module:function` that is called with the command and the words after its name, and returns the exit code.
    """

    name: str
    help: str
    target: str
    example: str
    root: str | None = None
    many: bool = False
    leaves_out: bool = False
    folders: bool = False
    sweeps: str = ""
    kinds: Mapping[str, str] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    changes: Mapping[str, str] = field(default_factory=dict)
    runner: str = ON_RUNS

    @property
    def browses(self) -> bool:
        """Whether it looks at all runs, or at none, and takes no one RUN."""
        return self.runner == BROWSING

    @property
    def keys(self) -> dict[str, str]:
        """All that a command on runs takes, and what it means."""
        return {**self.options, **self.changes}

    def function(self) -> Callable[..., Any]:
        """Import and return the function."""
        return load(self.target)


def load(target: str) -> Callable[..., Any]:
    """Import what `module:function` names.

    What an import makes stays. To look for garbage in it, again and again while it grows, takes a quarter of the time that
    importing lightning does: the collector rests meanwhile, and leaves it alone afterwards.
    """
    module, _, name = target.partition(":")
    if module not in sys.modules and gc.isenabled():
        gc.disable()
        try:
            importlib.import_module(module)
            gc.freeze()
        finally:
            gc.enable()
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


_CHECKPOINT = {"checkpoint": "best, which is the default, last, or a step"}
_ENSEMBLE = {"ensemble": "[RUN,RUN]: the mean of their probabilities and the run's"}
_DIRECTION = {"direction": "of a run that translates in several: direction=en-fr"}
_SEARCH = {"decoding…": "another search: decoding=greedy, decoding.beams=5"}
_PATHS = {"paths…": "folders: paths.outputs=FOLDER"}
_MACHINE = {"trainer…": "the machine: trainer=cpu, trainer.workers=2", **_PATHS}
_MOVED = {
    "data.corpus…": "where the data's files are now: data.corpus.root=FOLDER",
    "data.parts…": "the same of a mixture",
    "data.root": "the same of shards",
}
_OUTPUTS = {"paths.outputs": "the folder of all runs"}

_ALL = (
    Command(
        "train",
        "train one experiment, or with -m many; writes the run's folder",
        "etude.commands.train:train",
        "experiment=translation/demo optimizer.lr=1e-3",
        root="train",
        runner=COMPOSED,
    ),
    Command(
        "sweep",
        "train many runs from one search space; sweep status, stop and resume look after it",
        "etude.commands.sweep:sweep_runs",
        "experiment=translation/demo search=learning_rate searcher=tpe sweep.trials=20",
        root="sweep",
        runner=ON_SWEEPS,
        kinds={
            "status": "etude.commands.sweep:sweep_status",
            "stop": "etude.commands.sweep:stop_sweep",
            "resume": "etude.commands.sweep:resume_sweep",
            "wandb": "etude.commands.sweep:wandb_sweep",
        },
    ),
    Command(
        "check",
        "try out what train, train -m or sweep would do: all errors at once, time and memory",
        "etude.commands.check_runs:check",
        "experiment=translation/demo model.width=128,256",
        root="check",
        runner=ON_SWEEPS,
    ),
    Command(
        "prepare",
        "download or read the data, make the tokenizer, fill the cache",
        "etude.commands.train:prepare",
        "experiment=translation/demo",
        root="prepare",
        runner=COMPOSED,
    ),
    Command(
        "resume",
        "continue a run that was stopped; writes its folder",
        "etude.commands.train:resume",
        "last",
        changes={
            "budget": "go on for longer: budget=20epoch",
            "trainer…": "another machine: trainer.devices=2, trainer.workers=2",
            "logger…": "another logger: logger=none",
            "log…": "how often, and what: log.every=10step log.norms=true",
            "paths…": "folders: paths.cache=FOLDER",
            **_MOVED,
        },
    ),
    Command(
        "evaluate",
        "score runs; writes one JSON object",
        "etude.commands.evaluate:evaluate",
        "last split=test decoding.beams=5",
        many=True,
        options={
            "split": "test, which is the default where there is one, val or train",
            **_CHECKPOINT,
            "source": "a file with a text a line, plain or .gz, in place of a split",
            "reference": "the file with what is wanted of each line, or several: [FILE,FILE]",
            "pairs": "minimal pairs of a language model, .jsonl or .tsv: sentence_good and sentence_bad",
            "name": "of the files that are written of source= or pairs=",
            "direction": "that of source=, for a run that translates in several: direction=en-fr",
            **_ENSEMBLE,
            "track": "true: the scores are sent to the run's trackers, such as W&B, too",
        },
        changes={
            **_SEARCH,
            "task.metrics…": "more scores: task.metrics.ter._target_=etude.metrics.translation.TER",
            "task.null_threshold": "of question answering: how sure no answer must be",
            "limit…": "fewer rows: limit.test=100",
            "batch…": "the size of batches, which changes speed and nothing else: batch.tokens=8192",
            "precision": "of the computation: precision=bf16-mixed",
            **_MACHINE,
        },
    ),
    Command(
        "runs",
        "list runs and sweeps with state, score and cost; runs diff shows what differs between two",
        "etude.commands.browse.listing:list_runs",
        "task=translation 'val/bleu>30' state=finished sort=-score",
        kinds={"diff": "etude.commands.browse.differences:runs_diff"},
        options={
            "sort": "a key, with a minus where the largest comes first: sort=-score, sort=task,cost; age without",
            "columns": "keys of more columns: columns=optimizer.lr,test/bleu",
            "format": "table, markdown, csv or json",
            **_OUTPUTS,
        },
        runner=BROWSING,
    ),
    Command(
        "query",
        "answer a question in SQL over all runs; without one, show the tables",
        "etude.commands.browse.query:query_runs",
        "\"select run, score from runs where state = 'finished' order by score desc\"",
        options={"format": "table, markdown, csv or json", **_OUTPUTS},
        runner=BROWSING,
    ),
    Command(
        "compare",
        "show what differs between runs or a sweep's trials: configuration, scores over seeds, significance, cost",
        "etude.commands.compare:compare",
        "translation/demo format=latex",
        many=True,
        leaves_out=True,
        folders=True,
        sweeps="etude.commands.compare_sweep:compare_sweep",
        options={
            "split": "the evaluation that is compared: test, else val, or a file's name in evaluations/ without .json",
            "metric": "scores whose differences are tested: a name, or [NAME,NAME]; by default that of validations",
            "format": "markdown, latex, csv or json",
            "save": "of a sweep: the best configuration as an experiment file, save=conf/experiment/NAME.yaml",
            **_OUTPUTS,
        },
    ),
    Command(
        "predict",
        "read texts, or records in JSON, from standard input; writes a line for each line",
        "etude.commands.predict:predict",
        "last < texts.txt",
        options={
            **_CHECKPOINT,
            **_ENSEMBLE,
            **_DIRECTION,
            "format": "text: an answer a line; json: all answers; jsonl: each line is an object, and gets more keys",
        },
        changes={
            **_SEARCH,
            "task.null_threshold": "of question answering: how sure no answer must be",
            "batch.examples": "lines that are answered at once",
            **_MACHINE,
        },
    ),
    Command(
        "translate",
        "make a corpus of a run's translations, for distillation or back-translation; writes its folder",
        "etude.commands.derived.translate:translate",
        "last into=distilled decoding=beam",
        options={
            "into": "the folder of the corpus: train.source and train.target",
            "text": "a file with a text a line, plain or .gz; the training split of the run's data without",
            "reverse": "true: the outputs are the sources, as for back-translation",
            "part": "of several processes, which one this is: part=2/4",
            **_CHECKPOINT,
            **_ENSEMBLE,
        },
        changes={
            **_SEARCH,
            "batch.examples": "lines that are translated at once",
            **_MACHINE,
        },
    ),
    Command(
        "merge",
        "make a run of the mean of the weights of several; writes its folder",
        "etude.commands.derived.merge:merge",
        "translation/demo/a translation/demo/b method=greedy",
        many=True,
        options={
            "method": "mean: of all, which is the default; greedy: of those that improve it on val, the better ones first",
            "checkpoint": "best, which is the default, or last: of each run",
            "run.name": "the new run's; that of the first with the method and the number of runs without",
        },
        changes={
            "batch…": "the size of batches, which changes speed and nothing else: batch.tokens=8192",
            **_MACHINE,
        },
    ),
    Command(
        "export",
        "write a run's model for another library and prove that it computes the same; writes its folder",
        "etude.commands.export.command:export",
        "last to=huggingface",
        options={
            "to": "huggingface, ctranslate2 or onnx",
            **_CHECKPOINT,
            "quantization": "of ctranslate2: int8, int8_float32, …",
            "path": "the folder that is written; exports/ in the run's without",
            "sentences": "the most validation texts that the proof takes: 1000",
            **_DIRECTION,
            "license": "the model's, for its model card: license=apache-2.0; unknown without",
        },
        changes={
            **_SEARCH,
            "limit…": "fewer rows that are read: limit.val=100",
            **_MACHINE,
        },
    ),
    Command(
        "push",
        "send an export of a run to the Hugging Face hub; writes one JSON object",
        "etude.commands.push:push",
        "last owner/name dry_run=true",
        texts=("repository",),
        options={
            "repository": "its name in the hub, owner/name; without a key, the word after RUN",
            "export": "which, where the run has several: export=onnx; or a folder",
            "private": "true: a new repository is private",
            "dry_run": "true: say what would be sent, and send nothing",
            **_OUTPUTS,
        },
    ),
    Command(
        "reproduce",
        "run a finished run again from its folder and compare bit by bit; writes one JSON object",
        "etude.commands.reproduce:reproduce",
        "last",
        options={"run.name": "the new run's; of an unfinished one, it is continued"},
        changes={
            "paths…": "where folders are now",
            **_MOVED,
        },
    ),
    Command(
        "inspect",
        "show what a run attends to in a sentence; writes the path of a page",
        "etude.commands.inspect:inspect",
        'last "Delete all selected files?"',
        texts=("text", "target"),
        options={
            "text": "what is looked at",
            "target": "its translation, or the second text of a pair; the run's own translation without",
            "alignments": "a file of sentences with word alignments: how well attention aligns words",
            "symmetric": "true: alignments are read off both ways",
            **_CHECKPOINT,
            **_DIRECTION,
        },
        changes={**_SEARCH, **_MACHINE},
    ),
    Command(
        "replay",
        "do one step of a run again and find what is not finite in it; writes one JSON object",
        "etude.commands.replay:replay",
        "last step=17",
        options={"step": "which one, from 1", **_OUTPUTS},
    ),
    Command(
        "report",
        "make one self-contained page of a run, of several laid over one another, or of a sweep; writes its path",
        "etude.report.page:write_pages",
        "last",
        many=True,
        leaves_out=True,
        sweeps="etude.report.sweep_page:write_sweep_report",
    ),
    Command(
        "dashboard",
        "make W&B's workspace and report of a run, a sweep or all runs of an experiment; writes their folder, or their addresses",
        "etude.commands.dashboard.dashboards:dashboard_of_run",
        "experiment=translation/demo",
        sweeps="etude.commands.dashboard.dashboards:dashboard_of_sweep",
        changes={
            "logger…": "where it belongs: logger.wandb.project=study logger.wandb.entity=team",
            "experiment…": "in the place of RUN: of all its runs, with whatever a configuration takes",
        },
        runner="etude.cli.dashboard_command:run_dashboard",
    ),
    Command(
        "schema",
        "write the JSON Schema of experiments, by which an editor completes and checks them",
        "etude.commands.schema_file:schema_text",
        "> .vscode/experiment.schema.json",
        runner=BROWSING,
    ),
    Command(
        "bench",
        "measure training (bench train) or decoding (bench decode); bench compare says which of two benches is faster",
        "etude.commands.bench.training_step:bench",
        "decode experiment=translation/demo decoding.beams=4",
        root="bench",
        runner="etude.cli.bench_commands:run_bench",
        kinds={
            "train": "etude.commands.bench.training_step:bench",
            "decode": "etude.commands.bench.decoding:bench_decoding",
            "compare": "etude.cli.bench_commands:run_comparison",
        },
    ),
)

COMMANDS = {command.name: command for command in _ALL}


def find(name: str) -> Command:
    """Return a command by its name.

    Raises:
        ConfigurationError: If there is none of that name; says the nearest one.
    """
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        advice = f"did you mean etude {close[0]}?" if close else f"the commands are {', '.join(COMMANDS)}"
        raise ConfigurationError(f"{name!r} is not a command; {advice} (command line)")
    return COMMANDS[name]


def overview() -> str:
    """Return the text of `etude --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    examples = [f"  etude {name} {command.example}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "etude: train Transformers on text, every run exact, fast and readable.",
            "",
            "usage: etude COMMAND [RUN…] [key=value…]",
            "",
            *lines,
            "",
            "RUN is a run's folder, EXPERIMENT/NAME below outputs, or last. For example:",
            "",
            *examples,
            "  etude train -m experiment=translation/demo seed=1,2,3",
            "",
            "etude COMMAND --help says more. Every key can be set: etude train --cfg job shows them.",
            'Completion, also in zsh and fish: eval "$(etude -sc install=bash)"',
            "",
        ]
    )
