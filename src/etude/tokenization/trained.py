"""Tokenizers trained on a corpus. Equal texts and settings give equal tokenizers, in every process.

Pieces of BPE and Unigram have a `▁` in place of a space, so that decoding restores the text; punctuation never shares a
piece with letters or digits, so that a word is the same before a comma. Ids 0 to 4 are the special tokens.
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
from etude.signals import in_thread
from etude.tokenization.base import LONGEST_WORD, SpecialTokens, Tokenizer
from etude.tokenization.training_sample import sample

SPECIAL = SpecialTokens(pad="<pad>", bos="<s>", eos="</s>", unknown="<unk>", mask="<mask>")
NAMES = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
SPACE = "▁"
RESTORE_SPACES = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
CUT_WORDS = pre_tokenizers.Split(Regex(rf"\G(?m:.){{{LONGEST_WORD}}}"), "isolated")
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
"""Settings of its trainer: all words, unchanged; in one thread, since more would add floats in varying order."""


@dataclass(frozen=True)
class BPE:
    """Byte-pair encoding over characters (Sennrich et al. 2016): the most frequent pairs become pieces.

    Attributes:
        vocabulary: Number of ids, special tokens included; less if the texts have fewer pairs.
        lowercase: Whether texts are lowercased.
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
        backend.normalizer, splitter = keeping_spaces(self.lowercase)
        backend.decoder = RESTORE_SPACES
        _train_bpe(backend, splitter, texts, self.vocabulary)
        backend.pre_tokenizer = splitter
        return _finished(backend, self.vocabulary)


@dataclass(frozen=True)
class Unigram:
    """A unigram language model over pieces (Kudo 2018): the segmentation of highest probability.

    U+0000 and U+2585, which sentencepiece reserves, are unknown.

    Attributes:
        vocabulary: Number of ids, special tokens included; less if the texts have fewer pieces.
        lowercase: Whether texts are lowercased.
    """

    vocabulary: int = 8000
    lowercase: bool = False

    @property
    def key(self) -> str:
        """All settings as text."""
        return f"unigram 2 {self.vocabulary} {self.lowercase}"

    def build(self, texts: Iterable[str]) -> Tokenizer:
        """Train on a sample of the texts.

        The tokenizers library's own trainer depends on the order of a randomly seeded hash map: two runs of it differ. So
        the pieces are trained by sentencepiece, in one thread, on the normalized and pre-tokenized words.

        Raises:
            ConfigurationError: If the vocabulary cannot hold the characters of the texts.
            DataError: If there is no text, or none that sentencepiece can train on.
        """
        normalizer, splitter = keeping_spaces(self.lowercase)
        words = pre_tokenizers.Sequence([splitter, CUT_WORDS])
        normal = (normalizer.normalize_str(text) for text in _training_texts(texts))
        pieces = _unigram_pieces([word for text in normal for word, _ in words.pre_tokenize_str(text)], self.vocabulary)
        backend = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=NAMES.index(SPECIAL.unknown)))
        backend.normalizer, backend.pre_tokenizer, backend.decoder = normalizer, splitter, RESTORE_SPACES
        return _finished(backend, self.vocabulary)


@dataclass(frozen=True)
class WordPiece:
    """BERT's tokenizer (Devlin et al. 2019): the longest piece that fits, `##` inside a word; spacing is lost.

    Attributes:
        vocabulary: Number of ids, special tokens included; less if the texts have fewer pieces.
        lowercase: Whether case and accents are removed.
    """

    vocabulary: int = 8000
    lowercase: bool = True

    @property
    def key(self) -> str:
        """All settings as text."""
        return f"wordpiece 1 {self.vocabulary} {self.lowercase}"

    def build(self, texts: Iterable[str]) -> Tokenizer:
        """Train on a sample of the texts.

        The tokenizers library's own trainer breaks ties by the order of a randomly seeded hash map. So the pieces are
        trained by its BPE trainer, which does not, on words that start with `▁`: pieces without that mark get `##`.

        Raises:
            ConfigurationError: If the vocabulary cannot hold the characters of the texts.
            DataError: If there is no text.
        """
        normalizer = normalizers.BertNormalizer(lowercase=self.lowercase)
        words = pre_tokenizers.BertPreTokenizer()
        finder = tokenizers.Tokenizer(models.BPE())
        finder.normalizer = normalizers.Sequence([normalizers.Replace(SPACE, " "), normalizer])
        marked = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=False)
        _train_bpe(finder, pre_tokenizers.Sequence([words, marked]), texts, self.vocabulary + 1)
        vocabulary = sorted(finder.get_vocab(with_added_tokens=False).items(), key=lambda item: item[1])
        pieces = [piece for piece, _ in vocabulary if piece not in NAMES and piece != SPACE]
        names = _wordpieces(pieces)[: max(self.vocabulary, _characters(pieces))]
        backend = tokenizers.Tokenizer(
            models.WordPiece({name: number for number, name in enumerate(names)}, unk_token=SPECIAL.unknown)
        )
        backend.normalizer, backend.pre_tokenizer = normalizer, words
        backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
        return _finished(backend, self.vocabulary)


