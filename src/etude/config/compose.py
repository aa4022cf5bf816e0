"""Composition of a command's configuration by Hydra, with its source files and with errors of one line."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import product
from pathlib import Path
from typing import Any, cast

import yaml
from hydra._internal import defaults_list as hydra_defaults
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra._internal.defaults_list import Overrides
from hydra._internal.utils import create_config_search_path
from hydra.conf import HydraConf
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.default_element import GroupDefault, InputDefault, ResultDefault
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, OverrideType
from hydra.core.utils import setup_globals
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from etude.config.case import MISSING, leaves
from etude.config.check import checked, plain
from etude.config.origins import Source
from etude.config.schema import Config
from etude.config.trust import trust
from etude.errors import ConfigurationError

_PACKAGE = Path(__file__).resolve().parents[1]
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"


_PACKAGE_LINE = re.compile(r"#\s*@package\s+(\S+)")
_PARENT = re.compile(r"In '([^']+)':")
_KEPT = 500
"""Compositions that are kept, of some 25 kB each."""


_interpolation_map = hydra_defaults._create_interpolation_map


def _map_if_interpolated(overrides: Overrides, defaults_list: list[InputDefault], self_added: bool) -> DictConfig:
    """Return the choices to which the interpolations in a file's defaults list refer; an empty map if there are none.

    Hydra makes the map for every file, which takes a third of a composition.
    """
    if any(default.is_interpolation() for default in defaults_list):
        return _interpolation_map(overrides, defaults_list, self_added)
    return OmegaConf.create()


hydra_defaults._create_interpolation_map = _map_if_interpolated


@dataclass(frozen=True)
class Composition:
    """A composed configuration.

    Attributes:
        tree: Tree, not resolved, with Hydra's own part under `hydra`.
        overrides: Overrides of the command line.
        sources: Files that it is composed of, in the order in which they overlay each other.
    """

    tree: DictConfig
    overrides: tuple[str, ...]
    sources: tuple[Source, ...]

    def config(self) -> Config:
        """Check the composition and give it its types; a run without an experiment's name takes that of the choice.

        Raises:
            ConfigurationError: At the first thing that is wrong.
        """
        self._name_experiment()
        self._name_start()
        trust(self._trust())
        with _known_to_hydra(self.tree):
            return checked(self.tree, [word for word in self.overrides if not is_hydra(word)], self.sources)

    def values(self) -> dict[str, Any]:
        """Return the resolved values, as a run stores them, whether they fit or not.

        Raises:
            ConfigurationError: If a value is missing or refers to nothing.
        """
        self._name_experiment()
        with _known_to_hydra(self.tree):
            return plain(self.tree, self.sources)

    def _name_experiment(self) -> None:
        if self.tree.run.experiment is None:
            OmegaConf.update(self.tree, "run.experiment", self.tree.hydra.runtime.choices.get("experiment"))

    def _name_start(self) -> None:
        """Give the name of the run to start from to a pretrained model without a name: the run brings model and tokenizer."""
        start = OmegaConf.select(self.tree, "start")
        for key in self.missing() if isinstance(start, str) else ():
            if key.partition(".")[0] in ("model", "tokenizer"):
                OmegaConf.update(self.tree, key, start)

    def missing(self) -> list[str]:
        """Return the keys that still need a value: `???` in the files."""
        tree = OmegaConf.to_container(self.tree, resolve=False)
        assert isinstance(tree, dict)  # noqa: S101 (for type checkers)
        return [key for key, value in leaves("", {**tree, "hydra": None}) if value == MISSING]

    def _trust(self) -> Sequence[str]:
        """Return the packages under `trust`, which whoever composes a configuration trusts. The check refuses other values."""
        names = OmegaConf.select(self.tree, "trust", default=())
        return [name for name in names if isinstance(name, str)] if isinstance(names, ListConfig) else ()


class _Files(ConfigRepository):
    """Hydra's repository of one state of the files, each of which is read and looked for once.

    To read YAML and to ask which files there are takes two fifths of a composition. Hydra copies its repository for each one:
    the copies share what was read, until they are given another search path.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> _Files:
        return copy.copy(self)

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        super().initialize_sources(config_search_path)
        self._read = cache(super().load_config)
        self._listed = cache(super().get_group_options)
        self._found = cache(super()._find_object_source)

    def load_config(self, config_path: str) -> ConfigResult | None:
        return copy.deepcopy(self._read(config_path))  # it becomes a part of the composition

    def defaults(self, config_path: str) -> Sequence[InputDefault]:
        """Return the defaults list of a file, to be read only."""
        read = self._read(config_path)
        return (read.defaults_list or ()) if read else ()

    def get_group_options(self, group_name: str, results_filter: ObjectType | None = ObjectType.CONFIG) -> list[str]:
        return list(self._listed(group_name, results_filter))

    def _find_object_source(self, config_path: str, object_type: ObjectType | None) -> ConfigSource | None:
        return self._found(config_path, object_type)


