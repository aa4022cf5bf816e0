"""One run over two nodes, each with an agent of torchrun: it has one folder, and is killed and continued as one run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from etude.runs.record import RECORD, read, series
from tests.conftest import ROOT
from tests.runs.processes import run

pytestmark = pytest.mark.slow

Overrides = Callable[..., list[str]]
NODES, EACH = 2, 2
SEVERAL = (f"trainer.nodes={NODES}", f"trainer.devices={EACH}", "trainer.oversubscribe=true", "model.dropout=0.0")


class Node(NamedTuple):
    """What the agent of a node left."""

    code: int
    out: str
    log: str

    @property
    def said(self) -> list[str]:
        """The lines in which etude says how a rank ended."""
        return [line for line in self.log.splitlines() if line.startswith("etude: ")]


def on_nodes(words: list[str], seconds: float = 200.0) -> list[Node]:
    """Run a command on two nodes, which are this machine."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    agent = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={NODES}", f"--nproc-per-node={EACH}"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    agents = [
        subprocess.Popen(
            [*agent, f"--node-rank={node}", "--master-addr=127.0.0.1", f"--master-port={port}", "-m", "etude", *words],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in range(NODES)
    ]
    left = []
    for process in agents:
        out, log = process.communicate(timeout=seconds)
        left.append(Node(process.returncode, out, log))
    return left


def test_a_run_over_nodes_is_one_run_that_is_killed_and_continued(overrides: Overrides, tmp_path: Path) -> None:
    dies = (
        "trust=[tests]",
        "++callbacks.dies._target_=tests.runs.misbehaving.DiesOnce",
        "++callbacks.dies.rank=3",
        "++callbacks.dies.step=6",
        f"++callbacks.dies.marker={tmp_path}/died",
    )
    short = ("task.head_dropout=0.0", "checkpoint.every=2step", "run.name=x")
    words = ["train", *overrides("classification", *SEVERAL, *short, *dies)]
    left = on_nodes(words)
    assert all(node.code for node in left), left
    assert (tmp_path / "died").exists()
    folders = list((tmp_path / "outputs" / "classification" / "demo").iterdir())
    assert [folder.name for folder in folders] == ["x"]
    assert not (folders[0] / "finished.json").exists()
    again = on_nodes(words)
    assert [node.code for node in again] == [0, 0], again
    assert [node.out for node in again] == [f"{folders[0]}\n", ""]  # from the first rank alone
    alone = run(tmp_path / "one", ["train", *overrides("classification", "model.dropout=0.0", *short[:2])])
    one = Path(alone.out.strip())
    steps, losses = series(read(folders[0] / RECORD), "train/loss")
    assert steps == list(range(1, 9))
    assert losses == pytest.approx(series(read(one / RECORD), "train/loss")[1], abs=1e-5)
    scores = [json.loads((folder / "finished.json").read_text())["scores"] for folder in (folders[0], one)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_a_rank_of_another_node_that_hangs_is_named_once(overrides: Overrides, tmp_path: Path) -> None:
    hanging = ("trust=[tests]", "++callbacks.hanging._target_=tests.runs.misbehaving.HangingRank")
    where = ("++callbacks.hanging.rank=2", "++callbacks.hanging.step=3", "++callbacks.hanging.place=on_before_backward")
    words = overrides("classification", *SEVERAL, *hanging, *where, "trainer.timeout=4s", "run.name=x")
    left = on_nodes(["train", *words])
    assert all(node.code for node in left), left
    (said,) = [line for node in left for line in node.said]
    assert "rank 2 of 4 kept the others waiting for 4s" in said
    assert "rank 2 is in the backward pass of step 3, in hang (misbehaving.py:" in said
