"""Conversations as batches: several whole ones in a row of full length, none of which sees another.

Axes: N rows, M conversations.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from etude.data.causal_lm import ReadPieces, ReadTexts
from etude.data.conversations.conversation_encoder import StoredAnswers
from etude.data.plan import random_keys
from etude.data.prepare import Split
from etude.types import IGNORED, ConversationBatch, Facts


class Packing(NamedTuple):
    """Which conversations share a row.

    Attributes:
        order: [M] the conversations, row after row.
        starts: [N + 1] place in `order` of the first of each row, and the end.
    """

    order: Int[np.ndarray, " M"]
    starts: Int[np.ndarray, " N+1"]

    @classmethod
    def alone(cls, count: int) -> Packing:
        """Give each conversation a row of its own."""
        return cls(np.arange(count), np.arange(count + 1))

    @classmethod
    def best_fit(cls, sizes: Int[np.ndarray, " M"], room: int, key: int) -> Packing:
        """Pack the longest conversations first, each into the row that it fills best (Johnson 1973).

        Args:
            sizes: Tokens of each conversation, at most `room`.
            room: Most tokens of a row.
            key: Chooses among conversations of the same length.
        """
        order = np.lexsort((random_keys(len(sizes), key), -sizes))
        rows, rooms = list[list[int]](), list[int]()  # rooms: those that some row has left, ascending
        by_room: dict[int, list[int]] = {}
        for conversation in order.tolist():
            size = int(sizes[conversation])
            place = bisect_left(rooms, size)
            if place == len(rooms):
                left, row = room, len(rows)
                rows.append([])
            else:
                left = rooms[place]
                row = by_room[left].pop()
                if not by_room[left]:
                    del by_room[left], rooms[place]
            rows[row].append(conversation)
            left -= size
            if left not in by_room:
                by_room[left] = []
                insort(rooms, left)
            by_room[left].append(row)
        return cls(np.concatenate(rows), np.concatenate(([0], np.cumsum([len(row) for row in rows]))))


class PackedConversations(ReadTexts):
    """The conversations of a split as batches.

    Attributes:
        packing: Which of them share a row: the same in every epoch, in the order that the plan gives the rows.
        lengths: [N] tokens that the model reads of each row.
        counts: [N] tokens of each row that are learnt.

    Args:
        split: The conversations: fields `ids` and `answers`.
        facts: The special ids.
        packing: Which of them share a row.
    """

    BATCH = ConversationBatch

    def __init__(self, split: Split, facts: Facts, packing: Packing) -> None:
        super().__init__(facts)
        self.packing = packing
        self._ids, self._answers = split.tokens["ids"], split.tokens["answers"]
        learnt = np.array([np.diff(self.answers(n).spans).sum() for n in range(len(self._answers))], np.int64)
        self.lengths = np.add.reduceat(read_sizes(split)[packing.order], packing.starts[:-1])
        self.counts = np.add.reduceat(learnt[packing.order], packing.starts[:-1])

    def answers(self, conversation: int) -> StoredAnswers:
        """Return the places of a conversation's answers."""
        return StoredAnswers.read(self._answers[conversation])

    def conversations(self, row: int) -> list[int]:
        """Return the conversations of a row."""
        return [int(n) for n in self.packing.order[slice(*self.packing.starts[row : row + 2])]]

    def ids(self, row: int) -> list[list[int]]:
        """Return the ids of the conversations of a row."""
        return [self._ids[conversation].tolist() for conversation in self.conversations(row)]

    def rows(self, examples: Int[np.ndarray, " n"], epoch: int) -> list[ReadPieces]:
        """Return the ids and labels of each row, the same in every epoch."""
        return [self._row(self.conversations(int(example))) for example in examples]

    def _row(self, conversations: Sequence[int]) -> ReadPieces:
        inputs, labels = zip(*map(self._read, conversations), strict=True)
        numbers = np.repeat(np.arange(len(inputs)), [len(one) for one in inputs])
        text_bytes = sum(self.answers(conversation).text_bytes for conversation in conversations)
        return ReadPieces(np.concatenate(inputs), np.concatenate(labels), numbers, text_bytes)

    def _read(self, conversation: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Return the ids of a conversation that are read, and for each the next one if it is learnt."""
        ids = self._ids[conversation].astype(np.int64)
        learnt = np.zeros(len(ids), bool)
        for start, stop in self.answers(conversation).spans:
            learnt[start:stop] = True
        return ids[:-1], np.where(learnt, ids, IGNORED)[1:]


def read_sizes(split: Split) -> Int[np.ndarray, " M"]:
    """Return the tokens that a model reads of each conversation: all but its last."""
    return split.tokens["ids"].lengths - 1
