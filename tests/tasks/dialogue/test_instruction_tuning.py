"""The task: the assistant's tokens alone are learnt, whatever shares their row; and conversations are answered."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from etude.errors import ConfigurationError
from etude.models.decoder import Decoder
from etude.models.generation.search import Beam, Greedy, Sample, Search
from etude.optim.schedules import Constant
from etude.tasks.dialogue.instruction_tuning import InstructionTuning
from etude.tokenization.base import Tokenizer
from etude.tokenization.chat_template import ChatTemplate
from etude.tokenization.conversation import Message, as_json
from etude.types import IGNORED, ConversationBatch, Facts
from tests.data.conversations.small_conversations import batch_of, data_of, rows_of, some, write
from tests.tokenization.chat_templates import CHATML, TEMPLATES, make_tokenizer

LONGEST = 128


def facts_of(tokenizer: Tokenizer) -> Facts:
    end = ChatTemplate(tokenizer).turn_end
    return Facts(tokenizer.vocabulary, tokenizer.pad, tokenizer.bos, tokenizer.eos, turn_end=end)


def build(tokenizer: Tokenizer, decoding: Search | None = None, max_length: int = LONGEST) -> InstructionTuning:
    torch.manual_seed(1)
    facts = facts_of(tokenizer)
    model = Decoder(facts, 16, 2, 2, 24, 0.0, max_length)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    optimizer = partial(torch.optim.SGD, lr=0.1)
    return InstructionTuning(facts, model, optimizer, Constant(), decoding or Greedy(max_length=9)).eval()


@pytest.fixture
def batches(tmp_path: Path) -> Callable[..., ConversationBatch]:
    """Makes the batch of all training conversations, written by a template."""
    write(tmp_path / "train.jsonl", some(17))
    write(tmp_path / "val.jsonl", some(5, seed=2))

    def make(source: str, split: str = "train", **settings: Any) -> ConversationBatch:
        return batch_of(rows_of(data_of(tmp_path, make_tokenizer(source), **settings), split))

    return make


def gradients(task: InstructionTuning, batch: ConversationBatch) -> tuple[float, list[Tensor], Tensor]:
    """Return the loss, its gradients, and that of the hidden state at each real token."""
    kept = list[Tensor]()
    plain = task.model.hidden

    def watched(*arguments: Any) -> Tensor:
        hidden = plain(*arguments)
        hidden.retain_grad()
        kept.append(hidden)
        return hidden

    task.zero_grad()
    task.model.hidden = watched  # type: ignore[method-assign, assignment]
    loss, count = task.loss(batch)
    task.model.hidden = plain  # type: ignore[method-assign]
    (loss / count).backward()
    (hidden,) = kept
    assert hidden.grad is not None
    return (
        float((loss / count).detach()),
        [p.grad.clone() for p in task.parameters() if p.grad is not None],
        hidden.grad,
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_other_token_has_a_gradient(batches: Callable[..., ConversationBatch], name: str) -> None:
    batch, task = batches(TEMPLATES[name]), build(make_tokenizer(TEMPLATES[name])).double()
    loss, found, states = gradients(task, batch)
    learnt = batch.labels[batch.mask] != IGNORED
    assert 0 < learnt.sum() < len(learnt)
    assert (states[~learnt] == 0).all() and (states[learnt].abs().amax(dim=1) > 0).all()
    # By hand: the mean of the assistant's tokens, of the logits of the whole model.
    logits = task(batch)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED)
    assert loss == pytest.approx(float(expected.detach()), abs=1e-12)
    task.zero_grad()
    expected.backward()
    by_hand = [parameter.grad for parameter in task.parameters() if parameter.grad is not None]
    for one, other in zip(found, by_hand, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    # And it would be another one if a user's tokens were learnt: the test can fail.
    place = (batch.labels == IGNORED).logical_and(batch.mask).nonzero()[0]
    labels = batch.labels.clone()
    labels[tuple(place)] = 7
    assert gradients(task, batch._replace(labels=labels))[0] != pytest.approx(loss, abs=1e-9)


@pytest.mark.parametrize("name", TEMPLATES)
def test_packed_the_loss_and_its_gradients_are_those_of_each_alone(
    batches: Callable[..., ConversationBatch], name: str
) -> None:
    task = build(make_tokenizer(TEMPLATES[name])).double()
    packed, alone = batches(TEMPLATES[name]), batches(TEMPLATES[name], packing=False)
    assert packed.documents is not None and alone.documents is None and len(packed.tokens) < len(alone.tokens)
    loss, found, _ = gradients(task, packed)
    expected, others, _ = gradients(task, alone)
    assert loss == pytest.approx(expected, abs=1e-10)
    for one, other in zip(found, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_rows_of_an_evaluation_add_up(batches: Callable[..., ConversationBatch]) -> None:
    batch, task = batches(CHATML, "val"), build(make_tokenizer(CHATML))
    with torch.no_grad():
        total, count = task.loss(batch)
        judged, judged_count, rows = task.judge(batch, "val")
    torch.testing.assert_close(judged, total)
    assert int(count) == int(judged_count) == sum(row["tokens"] for row in rows)
    assert sum(row["bytes"] for row in rows) == sum(
        len(message.content) for one in some(5, seed=2) for message in one if message.role == "assistant"
    )


LINES = [
    "sun moon",
    as_json((Message("system", "Say it backwards."), Message("user", "sun"))),
    "",
    as_json((Message("user", "star"), Message("assistant", "star"), Message("user", "rain wind"))),
    '{"sun": "moon"}',
]


@pytest.mark.parametrize(
    ("name", "decoding"),
    [
        *((name, Greedy(max_length=9)) for name in TEMPLATES),
        *(("chatml", search) for search in (Beam(beams=2, max_length=9), Sample(max_length=9, min_length=4))),
    ],
)
def test_a_conversation_is_answered_alike_wherever_it_stands(name: str, decoding: Search) -> None:
    tokenizer = make_tokenizer(TEMPLATES[name])
    task = build(tokenizer, decoding)
    lines = LINES if name != "instructions" else [line for line in LINES if "system" not in line]
    found = task.predictions(lines, tokenizer)
    assert not any(prediction.cut or prediction.error for prediction in found)
    together = [prediction.text for prediction in found]
    assert [prediction.text for prediction in task.predictions(lines[::-1], tokenizer)] == together[::-1]
    assert [task.predictions([line], tokenizer)[0].text for line in lines] == together


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_answer_is_what_follows_the_prompt_until_the_end_of_the_turn(name: str) -> None:
    tokenizer = make_tokenizer(TEMPLATES[name])
    task, template = build(tokenizer, Greedy(max_length=12)), ChatTemplate(tokenizer)
    prompts = [template.prompt((Message("user", text),)) for text in ("sun moon", "rain", "a", "b", "c", "d")]
    prompts += [template.prompt((Message("user", "a"), Message("assistant", "b"), Message("user", "c")))]
    for prompt, (found,) in zip(prompts, task.replies(prompts), strict=True):
        tokens = list(prompt)
        while len(tokens) < len(prompt) + 12:
            row = torch.tensor([tokens])
            with torch.no_grad():
                logits = task.model(row, torch.ones_like(row, dtype=torch.bool))
            tokens.append(int(logits[0, -1].argmax()))
            if tokens[-1] == template.turn_end:
                break
        ended = tokens[-1] == template.turn_end
        assert found.finished == ended
        assert list(found.tokens) == tokens[1 : len(tokens) - ended]


def test_a_long_conversation_loses_its_first_turns() -> None:
    tokenizer = make_tokenizer(CHATML)
    task = build(tokenizer, max_length=40)
    turns = (Message("user", "sun moon star"), Message("assistant", "star moon sun")) * 5
    last = (Message("user", "rain"),)
    short, long = task.predictions([as_json(turns[-2:] + last), as_json(turns + last)], tokenizer)
    assert short.outputs == long.outputs and (short.cut, long.cut) == (False, True)
    (whole,) = task.predictions([" ".join(["sun"] * 99)], tokenizer)  # a last turn that is too long by itself
    assert whole.cut and whole.error is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"messages": []}', "is not a list of messages"),
        ('[{"role": "robot", "content": "a"}]', "the role 'robot'"),
        (as_json((Message("user", "a"), Message("assistant", "b"))), "nothing to answer"),
        (as_json((Message("system", "a"), Message("user", "b"))), "refuses the conversation: No system here!"),
    ],
)
def test_what_cannot_be_answered_is_said_and_the_others_are_answered(line: str, words: str) -> None:
    tokenizer = make_tokenizer(TEMPLATES["instructions"])
    task = build(tokenizer)
    refused, answered = task.predictions([line, "sun"], tokenizer)
    assert refused.error is not None and words in refused.error and refused.text == ""
    assert answered == task.predictions(["sun"], tokenizer)[0] and answered.error is None
    with pytest.raises(ConfigurationError, match="text: "):
        task.look_inside(line, None, tokenizer)


def test_a_look_inside_shows_the_prompt_as_it_is_read() -> None:
    tokenizer = make_tokenizer(CHATML)
    task = build(tokenizer, max_length=30)
    attention = task.look_inside("sun", None, tokenizer)
    prompt = ChatTemplate(tokenizer).prompt((Message("user", "sun"),))
    assert list(attention.source) == prompt
    with pytest.raises(ConfigurationError, match="and the model reads 30"):
        task.look_inside("sun " * 40, None, tokenizer)
    with pytest.raises(ConfigurationError, match="write it into the conversation"):
        task.look_inside("sun", "moon", tokenizer)
