"""The commands of etude: what each does, the configuration that it composes, and the function that it calls."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from etude.errors import ConfigurationError


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        help: What it does, in a line.
        target: `module:function`, imported when it is called, since torch takes seconds.
        example: What a person might type after the command's name.
        root: The root configuration that it composes; None for a command on existing runs.
        many: Whether it takes several runs.
        folders: Whether a folder may stand for all the runs in it.
        records: Whether the function of a composed configuration also gets the overrides, to record them.
        kinds: Words that may follow the command's name, and the target of each in place of the command's own.
        texts: Keys of texts, which may also follow the RUN without a key, in this order.
    """

    help: str
    target: str
    example: str
    root: str | None = None
    many: bool = False
    folders: bool = False
    records: bool = False
    kinds: Mapping[str, str] = field(default_factory=dict)
    texts: tuple[str, ...] = ()

    def function(self) -> Callable[..., Any]:
        """Import and return the function."""
        return load(self.target)


def load(target: str) -> Callable[..., Any]:
    """Import what `module:function` names."""
    module, _, name = target.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


COMMANDS: dict[str, Command] = {
    "train": Command(
        "train one experiment, or with -m many; writes the run's folder",
        "etude.experiment.run:train",
        "experiment=translation/demo optimizer.lr=1e-3",
        root="train",
        records=True,
    ),
    "prepare": Command(
        "download or read the data, make the tokenizer, fill the cache",
        "etude.experiment.run:prepare",
        "experiment=translation/demo",
        root="prepare",
    ),
    "resume": Command(
        "continue a run that was stopped; writes its folder",
        "etude.experiment.run:resume",
        "last",
    ),
    "evaluate": Command(
        "score runs; writes one JSON object",
        "etude.experiment.evaluate:evaluate",
        "last split=test decoding.beams=5",
        many=True,
    ),
    "compare": Command(
        "show what differs between runs: configuration, scores over seeds, significance, cost; writes tables in Markdown",
        "etude.experiment.compare:compare",
        "translation/demo format=latex",
        many=True,
        folders=True,
    ),
    "predict": Command(
        "read texts, or records in JSON, from standard input; writes a line for each line",
        "etude.experiment.predict:predict",
        "last < texts.txt",
    ),
    "export": Command(
        "write a run's model for another library and prove that it computes the same; writes its folder",
        "etude.experiment.export:export",
        "last to=huggingface",
    ),
    "reproduce": Command(
        "run a finished run again from its folder and compare bit by bit; writes one JSON object",
        "etude.experiment.reproduce:reproduce",
        "last",
    ),
    "inspect": Command(
        "show what a run attends to in a sentence; writes the path of a page",
        "etude.experiment.inspect:inspect",
        'last "Delete all selected files?"',
        texts=("text", "target"),
    ),
    "replay": Command(
        "do one step of a run again and find what is not finite in it; writes one JSON object",
        "etude.experiment.replay:replay",
        "last step=17",
    ),
    "report": Command(
        "make one self-contained page of a run; writes its path",
        "etude.experiment.report:report",
        "last",
    ),
    "bench": Command(
        "measure training (bench train) or decoding (bench decode): speed, padding, where the time goes",
        "etude.experiment.bench:bench",
        "decode experiment=translation/demo decoding.beams=4",
        root="bench",
        kinds={"train": "etude.experiment.bench:bench", "decode": "etude.experiment.bench_decoding:bench_decoding"},
    ),
}


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
            'Completion in bash: eval "$(etude -sc install=bash)"',
            "",
        ]
    )
