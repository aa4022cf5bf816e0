"""The site builds without a warning and loads nothing from elsewhere; and what its pages say can be typed, can be typed."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

import etude
from etude.cli.command_table import COMMANDS
from etude.cli.main import main
from etude.commands.browse.filters import Condition
from etude.commands.sweep import check_members
from etude.config.compose import CONF, Composer, compose
from etude.errors import ConfigurationError, EtudeError
from etude.sweeps.sweep_plan import OWN, read_plan
from tests.conftest import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NAMES = [page.relative_to(DOCS).as_posix() for page in PAGES]
EXTENSION = ROOT / "tests" / "extension"
TABLE = ("data=table", "data.train=a", "data.val=b")
CONTEXTS: tuple[tuple[str, ...], ...] = (
    ("experiment=translation/demo",),
    ("experiment=classification/minilm",),
    ("experiment=classification/minilm", *TABLE),
    ("experiment=masked_lm/demo",),
    ("experiment=causal_lm/demo",),
    ("experiment=causal_lm/instruct", "model.name=a", "data.train=a"),
    ("experiment=summarization/scitldr",),
    ("experiment=classification/demo", "finetune=lora"),
    ("experiment=translation/multi30k",),
    (
        "experiment=classification/minilm",
        "task=multilabel",
        *TABLE,
        "data=table_several",
        "validate.metric=val/micro_f1",
    ),
    (
        "experiment=classification/minilm",
        "task=regression",
        *TABLE,
        "data=table_numbers",
        "validate.metric=val/pearson",
    ),
    ("experiment=question_answering/squad",),
    ("experiment=token_classification/demo",),
    ("experiment=token_classification/wnut17",),
    ("experiment=masked_lm/text", "data.train=a"),
    ("experiment=causal_lm/adapt", "model.name=a"),
    ("experiment=translation/demo", "distillation=from_run", "distillation.teacher=a"),
    ("experiment=translation/back_translated", "data.synthetic=a"),
)
"""What a sentence may be about, the most usual first."""
OTHER_KEYS = {key.rstrip("…") for command in COMMANDS.values() for key in command.keys} - {"budget", "batch"}


def subclasses(kind: type[EtudeError]) -> Iterator[type[EtudeError]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from subclasses(inner)


def text_of(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(text: str, language: str = "") -> list[str]:
    """Return the fenced blocks of a language, and for none the indented ones too."""
    every = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    fenced = [block for named, block in every if named == language]
    return fenced if language else fenced + re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)


def typed(text: str) -> list[str]:
    """Return the lines of blocks that somebody might type, each without its remark."""
    lines = [line.split("   #")[0].strip() for block in blocks(text) for line in block.splitlines()]
    return [line.removeprefix("run=$(").removeprefix("srun ").rstrip(")") for line in lines]


def commands(pattern: str) -> list[Any]:
    found = [(name, line) for name in NAMES for line in typed(text_of(name)) if re.match(pattern, line)]
    return [pytest.param(line, id=f"{name}: {line}") for name, line in found]


def filled(line: str, folder: Path) -> str:
    """Return a line with its placeholders filled in."""
    return re.sub(r"FOLDER_OR_FILE|FOLDER|FILE|NAME", lambda _: str(folder), line).replace("…", "x")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_can_be_searched(site: Path) -> None:
    assert (site / "index.html").exists()
    index = (site / "search" / "search_index.json").read_text(encoding="utf-8")
    assert "paired approximate" in index
    assert "etude.data.plan" in index


@pytest.mark.slow
def test_every_public_module_has_a_page(site: Path) -> None:
    for path in sorted((ROOT / "src" / "etude").rglob("*.py")):
        inside = path.relative_to(ROOT / "src" / "etude").with_suffix("")
        if inside.name not in ("__init__", "__main__"):
            page = (site / "reference" / inside).with_suffix(".html")
            assert page.exists(), inside
            assert f'<h1 id="etude{".".join(["", *inside.parts]).replace(".", "")}' in page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_page_of_the_reference_shows_signatures_and_docstrings(site: Path) -> None:
    page = (site / "reference" / "data" / "plan.html").read_text(encoding="utf-8")
    assert 'id="etude.data.plan.Plan.make"' in page
    assert "_private" not in page


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    loads = re.compile(r"<(?:script|img|link rel=\"stylesheet\")[^>]*(?:src|href)=\"?(?:https?:)?//[^>]*>")
    for page in site.rglob("*.html"):
        assert not loads.search(page.read_text(encoding="utf-8")), page


def test_every_page_is_in_the_nav() -> None:
    def pages(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry.values() if isinstance(entry, dict) else entry:
                yield from pages(inner)

    shown = list(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    assert sorted(shown) == sorted([*NAMES, "reference/index.md"])


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_pages(name: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(name)):
        path, _, anchor = link.partition("#")
        assert "://" not in link, f"{name} links to {link}"
        page = (DOCS / name).parent / path if path else DOCS / name
        if page.resolve() != DOCS / "reference" / "index.md":
            assert page.exists(), f"{name} links to {link}"
            titles = (
                [title.lower() for title in re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)]
                if anchor
                else []
            )
            slugs = [re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title)).strip("-") for title in titles]
            assert not anchor or anchor in slugs, f"{name} links to {link}"


@pytest.mark.parametrize("line", commands(r"etude (train|prepare|bench) "))
def test_commands_compose(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "model.witdh" in line or "--config-dir" in line:
        pytest.skip("the one is a mistake, shown with its answer; the other is tried out by the extension")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    line = line.replace("$SLURM_ARRAY_TASK_ID", "3").partition(" | ")[0]
    name, *words = shlex.split(filled(line, tmp_path))[1:]
    words = [word for word in words if word not in {"--cfg", "job", "--resolve", *COMMANDS[name].kinds}]
    composer = Composer(CONF, COMMANDS[name].root or "")
    members = list(composer.members(composer.normalized([word for word in words if word != "-m"]), "-m" in words))
    assert len(members) > 1 if "-m" in words else len(members) == 1
    for member in members:
        compose(*member, command=COMMANDS[name].root or "")


def test_a_folder_of_ones_own_composes_as_the_pages_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = [line for name in NAMES for line in typed(text_of(name)) if "--config-dir" in line]
    assert shown
    # What one of Lightning's loggers is made of needs no trust.
    assert all("trust=[mine]" in line for line in shown if "comet" not in line)
    monkeypatch.syspath_prepend(str(EXTENSION))
    choices = ["experiment=ranking/demo", "data.root=a", "trust=[ranker]", "--cfg", "job"]
    assert main(["train", "--config-dir", str(EXTENSION / "conf"), *choices]) == 0
    assert "_target_: ranker.task.Ranking" in capsys.readouterr().out


@pytest.mark.parametrize("line", commands(r"etude (sweep|check) "))
def test_sweeps_have_members(line: str, tmp_path: Path) -> None:
    words = shlex.split(filled(line.partition(" > ")[0], tmp_path))[2:]
    if words[0] in ("status", "stop", "resume"):
        assert words[1] in ("last", "SWEEP") or "/" in words[1]
        return
    assert check_members(read_plan([word for word in words if word != "wandb"]))


@pytest.mark.parametrize("line", commands(r"(?:echo .* \| |)etude (?!train|prepare|bench|sweep|check)[a-z]"))
def test_commands_on_runs_take_the_keys_that_are_shown(line: str) -> None:
    name, *words = shlex.split(re.sub(r"^.*\| (?=etude)", "", line))[1:]
    command = COMMANDS[name]
    if name == "runs" and words[:1] != ["diff"]:
        words = [word for word in words if Condition.parse(word).key in command.keys]
    for word in [] if name == "query" else words:
        key, equals, _ = word.partition("=")
        known = [k for k in command.keys if key == k or (k.endswith("…") and key.startswith(k[:-1]))]
        assert not equals or known, f"etude {name} does not take {word}"


def overrides_of(name: str) -> list[str]:
    """Return what stands in code within sentences and tables and looks like overrides."""
    lines = [line for line in text_of(name).splitlines() if not line.startswith("    ")]
    if name == "coming_from.md":  # the first column is other people's
        lines = [line.split(" | ", 1)[-1] if line.startswith("|") else line for line in lines]
    if name == "measured.md":  # each command at its commit
        lines = []
    found = [code for line in lines for code in re.findall(r"`([^`]+)`", line)]
    varied = re.compile(
        r"…|\],\[|^seed=1,2|=(?:tag|interval|range|choice)\("
    )  # a place to fill in, or the values of a sweep
    return [code for code in found if re.match(r"'?[a-z_/]+(\.\w+)*=[^\s=]", code) and not varied.search(code)]


def refused_by_sweeps(words: Sequence[str]) -> str:
    """Return why no sweep takes its own words; empty where one does."""
    composer, why = Composer(CONF, "sweep"), ""
    for context in ([], *([f"hydra/launcher={name}"] for name in ("ray", "submitit_slurm")), ["hydra/sweeper=optuna"]):
        try:
            composer.compose(composer.normalized([*context, *words]))
        except ConfigurationError as error:
            why = str(error)
        else:
            return ""
    return why


@cache
def refused(words: tuple[str, ...]) -> str:
    """Return why no experiment takes the words; empty where one does."""
    of_sweeps = [word for word in words if re.split(r"[./=]", word)[0] in OWN]
    if of_sweeps:
        return refused_by_sweeps(of_sweeps)
    composer, why = Composer(CONF, "train"), ""
    groups = {*composer.groups(), *(f"{group}/{part}" for group in composer.groups() for part in composer.parts(group))}
    choices = [word.split("=") for word in words if word.partition("=")[0] in groups]
    if len(choices) == len(words):
        wrong = [f"{group}={name}" for group, name in choices if name not in (*composer.options(group), "null")]
        return f"there is no {' '.join(wrong)}" if wrong else ""
    for context in CONTEXTS:
        try:
            compose(*context, *words)
        except ConfigurationError as error:
            why = str(error)
        else:
            return ""
    return why


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_in_sentences_can_be_typed(name: str, tmp_path: Path) -> None:
    for code in overrides_of(name):
        words = tuple(shlex.split(filled(code.replace("RUN", "last"), tmp_path)))
        if not any(word.partition("=")[0] in OTHER_KEYS for word in words):
            assert all("=" in word or word.startswith("~") for word in words), f"{name}: {code}"
            assert not refused(words), f"{name}: {code}: {refused(words)}"


@pytest.mark.parametrize("name", NAMES)
def test_python_on_a_page_imports_what_exists(name: str) -> None:
    for block in blocks(text_of(name), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("etude"):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


@pytest.mark.parametrize("name", NAMES)
def test_classes_and_files_that_a_page_names_exist(name: str) -> None:
    text = text_of(name)
    for dotted in set(re.findall(r"\betude(?:\.\w+)+", text)):
        module, _, attribute = dotted.rpartition(".")
        try:
            importlib.import_module(dotted)
        except ImportError:
            assert hasattr(importlib.import_module(module), attribute), f"{name} names {dotted}"
    for path in set(re.findall(r"`((?:tests|conf|notebooks|examples|src)/[\w/.-]+)`", text)):
        assert (ROOT / path).exists(), f"{name} names {path}"


def test_the_exit_codes_are_those_of_the_errors() -> None:
    importlib.import_module("etude.training.launch")
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", text_of("exit_codes.md"), re.MULTILINE)}
    assert {error.exit_code for error in subclasses(EtudeError)} <= listed
    assert {0, 3, 130, 141, 143} <= listed


def test_every_group_and_choice_is_on_the_page_of_the_configuration() -> None:
    text, composer = text_of("configuration.md"), Composer(CONF, "train")
    for group in composer.groups():
        assert f"| `{group}` |" in text, group
        if group not in ("data", "experiment"):
            row = re.search(rf"^\| `{group}` \|.*$", text, re.MULTILINE)
            assert row, group
            missing = [name for name in composer.options(group) if f"`{name}`" not in row[0] and name != "none"]
            assert not missing, (group, missing)


def test_the_page_of_the_design_names_every_room() -> None:
    text = text_of("design.md")
    for path in sorted((ROOT / "src" / "etude").iterdir()):
        if path.suffix == ".py" and not path.stem.startswith("__"):
            assert f"`{path.name}`" in text, path.name
        elif path.is_dir() and any(path.glob("*.py")):
            assert f"`{path.name}/`" in text, path.name


CONTRIBUTORS = ["CONTRIBUTING.md", "AGENTS.md", ".github/PULL_REQUEST_TEMPLATE.md"]


@pytest.mark.parametrize("name", CONTRIBUTORS)
def test_what_contributors_are_told_is_there(name: str) -> None:
    text, makefile = (ROOT / name).read_text(encoding="utf-8"), (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`make ([a-z-]+)", text)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{name}: make {target}"
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / link).exists(), f"{name} links to {link}"
    for path in set(re.findall(r"`((?:[\w.]+/)+[\w.]*)`", text)):
        places = [ROOT, ROOT / "src" / "etude"]
        made = path.startswith((".venv/", "build/", "outputs/")) or "NAME" in path
        assert made or any((place / path).exists() for place in places), f"{name} names {path}"


def test_a_report_of_a_bug_asks_for_what_it_takes_to_find_it() -> None:
    forms = {path.stem: yaml.safe_load(path.read_text("utf-8")) for path in (ROOT / ".github/ISSUE_TEMPLATE").iterdir()}
    assert {"bug", "feature", "question"} <= forms.keys()
    asked = {field["id"] for field in forms["bug"]["body"]}
    assert {"command", "config", "manifest", "code"} <= asked
    for form in forms.values():
        assert all({"type", "attributes"} <= field.keys() for field in form.get("body", []))


def test_the_hooks_of_a_commit_need_nothing_but_the_environment() -> None:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert local["repo"] == "local"
    assert all(hook["language"] == "system" and hook["entry"].startswith(".venv/bin/") for hook in local["hooks"])


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert citation["type"] == "software"
    assert all("name" in author or "family-names" in author for author in citation["authors"])
    assert citation["version"] == etude.__version__
    assert citation["license"] == "Apache-2.0"
