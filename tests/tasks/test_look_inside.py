"""What a task shows of its model's attention is what the model computed."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import pytest
import torch

from etude.errors import ConfigurationError
from etude.models.encoder import Encoder
from etude.models.generation.search import Greedy
from etude.models.layers.attention import Attend
from etude.models.seq2seq import Seq2Seq
from etude.optim.schedules import Constant
from etude.report.look import attention_task, look
from etude.tasks.attention_maps import ShowsAttention
from etude.tasks.base import Task
from etude.tasks.classification import Classification
from etude.tasks.masked_lm import MaskedLM
from etude.tasks.token_classification import TokenClassification
from etude.tasks.translation import Translation
from etude.tokenization.trained import Bytes
from etude.types import Facts

SHAPE: dict[str, Any] = {"width": 22, "heads": 2, "feed_forward": 31, "dropout": 0.3, "max_length": 19}
TOKENIZER = Bytes().build(iter(()))
FACTS = Facts(TOKENIZER.vocabulary, TOKENIZER.pad, TOKENIZER.bos, TOKENIZER.eos, TOKENIZER.mask, ("a", "b"))
OTHERS: dict[str, Any] = {"optimizer": partial(torch.optim.SGD, lr=0.1), "scheduler": Constant(warmup="1step")}


def translation() -> Translation:
    torch.manual_seed(1)
    model = Seq2Seq(FACTS, encoder_layers=2, decoder_layers=3, **SHAPE)
    return Translation(FACTS, model, decoding=Greedy(max_length=7), **OTHERS).eval()


def encoder_task(kind: type[Classification] | type[MaskedLM] | type[TokenClassification]) -> Task:
    torch.manual_seed(1)
    return kind(FACTS, Encoder(FACTS, layers=2, **SHAPE), **OTHERS).eval()


def fused(task: Task) -> dict[str, tuple[Any, Any]]:
    """What each attention is given and returns, by its name, in the pass that comes last."""
    seen: dict[str, tuple[Any, Any]] = {}
    for name, module in task.model.named_modules():
        if isinstance(module, Attend):
            place = name.removesuffix(".attend")
            module.register_forward_hook(lambda _, given, out, place=place: seen.update({place: (given, out)}))
    return seen


@pytest.mark.parametrize(
    "task", [translation(), encoder_task(Classification), encoder_task(MaskedLM), encoder_task(TokenClassification)]
)
def test_the_weights_times_the_values_are_what_the_fused_attention_returned(task: Task) -> None:
    seen = fused(task)
    assert isinstance(task, ShowsAttention)
    shown = task.look_inside("Größe, 5", "a size" if isinstance(task, Translation) else None, TOKENIZER)
    assert set(seen) == {one.name for one in shown.maps}
    for one in shown.maps:
        (_, _, values, *_), out = seen[one.name]
        assert one.weights.shape == (2, len(one.rows), len(one.columns))
        torch.testing.assert_close(one.weights @ values[0], out[0], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(one.weights.sum(dim=2), torch.ones(2, len(one.rows)), rtol=1e-6, atol=1e-6)
        if one.name.startswith("decoder.") and not one.cross:
            assert one.weights.triu(1).count_nonzero() == 0


def test_the_target_is_given_or_the_run_s_own() -> None:
    task = translation()
    given = task.look_inside("files", "ab", TOKENIZER)
    assert given.target == [FACTS.bos, *TOKENIZER.encode(["ab"])[0]]
    assert [one.rows for one in given.maps if one.cross] == [[*TOKENIZER.encode(["ab"])[0], FACTS.eos]] * 3
    own = look(task, TOKENIZER, "files")
    assert own.target == task.predictions(["files"], TOKENIZER)[0].text
    assert not own.given
    assert look(task, TOKENIZER, "files", own.target).given


def test_an_encoder_sees_its_special_tokens_and_masks() -> None:
    shown = attention_task(encoder_task(MaskedLM)).look_inside("a <mask>", None, TOKENIZER)
    assert shown.source == [FACTS.bos, *TOKENIZER.encode(["a "])[0], FACTS.mask, FACTS.eos]
    inspection = look(encoder_task(Classification), TOKENIZER, "two words")
    assert inspection.maps[0].rows[0] == "<s>"
    assert inspection.alignment.arrows() == ["two ← words", "words ← two"]


@pytest.mark.parametrize("kind", [Classification, MaskedLM, Translation])
@pytest.mark.parametrize(
    ("text", "target", "message"),
    [
        ("", None, "the text '' has no tokens"),
        ("x" * 40, None, "the text has 40 tokens, but the model reads"),
        ("files", "y" * 40, "target"),
        ("files", "", "target"),
    ],
)
def test_a_text_that_does_not_suit_is_one_line(kind: Any, text: str, target: str | None, message: str) -> None:
    task = translation() if kind is Translation else encoder_task(kind)
    with pytest.raises(ConfigurationError, match=message):
        look(task, TOKENIZER, text, target)


def test_a_page_has_its_limit() -> None:
    with pytest.raises(ConfigurationError, match="is 196 weights, more than 100; give a shorter text"):
        look(encoder_task(Classification), TOKENIZER, "words", most=100)


def test_a_task_that_shows_nothing_is_named() -> None:
    with pytest.raises(ConfigurationError, match="look into a Identity"):
        attention_task(cast(Task, torch.nn.Identity()))


def test_pieces_of_ids_make_the_text() -> None:
    ids = [FACTS.bos, *TOKENIZER.encode(["ä 5"])[0], FACTS.eos]
    assert TOKENIZER.pieces(ids) == ["", "", "ä", " ", "5", ""]
    assert TOKENIZER.names(ids)[0] == "<s>"
