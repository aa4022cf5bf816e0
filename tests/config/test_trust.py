"""What may run is said by the person at the keyboard: a stored configuration trusts nobody, and names only what is listed."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from etude.config.change import changed, read_overrides, with_choices
from etude.config.check import check
from etude.config.choices import CHOICES, is_choice
from etude.config.compose import CONF, Composer, compose
from etude.config.modules import find_module, resolve
from etude.config.signatures import signature
from etude.config.stored import stored_configuration
from etude.config.trust import VARIABLE, as_packages, trust, trust_of_the_command, trusted
from etude.errors import ConfigurationError, DataError
from tests.config.test_signatures import TARGETS

MINE = "class Wavy:\n    def __init__(self, waves: int): ...\n\nclass Callback:\n    def __init__(self): ...\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a package of one's own, which nobody trusts yet."""
    (tmp_path / "trust_stub.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    with trust_of_the_command():
        yield tmp_path
    find_module.cache_clear()
    signature.cache_clear()
    sys.modules.pop("trust_stub", None)


@functools.cache
def default_values() -> dict[str, Any]:
    return dict(compose().values)


def stored(folder: Path, **values: Any) -> Path:
    """Return the configuration of a run, as a run writes it, with other values of dotted keys."""
    tree = OmegaConf.create(default_values())
    for key, value in values.items():
        OmegaConf.update(tree, key.replace("__", "."), value, force_add=True)
    path = folder / "config.yaml"
    path.write_text(OmegaConf.to_yaml(tree))
    return path


def test_what_a_run_writes_is_read_again(here: Path) -> None:
    assert stored_configuration(stored(here)).values == compose().values


OWN = {"callbacks__mine": {"_target_": "trust_stub.Callback"}, "trust": ["trust_stub"]}


def test_a_stored_configuration_cannot_trust_by_itself(here: Path) -> None:
    path = stored(here, **OWN)
    with pytest.raises(ConfigurationError) as refused:
        stored_configuration(path)
    line = str(refused.value)
    assert line.startswith("callbacks.mine._target_ = trust_stub.Callback may not be instantiated")
    assert "the run names trust_stub under trust" in line
    assert "add trust=[trust_stub] to the command" in line
    assert f"{VARIABLE}=trust_stub" in line


def test_trust_of_the_person_counts_and_ends_with_the_command(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored(here, **OWN)
    with trust_of_the_command():
        trust(as_packages("trust_stub"))
        assert stored_configuration(path).callbacks["mine"].target == "trust_stub.Callback"
    with pytest.raises(ConfigurationError, match="under trust"):
        stored_configuration(path)
    monkeypatch.setenv(VARIABLE, "other, trust_stub")
    assert stored_configuration(path).trust == ("trust_stub",)
    assert trusted() == ("other", "trust_stub")


def test_the_check_is_given_the_packages() -> None:
    composition = Composer(CONF, "train").compose(
        ["++callbacks.mine._target_=trust_stub.Callback", "++trust=[trust_stub]"]
    )
    with pytest.raises(ConfigurationError, match="under trust"):
        check(composition.tree, composition.overrides, composition.sources, packages=())
    trust(["trust_stub"])
    check(composition.tree, composition.overrides, composition.sources, packages=["trust_stub"])


def test_a_configuration_of_ones_own_trusts(here: Path) -> None:
    (here / "mine" / "experiment").mkdir(parents=True)
    (here / "mine" / "experiment" / "own.yaml").write_text(
        "# @package _global_\ntrust: [trust_stub]\ncallbacks: {mine: {_target_: trust_stub.Callback}}\n"
    )
    config = Composer(CONF, "train", here / "mine").compose(["experiment=own"]).config()
    assert config.callbacks["mine"].target == "trust_stub.Callback"


@pytest.mark.parametrize("value", [3, [3], {"a": 1}, None])
def test_trust_is_a_list_of_names(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"write trust=\[mine\]"):
        as_packages(value)


@pytest.mark.parametrize("name", ["../evil", "a b", "", "3x"])
def test_trust_names_packages(name: str) -> None:
    with pytest.raises(ConfigurationError, match="not the name of a package"):
        trust([name])
    assert not trusted()


def test_only_trusted_modules_are_found_in_the_working_directory_and_none_before_an_installed_one(here: Path) -> None:
    (here / "yaml.py").write_text("raise SystemExit('the file of the working directory was imported')\n")
    script = (
        "import sys; sys.path[:] = [entry for entry in sys.path if entry]\n"
        "from etude.config.trust import trust\n"
        "def found(name):\n"
        "    try: return __import__(name).__file__\n"
        "    except ImportError: return None\n"
        "print(found('trust_stub'))\n"
        "trust(['yaml', 'trust_stub'])\n"
        "print(found('trust_stub'))\n"
        "sys.modules.pop('yaml', None)\n"
        "print(found('yaml'))\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    before, after, installed = done.stdout.splitlines()
    assert (before, after) == ("None", str(here / "trust_stub.py"))
    assert installed == yaml.__file__


# What a configuration may name


@pytest.mark.parametrize(
    "target",
    [
        *TARGETS,
        *("torch.optim.RAdam", "torch.nn.Tanh", "torchmetrics.Accuracy", "lightning.pytorch.callbacks.EarlyStopping"),
        *("lightning.pytorch.loggers.TensorBoardLogger", "etude.data.class_weights.GivenWeights"),
        *("etude.metrics.translation.TER", "etude.models.generation.length_penalty.Unnormalized"),
    ],
)
def test_what_is_meant_to_be_chosen_may_be_named(target: str) -> None:
    definition = resolve(target)
    assert definition is not None
    assert is_choice(definition)


REFUSED = [
    "etude.cli.command_table.load",
    "etude.cli.command_table.Command",
    "etude.config.compose.Composer",
    "etude.runs.saved_run.SavedRun",
    "etude.runs.lock.RunLock",
    "etude.api.Run",
    "etude.packages.package_file",
    "etude.atomic.write_text",
    "etude.tokenization.base.Tokenizer.load",
    "etude.data.prepare.prepare",
    "etude.data.prepare.Corpus",
    "etude.tasks.base.Task",
    "torch.nn.Module",
    "torch.nn.Module.__init__",
    "torch.nn.Embedding.from_pretrained",
    "torch.nn.init.xavier_uniform_",
    "torch.nn.utils.clip_grad_norm_",
    "torch.optim.Optimizer",
    "torchmetrics.functional.accuracy",
]


PLACES = ("callbacks.mine", "task.metrics.mine", "model", "model.norm")


@pytest.mark.parametrize(
    ("key", "target"),
    [(PLACES[0], target) for target in REFUSED] + [(key, target) for key in PLACES[1:] for target in REFUSED[:2]],
)
def test_a_function_or_class_that_is_no_choice_is_refused_wherever_it_stands(key: str, target: str, here: Path) -> None:
    assert resolve(target) is not None, "a test of a name that does not exist would prove nothing"
    path = stored(here, **{f"{key}._target_".replace(".", "__"): target})
    with pytest.raises(ConfigurationError) as refused:
        stored_configuration(path)
    line = str(refused.value)
    # Where the argument's annotation already says no, that comes first.
    no_choice = f"{key}._target_ = {target} may not be instantiated: it is not a class to choose from; "
    assert line.startswith((no_choice, *([f"{key} = {{_target_: {target}, …}}, but "] if key == "model.norm" else [])))
    if key == "callbacks.mine":
        assert "lightning.pytorch.callbacks.callback.Callback" in line


def test_every_kind_is_about_something_that_exists() -> None:
    for kind in CHOICES:
        base = resolve(kind.base)
        assert base is not None, kind
        assert isinstance(base.node, ast.ClassDef), kind
        assert base.dotted == kind.base, kind
        assert find_module(kind.package) is not None, kind


# A folder that lies


def test_a_stored_configuration_has_no_part_of_hydra(here: Path) -> None:
    path = stored(here, hydra={"callbacks": {"evil": {"_target_": "os.system"}}})
    with pytest.raises(ConfigurationError, match="has a section hydra, which no run has"):
        stored_configuration(path)


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "a ${seed} b", "${.seed}"])
def test_a_stored_configuration_refers_to_nothing(here: Path, text: str) -> None:
    path = stored(here)
    path.write_text(path.read_text().replace("notes: ''", f"notes: '{text}'"))
    with pytest.raises(ConfigurationError, match=r"run\.notes = .* refers to another value"):
        stored_configuration(path)


BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(24)
)
LIES = {
    "aliases": (BOMB, "anchor or alias"),
    "depth": ("a: " + "[" * 100_000 + "]" * 100_000, "nest"),
    "twice": ("seed: 1\nseed: 2\n", "duplicate key seed"),
    "tags": ("a: !!python/object/apply:os.system [ls]\n", "tag"),
    "nothing": ("", "no keys"),
    "list": ("- 1\n- 2\n", "no keys"),
    "text": ("hello", "not a run's configuration"),
    "broken": ("a: [1\n", "line|did not find"),
    "digits": (f"seed: {'9' * 5000}\n", "digits"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_file_that_is_no_configuration_is_one_line(name: str, here: Path) -> None:
    text, said = LIES[name]
    (here / "config.yaml").write_text(text)
    with pytest.raises(DataError, match=said) as refused:
        stored_configuration(here / "config.yaml")
    assert "\n" not in str(refused.value)
    assert "config.yaml" in str(refused.value)
    assert refused.value.exit_code == 65


@pytest.mark.parametrize("kind", ["sparse", "folder", "bytes"])
def test_a_file_that_cannot_be_read_is_one_line(kind: str, here: Path) -> None:
    path = here / "config.yaml"
    if kind == "sparse":
        with path.open("wb") as file:
            file.truncate(1 << 30)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"seed: \xff\xfe\n")
    with pytest.raises(DataError, match=r"config.yaml"):
        stored_configuration(path)


# Choices of one's own, for a run that exists


def test_a_choice_of_a_folder_of_ones_own_is_known_to_a_run(here: Path) -> None:
    (here / "conf" / "decoding").mkdir(parents=True)
    (here / "conf" / "decoding" / "mine.yaml").write_text("_target_: etude.models.generation.search.Beam\nbeams: 7\n")
    overrides = with_choices(read_overrides(["decoding=mine", "decoding.beams=8", "split=test"]), here / "conf")
    assert overrides["split"] == "test"
    asked = {key: value for key, value in overrides.items() if key != "split"}
    config = changed(compose(), asked, ("decoding",), here)
    assert config.decoding is not None
    assert config.decoding.values == {"_target_": "etude.models.generation.search.Beam", "beams": 8}
    with pytest.raises(ConfigurationError, match=r"decoding=yours does not exist; .*mine"):
        with_choices({"decoding": "yours"}, here / "conf")
    with pytest.raises(ConfigurationError, match="not a folder"):
        with_choices({"decoding": "mine"}, here / "nowhere")


def test_a_configuration_is_not_read_through_a_link_out_of_its_run(here: Path) -> None:
    elsewhere, run = here / "elsewhere", here / "run"
    elsewhere.mkdir()
    run.mkdir()
    (run / "config.yaml").symlink_to(stored(elsewhere))
    with pytest.raises(DataError, match=r"run/config\.yaml: 'config\.yaml' leads out of .*run; restore"):
        stored_configuration(run / "config.yaml")
