"""Files of conversations, one a line of JSON, for each split."""

from __future__ import annotations

from collections.abc import Iterator

from etude.data.corpora.holdout import digest
from etude.data.corpora.split_files import SplitFiles
from etude.data.readers.sources import Dropped, Row, is_text, read_lines
from etude.errors import DataError
from etude.tokenization.conversation import HEAD, Conversation, as_json, read_conversation


class ConversationFiles(SplitFiles):
    """A file of JSON lines (also .gz) for each split: `{"messages": [{"role": "user", "content": "…"}, …]}`, or the list alone.

    Args:
        train: Path of the training conversations.
        val: Path of those to validate on; None: a share of the training conversations, chosen by their beginning.
        test: Path of those to evaluate on; None: there are none.
        root: Folder that the paths are relative to.
        val_share: Share of the training conversations that is held out where there is no `val`.
    """

    def __init__(
        self,
        train: str,
        val: str | None,
        test: str | None,
        root: str = ".",
        val_share: float = 0.05,
    ) -> None:
        super().__init__(root, {"train": train, "val": val, "test": test}, val_share if val is None else None)

    def fingerprint(self) -> str:
        """Return a hash of all files' content, and of the shares."""
        return digest("Conversations 1", *self.settings)

    def rows(self, split: str) -> Iterator[Row]:
        """Yield the rows of a split (see `read`).

        Raises:
            DataError: Also if a share is held out that no conversation is in.
        """
        row = None
        for row in super().rows(split):
            yield row
        if row is None:
            raise DataError(
                f"{self.path('train')} has no conversation for {split} with data.val_share={self.held_out['val']:g}; write "
                "another share, or data.val=FILE"
            )

    def read(self, split: str, dropped: Dropped) -> Iterator[Row]:
        """Yield rows with the fields `beginning`, the text that decides on a held-out split, and `conversation`, as JSON.

        Raises:
            DataError: If the file is missing, has a line that is no conversation, or has no usable one.
        """
        path, usable = self.path(split), 0
        for number, line in enumerate(read_lines(path), 1):
            origin = f"{path.name}:{number}"
            text = line.decode("utf-8", "surrogateescape")
            if not is_text(text):
                dropped.drop("not UTF-8 text", origin)
                continue
            try:
                conversation = read_conversation(text)
            except ValueError as error:
                raise DataError(f"{origin} {error}") from None
            if not any(message.role == "assistant" for message in conversation):
                dropped.drop("without an assistant's turn", origin)
                continue
            usable += 1
            yield Row({"beginning": _beginning(conversation), "conversation": as_json(conversation)}, origin)
        if usable == 0:
            raise DataError(f"{path} has no conversation with an assistant's turn; dropped: {dropped}")


def _beginning(conversation: Conversation) -> str:
    """Return the first message of the first turn: many conversations share what is said before."""
    return next(message.content for message in conversation if message.role not in HEAD)