class _Loader(ConfigLoaderImpl):
    """Hydra's loader of one state of the files.

    Attributes:
        repository: The files.
        composed: Files that it composed last: to list them again takes a third of a composition.
        choices: What it composed, by the root configuration and the choices of groups: members of a sweep and the calls of a
            notebook share most of them.
    """

    repository: _Files
    composed: tuple[ResultDefault, ...] = ()

    def __init__(self, path: ConfigSearchPath) -> None:
        super().__init__(path)
        self.repository = _Files(path)
        self.choices: dict[tuple[str, ...], tuple[DictConfig, tuple[Source, ...]]] = {}

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        self.composed = tuple(defaults)
        return super()._compose_config_from_defaults_list(defaults, repo)


class _Composed(ConfigLoaderImpl):
    """A loader that gives Hydra one composition wherever it would compose."""

    def __init__(self, path: ConfigSearchPath, tree: DictConfig) -> None:
        super().__init__(path)
        self._tree = tree

    def load_configuration(self, *_: Any, **__: Any) -> DictConfig:
        return copy.deepcopy(self._tree)


@lru_cache(maxsize=4)
def _loader(folder: Path, extra: Path | None = None, *, files: tuple[tuple[str, int, int], ...]) -> _Loader:
    """Return the loader of the groups of these folders, made anew when one of their files changes."""
    setup_globals()
    path = create_config_search_path(str(folder))
    if extra is not None:
        path.prepend("command-line", f"file://{extra}", SearchPathQuery(provider="schema"))
    return _Loader(path)


def _state(folders: Sequence[Path]) -> tuple[tuple[str, int, int], ...]:
    """Return the name, the time of the last change in nanoseconds and the size of each configuration file."""
    states = [(file, file.stat()) for folder in folders for file in sorted(folder.rglob("*.yaml"))]
    return tuple((str(file), state.st_mtime_ns, state.st_size) for file, state in states)


