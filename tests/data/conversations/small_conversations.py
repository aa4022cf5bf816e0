"""Small data of conversations: files, data modules, rows and batches."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from etude.data.base import DataSettings
from etude.data.conversations.conversation_data import ConversationData
from etude.data.conversations.packed_conversations import PackedConversations
from etude.data.corpora import ConversationFiles
from etude.data.loader import Slice
from etude.data.sizes import BatchSize, Limit
from etude.tokenization.conversation import Conversation, as_json
from etude.types import ConversationBatch
from tests.tokenization.chat_templates import conversation, make_tokenizer


def write(path: Path, conversations: Sequence[Conversation]) -> Path:
    path.write_text("".join(f"{as_json(one)}\n" for one in conversations))
    return path


def some(count: int, seed: int = 1, turns: int = 3) -> list[Conversation]:
    source = random.Random(seed)
    return [conversation(source, source.randint(1, turns)) for _ in range(count)]


def data_of(folder: Path, tokenizer: Any = None, **settings: Any) -> ConversationData:
    limit = settings.pop("limit", Limit())
    corpus = ConversationFiles("train.jsonl", "val.jsonl", None, root=str(folder))
    tokenizer = make_tokenizer() if tokenizer is None else tokenizer
    shared = DataSettings(tokenizer, cache=folder / "cache", batch=BatchSize(examples=4), limit=limit, seed=3)
    return ConversationData(corpus, **{"max_length": 128, **settings}, settings=shared)


def rows_of(data: ConversationData, split: str = "train") -> PackedConversations:
    return cast(PackedConversations, data.splits[split])


def batch_of(rows: PackedConversations, *examples: int, filler: bool = False) -> ConversationBatch:
    chosen = np.array(examples or range(len(rows.lengths)))
    return cast(ConversationBatch, rows.batch(Slice(chosen, 0, 1, filler)))
