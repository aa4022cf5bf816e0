from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from etude import atomic as durable
from etude.atomic import write_json, write_text
from etude.config.compose import compose
from etude.config.values import MACHINE, differences, public_arguments, without_secrets
from etude.errors import ConfigurationError, FolderInUseError, StorageError
from etude.runs import lock
from etude.runs.folder import create, resolve, runs_in, state
from etude.runs.lock import RunLock
from etude.runs.saved_run import SavedRun

COMPOSED = compose()


def a_run(outputs: Path, experiment: str, name: str) -> Path:
    run = create(outputs, experiment, name)
    SavedRun.begin(run, COMPOSED)
    return run


# Making


def test_a_name_makes_the_folder_predictable(tmp_path: Path) -> None:
    run = create(tmp_path / "outputs", "translation/demo", "first")
    assert run == tmp_path / "outputs" / "translation" / "demo" / "first"
    assert run.is_dir()
    assert create(tmp_path / "outputs", "translation/demo", "first") == run
    assert (tmp_path / "outputs" / "last").readlink() == Path("translation/demo/first")


def test_without_a_name_each_is_new(tmp_path: Path) -> None:
    runs = [create(tmp_path, "demo") for _ in range(5)]
    assert len(set(runs)) == 5
    assert (tmp_path / "last").resolve() == runs[-1].resolve()
    assert all(run.is_dir() and run.name[:4].isdecimal() for run in runs)


def start(outputs: Path) -> str:
    return str(create(outputs, "translation/demo"))


def test_24_starts_at_once_make_24_folders(tmp_path: Path) -> None:
    context = get_context("fork")
    with context.Pool(24) as pool:
        runs = pool.map(start, [tmp_path] * 24, chunksize=1)
    assert len(set(runs)) == 24
    assert {str(path) for path in (tmp_path / "translation" / "demo").iterdir()} == set(runs)
    assert str((tmp_path / "last").resolve()) in runs
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["", "  ", "a/b", "..", ".hidden", "/etc"])
def test_a_name_that_cannot_be_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"run\.name="):
        create(tmp_path, "demo", name)
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file")
    with pytest.raises(StorageError, match=r"cannot write .*outputs/demo"):
        create(tmp_path / "outputs", "demo")


# Finding


def test_a_run_is_found_by_each_of_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = tmp_path / "outputs"
    first, second = a_run(outputs, "translation/demo", "one"), a_run(outputs, "masked_lm/demo", "two")
    monkeypatch.chdir(first.parent)
    assert resolve("last", outputs) == second
    assert resolve("translation/demo/one", outputs) == first
    assert resolve(str(first), outputs) == first
    assert resolve("one", outputs) == first
    assert resolve("./one/", outputs) == first