@dataclass(frozen=True)
class Bytes:
    """The bytes of a text in UTF-8 as ids: nothing is unknown, and nothing is trained."""

    @property
    def key(self) -> str:
        """All settings as text."""
        return "bytes 1"

    def build(self, texts: Iterable[str]) -> Tokenizer:
        """Return the tokenizer; the texts are not read."""
        # Byte-level models represent a byte by a printable character: itself if printable, else the next from U+0100 on.
        printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(256) if byte not in printable]
        names = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
        vocabulary = {name: number for number, name in enumerate([*NAMES, *(names[byte] for byte in range(256))])}
        backend = tokenizers.Tokenizer(models.BPE(vocabulary, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
        return _finished(backend, len(vocabulary))


def keeping_spaces(lowercase: bool) -> tuple[normalizers.Normalizer, pre_tokenizers.PreTokenizer]:
    """Return what turns spaces into `▁` (a `▁` of the text counts as a space) and separates punctuation from words."""
    steps: list[normalizers.Normalizer] = [normalizers.Replace(Regex(rf"[\s{SPACE}]+"), " "), normalizers.Strip()]
    spaces = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    splitter = pre_tokenizers.Sequence([spaces, pre_tokenizers.Split(PUNCTUATION, "isolated")])
    return normalizers.Sequence([*steps, normalizers.Lowercase()] if lowercase else steps), splitter


def _training_texts(texts: Iterable[str]) -> list[str]:
    """Return the stripped texts of the sample to train on."""
    stripped = [text for text in (text.strip() for text in sample(texts)) if text]
    if not stripped:
        raise DataError("there is no text to train a tokenizer on: the train split has no usable row")
    return stripped


def _train_bpe(
    backend: tokenizers.Tokenizer, splitter: pre_tokenizers.PreTokenizer, texts: Iterable[str], vocabulary: int
) -> None:
    """Train a BPE model on words of bounded length: the time grows with the square of a word's length."""
    backend.pre_tokenizer = pre_tokenizers.Sequence([splitter, CUT_WORDS])
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=NAMES, show_progress=False)
    sampled = _training_texts(texts)
    in_thread(lambda: backend.train_from_iterator(sampled, trainer))


def _unigram_pieces(words: Sequence[str], vocabulary: int) -> list[tuple[str, float]]:
    """Train sentencepiece's unigram model.

    Args:
        words: Pre-tokenized words of the texts, in their order.
        vocabulary: Most pieces, special tokens included; but all characters are pieces in any case.

    Returns:
        Pieces with natural log probabilities, in the order of their ids, special tokens first.
    """
    size = max(vocabulary, len(NAMES) + len(set().union(*words)))
    model = BytesIO()
    try:
        in_thread(
            lambda: SentencePieceTrainer.train(
                sentence_iterator=_sentences(words), model_writer=model, vocab_size=size, **SENTENCEPIECE
            )
        )
    except RuntimeError as error:
        reason = str(error).strip()
        raise DataError(
            f"sentencepiece cannot train on these texts: {reason}; take tokenizer=bpe or tokenizer=bytes"
        ) from error
    trained = SentencePieceProcessor(model_proto=model.getvalue())
    ids = list(range(trained.get_piece_size()))
    # Rounded, so that a score survives being written as JSON and read again.
    scores = (round(score, 6) for score in trained.get_score(ids))
    return list(zip(trained.id_to_piece(ids), scores, strict=True))


def _sentences(words: Iterable[str]) -> Iterator[str]:
    """Yield sentences that sentencepiece, which splits at `▁`, divides into the same words.

    Its training starts from substrings that are followed by different characters. A word that is always followed by the
    same one, be it `▁` or the end of the sentence, would never become a piece; so sentences also end at every fifth word.
    """
    sentence = ""
    for number, word in enumerate(words):
        if number % 5 == 0 or not word.startswith(SPACE):
            yield sentence
            sentence = ""
        sentence += word
    yield sentence


def _wordpieces(pieces: list[str]) -> list[str]:
    """Return WordPiece's vocabulary for `▁`-marked pieces: special tokens, all characters in both forms, the pieces."""
    characters = sorted({character for piece in pieces for character in piece if character != SPACE})
    both = [form for character in characters for form in (character, f"##{character}")]
    longer = (piece[1:] if piece.startswith(SPACE) else f"##{piece}" for piece in pieces)
    return list(dict.fromkeys([*NAMES, *both, *longer]))


def _characters(pieces: list[str]) -> int:
    """Return the number of ids of special tokens and single characters: the smallest possible vocabulary."""
    return len(NAMES) + 2 * len({character for piece in pieces for character in piece if character != SPACE})


def _finished(backend: tokenizers.Tokenizer, vocabulary: int) -> Tokenizer:
    """Return the tokenizer of a backend with the special tokens added, after checking its size."""
    backend.add_special_tokens(NAMES)
    # For other readers of the file: etude adds the special ids itself.
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
