"""What must hold between the values of a configuration, each rule in a function of its own."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from etude.config.annotations import TARGET
from etude.config.case import Case, join
from etude.config.modules import resolve
from etude.config.nodes import INJECTED, PARTS
from etude.config.signatures import constant, makes, signature
from etude.duration import Duration
from etude.errors import ConfigurationError

SMALLEST = {
    "beams": 1,
    "n_best": 1,
    "samples": 1,
    "fillers": 1,
    "longest": 1,
    "top_k": 1,
    "min_length": 0,
    "layers": 1,
    "segments": 1,
    "rank": 1,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "heads": 1,
    "width": 1,
    "feed_forward": 1,
    "max_length": 1,
    "vocabulary": 8,
    "devices": 1,
    "nodes": 1,
    "micro_batches": 1,
    "pool": 1,
    "workers": 0,
    "tokens": 1,
    "examples": 1,
    "keep_last": 2,
    "keep_best": 0,
    "patience": 1,
    "min_delta": 0,
    "train": 1,
    "val": 1,
    "test": 1,
}
"""The smallest sensible value of each count, wherever a whole number has that name."""

FRACTIONS = frozenset(
    {
        "dropout",
        "attention_dropout",
        "activation_dropout",
        "head_dropout",
        "label_smoothing",
        "decay",
        "val_share",
        "test_share",
    }
)
"""What lies in [0, 1), wherever a number has that name."""

POSITIVE = {"temperature": math.inf, "top_p": 1.0, "alpha": math.inf}
"""What is above 0, and at most this, wherever a number has that name."""

ROTARY = "etude.models.layers.positions.Rotary"


def check_given(case: Case) -> None:
    """Refuse arguments that etude itself gives to a task, a model and its parts, or a data module."""
    given = {**{group: INJECTED[group] for group in ("task", "model", "data")}, **PARTS}
    for key, names in given.items():
        node = case.get(key)
        for name in names & set(node if isinstance(node, Mapping) else ()):
            case.fail(join(key, name), f"cannot be given: etude gives it to {node[TARGET]}")


def check_counts(case: Case) -> None:
    """Hold counts above their smallest value, and probabilities inside [0, 1)."""
    for key, node in case.mappings():
        for name, value in node.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            smallest = SMALLEST.get(name)
            if smallest is not None and value < smallest:
                case.fail(join(key, name), f"= {value} is too small; write at least {smallest}")
            if name in FRACTIONS and not 0 <= value < 1:
                case.fail(join(key, name), f"= {value} is not in [0, 1)")
            if name in POSITIVE and not 0 < value <= POSITIVE[name]:
                most = "" if POSITIVE[name] == math.inf else f" and at most {POSITIVE[name]:g}"
                case.fail(join(key, name), f"= {value} is out of range; write more than 0{most}")
    rate = case.get("optimizer.lr")
    if isinstance(rate, int | float) and rate <= 0:
        case.fail("optimizer.lr", f"= {rate} is not positive")


def check_heads(case: Case) -> None:
    """Hold the width of a node divisible by its heads."""
    for key, node in case.mappings():
        width, heads = node.get("width"), node.get("heads")
        if isinstance(width, int) and isinstance(heads, int) and width % heads:
            fitting = [count for count in range(1, width + 1) if width % count == 0]
            best = min(fitting, key=lambda count: abs(count - heads))
            better = f"try {join(key, 'heads')}={best}"
            case.fail(join(key, "heads"), f"= {heads} does not divide {join(key, 'width')} = {width}; {better}")


def check_lengths(case: Case) -> None:
    """Hold what a search returns below what it keeps, and the shortest output below the longest."""
    n_best, beams = case.get("decoding.n_best"), case.get("decoding.beams")
    if isinstance(n_best, int) and isinstance(beams, int) and n_best > beams:
        case.fail("decoding.n_best", f"= {n_best} is more than decoding.beams = {beams}; write decoding.beams={n_best}")
    least, most = case.get("decoding.min_length"), case.get("decoding.max_length")
    if isinstance(least, int) and isinstance(most, int) and least >= most:
        room = f"write decoding.min_length={most - 1} or less"
        case.fail("decoding.min_length", f"= {least} leaves no room below decoding.max_length = {most}; {room}")


def check_rotation(case: Case) -> None:
    """Hold the width of a head even where it is turned in pairs of elements."""
    for key, node in case.mappings():
        width, heads, target = node.get("width"), node.get("heads"), join(key, f"positions.{TARGET}")
        if not isinstance(width, int) or not isinstance(heads, int) or case.get(target) != ROTARY:
            continue
        if width // heads % 2:
            odd = f"{join(key, 'width')} / {join(key, 'heads')} = {width // heads} is odd"
            better = f"try {join(key, 'width')}={width + heads}"
            case.fail(target, f"= {ROTARY} turns pairs of elements, but {odd}; {better}")


def check_batch(case: Case) -> None:
    """Ask for exactly one size of the batch."""
    tokens, examples = case.get("batch.tokens"), case.get("batch.examples")
    if tokens is not None and examples is not None:
        both = f"= {examples} is given besides batch.tokens = {tokens}; add batch.tokens=null or batch.examples=null"
        case.fail("batch.examples", both)
    if tokens is None and examples is None:
        case.fail("batch", "has no size; write batch.tokens=4096 or batch.examples=32")


def check_budget(case: Case) -> None:
    """Refuse a budget of nothing, intervals of nothing, and a warmup that the budget's unit cannot be compared with."""
    for key in ("budget", "validate.every", "checkpoint.every", "checkpoint.keep_every", "log.every"):
        if case.get(key) is not None and not Duration.parse(case.get(key)).amount:
            case.fail(
                key,
                f"= {case.get(key)} is nothing; write a length such as {'10epoch' if key == 'budget' else '50step'}",
            )
    text = case.get("scheduler.warmup")
    if text is None:
        return
    budget, warmup = Duration.parse(case.get("budget")), _duration(case, "scheduler.warmup", text)
    if warmup.amount and (budget.unit == "second") != (warmup.unit == "second"):
        unit = "seconds, such as 60s" if budget.unit == "second" else "step, epoch or tok"
        case.fail(
            "scheduler.warmup", f"= {text} cannot be compared with budget = {case.get('budget')}; write it in {unit}"
        )