def test_a_run_that_is_not_there_is_answered_with_the_nearest(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        a_run(tmp_path, "translation/demo", name)
    with pytest.raises(ConfigurationError, match=r"no run 'translation/demo/thre' .* nearest: translation/demo/three"):
        resolve("translation/demo/thre", tmp_path)
    with pytest.raises(ConfigurationError, match="nearest: translation/demo/one, "):
        resolve("translation/demo", tmp_path)


def test_the_last_one_may_have_been_removed(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no run 'last', nor any other .*; start one with: etude train"):
        resolve("last", tmp_path)
    (tmp_path / "last").symlink_to("demo/gone")
    a_run(tmp_path / "others", "demo", "x")
    with pytest.raises(ConfigurationError, match="no run 'last'"):
        resolve("last", tmp_path)


def test_the_state_of_a_run(tmp_path: Path) -> None:
    run = create(tmp_path, "demo", "x")
    assert state(run) == "new"
    SavedRun.begin(run, COMPOSED)
    assert state(run) == "unfinished"
    write_json(run / "finished.json", {})
    assert state(run) == "finished"


def test_what_a_killed_process_left_of_a_file_goes_with_the_next_writing(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as ended, subprocess.Popen(["sleep", "60"]) as living:
        ended.wait()
        names = [f".a.json.{ended.pid}.tmp", f".a.json.{living.pid}.tmp", f".b.json.{ended.pid}.tmp"]
        for name in names:
            (tmp_path / name).write_text("half")
        write_json(tmp_path / "a.json", {})
        assert {path.name for path in tmp_path.iterdir()} == {"a.json", *names[1:]}
        living.kill()


# One process at a time

HOLD = """
import sys, time
from pathlib import Path
from etude.runs.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(run: Path, code: str = HOLD, *more: str) -> subprocess.Popen[bytes]:
    source = str(Path(durable.__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(run), *more], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": source}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def hold(run: Path) -> int:
    """Fork a process that takes the lock and sleeps; return its id when it has the lock."""
    ready, held = os.pipe()
    child = os.fork()
    if not child:
        try:
            with RunLock(run):
                os.write(held, b"!")
                time.sleep(60)
        finally:
            os._exit(1)
    os.close(held)
    assert os.read(ready, 1) == b"!"
    os.close(ready)
    return child


def test_a_second_process_is_refused_and_told_which_one_is_there(tmp_path: Path) -> None:
    process = holder(tmp_path)
    try:
        with (
            pytest.raises(FolderInUseError, match=f"{tmp_path} is in use by process {process.pid}; ") as error,
            RunLock(tmp_path),
        ):
            pass
        assert error.value.exit_code == 73
    finally:
        process.kill()
        process.wait()
    with RunLock(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"


LEAVE = """
import subprocess, sys, time
from pathlib import Path
from etude.runs.lock import RunLock
with RunLock(Path(sys.argv[1])) as lock:
    subprocess.Popen(["sleep", sys.argv[2]], pass_fds=[lock.fileno()], stdout=subprocess.DEVNULL)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(("seconds", "patience"), [(0.7, 5.0), (3.0, 0.3)])
def test_a_child_of_a_killed_holder_is_waited_for_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, patience: float
) -> None:
    monkeypatch.setattr(lock, "PATIENCE", patience)
    process = holder(tmp_path, LEAVE, str(seconds))
    process.kill()
    process.wait()
    if seconds < patience:
        with RunLock(tmp_path):
            return
    with pytest.raises(FolderInUseError, match=f"process {process.pid};"), RunLock(tmp_path):
        pass


@pytest.mark.slow
def test_killed_the_holder_is_gone_100_times(tmp_path: Path) -> None:
    for _ in range(100):
        child = hold(tmp_path)
        with pytest.raises(FolderInUseError, match=f"process {child};"), RunLock(tmp_path):
            pass
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with RunLock(tmp_path):
            pass


def test_of_many_that_ask_at_once_one_gets_it(tmp_path: Path) -> None:
    for _ in range(5):
        ready, written = os.pipe()
        children = []
        for _ in range(5):
            child = os.fork()
            if not child:
                try:
                    with RunLock(tmp_path):
                        os.write(written, b"1")
                        time.sleep(60)
                except FolderInUseError:
                    os.write(written, b"0")
                finally:
                    os._exit(0)
            children.append(child)
        answers = b""
        while len(answers) < 5:
            answers += os.read(ready, 5)
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        os.close(ready)
        os.close(written)
        assert sorted(answers) == sorted(b"00001")


def test_the_lock_can_be_taken_again_by_the_same_process(tmp_path: Path) -> None:
    for _ in range(2):
        with RunLock(tmp_path), pytest.raises(FolderInUseError), RunLock(tmp_path):
            pass
    with pytest.raises(ValueError, match="not held"):
        RunLock(tmp_path).fileno()


def test_workers_that_outlive_the_holder_do_not_hold_it(tmp_path: Path) -> None:
    forks = HOLD.replace(
        'print("held", flush=True)', 'import os; child = os.fork(); child or print("held", flush=True)'
    )
    process = holder(tmp_path, forks)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        pytest.skip("the system does not tell a process's children")
    worker = int(children.read_text().split()[0])
    process.kill()
    process.wait()
    try:
        os.kill(worker, 0)
        with RunLock(tmp_path):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_process_that_is_handed_the_descriptor_holds_it_too(tmp_path: Path) -> None:
    with RunLock(tmp_path) as lock:
        process = subprocess.Popen(["sleep", "60"], pass_fds=[lock.fileno()])
    try:
        with pytest.raises(FolderInUseError), RunLock(tmp_path):
            pass
    finally:
        process.kill()
        process.wait()
    with RunLock(tmp_path):
        pass


# Writing


def test_json_and_text_are_read_back(tmp_path: Path) -> None:
    values = {"score": 31.25, "text": "Füße", "none": None, "list": [1, 2.5, True]}
    write_json(tmp_path / "a.json", values)
    write_text(tmp_path / "b.txt", "Füße\n")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == values
    assert (tmp_path / "b.txt").read_text(encoding="utf-8") == "Füße\n"
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "b.txt"}


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a", "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with (
        monkeypatch.context() as patch,
        pytest.raises(StorageError, match=r"cannot write .*/a: No space left on device; free"),
    ):
        patch.setattr(os, "fsync", full)
        write_text(tmp_path / "a", "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    texts = ["a" * 100_000, "b" * 70_000]
    write_text(tmp_path / "x", texts[0])
    child = os.fork()
    if not child:
        try:
            while True:
                for text in texts:
                    write_text(tmp_path / "x", text)
        finally:
            os._exit(1)
    try:
        for _ in range(300):
            assert (tmp_path / "x").read_text() in texts
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


# The configuration

CONFIG = {
    "seed": 3,
    "task": {"label_smoothing": 0.1, "ids": ["no", "012", "1e3", "${x}", "null"]},
    "batch": {"tokens": 4096, "examples": None},
    "tokenizer": {"mask_token": "<mask>", "tokens": "words", "vocabulary": 8000},
    "logger": {
        "api_key": "s3cret",
        "token": "s3cret",
        "WANDB_API_KEY": "s3cret",
        "hf_token": "s3cret",
        "password": "s3cret",
        "smtp_password": "s3cret",
        "key": {"width": 7},
        "secret": None,
        "servers": [{"auth_token": "s3cret", "host": "x"}],
    },
}


def test_the_configuration_is_written_resolved_and_without_secrets(tmp_path: Path) -> None:
    overrides = ["seed=3", "logger.api_key=s3cret", "+logger={token: s3cret}", "batch.tokens=4096", "run.notes=a:b"]
    SavedRun.begin(tmp_path, COMPOSED.updated(dict(CONFIG), overrides))
    text = (tmp_path / "config.yaml").read_text() + (tmp_path / "overrides.yaml").read_text()
    assert "s3cret" not in text
    back = OmegaConf.to_container(OmegaConf.load(tmp_path / "config.yaml"))
    assert isinstance(back, dict)
    assert back["run"] == {"experiment": "translation/demo", "name": None, "tags": [], "notes": ""}
    assert back["batch"] == CONFIG["batch"]
    assert back["tokenizer"] == CONFIG["tokenizer"]
    assert back["logger"] == {"key": {"width": 7}, "secret": None, "servers": [{"host": "x"}]}
    assert OmegaConf.load(tmp_path / "overrides.yaml") == ["seed=3", "batch.tokens=4096", "run.notes=a:b"]


def test_what_yaml_would_misread_comes_back(tmp_path: Path) -> None:
    values = {"a": "no", "b": "012", "c": "1e3", "d": "null", "e": 1e-8, "f": [0.9, 0.98], "g": "", "h": "Füße: #1"}
    SavedRun.begin(tmp_path, COMPOSED.updated({"task.strange": values}))
    assert OmegaConf.load(tmp_path / "config.yaml").task.strange == values


@pytest.mark.parametrize(
    "argument", ["model.key_width=3", "tokens=4", "mask_token=x", "task=key", "data.text=my_token"]
)
def test_what_only_sounds_like_a_secret_is_kept(argument: str) -> None:
    assert public_arguments([argument]) == [argument]
    name, value = argument.split("=")
    tree = {name.rsplit(".", maxsplit=1)[-1]: value}
    assert without_secrets(tree) == tree


# Differences

TREES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-3, 3), st.text("ab", max_size=2), st.lists(st.integers(0, 2), max_size=2)
    ),
    lambda inner: st.dictionaries(st.sampled_from(["a", "b", "trainer", "log"]), inner, max_size=3),
    max_leaves=6,
)
CONFIGS = st.dictionaries(st.sampled_from(["model", "seed", "trainer", "run", "logger", "paths"]), TREES)


