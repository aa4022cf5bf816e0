"""How long a command takes to its first useful moment: `python -m tests.bench.start_up [--rounds 5]`.

All contenders by turns, each in a new process, by the CPU time of the process (neighbours hardly change it) and by the clock:

    torch       `import torch`
    lightning   `import lightning`
    etude       `import etude`
    train       `etude train` of a prepared experiment, until the end of the first step
    predict     `etude predict RUN`, until it has answered one line and ended

One JSON object has the medians, and the ratios of each round with their spread: train over lightning, predict over torch.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning

BEGAN, RESULT = "ETUDE_BENCH_BEGAN", "ETUDE_BENCH_RESULT"
TRAINING = ("train", "experiment=classification/demo", "logger=none", "trainer=cpu", "trainer.progress_bar=false")


class FirstStep(lightning.Callback):
    """Writes the time of the first step, since the process was started, and ends the training."""

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        taken = {"cpu": time.process_time(), "wall": time.time() - float(os.environ[BEGAN])}
        Path(os.environ[RESULT]).write_text(json.dumps(taken))
        os._exit(0)


def command_time(words: list[str], folder: Path, text: str = "") -> dict[str, float]:
    """Return the seconds that a Python process takes, or those that it writes to the result's file."""
    result, before = folder / "result.json", resource.getrusage(resource.RUSAGE_CHILDREN)
    result.unlink(missing_ok=True)
    began = time.time()
    told = {**os.environ, BEGAN: repr(began), RESULT: str(result)}
    subprocess.run(
        [sys.executable, *words], input=text, text=True, env=told, cwd=folder, check=True, capture_output=True
    )
    wall, after = time.time() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if result.is_file():
        return dict(json.loads(result.read_text()))
    return {"cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, "wall": wall}


def contenders(folder: Path) -> dict[str, tuple[list[str], str]]:
    """Return the words and the input of each contender; a run is trained for two steps first, which fills the cache."""
    etude = ["-m", "etude"]
    trained = subprocess.run(
        [sys.executable, *etude, *TRAINING, "budget=2step"], cwd=folder, check=True, capture_output=True, text=True
    )
    first = ["trust=[tests]", "+callbacks.first._target_=tests.bench.start_up.FirstStep"]
    return {
        "torch": (["-c", "import torch"], ""),
        "lightning": (["-c", "import lightning"], ""),
        "etude": (["-c", "import etude"], ""),
        "train": ([*etude, *TRAINING, *first], ""),
        "predict": ([*etude, "predict", trained.stdout.strip()], "Delete this file?\n"),
    }


def main() -> None:
    """Measure, and write one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as name:
        commands = contenders(Path(name))
        taken: dict[str, list[dict[str, float]]] = {contender: [] for contender in commands}
        for _ in range(rounds):
            for contender, (words, text) in commands.items():
                taken[contender].append(command_time(words, Path(name), text))
                sys.stderr.write(f"{contender} {taken[contender][-1]}\n")
    found: dict[str, Any] = {"rounds": rounds}
    for clock in ("cpu", "wall"):
        medians = {name: statistics.median(one[clock] for one in times) for name, times in taken.items()}
        found |= {f"{name}_{clock}_s": round(seconds, 2) for name, seconds in medians.items()}
        for name, base in (("train", "lightning"), ("predict", "torch")):
            ratios = sorted(mine[clock] / its[clock] for mine, its in zip(taken[name], taken[base], strict=True))
            found[f"{name}_{clock}_over_{base}"] = round(statistics.median(ratios), 3)
            found[f"{name}_{clock}_ratios"] = [round(ratio, 3) for ratio in ratios]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
