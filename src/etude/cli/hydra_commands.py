"""Commands that compose a configuration: train, prepare, bench. Every configuration is checked before anything runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from etude.cli.command_table import Command, load
from etude.cli.streams import data_stream, write_result
from etude.config.agent_words import take_agent_words
from etude.config.compose import CONF, Composer, Composition, is_hydra
from etude.config.given_values import as_words
from etude.config.schema import Config
from etude.errors import ConfigurationError, EtudeError, defects, memory_errors
from etude.sweeps.launchers.choice import runs_members

_MODES = ("run", "multirun", "cfg", "info", "shell_completion")


def run_composed(command: Command, words: Sequence[str]) -> int:
    """Compose, check and run one configuration, or with `-m` a sweep; or show it.

    Returns:
        The exit code: 1 if a member of a multirun failed.

    Raises:
        EtudeError: What is wrong with the configuration, or what stopped a single run.
    """
    root = command.root or ""
    words, given = take_agent_words(words) if root == "train" else (words, {})
    options = read_options(words)
    if options.shell_completion or options.hydra_help or options.info:
        call_hydra(root, _no_call, words)
        return 0
    composer = Composer(CONF, options.config_name or root, Path(options.config_dir) if options.config_dir else None)
    options.overrides += as_words(given, options.overrides, composer)
    overrides = composer.normalized(options.overrides)
    flags = [word for word in words if word not in options.overrides]
    multirun = bool(options.multirun) or "hydra.mode=MULTIRUN" in overrides
    shown = bool(options.help or options.cfg)
    sweeps = multirun and not shown and _is_sweep(composer, overrides)
    # A sweep composes and checks its members itself; another launcher of Hydra starts them one by one.
    composed = [] if sweeps else composer.members(overrides, multirun)
    members = [composer.compose(member) for member in composed]
    if shown:
        call_hydra(root, _no_call, [*flags, *overrides])
        if options.cfg:
            _checked_or_incomplete(members)
        return 0
    call = Call(command, composer, _checked(members), tuple(options.overrides))
    if multirun:
        call_hydra(root, call, [*flags, *overrides])
    else:
        run_composition(composer, members[0], call)
    if call.failures and (sweeps or not multirun):
        raise call.failures[0]
    return 1 if call.failures else 0


def _is_sweep(composer: Composer, overrides: Sequence[str]) -> bool:
    """Return whether the launcher of a multirun runs it as one sweep."""
    words = [word for word in overrides if is_hydra(word)]
    launcher = OmegaConf.to_container(composer.compose(words).tree.hydra.launcher)
    return composer.name == "train" and isinstance(launcher, dict) and runs_members(launcher)  # type: ignore[arg-type]


def _checked(members: Sequence[Composition]) -> dict[tuple[str, ...], Config]:
    """Check the compositions and return their configurations by the words that made them."""
    return {config.overrides: config for config in (member.config() for member in members)}


def _checked_or_incomplete(members: Sequence[Composition]) -> None:
    """Check the compositions that are shown; of one that still needs a value, say which."""
    complete = [member for member in members if not member.missing()]
    for key in dict.fromkeys(key for member in members for key in member.missing()):
        sys.stderr.write(f"etude: {key} needs a value: write {key}=…\n")
    _checked(complete)


@dataclass
class Call:
    """The function that Hydra calls with each composed configuration.

    Attributes:
        command: Whose function does the work.
        composer: What composed the configurations.
        checked: The configurations that have been checked, by their overrides.
        words: Overrides as they were written.
        failures: What stopped the runs so far.
        process: Where the command was started.
    """

    command: Command
    composer: Composer
    checked: dict[tuple[str, ...], Config]
    words: tuple[str, ...] = ()
    failures: list[EtudeError] = field(default_factory=list)
    process: int = field(default_factory=os.getpid)

    def __call__(self, tree: DictConfig) -> None:
        """Do the work for one configuration. A failing member of a multirun says so, and the next one goes on."""
        composed = HydraConfig.get()
        overrides = tuple(word.removeprefix("++") for word in composed.overrides.task)
        multirun = composed.mode == RunMode.MULTIRUN
        if multirun:
            sys.stderr.write(f"etude: run {composed.job.num}: {' '.join(overrides)}\n")
        try:
            config = self.checked.get(overrides)
            if config is None:  # a sweeper thought of it
                config = self.composer.compose(composed.overrides.task).config()
            with defects(), data_stream() as data, memory_errors():
                result = self.command.function()(config)
                if load("etude.training.launch:global_rank")() == 0:  # of several processes, one writes
                    write_result(result, data)
        except EtudeError as error:
            if os.getpid() != self.process:  # a launcher's worker: only an exception reaches the command
                raise
            self.failures.append(error)
            if multirun:
                sys.stderr.write(f"etude: error: {error}\n")

    def sweep(self, words: Sequence[str]) -> None:
        """Run a sweep, whose folder is the command's data.

        Args:
            words: Words of its members and its own; those of Hydra are added.
        """
        own = [word for word in self.words if is_hydra(word)]
        try:
            with data_stream() as data:
                write_result(load("etude.commands.sweep:sweep_runs")([*own, *words], self.composer.extra), data)
        except EtudeError as error:
            self.failures.append(error)

    def jobs(self, jobs: Sequence[Sequence[str]], words: Sequence[str]) -> list[float | None]:
        """Run the jobs of another sweeper, and return the best validation of each."""
        own = [word for word in self.words if is_hydra(word)]
        with data_stream():
            scores: list[float | None] = load("etude.commands.sweep:run_jobs")(
                jobs, [*own, *words], self.composer.extra
            )
        return scores


def run_sweep_command(command: Command, words: Sequence[str]) -> int:
    """Run the sweep that the words after `etude sweep` describe, or show what they compose.

    Raises:
        EtudeError: What is wrong with it, or which members failed.
    """
    options = read_options(words)
    extra = Path(options.config_dir) if options.config_dir else None
    if options.shell_completion or options.hydra_help or options.info or options.help or options.cfg:
        root = command.root or ""
        composer = Composer(CONF, root, extra)
        normal = composer.normalized(options.overrides)
        single = [word for word, one in zip(normal, composer.parse(normal), strict=True) if not one.is_sweep_override()]
        call_hydra(root, _no_call, [*(word for word in words if word not in options.overrides), *single])
        return 0
    with defects(), data_stream() as data:
        write_result(command.function()(options.overrides, extra), data)
    return 0


def read_options(words: Sequence[str]) -> argparse.Namespace:
    """Read the words after a command with Hydra's own parser; overrides may stand before and after options.

    Raises:
        ConfigurationError: If an option is unknown, or two of them exclude each other.
    """
    parser = get_args_parser()
    parser.exit_on_error = False
    setattr(parser, "error", _refuse)  # noqa: B010 (argparse would print its usage and leave)
    try:
        options = parser.parse_intermixed_args(list(words))
    except argparse.ArgumentError as error:
        _refuse(str(error))
    modes = [f"--{mode.replace('_', '-')}" for mode in _MODES if getattr(options, mode)]
    if len(modes) > 1:
        _refuse(f"{' and '.join(modes)} exclude each other")
    if options.resolve and not (options.cfg or options.help):
        _refuse("--resolve belongs to --cfg job")
    if options.config_path or options.experimental_rerun:
        _refuse("--config-path and --experimental-rerun are not for etude; add a folder with --config-dir")
    return options


def _refuse(message: str) -> NoReturn:
    raise ConfigurationError(f"{' '.join(message.split())}; options: etude train --hydra-help (command line)")


def _no_call(config: DictConfig) -> None:
    """Do nothing: the options only ask for something to be shown."""


def run_composition(composer: Composer, composition: Composition, call: Callable[[DictConfig], None]) -> None:
    """Let Hydra run what is composed already, with its callbacks; `hydra.main` would compose it twice more."""
    hydra.version.setbase("1.3")
    application = Hydra("etude", composer.loader_of(composition))
    GlobalHydra.instance().initialize(application)
    try:
        application.run(composer.name, call, list(composition.overrides))
    finally:
        GlobalHydra.instance().clear()


def call_hydra(root: str, call: Callable[[DictConfig], None], words: Sequence[str]) -> None:
    """Let Hydra compose and call, or show what the options ask for."""

    def task(config: DictConfig) -> None:
        call(config)

    setattr(task, "etude_call", call)  # noqa: B010 (how Hydra's sweepers and launchers come to it)
    with _environment([sys.argv[0], *words]):
        try:
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=root)(task)()
        except SystemExit as leaving:  # Hydra's help ends so
            if leaving.code:
                raise


@contextmanager
def _environment(argv: list[str]) -> Iterator[None]:
    """Give Hydra its command line, and ask it to pass exceptions on instead of printing them and leaving."""
    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = argv, "1"
    try:
        yield
    finally:
        sys.argv = before
        if full is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        else:
            os.environ["HYDRA_FULL_ERROR"] = full