@given(CONFIGS, CONFIGS)
def test_differences_are_none_exactly_where_the_science_is_equal(
    old: dict[str, object], new: dict[str, object]
) -> None:
    assert differences(old, old) == []
    assert len(differences(old, new)) == len(differences(new, old))
    science = [{key: value for key, value in one.items() if key not in MACHINE} for one in (old, new)]
    # JSON keeps True apart from 1, which Python finds equal.
    assert (differences(old, new) == []) == (
        json.dumps(science[0], sort_keys=True) == json.dumps(science[1], sort_keys=True)
    )


def test_differences_worked_by_hand() -> None:
    old = {
        "seed": 1,
        "model": {"width": 256, "dropout": 0.1, "positions": {"base": 100}},
        "trainer": {"devices": 1},
        "log": {"every": "50step"},
        "logger": {"project": "a"},
        "run": {"name": "x", "notes": "", "tags": []},
        "logs": 1,
        "lr": 1.0,
    }
    new = {
        "seed": 1,
        "model": {"width": 512, "dropout": 0.1, "layers": [1, 2]},
        "trainer": {"devices": 4},
        "log": {"every": "9step"},
        "logger": None,
        "run": {"name": "x", "notes": "changed", "tags": ["b"]},
        "logs": 2,
        "lr": 1,
    }
    assert differences(old, new) == [
        "logs: 1 -> 2",
        "model.layers: (none) -> [1, 2]",
        "model.positions.base: 100 -> (none)",
        "model.width: 256 -> 512",
    ]


def test_what_is_still_being_made_is_no_run(tmp_path: Path) -> None:
    for name in ("a/first", "a/.second.17.tmp", ".b/third"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").touch()
    assert runs_in(tmp_path) == [tmp_path / "a" / "first"]
