"""Tokenizers trained on a corpus. Equal texts and settings give the equal tokenizer, in every process.

Pieces of BPE and Unigram carry a `▁` where a space was, so that decoding restores the text; punctuation never shares
a piece with letters or digits, so that a word is the same word before a comma. Ids 0 to 4 are the special tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import tokenizers
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from etude.errors import ConfigurationError, DataError
from etude.tokenization.base import SpecialTokens, Tokenizer
from etude.tokenization.training_sample import sample

SPECIAL = SpecialTokens(pad="<pad>", bos="<s>", eos="</s>", unknown="<unk>", mask="<mask>")
NAMES = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
SPACE = "▁"
RESTORE_SPACES = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
PUNCTUATION = Regex(rf"{SPACE}?[^\p{{L}}\p{{N}}\p{{M}}{SPACE}]+")
SENTENCEPIECE: dict[str, Any] = {
    "model_type": "unigram",
    "hard_vocab_limit": False,
    "character_coverage": 1.0,
    "max_sentence_length": 2**30,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "pad_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "unk_id": 3,
    "control_symbols": [SPECIAL.mask],
    "num_threads": 1,
    "minloglevel": 2,
}
"""Its trainer takes the words as they are and all of them; more threads would add floating-point numbers in any order."""


@dataclass(frozen=True)
class BPE:
    """Byte-pair encoding over characters (Sennrich et al. 2016): the most frequent pairs become pieces.

    Attributes:
        vocabulary: Number of ids, special tokens included; less where the texts have fewer pairs.
        lowercase: Whether case is given up.
    """

    vocabulary: int = 8000
    lowercase: bool = False

    @property
    def key(self) -> str:
        """All settings as text."""
        return f"bpe 1 {self.vocabulary} {self.lowercase}"

    def build(self, texts: Iterable[str]) -> Tokenizer:
        """Train on a sample of the texts.

        Raises:
            ConfigurationError: If the vocabulary cannot hold the characters of the texts.
            DataError: If there is no text.
        """
        backend = tokenizers.Tokenizer(models.BPE(unk_token=SPECIAL.unknown))
        backend.normalizer, backend.pre_tokenizer = _keeping_spaces(self.lowercase)
        backend.decoder = RESTORE_SPACES
        trainer = trainers.BpeTrainer(vocab_size=self.vocabulary, special_tokens=NAMES, show_progress=False)
        backend.train_from_iterator(_training_texts(texts), trainer)
        return _finished(backend, self.vocabulary)


@dataclass(frozen=True)
class Unigram:
    """A unigram language model over pieces (Kudo 2018): the segmentation of highest probability.

    U+0000 and U+2585, which sentencepiece reserves, are unknown.

    Attributes:
        vocabulary: Number of ids, special tokens included; less where the texts have fewer pieces.
        lowercase: Whether case is given up.
    """

    vocabulary: int = 8000
    lowercase: bool = False

    @property
    def key(self) -> str:
        """All settings as text."""
        return f"unigram 2 {self.vocabulary} {self.lowercase}"

    def build(self, texts: Iterable[str]) -> Tokenizer:
        """Train on a sample of the texts.

        The library's own trainer depends on the order of a randomly seeded hash map: two runs of it differ. So
        sentencepiece, with one thread, finds the pieces in what the normaliser and the pre-tokenizer leave.

        Raises:
            ConfigurationError: If the vocabulary cannot hold the characters of the texts.
            DataError: If there is no text, or none that sentencepiece can train on.
        """
        normalizer, splitter = _keeping_spaces(self.lowercase)
        normal = (normalizer.normalize_str(text) for text in _training_texts(texts))
        pieces = _unigram_pieces(
            [word for text in normal for word, _ in splitter.pre_tokenize_str(text)], self.vocabulary
        )
        backend = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=NAMES.index(SPECIAL.unknown)))
        backend.normalizer, backend.pre_tokenizer, backend.decoder = normalizer, splitter, RESTORE_SPACES
        return _finished(backend, self.vocabulary)


@dataclass(frozen=True)
class WordPiece:
    """BERT's tokenizer (Devlin et al. 2019): the longest piece that fits, `##` inside a word; spacing is not kept.

    Attributes:
        vocabulary: Number of ids, special tokens included; less where the texts have fewer pieces.
        lowercase: Whether case and accents are given up.
    """

    vocabulary: int = 8000
    lowercase: bool = True

    @property
    def key(self) -> str:
        """All settings as text."""
        return f"wordpiece 1 {self.vocabulary} {self.lowercase}"

    def build(self, texts: Iterable[str]) -> Tokenizer:
        """Train on a sample of the texts.

        The library's own trainer breaks ties by the order of a randomly seeded hash map. So pieces are found by its BPE
        trainer, which does not, over words that start with `▁`: pieces with the mark start a word, others get `##`.

        Raises:
            ConfigurationError: If the vocabulary cannot hold the characters of the texts.
            DataError: If there is no text.
        """
        normalizer = normalizers.BertNormalizer(lowercase=self.lowercase)
        words = pre_tokenizers.BertPreTokenizer()
        finder = tokenizers.Tokenizer(models.BPE())
        finder.normalizer = normalizers.Sequence([normalizers.Replace(SPACE, " "), normalizer])
        marked = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=False)
        finder.pre_tokenizer = pre_tokenizers.Sequence([words, marked])
        trainer = trainers.BpeTrainer(vocab_size=self.vocabulary + 1, special_tokens=NAMES, show_progress=False)
        finder.train_from_iterator(_training_texts(texts), trainer)
        found = sorted(finder.get_vocab(with_added_tokens=False).items(), key=lambda item: item[1])
        pieces = [piece for piece, _ in found if piece not in NAMES and piece != SPACE]
        names = _wordpieces(pieces)[: max(self.vocabulary, _characters(pieces))]
        backend = tokenizers.Tokenizer(
            models.WordPiece({name: number for number, name in enumerate(names)}, unk_token=SPECIAL.unknown)
        )
        backend.normalizer, backend.pre_tokenizer = normalizer, words
        backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
        return _finished(backend, self.vocabulary)


@dataclass(frozen=True)
class Bytes:
    """Every byte of the UTF-8 text is an id: nothing is unknown and nothing is learnt."""

    @property
    def key(self) -> str:
        """All settings as text."""
        return "bytes 1"

    def build(self, texts: Iterable[str]) -> Tokenizer:
        """Return the tokenizer; the texts are not read."""
        # Byte-level models write a byte as a printable character: itself where it is one, else the next from U+0100 on.
        printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(256) if byte not in printable]
        written = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
        vocabulary = {name: number for number, name in enumerate([*NAMES, *(written[byte] for byte in range(256))])}
        backend = tokenizers.Tokenizer(models.BPE(vocabulary, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
        return _finished(backend, len(vocabulary))


def _keeping_spaces(lowercase: bool) -> tuple[normalizers.Normalizer, pre_tokenizers.PreTokenizer]:
    """Keep spaces as `▁` (one that the text itself has reads as a space) and hold punctuation apart from words."""
    steps: list[normalizers.Normalizer] = [normalizers.Replace(Regex(rf"[\s{SPACE}]+"), " "), normalizers.Strip()]
    spaces = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    splitter = pre_tokenizers.Sequence([spaces, pre_tokenizers.Split(PUNCTUATION, "isolated")])
    return normalizers.Sequence([*steps, normalizers.Lowercase()] if lowercase else steps), splitter


def _training_texts(texts: Iterable[str]) -> list[str]:
    """Return the stripped sample to train on."""
    chosen = [text for text in (text.strip() for text in sample(texts)) if text]
    if not chosen:
        raise DataError("there is no text to train a tokenizer on: the train split has no usable row")
    return chosen


def _unigram_pieces(words: Sequence[str], vocabulary: int) -> list[tuple[str, float]]:
    """Train sentencepiece's unigram model.

    Args:
        words: What the pre-tokenizer makes of the texts, in their order.
        vocabulary: Most pieces, special tokens included; all characters are kept in any case.

    Returns:
        Pieces with natural log probabilities in the order of their ids, the special tokens first.
    """
    size = max(vocabulary, len(NAMES) + len(set().union(*words)))
    model = BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=_sentences(words), model_writer=model, vocab_size=size, **SENTENCEPIECE
        )
    except RuntimeError as error:
        reason = str(error).strip()
        raise DataError(
            f"sentencepiece cannot train on these texts: {reason}; take tokenizer=bpe or tokenizer=bytes"
        ) from error
    trained = SentencePieceProcessor(model_proto=model.getvalue())
    ids = list(range(trained.get_piece_size()))
    # With so few digits a score is the same number after it was written as JSON and read.
    scores = (round(score, 6) for score in trained.get_score(ids))
    return list(zip(trained.id_to_piece(ids), scores, strict=True))


def _sentences(words: Iterable[str]) -> Iterator[str]:
    """Join words to sentences of which sentencepiece makes the same words: it parts them at `▁`.

    Its training starts from the substrings that different characters follow. A word that the same one always follows,
    be it `▁` or the end of the sentence, would never become a piece; so a sentence ends at every fifth word as well.
    """
    sentence = ""
    for number, word in enumerate(words):
        if number % 5 == 0 or not word.startswith(SPACE):
            yield sentence
            sentence = ""
        sentence += word
    yield sentence


def _wordpieces(pieces: list[str]) -> list[str]:
    """Turn `▁`-marked pieces into WordPiece's: special tokens, all characters in both forms, then the pieces."""
    characters = sorted({character for piece in pieces for character in piece if character != SPACE})
    both = [form for character in characters for form in (character, f"##{character}")]
    longer = (piece[1:] if piece.startswith(SPACE) else f"##{piece}" for piece in pieces)
    return list(dict.fromkeys([*NAMES, *both, *longer]))


def _characters(pieces: list[str]) -> int:
    """Ids that special tokens and single characters take: a vocabulary cannot be smaller."""
    return len(NAMES) + 2 * len({character for piece in pieces for character in piece if character != SPACE})


def _finished(backend: tokenizers.Tokenizer, vocabulary: int) -> Tokenizer:
    """Register the special tokens and check the size."""
    backend.add_special_tokens(NAMES)
    # For readers of the file other than etude, which adds the special ids itself.
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer = Tokenizer(backend, SPECIAL)
    if tokenizer.vocabulary > vocabulary:
        raise ConfigurationError(
            f"tokenizer.vocabulary={vocabulary} cannot hold the {tokenizer.vocabulary} special tokens and characters "
            f"of the texts; give at least tokenizer.vocabulary={2 * tokenizer.vocabulary}, or tokenizer=bytes"
        )
    return tokenizer