@dataclass(frozen=True)
class Composer:
    """Composer of the configurations of a command.

    Attributes:
        folder: Folder of the configuration groups.
        name: Name of the root configuration, such as `train`.
        extra: Folder of a user's own groups (`--config-dir`).
    """

    folder: Path
    name: str
    extra: Path | None = None

    @cached_property
    def _loader(self) -> _Loader:
        if self.extra is not None and not self.extra.is_dir():
            raise ConfigurationError(f"--config-dir {self.extra} is not a folder (command line)")
        folders = [folder.resolve() for folder in (self.folder, self.extra) if folder is not None]
        return _loader(*folders, files=_state(folders))

    def loader_of(self, composition: Composition) -> ConfigLoader:
        """Return a loader by which Hydra runs a composition."""
        return _Composed(self._loader.config_search_path, composition.tree)

    def groups(self) -> list[str]:
        """Return the names of all configuration groups but Hydra's own; dashboards are files of another kind."""
        folders = self._loader.repository.get_group_options("", ObjectType.GROUP)
        return [name for name in folders if name not in ("hydra", "dashboard")]

    def options(self, group: str) -> list[str]:
        """Return all choices of a group, including those in its subfolders, such as `translation/demo`."""
        repository = self._loader.repository
        here = repository.get_group_options(group, ObjectType.CONFIG)
        parts = self.parts(group)
        folders = [name for name in repository.get_group_options(group, ObjectType.GROUP) if name not in parts]
        return here + [f"{folder}/{name}" for folder in folders for name in self.options(f"{group}/{folder}")]

    def parts(self, group: str) -> list[str]:
        """Return the subfolders of a group that are groups of their own: those that appear in the defaults of its choices.

        `conf/model/seq2seq.yaml` has a default for `positions`, so `conf/model/positions/` is the group
        `model/positions`. `conf/experiment/translation/` only holds choices of `experiment`.
        """
        repository = self._loader.repository
        if not repository.get_group_options(group, ObjectType.GROUP):
            return []
        defaults = [
            default
            for name in repository.get_group_options(group, ObjectType.CONFIG)
            for default in self._defaults(f"{group}/{name}")
        ]
        return sorted({default.group for default in defaults if isinstance(default, GroupDefault) and default.group})

    def written(self, path: str) -> dict[str, Any]:
        """Return the values that a file itself writes, such as `model/positions/rotary`, without those of its defaults.

        Raises:
            ConfigurationError: If there is no such file, or it is no YAML.
        """
        try:
            values = OmegaConf.to_container(OmegaConf.load(self._file(path)), resolve=False)
        except yaml.MarkedYAMLError as error:
            raise _malformed(error) from error
        return {str(key): value for key, value in values.items()} if isinstance(values, dict) else {}

    def package(self, path: str) -> str | None:
        """Return the key that a file says that its values belong below, `# @package …`; None if it says nothing.

        Raises:
            ConfigurationError: If there is no such file.
        """
        said = _PACKAGE_LINE.match(self._file(path).read_text(encoding="utf-8"))
        return said[1] if said else None

    def _file(self, path: str) -> Path:
        for folder in filter(None, (self.extra, self.folder)):
            if (file := folder / f"{path}.yaml").is_file():
                return file
        raise ConfigurationError(f"{path}.yaml does not exist in {self.folder}")

    def _defaults(self, path: str) -> Sequence[InputDefault]:
        """Return the defaults list of a file, which is empty for a broken one: that is reported when it is chosen."""
        try:
            return self._loader.repository.defaults(path)
        except (yaml.MarkedYAMLError, HydraException, OmegaConfBaseException, ValueError):
            return ()

    def normalized(self, written: Sequence[str]) -> list[str]:
        """Return overrides in a form that Hydra accepts.

        `key=value` becomes `++key=value`, so that arguments that no file lists can be set; the check refuses those that do
        not exist. `glob(…)` matches choices in subfolders of a group too, and `group=null` chooses the group's `none`, or
        drops the group.

        Raises:
            ConfigurationError: If an override does not follow Hydra's grammar, or a `glob(…)` matches nothing.
        """
        return [self._normal(word, override) for word, override in zip(written, self.parse(written), strict=True)]

    def _normal(self, word: str, override: Override) -> str:
        key = override.key_or_group
        if override.is_hydra_override() or override.type is not OverrideType.CHANGE:
            return word
        if not self._loader.repository.group_exists(key):
            return f"++{word}"
        options = self.options(key)
        if isinstance(override._value, Glob):
            matching = override._value.filter(options)
            if not matching:
                raise ConfigurationError(f"{word} matches none of {', '.join(options)} (command line)")
            return f"{override.get_key_element()}={','.join(matching)}"
        if override.value() is None:
            return f"{override.get_key_element()}=none" if "none" in options else f"~{override.get_key_element()}"
        return word

    def parse(self, words: Sequence[str]) -> list[Override]:
        """Read words of a command line.

        Raises:
            ConfigurationError: If one does not follow Hydra's grammar.
        """
        parser, parsed = OverridesParser.create(self._loader), []
        for word in words:
            try:
                parsed.extend(parser.parse_overrides([word]))
                if not parsed[-1].key_or_group:
                    raise HydraException("it has no key")
            except HydraException as error:
                reason = _sentence(error) if "=" in word else "it has no ="
                raise ConfigurationError(f"{word!r} is not key=value: {reason} (command line)") from error
        return parsed

    def members(self, overrides: Sequence[str], multirun: bool) -> Iterator[list[str]]:
        """Yield the overrides of each member of a multirun: every combination of the swept values.

        The members of another sweeper (`hydra/sweeper=…`) are not known in advance: it yields none.

        Raises:
            ConfigurationError: If a key has several values outside a multirun.
        """
        choices = []
        if multirun and any(word.startswith("hydra/sweeper=") for word in overrides):
            return
        for word, override in zip(overrides, self.parse(overrides), strict=True):
            key, values = override.get_key_element(), [word]
            if override.is_sweep_override() and not multirun:
                plain = word.removeprefix("++")
                advice = f"add -m to run each, or write {plain.replace('=', '=[', 1)}] for a list"
                raise ConfigurationError(f"{plain} has several values; {advice} (command line)")
            if override.is_interval_sweep():
                advice = f"write its values, such as {override.key_or_group}=1,2,3"
                raise ConfigurationError(f"{word.removeprefix('++')} names no values; {advice} (command line)")
            if override.is_discrete_sweep():
                values = [f"{key}={value}" for value in override.sweep_string_iterator()]
            choices.append(values)
        yield from map(list, product(*choices))

    def compose(self, overrides: Sequence[str]) -> Composition:
        """Compose the configuration of a run.

        Args:
            overrides: Normalized overrides.

        Raises:
            ConfigurationError: If it cannot be composed.
        """
        words = list(overrides)
        parsed = self.parse(words)
        values = [override for override in parsed if self._is_value(override)]
        try:
            config, sources = self._chosen(
                tuple(word for word, one in zip(words, parsed, strict=True) if one not in values)
            )
            ConfigLoaderImpl._apply_overrides_to_config(values, config)
            task = [override for override in parsed if not override.is_hydra_override()]
            # In the order typed, not choices first. In place, since OmegaConf deep-copies a list that is assigned.
            config.hydra.overrides.task.clear()
            config.hydra.overrides.task.extend([override.input_line for override in task])
            job = config.hydra.job
            job.override_dirname = get_overrides_dirname(task, **job.config.override_dirname)
        except MissingConfigException as error:
            raise self._missing(error, words) from error
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise ConfigurationError(f"{_sentence(error)} ({self._place(error, words)})") from error
        except yaml.MarkedYAMLError as error:
            raise _malformed(error) from error
        return Composition(config, tuple(word.removeprefix("++") for word in words), sources)

    def _is_value(self, override: Override) -> bool:
        """Whether an override gives a value to a key, and chooses none of the files that are composed."""
        return not override.is_hydra_override() and not self._loader.repository.group_exists(override.key_or_group)

    def _chosen(self, words: tuple[str, ...]) -> tuple[DictConfig, tuple[Source, ...]]:
        """Return the tree that the choices of groups stand for, and its files; composed once, since members share choices."""
        choices, key = self._loader.choices, (self.name, *words)
        if key not in choices:
            config = self._loader.load_configuration(self.name, list(words), RunMode.RUN)
            if len(choices) >= _KEPT:
                del choices[next(iter(choices))]
            choices[key] = config, self._files(config)
        config, sources = choices[key]
        config = copy.deepcopy(config)
        config.hydra.runtime.cwd = str(Path.cwd())
        return config, sources

    def _files(self, config: DictConfig) -> tuple[Source, ...]:
        folders = [Path(source.path) for source in config.hydra.runtime.config_sources if source.schema == "file"]
        sources = []
        for default in self._loader.composed:
            candidates = (folder / f"{default.config_path}.yaml" for folder in folders)
            path = next((path for path in candidates if path.is_file()), None)
            if path is not None:
                sources.append(Source.read(path, default.package or "", self.folder.parent))
        return tuple(sources)

    def _missing(self, error: MissingConfigException, words: Sequence[str]) -> ConfigurationError:
        """Return the error about a choice that does not exist, with the nearest one and the place where it was chosen."""
        missing = error.missing_cfg_file or self.name
        group, _, name = missing.partition("/")
        part, _, inner = name.partition("/")
        if inner and part in self.parts(group):
            group, name = f"{group}/{part}", inner
        if not name:
            return ConfigurationError(f"--config-name {missing} does not exist in {self.folder} (command line)")
        options = self.options(group)
        inside = [option for option in options if option.endswith(f"/{name}")]
        close = inside or difflib.get_close_matches(name, options, 1)
        advice = f"did you mean {group}={close[0]}?" if close else f"choose one of {', '.join(options)}"
        typed = any(word in {f"{group}={name}", f"+{group}={name}"} for word in words)
        place = "command line" if typed else self._chosen_by(group, name) or self._place(error, words)
        return ConfigurationError(f"{group}={name} does not exist; {advice} ({place})")

    def _chosen_by(self, group: str, name: str) -> str | None:
        """Return the file and line whose defaults list chooses `group: name`."""
        chosen = re.compile(rf"^.*\b{re.escape(group)}(@\S+)?: *{re.escape(name)}\b", re.MULTILINE)
        for folder in filter(None, (self.extra, self.folder)):
            for path in sorted(folder.rglob("*.yaml")):
                text = path.read_text(encoding="utf-8")
                if match := chosen.search(text):
                    return f"{path.relative_to(folder.parent)}:{text.count(chr(10), 0, match.end()) + 1}"
        return None

    def _place(self, error: Exception, words: Sequence[str]) -> str:
        """Return the place of a fault: the file that Hydra's message names, or else the command line if it quotes a key."""
        message = f"{error} {error.__cause__}"
        parent = _PARENT.search(message)
        if parent is not None and parent[1] != self.name:
            return f"{parent[1]}.yaml"
        keys = [override.key_or_group for override in self.parse(words)]
        return "command line" if any(key in message for key in keys) else f"{self.name}.yaml"


