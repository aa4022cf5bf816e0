"""Rules about the values of a configuration, each in a function of its own."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from etude.config.annotations import TARGET, shown
from etude.config.case import Case, join, leaves
from etude.config.choices import kinds_of
from etude.config.modules import resolve
from etude.config.nodes import INJECTED, PARTS
from etude.config.signatures import constant, makes, signature
from etude.config.values import within
from etude.duration import Duration
from etude.errors import ConfigurationError

SECTIONS: Mapping[str, int] = {
    "batch.tokens": 1,
    "batch.examples": 1,
    "batch.pool": 1,
    "checkpoint.keep_last": 2,
    "checkpoint.keep_best": 0,
    "stop.patience": 1,
    "stop.min_delta": 0,
    "log.stall_after": 2,
    "limit.train": 1,
    "limit.val": 1,
    "limit.test": 1,
}
"""Smallest sensible value of each number in the sections of the root."""

COUNTS: Mapping[str, Mapping[str, int]] = {
    "model": {
        "width": 1,
        "heads": 1,
        "layers": 1,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "feed_forward": 1,
        "max_length": 1,
        "segments": 1,
    },
    "decoding": {
        "beams": 1,
        "n_best": 1,
        "samples": 1,
        "fillers": 1,
        "top_k": 1,
        "min_length": 0,
        "max_length": 1,
    },
    "data": {"max_length": 1, "longest": 1},
    "tokenizer": {"vocabulary": 8},
    "finetune": {"rank": 1, "layers": 1},
    "trainer": {"devices": 1, "nodes": 1, "micro_batches": 1, "workers": 0},
}
"""Smallest sensible value of each count in etude's own classes, by group and argument."""

FRACTIONS: Mapping[str, frozenset[str]] = {
    "model": frozenset({"dropout", "attention_dropout", "activation_dropout"}),
    "task": frozenset({"head_dropout", "label_smoothing"}),
    "finetune": frozenset({"dropout", "decay"}),
    "callbacks": frozenset({"decay"}),
    "data": frozenset({"val_share", "test_share"}),
}
"""Arguments in [0, 1) of etude's own classes, by group."""

POSITIVE: Mapping[str, Mapping[str, float]] = {
    "model": {"logit_cap": math.inf},
    "decoding": {"temperature": math.inf, "top_p": 1.0, "alpha": math.inf},
    "task": {"alpha": math.inf},
    "finetune": {"alpha": math.inf},
    "distillation": {"temperature": math.inf},
}
"""Arguments above 0 of etude's own classes, by group, and the largest value of each."""

LARGEST_INTEGER = 2**63 - 1
LARGEST_FLOAT = 3.4028234663852886e38
"""Largest numbers of a signed 64-bit integer and of a 32-bit floating-point number."""

MOST_HEADS = 100_000
"""Numbers of heads that are tried in search of one that divides a width."""

ROTARY = "etude.models.layers.positions.Rotary"
POST_NORM = "etude.models.layers.residual.PostNorm"


def check_given(case: Case) -> None:
    """Refuse arguments that etude itself supplies to a task, a model and its parts, or a data module."""
    supplied = {**{group: INJECTED[group] for group in ("task", "model", "data")}, **PARTS}
    for key, names in supplied.items():
        node = case.get(key)
        for name in names & set(node if isinstance(node, Mapping) else ()):
            case.fail(join(key, name), f"cannot be given: etude gives it to {node[TARGET]}")


def check_numbers(case: Case) -> None:
    """Refuse numbers beyond 64-bit integers and 32-bit floating-point numbers, and negative seeds."""
    for key, value in leaves("", case.values):
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            case.fail(key, f"= {shown(value)} is too large: the largest whole number is {LARGEST_INTEGER}")
        if isinstance(value, float) and LARGEST_FLOAT < abs(value) < math.inf:
            case.fail(key, f"= {shown(value)} is too large: the largest number of 32 bits is {LARGEST_FLOAT:.1e}")
    seed = case.get("seed")
    if isinstance(seed, int) and seed < 0:
        case.fail("seed", f"= {seed} is negative; write 0 or more")


def check_counts(case: Case) -> None:
    """Refuse counts below their smallest value, and fractions outside [0, 1)."""
    for key, smallest in SECTIONS.items():
        _check_count(case, key, case.get(key), smallest)
    for key, node in _own_nodes(case):
        group = key.partition(".")[0]
        counts, positive = COUNTS.get(group, {}), POSITIVE.get(group, {})
        for name, value in node.items():
            if name in counts:
                _check_count(case, join(key, name), value, counts[name])
            if not _is_number(value):
                continue
            if name in FRACTIONS.get(group, ()) and not 0 <= value < 1:
                case.fail(join(key, name), f"= {value} is not in [0, 1)")
            if name in positive and not 0 < value <= positive[name]:
                most = "" if positive[name] == math.inf else f" and at most {positive[name]:g}"
                case.fail(join(key, name), f"= {value} is out of range; write more than 0{most}")
    rate, target = case.get("optimizer.lr"), str(case.get(f"optimizer.{TARGET}"))
    if _is_number(rate) and rate <= 0 and not within(target, case.trusted):
        case.fail("optimizer.lr", f"= {rate} is not positive")


