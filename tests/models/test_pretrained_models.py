"""Pretrained models as a configuration describes them: the class that each builds is known before it is built."""

from __future__ import annotations

from pathlib import Path
from typing import get_type_hints

import pytest
from torch import nn

from etude.config.modules import resolve
from etude.config.signatures import makes
from etude.errors import ConfigurationError
from etude.models.base import EncoderDecoder, TextDecoder, TextEncoder
from etude.models.wrapped.huggingface import HuggingFace
from etude.tasks.causal_lm import CausalLM
from etude.tasks.classification import Classification
from etude.tasks.masked_lm import MaskedLM
from etude.tasks.multilabel import Multilabel
from etude.tasks.question_answering import QuestionAnswering
from etude.tasks.regression import Regression
from etude.tasks.translation import Translation
from etude.types import Facts

INTERFACES = (TextEncoder, TextDecoder, EncoderDecoder)
ANY = set(INTERFACES)


@pytest.mark.parametrize(
    ("target", "possible"),
    [
        ("pretrained.bert.PretrainedBert", {TextEncoder}),
        ("pretrained.gpt2.PretrainedGPT2", {TextDecoder}),
        ("pretrained.bart.PretrainedBart", {EncoderDecoder}),
        ("pretrained.auto.AutoPretrained", ANY),
        ("pretrained.base.PretrainedModel", ANY),
        ("wrapped.huggingface.HuggingFace", ANY),
        ("encoder.Encoder", {TextEncoder}),
    ],
)
def test_the_annotation_of_build_decides_which_tasks_a_model_fits(target: str, possible: set[type[nn.Module]]) -> None:
    for interface in INTERFACES:
        definition = resolve(f"{interface.__module__}.{interface.__qualname__}")
        assert definition is not None
        assert makes(f"etude.models.{target}", definition) == (interface in possible)


@pytest.mark.parametrize(
    "task", [CausalLM, Classification, MaskedLM, Multilabel, QuestionAnswering, Regression, Translation]
)
def test_a_task_declares_the_interface_that_its_constructor_takes(task: type) -> None:
    assert task.MODEL is get_type_hints(task.__init__)["model"]  # type: ignore[attr-defined, misc]


def test_a_task_of_another_interface_is_refused_before_any_file_is_read(tmp_path: Path) -> None:
    model = HuggingFace(str(tmp_path / "absent"))
    with pytest.raises(ConfigurationError, match="the task takes a Linear, and model=huggingface makes a TextEncoder"):
        model.build(Facts(vocabulary=5, pad=0, bos=1, eos=2), nn.Linear)