@contextmanager
def _known_to_hydra(tree: DictConfig) -> Iterator[None]:
    """Resolve values such as `${hydra:runtime.choices.model}` from this tree, whatever Hydra application is running."""
    instance = HydraConfig.instance()
    before = instance.cfg
    instance.cfg = cast(HydraConf, tree)  # HydraConfig.set_config would copy the tree first
    try:
        yield
    finally:
        instance.cfg = before


def is_hydra(override: str) -> bool:
    """Return whether an override is one of Hydra's own configuration."""
    return override.lstrip("+~").startswith(("hydra.", "hydra/"))


def _malformed(error: yaml.MarkedYAMLError) -> ConfigurationError:
    mark = error.problem_mark or error.context_mark
    place = f"{mark.name}:{mark.line + 1}" if mark else "a configuration file"
    return ConfigurationError(f"{error.problem or error.context} ({place})")


def _sentence(error: Exception) -> str:
    """Return the text of an error of Hydra in one line, without the link to its manual."""
    cause = error.__cause__ if not str(error).strip() and error.__cause__ else error
    lines = [line.strip() for line in str(cause).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(("See http", "full_key:", "object_type=")))


def compose(*overrides: str, command: str = "train") -> Config:
    """Compose and check a configuration as the command line would: `compose("experiment=translation/demo", "seed=2")`.

    Args:
        overrides: Overrides as on the command line.
        command: Command whose root configuration is composed.

    Raises:
        ConfigurationError: If it cannot be composed, or does not fit.
    """
    composer = Composer(CONF, command)
    return composer.compose(composer.normalized(overrides)).config()