def check_unfreezing(case: Case) -> None:
    """Ask for steps between the parts of a model that begin to train: what a run does at a step is no matter of speed."""
    text = case.get("finetune.every")
    if text is None:
        return
    every = _duration(case, "finetune.every", text)
    if not every.amount or every.unit == "second":
        case.fail("finetune.every", f"= {text} is no number of steps above 0; write step, epoch or tok, such as 1epoch")


def _duration(case: Case, key: str, text: Any) -> Duration:
    try:
        return Duration.parse(text)
    except ConfigurationError as error:
        case.fail(key, f"= {error}")


def check_average(case: Case) -> None:
    """Refuse averages of fewer than two checkpoints."""
    for name in ("last", "best"):
        small = [size for size in case.get(f"average.{name}") or () if size < 2]
        if small:
            case.fail(
                f"average.{name}", f"has {small[0]}, but an average is of 2 or more; write [3, 5], or [] for none"
            )


def check_task_and_data(case: Case) -> None:
    """Hold the batches that the data makes against those that the task takes: their `BATCH`."""
    task, data = case.get(f"task.{TARGET}"), case.get(f"data.{TARGET}")
    takes, makes = constant(task, "BATCH"), constant(data, "BATCH")
    if takes and makes and takes != makes:
        names = f"{task.rpartition('.')[2]} takes {takes}, but data ({data.rpartition('.')[2]}) gives {makes}"
        case.fail(f"task.{TARGET}", f"= {task} does not fit the data: {names}; choose another data=… or task=…")


def check_task_and_parts(case: Case) -> None:
    """Hold the model and the decoding against the annotations of the task that gets them."""
    task = signature(case.get(f"task.{TARGET}"))
    parameters: Mapping[str, Any] = task.parameters if task else {}
    name = task.name if task else ""
    decoding = parameters.get("decoding")
    if case.get("decoding") is not None and decoding is None:
        case.fail("decoding", f"is given, but {name} writes no sequences; choose decoding=none")
    if case.get("decoding") is None and decoding is not None and decoding.required:
        case.fail("decoding", f"is null, but {name} writes sequences; choose decoding=greedy or decoding=beam")
    for group in ("model", "decoding", "scheduler"):
        node, parameter = case.get(group), parameters.get(group)
        if node is not None and parameter is not None and not parameter.annotation.accepts(node):
            made = node[TARGET]
            case.fail(f"{group}.{TARGET}", f"= {made} does not fit the task: {name} takes {parameter.annotation}")


def check_guard(case: Case) -> None:
    """Hold what is done about numbers that are not finite against the class that a task asks for."""
    guard, node = resolve("etude.tasks.non_finite.NonFinitePolicy"), case.get("non_finite")
    if guard is not None and node is not None and not makes(node[TARGET], guard):
        case.fail(f"non_finite.{TARGET}", f"= {node[TARGET]} is no {guard.dotted}; choose non_finite=stop or skip")


def check_metric(case: Case) -> None:
    """Look for the metric that decides among those of the task: its `METRICS`, or those that `task.metrics` names."""
    metric, task = case.get("validate.metric"), case.get(f"task.{TARGET}")
    metrics = constant(task, "METRICS")
    if isinstance(case.get("task.metrics"), Mapping):
        metrics = ("val/loss", *_metrics(case.get("task.metrics")))
    if metrics is not None and metric not in metrics:
        close = difflib.get_close_matches(metric, metrics, 1)
        advice = f"did you mean {close[0]}?" if close else f"it has {', '.join(metrics)}"
        case.fail("validate.metric", f"= {metric} is no metric of {task.rpartition('.')[2]}; {advice}")


def _metrics(nodes: Mapping[str, Any]) -> Iterator[str]:
    """Yield the scores of metrics in validation: of each its name and the `PARTS` of its class."""
    for name, node in nodes.items():
        for part in constant(node[TARGET], "PARTS") or ("",):
            yield f"val/{name}_{part}" if part else f"val/{name}"


RULES: tuple[Callable[[Case], None], ...] = (
    check_given,
    check_counts,
    check_heads,
    check_lengths,
    check_rotation,
    check_batch,
    check_budget,
    check_average,
    check_unfreezing,
    check_task_and_data,
    check_task_and_parts,
    check_guard,
    check_metric,
)
"""Every rule, in the order in which they are asked: each may rely on the ones before."""
