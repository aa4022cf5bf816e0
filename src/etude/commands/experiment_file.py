"""The best configuration of a sweep as an experiment file, ready to be trained: `etude compare SWEEP save=FILE`.

The file bases on the experiment that the trial's members were composed of, and holds what their words changed in it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.types import Override, OverrideType

from etude.atomic import make_folder, storage_errors, write_text
from etude.config.compose import CONF, Composer, is_hydra
from etude.config.values import MACHINE, NONE, is_machine, shown_values, within, without_secrets
from etude.errors import ConfigurationError
from etude.report.writing import score
from etude.sweeps.saved_sweep import SavedMember
from etude.sweeps.space_reading import unquoted
from etude.sweeps.sweep_results import SweepResults

GROUP = "experiment"
"""The configuration group whose folder the file lies in."""

_LAID_OVER = ("debug",)
"""Groups that are composed after the experiment, which cannot choose them; what they set is written out."""

_LEFT_OUT = ("seed", "run", "trust", *MACHINE)
"""Keys, with all below them, that no experiment says: each run has its own."""


@dataclass
class ExperimentText:
    """What an experiment file says.

    Attributes:
        base: The experiment that it overlays; None: none.
        choices: Choices of groups that it changes, with `override ` before those that the defaults have.
        values: Nested values.
    """

    base: str | None
    choices: dict[str, str | None] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def set(self, key: str, value: Any) -> None:
        """Give a dotted key a value."""
        *parents, last = key.split(".")
        place = self.values
        for name in parents:
            inner = place.get(name)
            place[name] = dict(inner) if isinstance(inner, Mapping) else {}
            place = place[name]
        both = isinstance(value, Mapping) and isinstance(place.get(last), Mapping)
        place[last] = {**place[last], **value} if both else value

    def render(self, comments: Sequence[str]) -> str:
        """Return the file's text."""
        defaults: list[Any] = [f"/{GROUP}/{self.base}"] if self.base else []
        added = {key: choice for key, choice in self.choices.items() if not key.startswith("override ")}
        defaults += [{key: choice} for key, choice in {**added, **self.choices}.items()]
        text = "".join(f"# {' '.join(one.split())}\n" for one in ("@package _global_", *comments))
        text += _yaml({"defaults": defaults}, flow=False) if defaults else ""
        return text + (f"\n{_yaml(self.values, flow=None)}" if self.values else "")


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML says nothing of its types
    """Indents lists, as conf/ does."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _yaml(values: Any, flow: bool | None) -> str:
    """Return YAML; `flow` None writes the innermost mappings in braces."""
    return str(
        yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=flow)
    )


def save_experiment(results: SweepResults, path: str | Path) -> Path:
    """Write the configuration of a sweep's best trial as an experiment file, and prove that it composes to the same.

    Args:
        results: What the sweep has come to.
        path: The file, in a folder named `experiment` or below one: `conf/experiment/…/NAME.yaml`.

    Returns:
        The file's path.

    Raises:
        ConfigurationError: If no trial is the best, the file exists, no command would find it there, or what was composed then
            cannot be composed from it now.
        StorageError: If it cannot be written.
    """
    path = Path(path).expanduser()
    path = path if path.suffix == ".yaml" else path.with_name(f"{path.name}.yaml")
    folder, name = _place(path)
    if path.exists():
        raise ConfigurationError(f"save={path} exists already; write another name (command line)")
    best = results.require_best()
    member = best.ended[0]
    extra = results.sweep.document.extra
    text = experiment_text(member, Path(extra) if extra else None)
    option = [] if folder == CONF.resolve() else ["--config-dir", str(_shortest(folder))]
    mean = "" if best.score is None else f"{member.metric} {score(best.score.mean)}"
    spread = (
        "" if best.score is None or best.score.sd is None else f" ± {score(best.score.sd)} over {len(best.ended)} seeds"
    )
    comments = [
        shlex.join(["etude", "train", *option, f"{GROUP}={name}"]),
        f"The best of the {len(results.trials)} trials of the sweep {_named(results)}: {mean}{spread}.",
    ]
    with storage_errors(path):
        make_folder(path.parent)
        write_text(path, text.render(comments))
    try:
        _complete(path, folder, name, text, member, comments)
    except ConfigurationError as error:
        path.unlink(missing_ok=True)
        if extra is None or folder == Path(extra).resolve():
            raise
        raise ConfigurationError(
            f"{error}; its members were composed with --config-dir {extra}: save={extra}/{GROUP}/{path.name} may do"
        ) from error
    return path


def experiment_text(member: SavedMember, extra: Path | None) -> ExperimentText:
    """Return what makes a member's configuration out of the experiment that it bases on.

    Args:
        member: The member.
        extra: The folder of the user's own configuration groups that it was composed with.

    Raises:
        ConfigurationError: If its words cannot be composed any more.
    """
    composer = Composer(CONF, "train", extra)
    words = [word for word in member.document.words if not is_hydra(word)]
    normal = composer.normalized(words)
    groups = set(composer.compose(normal).tree.hydra.runtime.choices)
    base = composer.compose(normal).tree.hydra.runtime.choices.get(GROUP)
    text = ExperimentText(None if base is None else str(base))
    for override in composer.parse(normal):
        key = override.key_or_group
        if key in (GROUP, *_LAID_OVER) or within(key.partition("/")[0], _LEFT_OUT):
            continue
        if key in groups or override.package is not None:
            _choose(text, override)
        elif not override.is_delete():  # a file takes no key away; where that matters, the proof fails
            text.set(key, unquoted(override.value()))
    return text


def _choose(text: ExperimentText, override: Override) -> None:
    """Take over the choice of a group."""
    added = override.type is OverrideType.ADD
    choice = None if override.is_delete() else unquoted(override.value())
    text.choices[f"{'' if added else 'override '}/{override.get_key_element().lstrip('+~')}"] = choice


def _complete(
    path: Path, folder: Path, name: str, text: ExperimentText, member: SavedMember, comments: Sequence[str]
) -> None:
    """Compose the written file; say what it still lacks, such as what files have changed since; refuse what it cannot say."""
    differing = _differences(folder, name, member)
    stored = member.document.config
    for key in differing:
        value = _value(stored, key)
        if value is not NONE:
            text.set(key, value)
    if differing:
        write_text(path, text.render(comments))
        differing = _differences(folder, name, member)
    if differing:
        said = "; ".join(f"{key}: {change}" for key, change in list(differing.items())[:3])
        raise ConfigurationError(
            f"{path} would not give the configuration of {member.path} ({said}); train it by its words: "
            f"{shlex.join(['etude', 'train', *member.document.words])}"
        )


def _differences(folder: Path, name: str, member: SavedMember) -> dict[str, str]:
    """Return what differs between a member's configuration and the one that the file composes to."""
    composer = Composer(CONF, "train", None if folder == CONF.resolve() else folder)
    composed = composer.compose(composer.normalized([f"{GROUP}={name}"])).config()
    before = shown_values(without_secrets(composed.values))
    after = shown_values(member.document.config)
    return {
        key: f"{before.get(key, NONE)} instead of {after.get(key, NONE)}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key) and not is_machine(key) and not within(key, _LEFT_OUT)
    }


def _value(tree: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key, `NONE` if there is none."""
    place: Any = tree
    for name in key.split("."):
        if not isinstance(place, Mapping) or name not in place:
            return NONE
        place = place[name]
    return place


def _place(path: Path) -> tuple[Path, str]:
    """Return the folder of configuration groups that a file lies in, and the name by which it is chosen.

    Raises:
        ConfigurationError: If no folder above is named `experiment`.
    """
    whole = path.resolve()
    for parent in whole.parents:
        if parent.name == GROUP:
            return parent.parent, whole.relative_to(parent).with_suffix("").as_posix()
    raise ConfigurationError(
        f"save={path} is in no folder named {GROUP}, where a command could find it; write save=conf/{GROUP}/NAME.yaml"
    )


def _shortest(folder: Path) -> Path:
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def _named(results: SweepResults) -> str:
    """Return a sweep's name with its experiment's."""
    parts = results.sweep.path.resolve().parts
    return "/".join(parts[-3:])
