"""Instruction tuning (Wei et al. 2022; Ouyang et al. 2022, section 3): a causal language model learns to answer.

Axes: B conversations, L positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from etude.errors import ConfigurationError
from etude.models.generation.hypothesis import Hypothesis
from etude.models.generation.search import Search
from etude.tasks.attention_maps import Attention, own_attention
from etude.tasks.causal_lm import CausalLM
from etude.tasks.prediction import Output, Prediction
from etude.tasks.running_sums import Row
from etude.tokenization.base import Tokenizer
from etude.tokenization.chat_template import ChatTemplate, template_of
from etude.tokenization.conversation import (
    Conversation,
    Message,
    is_conversation,
    read_conversation,
    without_first_turns,
)
from etude.types import IGNORED, CausalLMBatch


class InstructionTuning(CausalLM):
    """Cross-entropy of the tokens that the assistant has written; predictions are its next turn.

    The arguments are those of `CausalLM`.
    """

    BATCH: ClassVar[str] = "ConversationBatch"

    @torch.no_grad()
    def replies(self, prompts: Sequence[Sequence[int]], decoding: Search | None = None) -> list[list[Hypothesis]]:
        """Return the answers to conversations, the best first; they begin with what follows the first token of the prompt.

        As in `continuations`, lengths count new tokens, and neighbours change no answer.

        Args:
            prompts: Ids of each conversation, opened for the assistant, with all special ones.
            decoding: Search for answers; None: the task's `decoding`.
        """
        found: dict[int, list[Hypothesis]] = {}
        for first in dict.fromkeys(prompt[0] for prompt in prompts):
            rows = [row for row, prompt in enumerate(prompts) if prompt[0] == first]
            rest = [prompts[row][1:] for row in rows]
            found |= zip(rows, self._continued(first, rest, decoding or self.decoding), strict=True)
        return [found[row] for row in range(len(prompts))]

    def predictions(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[Prediction]:
        """Answer each conversation, a line of JSON; any other text is taken as what a user says.

        The first turns of a conversation that is longer than the model reads are left out.
        """
        template = template_of(tokenizer)
        opened, answers = dict[int, tuple[list[int], bool]](), dict[int, Prediction]()
        for place, text in enumerate(texts):
            try:
                opened[place] = self._opened(_asked(text), template)
            except ValueError as error:
                answers[place] = Prediction.refusal(str(error))
        prompts = [prompt for prompt, _ in opened.values()]
        for (place, (prompt, cut)), found in zip(opened.items(), self.replies(prompts), strict=True):
            outputs = [Output(_reply(prompt, one, tokenizer), one.score, one.finished) for one in found]
            answers[place] = Prediction(tuple(outputs), cut)
        return [answers[place] for place in range(len(texts))]

    def _opened(self, conversation: Conversation, template: ChatTemplate) -> tuple[list[int], bool]:
        """Return the prompt of a conversation, and whether it was cut to be read."""
        prompt, room = template.prompt(conversation), self.model.max_length
        if len(prompt) <= room:
            return prompt, False
        rest = without_first_turns(conversation, lambda part: len(template.prompt(part)) <= room)
        return (prompt if rest is None else template.prompt(rest)), True

    def answers(self, batch: CausalLMBatch) -> list[Row]:
        """Return the best answer in place of each conversation's last: `text`, `output`, its `score`, whether `finished`."""
        prompts = [_before_last_answer(*row) for row in zip(batch.tokens, batch.labels, strict=True)]
        replies = self.replies(prompts)
        rows = []
        for example, prompt, (best, *_) in zip(batch.ids.tolist(), prompts, replies, strict=True):
            text, output = self.data.decode([prompt, best.tokens[len(prompt) - 1 :]])
            rows.append({"id": example, "text": text, "output": output, "score": best.score, "finished": best.finished})
        return rows

    def sample(self, row: Row, split: str) -> dict[str, str]:
        """Return the last question of a conversation, the model's answer, and the one that is there."""
        exchange = self.data.exchange(split, row["id"])
        best = self.replies([exchange.prompt])[0][0]
        (output,) = self.data.decode([best.tokens[len(exchange.prompt) - 1 :]])
        return {"text": exchange.question, "output": output, "reference": exchange.answer}

    def look_inside(self, text: str, target: str | None, tokenizer: Tokenizer) -> Attention:
        """Return the attention of a conversation, opened for the assistant, to itself (see `ShowsAttention`)."""
        if target is not None:
            raise ConfigurationError(
                f"the target {target!r} is not text of its own here; write it into the conversation"
            )
        try:
            prompt = template_of(tokenizer).prompt(_asked(text))
        except ValueError as error:
            raise ConfigurationError(f"text: {error}") from error
        if len(prompt) > self.model.max_length:
            raise ConfigurationError(
                f"the conversation has {len(prompt)} tokens, and the model reads {self.model.max_length}; give a shorter one"
            )
        return own_attention(self.model, prompt)


def _asked(text: str) -> Conversation:
    """Return the conversation that a line stands for.

    Raises:
        ValueError: If it is a broken one, or one that the assistant has answered.
    """
    if not is_conversation(text):
        return (Message("user", text),)
    conversation = read_conversation(text)
    if conversation[-1].role == "assistant":
        raise ValueError("ends with an assistant's turn, so that there is nothing to answer; leave that out")
    return conversation


def _reply(prompt: Sequence[int], hypothesis: Hypothesis, tokenizer: Tokenizer) -> str:
    """Return the text of an answer."""
    return tokenizer.decode([hypothesis.tokens[len(prompt) - 1 :]])[0]


def _before_last_answer(tokens: Int[Tensor, " L"], labels: Int[Tensor, " L"]) -> list[int]:
    """Return the ids before the last run of labels."""
    learnt = (labels != IGNORED).tolist()
    if not any(learnt):  # a filler
        return tokens[:1].tolist()
    last = len(learnt) - 1 - learnt[::-1].index(True)
    first = max((place + 1 for place in range(last) if not learnt[place]), default=0)
    return tokens[: first + 1].tolist()