def _own_nodes(case: Case) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the nodes of etude's own classes: of others, the names of arguments say nothing."""
    for key, node in case.mappings:
        if within(str(node.get(TARGET)), ("etude",)):
            yield key, node


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_count(case: Case, key: str, value: Any, smallest: int) -> None:
    if _is_number(value) and value < smallest:
        case.fail(key, f"= {value} is too small; write at least {smallest}")


def check_heads(case: Case) -> None:
    """Refuse heads that do not divide the width."""
    for key, node in _own_nodes(case):
        width, heads = node.get("width"), node.get("heads")
        if isinstance(width, int) and isinstance(heads, int) and width % heads:
            divisors = [count for count in range(1, min(width, MOST_HEADS) + 1) if width % count == 0]
            nearest = min(divisors, key=lambda count: abs(count - heads))
            advice = f"try {join(key, 'heads')}={nearest}"
            case.fail(join(key, "heads"), f"= {heads} does not divide {join(key, 'width')} = {width}; {advice}")


def check_lengths(case: Case) -> None:
    """Refuse more results than beams, and a shortest output that is not below the longest."""
    n_best, beams = case.get("decoding.n_best"), case.get("decoding.beams")
    if isinstance(n_best, int) and isinstance(beams, int) and n_best > beams:
        case.fail("decoding.n_best", f"= {n_best} is more than decoding.beams = {beams}; write decoding.beams={n_best}")
    least, most = case.get("decoding.min_length"), case.get("decoding.max_length")
    if isinstance(least, int) and isinstance(most, int) and least >= most:
        room = f"write decoding.min_length={most - 1} or less"
        case.fail("decoding.min_length", f"= {least} leaves no room below decoding.max_length = {most}; {room}")


def check_rotation(case: Case) -> None:
    """Refuse rotary positions where the width of a head is odd."""
    for key, node in _own_nodes(case):
        width, heads, target = node.get("width"), node.get("heads"), join(key, f"positions.{TARGET}")
        if not isinstance(width, int) or not isinstance(heads, int) or case.get(target) != ROTARY:
            continue
        if width // heads % 2:
            odd = f"{join(key, 'width')} / {join(key, 'heads')} = {width // heads} is odd"
            better = f"try {join(key, 'width')}={width + heads}"
            case.fail(target, f"= {ROTARY} turns pairs of elements, but {odd}; {better}")


def check_zero_residual(case: Case) -> None:
    """Refuse sublayers that start at zero where their sums are normalised: such a layer is not the identity."""
    for key, node in _own_nodes(case):
        if node.get("zero_residual") is True and case.get(join(key, f"residual.{TARGET}")) == POST_NORM:
            norm = "needs layers that start as the identity, and PostNorm normalises their sums"
            better = f"write {key}/residual=pre_norm or {join(key, 'zero_residual')}=false"
            case.fail(join(key, "zero_residual"), f"= true {norm}; {better}")


def check_batch(case: Case) -> None:
    """Require exactly one size of the batch."""
    tokens, examples = case.get("batch.tokens"), case.get("batch.examples")
    if tokens is not None and examples is not None:
        both = f"= {examples} is given besides batch.tokens = {tokens}; add batch.tokens=null or batch.examples=null"
        case.fail("batch.examples", both)
    if tokens is None and examples is None:
        case.fail("batch", "has no size; write batch.tokens=4096 or batch.examples=32")


def check_shuffle(case: Case) -> None:
    """Require a pool where the order is computed a pool at a time."""
    if case.get("batch.shuffle") == "keyed" and case.get("batch.pool") is None:
        case.fail("batch.shuffle", "= keyed sorts one pool at a time, and batch.pool is null; write batch.pool=50")


def check_budget(case: Case) -> None:
    """Refuse an empty budget, empty intervals, and a warmup whose unit is not comparable with the budget's."""
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
    """Require steps between the parts that gradual unfreezing trains: a run may not depend on the machine's speed."""
    text = case.get("finetune.every")
    if text is None:
        return
    every = _duration(case, "finetune.every", text)
    if not every.amount or every.unit == "second":
        case.fail(
            "finetune.every", f"= {text} is not a number of steps above 0; write step, epoch or tok, such as 1epoch"
        )


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


