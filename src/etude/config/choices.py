"""The kinds of classes that a configuration may name; every other class and all functions are refused.

A class is of a kind if it derives from the kind's base class, or has the methods of its protocol, and is defined in its
package. A new class needs no entry here.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass

from etude.config.modules import Definition, resolve
from etude.config.schema import MAPPINGS
from etude.config.signatures import ancestry, has_decorator, is_protocol


@dataclass(frozen=True)
class Kind:
    """A kind of classes that are meant to be chosen.

    Attributes:
        base: Dotted name of their base class or protocol.
        package: Dotted name of the package that defines them.
        itself: Whether the base class is a choice too.
    """

    base: str
    package: str
    itself: bool = False

    def includes(self, definition: Definition) -> bool:
        """Return whether a definition is a class of this kind."""
        if not isinstance(definition.node, ast.ClassDef) or not _inside(definition.dotted, self.package):
            return False
        lineage = list(ancestry(definition))
        if self.base in {owner.dotted for owner in lineage}:
            return self.itself or definition.dotted != self.base
        base = resolve(self.base)
        if base is None or not is_protocol(base):
            return False
        return _methods(base) <= {name for owner in lineage for name in _methods(owner)}


GROUPS: Mapping[str, tuple[Kind, ...]] = {
    "task": (Kind("etude.tasks.base.Task", "etude.tasks"),),
    "model": (
        Kind("etude.models.base.EncoderDecoder", "etude.models"),
        Kind("etude.models.base.TextEncoder", "etude.models"),
        Kind("etude.models.base.TextDecoder", "etude.models"),
        Kind("etude.models.pretrained.base.PretrainedModel", "etude.models"),
    ),
    "data": (Kind("etude.data.base.PlannedData", "etude.data"),),
    "tokenizer": (Kind("etude.tokenization.base.TokenizerRecipe", "etude.tokenization"),),
    "optimizer": (
        Kind("torch.optim.optimizer.Optimizer", "torch.optim"),
        Kind("torch.optim.optimizer.Optimizer", "etude.optim"),
    ),
    "scheduler": (Kind("etude.optim.schedules.Schedule", "etude.optim"),),
    "finetune": (Kind("etude.optim.finetune.base.Finetune", "etude.optim"),),
    "distillation": (Kind("etude.models.losses.distillation.Distillation", "etude.models.losses", itself=True),),
    "decoding": (
        Kind("etude.models.generation.search.Search", "etude.models.generation"),
        Kind("etude.tasks.fill_mask.MaskedAnswers", "etude.tasks"),
    ),
    "trainer": (Kind("etude.training.machine.Machine", "etude.training", itself=True),),
    "logger": (
        Kind("etude.training.loggers.base.Tracker", "etude.training.loggers"),
        Kind("lightning.pytorch.loggers.logger.Logger", "lightning.pytorch.loggers"),
    ),
    "non_finite": (Kind("etude.tasks.non_finite.NonFinitePolicy", "etude.tasks"),),
    "callbacks": (
        Kind("lightning.pytorch.callbacks.callback.Callback", "etude.training.callbacks"),
        Kind("lightning.pytorch.callbacks.callback.Callback", "lightning.pytorch.callbacks"),
    ),
}
"""The kinds of each group: what the group's own node may name. `callbacks` and `logger` are mappings of such nodes."""

PARTS = (
    Kind("torch.nn.modules.module.Module", "torch.nn"),
    Kind("torch.nn.modules.module.Module", "etude.models"),
    Kind("etude.models.generation.length_penalty.LengthPenalty", "etude.models.generation"),
    Kind("etude.models.losses.consistency.Consistency", "etude.models.losses"),
    Kind("etude.data.prepare.Corpus", "etude.data.corpora"),
    Kind("etude.data.masking.Masking", "etude.data"),
    Kind("etude.data.subword_regularization.Sampling", "etude.data"),
    Kind("etude.data.class_weights.ClassWeights", "etude.data"),
    Kind("etude.tokenization.windows.Windows", "etude.tokenization", itself=True),
    Kind("etude.metrics.text_metrics.TextMetric", "etude.metrics"),
    Kind("etude.metrics.classification.ClassMetric", "etude.metrics"),
    Kind("etude.metrics.multilabel.MultilabelMetric", "etude.metrics"),
    Kind("etude.metrics.regression.NumberMetric", "etude.metrics"),
    Kind("etude.metrics.tagging.TagMetric", "etude.metrics"),
    Kind("torchmetrics.metric.Metric", "torchmetrics"),
    Kind("lightning.pytorch.profilers.profiler.Profiler", "lightning.pytorch.profilers"),
)
"""The kinds of the parts that nodes inside a group's node may name, besides those of the groups."""

CHOICES = (*(kind for kinds in GROUPS.values() for kind in kinds), *PARTS)


def is_choice(definition: Definition) -> bool:
    """Return whether a definition is of a kind that a configuration may name."""
    return any(kind.includes(definition) for kind in CHOICES)


def kinds_of(key: str) -> tuple[Kind, ...]:
    """Return the kinds of the node at a dotted key; none for a part, whose place's annotation says what it takes."""
    group, _, inner = key.partition(".")
    is_group = "." not in inner and bool(inner) if group in MAPPINGS else not inner
    return GROUPS.get(group, ()) if is_group else ()


def _inside(dotted: str, package: str) -> bool:
    return dotted.startswith(f"{package}.")


def _methods(definition: Definition) -> set[str]:
    """Return the names of a class's methods, without properties: those may be attributes, which a class's body need not show."""
    body = definition.node.body if isinstance(definition.node, ast.ClassDef) else []
    return {node.name for node in body if isinstance(node, ast.FunctionDef) and not has_decorator(node, "property")}
