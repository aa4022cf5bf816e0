"""Chat templates of every kind, a tokenizer with their special tokens, and conversations to write with them."""

from __future__ import annotations

import random
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer

from etude.tokenization.base import SpecialTokens, Tokenizer
from etude.tokenization.chat_template import TURNS
from etude.tokenization.conversation import Conversation, Message

SPECIAL = SpecialTokens("<pad>", "<s>", "</s>", "<unk>", None)
WORDS = "sun moon star tree lake road bird song wind rain".split()  # noqa: SIM905

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}"
    "{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CONTENT_ALONE = MARKED.replace(
    "{{ message['content'] + '<|im_end|>' }}{% endgeneration %}",
    "{{ message['content'] }}{% endgeneration %}{{ '<|im_end|>' }}",
)
INSTRUCTIONS = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('No system here!') }}{% elif (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Turns must alternate.') }}{% elif message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
CALLING = (
    "{% if tools %}{{ '<|im_start|>system\n' }}{% for tool in tools %}{{ tool | tojson }}{{ '\n' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content }}"
    '{% for call in message.tool_calls or [] %}{{ \'{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{ call.function.arguments | tojson }}{{ '}' }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Writes tools, and calls of them."""

TEMPLATES = {"turns": TURNS, "chatml": CHATML, "marked": MARKED, "content": CONTENT_ALONE, "instructions": INSTRUCTIONS}
ENDS = {
    "turns": "</s>",
    "chatml": "<|im_end|>",
    "marked": "<|im_end|>",
    "content": "<|im_end|>",
    "instructions": "</s>",
}
SYSTEMS = ("turns", "chatml", "marked", "content")


def make_tokenizer(chat_template: str | None = None) -> Tokenizer:
    """A byte-level tokenizer, as most decoders have one."""
    backend = ByteLevelBPETokenizer()
    names = [SPECIAL.pad, SPECIAL.bos, SPECIAL.eos, SPECIAL.unknown, "<|im_start|>", "<|im_end|>"]
    texts = [" ".join([*WORDS, "user assistant system INST"])] * 3
    backend.train_from_iterator(texts, vocab_size=330, special_tokens=names, show_progress=False)
    return Tokenizer(backend._tokenizer, SPECIAL, chat_template=chat_template)


def save_tokenizer(folder: Path, chat_template: str | None = None) -> Path:
    """The same as files."""
    make_tokenizer(chat_template).save(folder)
    return folder


def conversation(source: random.Random, turns: int, system: bool = False) -> Conversation:
    """A conversation in which the assistant says a user's words backwards."""
    messages = [Message("system", "Say it backwards.")] if system else []
    for _ in range(turns):
        words = [source.choice(WORDS) for _ in range(source.randint(1, 5))]
        messages += [Message("user", " ".join(words)), Message("assistant", " ".join(reversed(words)))]
    return tuple(messages)