def check_distillation(case: Case) -> None:
    """Refuse a teacher's weight outside [0, 1], and two passes besides a teacher: both replace the loss of the labels."""
    weight, consistency = case.get("distillation.weight"), case.get(f"task.consistency.{TARGET}")
    if _is_number(weight) and not 0 <= weight <= 1:
        case.fail("distillation.weight", f"= {weight} is out of range; write 0 to 1, such as 0.5")
    if consistency is not None and case.get("distillation") is not None:
        both = "replaces the loss, and so does distillation"
        case.fail(
            f"task.consistency.{TARGET}", f"= {consistency} {both}; write task.consistency=null or distillation=none"
        )


def check_task_and_data(case: Case) -> None:
    """Compare the batches of the data, or of the parts of a mixture, with those of the task, by their `BATCH`."""
    task, data = case.get(f"task.{TARGET}"), case.get(f"data.of.{TARGET}") or case.get(f"data.{TARGET}")
    expected, actual = constant(task, "BATCH"), constant(data, "BATCH")
    if expected and actual and expected != actual:
        names = f"{task.rpartition('.')[2]} takes {expected}, but data ({data.rpartition('.')[2]}) gives {actual}"
        case.fail(f"task.{TARGET}", f"= {task} does not fit the data: {names}; choose another data=… or task=…")


def check_task_and_parts(case: Case) -> None:
    """Check model, decoding and scheduler against the annotations of the task."""
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
            target = node[TARGET]
            case.fail(f"{group}.{TARGET}", f"= {target} does not fit the task: {name} takes {parameter.annotation}")


def check_non_finite(case: Case) -> None:
    """Check the non-finite policy against its base class."""
    policy, node = resolve("etude.tasks.non_finite.NonFinitePolicy"), case.get("non_finite")
    if policy is not None and node is not None and not makes(node[TARGET], policy):
        case.fail(
            f"non_finite.{TARGET}",
            f"= {node[TARGET]} does not derive from {policy.dotted}; choose non_finite=stop or skip",
        )


def check_kinds(case: Case) -> None:
    """Check the node of each group against the kinds of the group, unless its class is a trusted one."""
    for key, node in case.mappings:
        kinds, target = kinds_of(key), str(node.get(TARGET))
        definition = resolve(target) if kinds and TARGET in node else None
        if definition is None or within(definition.dotted, case.trusted):
            continue
        if not any(kind.includes(definition) for kind in kinds):
            bases = " or ".join(kind.base for kind in kinds)
            case.fail(f"{key}.{TARGET}", f"= {target} does not derive from {bases}; choose {key.partition('.')[0]}=…")


def check_metric(case: Case) -> None:
    """Check `validate.metric` against the task's metrics: its `METRICS`, or those under `task.metrics`."""
    metric, task = case.get("validate.metric"), case.get(f"task.{TARGET}")
    metrics = validation_metrics(case.get("task"))
    parts = case.get("data.parts")
    if metrics is not None and isinstance(parts, Mapping):
        metrics = (*metrics, *(f"val/{part}/{name.removeprefix('val/')}" for part in parts for name in metrics))
    pairs = case.get("data.pairs")
    if metrics is not None and isinstance(pairs, list):
        metrics = (*metrics, *(f"{name}_{pair}" for pair in pairs for name in metrics))
    if metrics is not None and metric not in metrics:
        close = difflib.get_close_matches(metric, metrics, 1)
        advice = f"did you mean {close[0]}?" if close else f"it has {', '.join(metrics)}"
        case.fail("validate.metric", f"= {metric} is not a metric of {task.rpartition('.')[2]}; {advice}")


def validation_metrics(task: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the names of a task's scores in validation; None for a task that does not tell them.

    Args:
        task: Node of the task.
    """
    if isinstance(task.get("metrics"), Mapping):
        return ("val/loss", *_metrics(task["metrics"]))
    names: tuple[str, ...] | None = constant(task[TARGET], "METRICS")
    return names


def _metrics(nodes: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the metrics' scores in validation, one for each of the `PARTS` of a metric's class."""
    for name, node in nodes.items():
        for part in constant(node[TARGET], "PARTS") or ("",):
            yield f"val/{name}_{part}" if part else f"val/{name}"


RULES: tuple[Callable[[Case], None], ...] = (
    check_numbers,
    check_given,
    check_counts,
    check_heads,
    check_lengths,
    check_rotation,
    check_zero_residual,
    check_batch,
    check_shuffle,
    check_budget,
    check_average,
    check_unfreezing,
    check_distillation,
    check_task_and_data,
    check_task_and_parts,
    check_non_finite,
    check_kinds,
    check_metric,
)
"""All rules in order: each may rely on those before it."""
