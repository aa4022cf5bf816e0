"""A sweep as the file that `wandb sweep` takes: W&B chooses the values, and its agents run `etude train` with them.

A file of W&B says less than one of `conf/search/`: each parameter is one key, which every run has.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from etude.config.schema import Config
from etude.config.values import public_arguments
from etude.errors import ConfigurationError
from etude.sweeps.pruners import Hyperband, Median
from etude.sweeps.searchers import CMAES, TPE, Grid, Random
from etude.sweeps.space import Range, SearchParameter, Values
from etude.sweeps.sweep_plan import SweepPlan

_METHODS = {Grid: "grid", Random: "random", TPE: "bayes", CMAES: "bayes"}
_GOALS = {"min": "minimize", "max": "maximize"}
_MOST_VALUES = 100
"""A range of more numbers than these is no list of values."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
"""What W&B lets a parameter be called."""


def wandb_configuration(plan: SweepPlan, config: Config) -> dict[str, Any]:
    """Return a sweep as W&B's configuration of one.

    Args:
        plan: The sweep.
        config: Configuration of one of its members: what is logged, and where.

    Raises:
        ConfigurationError: If W&B cannot do what the plan says; says what, and what to write.
    """
    _refuse_what_only_etude_does(plan)
    stage = plan.stages[-1]
    logger = config.logger["wandb"].arguments if "wandb" in config.logger else {}
    if not logger:
        raise ConfigurationError("W&B judges what is logged to it, but these runs are not; write logger=wandb")
    parameters = dict(_parameter(one, plan) for one in stage.space.parameters)
    if plan.settings.seeds:
        parameters["seed"] = {"values": list(plan.settings.seeds)}
    if not parameters:
        raise ConfigurationError("nothing varies, which W&B does not call a sweep; write search=NAME, or seed=1,2,3")
    folder = [] if plan.extra is None else [f"--config-dir={plan.extra.resolve()}"]
    program = ["${env}", "${program}", "train", *folder, *public_arguments(stage.words), "${args_no_hyphens}"]
    return {
        "name": plan.name,
        **{key: logger[key] for key in ("project", "entity") if logger.get(key)},
        "method": _METHODS[type(plan.searcher)],
        **({"run_cap": plan.settings.trials} if plan.searched else {}),
        "metric": {"name": config.validate.metric, "goal": _GOALS[config.validate.mode]},
        "parameters": parameters,
        **_early_terminate(plan),
        "program": "etude",
        "command": program,
    }


def as_yaml(plan: SweepPlan, config: Config) -> str:
    """Return the file that `wandb sweep` takes, with a comment that says what W&B does otherwise.

    Raises:
        ConfigurationError: See `wandb_configuration`.
    """
    body = yaml.safe_dump(wandb_configuration(plan, config), sort_keys=False, allow_unicode=True, width=120)
    return "".join(f"# {line}\n" for line in notes(plan)) + body


def notes(plan: SweepPlan) -> list[str]:
    """Return what a reader of the file should know, a line each."""
    lines = ["wandb sweep FILE says the sweep's id; on each machine, in the folder of the runs: wandb agent ID"]
    if isinstance(plan.searcher, TPE | CMAES):
        kind = "tpe" if isinstance(plan.searcher, TPE) else "cmaes"
        lines.append(f"method: bayes is W&B's own, a Gaussian process, in place of searcher={kind}")
    if len(public_arguments(plan.command)) < len(plan.command):
        lines.append("a word with a secret is left out: give it to the agents by the environment")
    return lines


def _refuse_what_only_etude_does(plan: SweepPlan) -> None:
    problems = {
        "has stages": len(plan.stages) > 1,
        "has sweep.reject=true": plan.settings.reject,
        f"has sweep.seeds={plan.settings.seeds} and no searcher=grid": bool(plan.settings.seeds) and plan.searched,
        "has pruner=median, where W&B has pruner=hyperband": isinstance(plan.pruner, Median),
    }
    for problem, applies in problems.items():
        if applies:
            raise ConfigurationError(f"the sweep {problem}: W&B cannot do that; leave it out, or run it by etude sweep")


def _early_terminate(plan: SweepPlan) -> dict[str, Any]:
    if not isinstance(plan.pruner, Hyperband):
        return {}
    return {"early_terminate": {"type": "hyperband", "min_iter": plan.pruner.minimum, "eta": plan.pruner.reduction}}


def _parameter(parameter: SearchParameter, plan: SweepPlan) -> tuple[str, dict[str, Any]]:
    """Return a parameter's name in W&B and what it may be."""
    if parameter.when:
        raise ConfigurationError(
            f"{parameter.name} of the search space depends on {', '.join(parameter.when)}: in W&B each run has each "
            f"parameter; fix it, {parameter.name}=VALUE, or run the sweep by etude sweep"
        )
    if isinstance(parameter.domain, Values):
        name, domain = _values(parameter.name, parameter.domain)
    elif plan.searched:
        name, domain = parameter.name, _distribution(parameter.name, parameter.domain)
    else:
        name, domain = parameter.name, {"values": list(parameter.domain.grid() or ())}
    name = name.replace("/", ".")  # of a group: `etude train` reads both
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"W&B knows no parameter called {name}; fix it: {name}=VALUE")
    return name, domain


def _values(name: str, domain: Values) -> tuple[str, dict[str, Any]]:
    """Return the key that all values set, and the values."""
    words = [given for given in domain.options.values() if len(given) == 1]
    keys = {word.partition("=")[0].lstrip("+") for (word,) in words}
    if len(words) < len(domain.options) or len(keys) > 1:
        raise ConfigurationError(
            f"{name} of the search space sets several keys at once, which a parameter of W&B cannot; fix them, "
            f"or run the sweep by etude sweep"
        )
    parser = OverridesParser.create()
    values = [parser.parse_override(word).value() for (word,) in words]
    if any("${" in word for (word,) in words):
        raise ConfigurationError(f"{name} of the search space refers to another value, which a sweep of W&B cannot")
    return keys.pop(), {"values": values}


def _distribution(name: str, domain: Range) -> dict[str, Any]:
    low, high, step = domain.low, domain.high, domain.step
    if domain.log and domain.whole:
        return {"distribution": "q_log_uniform_values", "q": 1, "min": low, "max": high}
    if domain.log:
        return {"distribution": "log_uniform_values", "min": float(low), "max": float(high)}
    if step is None or (domain.whole and step == 1):
        kind = int if domain.whole else float
        return {"distribution": "int_uniform" if domain.whole else "uniform", "min": kind(low), "max": kind(high)}
    numbers = list(domain.grid() or ())
    if math.isclose(low / step, round(low / step), abs_tol=1e-9):  # W&B draws multiples of q
        return {"distribution": "q_uniform", "q": step, "min": low, "max": numbers[-1]}
    if len(numbers) <= _MOST_VALUES:
        return {"values": numbers}
    raise ConfigurationError(
        f"{name} of the search space counts in steps of {step} from {low}: W&B counts from 0; begin at a multiple of {step}"
    )
