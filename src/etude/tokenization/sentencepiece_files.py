"""Tokenizers that are sentencepiece models and the ids of their pieces: those of M2M100 and MarianMT.

transformers writes no tokenizer.json of these families. Here the segmentation of their models, byte-pair encoding by scores or
a unigram language model (Kudo and Richardson 2018, https://arxiv.org/abs/1808.06226), is given to the tokenizers library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tokenizers
from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from etude.errors import DataError
from etude.hub import PretrainedFiles
from etude.tokenization.base import FOREIGN
from etude.untrusted import decode_json

IDS, SETTINGS = "vocab.json", "tokenizer_config.json"
"""The ids of all pieces; and which of its two lists of languages M2M100's tokenizer has."""

UNKNOWN = "<unk>"

NEVER = -1e9
"""Score of a token that is no piece of a unigram model: below all pieces, so that it is used only where none of them fits."""

_MESSAGES: Any = sentencepiece_model_pb2


class SentencepieceFiles(NamedTuple):
    """The files of a family.

    Attributes:
        target: The model of targets, or of all texts.
        source: The model of sources; None: there is one model.
        special: Ids that no text contains, besides languages.
    """

    target: str
    source: str | None
    special: Sequence[str]

    @property
    def files(self) -> list[str]:
        """All files."""
        return [*([] if self.source is None else [self.source]), self.target, IDS]


M2M100 = SentencepieceFiles("sentencepiece.bpe.model", None, ("<s>", "<pad>", "</s>", UNKNOWN))
MARIAN = SentencepieceFiles("target.spm", "source.spm", ("</s>", UNKNOWN, "<pad>"))


def kind_of(files: PretrainedFiles) -> SentencepieceFiles | None:
    """Return the files in place of a tokenizer.json; None: there is one, or neither."""
    if files.has("tokenizer.json") or not files.has(IDS):
        return None
    return next((kind for kind in (M2M100, MARIAN) if all(files.has(file) for file in kind.files)), None)


def read_backends(
    files: PretrainedFiles, kind: SentencepieceFiles
) -> tuple[tokenizers.Tokenizer, tokenizers.Tokenizer | None]:
    """Return the tokenizer of targets, and that of sources if they have a model of their own; both have the same ids.

    Raises:
        DataError: If a file is broken.
    """
    ids = decode_json(files.read(IDS), dict[str, int], f"the {IDS} of {files.name}", "fetch it again")
    if sorted(ids.values()) != list(range(len(ids))) or not ids.keys() >= set(kind.special):
        raise DataError(
            f"the {IDS} of {files.name} has not every id from 0 on, or not {' '.join(kind.special)}; fetch it again"
        )
    codes = (
        [f"__{code}__" for code in _codes(files)] if kind is M2M100 else [token for token in ids if token[:2] == ">>"]
    )
    special = [*kind.special, *codes]
    source = None if kind.source is None else _backend(_model(files, kind.source), ids, special)
    return _backend(_model(files, kind.target), ids, special), source


def _backend(proto: Any, ids: Mapping[str, int], special: list[str]) -> tokenizers.Tokenizer:
    """Return the tokenizer of a model. A piece without an id, which transformers reads as unknown, is divided further."""
    pieces = {piece.piece: piece.score for piece in proto.pieces if piece.type == piece.NORMAL and piece.piece in ids}
    spec = proto.normalizer_spec
    backend = tokenizers.Tokenizer(
        models.BPE(dict(ids), merges(pieces, ids), unk_token=UNKNOWN, fuse_unk=True)
        if proto.trainer_spec.model_type == _MESSAGES.TrainerSpec.BPE
        else models.Unigram(scored(pieces, ids, special), ids[UNKNOWN])
    )
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        # Not Strip(), which also removes U+0085: sentencepiece removes spaces alone.
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    backend.normalizer = normalizers.Sequence(steps)
    scheme = "always" if spec.add_dummy_prefix else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    backend.decoder = decoders.Sequence([decoders.Replace(FOREIGN, ""), decoders.Metaspace(prepend_scheme=scheme)])
    backend.add_special_tokens(special)
    return backend


def merges(pieces: Mapping[str, float], ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return all pairs that make up a piece, those of the highest scores first.

    sentencepiece joins the two neighbours that make up the piece of the highest score, whichever they are.
    """
    found: list[tuple[str, str]] = []
    for piece in sorted(pieces, key=lambda piece: -pieces[piece]):
        cuts = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        found += sorted((pair for pair in cuts if all(part in ids for part in pair)), key=lambda pair: ids[pair[0]])
    return found


def scored(pieces: Mapping[str, float], ids: Mapping[str, int], special: Sequence[str]) -> list[tuple[str, float]]:
    """Return the tokens in the order of their ids, with their scores. Longer ones that are no pieces are named as no text is."""
    named = {*pieces, *special}
    return [
        # Rounded, so that a score survives being written as JSON and read again.
        (token if token in named or len(token) == 1 else FOREIGN + token, round(pieces.get(token, NEVER), 6))
        for token in sorted(ids, key=lambda token: ids[token])
    ]


def _model(files: PretrainedFiles, name: str) -> Any:
    """Return a model as the message of protocol buffers that it is (`ModelProto`)."""
    content = files.read(name)
    try:
        SentencePieceProcessor().LoadFromSerializedProto(content)
    except RuntimeError as error:
        raise DataError(f"the {name} of {files.name} is no sentencepiece model; fetch it again") from error
    proto, trainer = _MESSAGES.ModelProto.FromString(content), _MESSAGES.TrainerSpec
    if proto.trainer_spec.model_type not in (trainer.BPE, trainer.UNIGRAM):
        raise DataError(
            f"the {name} of {files.name} is neither byte-pair encoding nor unigram; set another tokenizer.name"
        )
    return proto


def _codes(files: PretrainedFiles) -> Sequence[str]:
    """Return the languages of M2M100 in the order of their ids, which is written in the code of transformers alone."""
    from transformers.models.m2m_100 import tokenization_m2m_100  # it takes a second

    settings = (
        decode_json(files.read(SETTINGS), dict[str, Any], f"the {SETTINGS} of {files.name}", "fetch it again")
        if files.has(SETTINGS)
        else {}
    )
    lists: Mapping[str, Sequence[str]] = tokenization_m2m_100.FAIRSEQ_LANGUAGE_CODES
    name = settings.get("language_codes", "m2m100")
    if name not in lists:
        raise DataError(
            f"the {SETTINGS} of {files.name} names language_codes {name!r}; transformers has {', '.join(lists)}"
        )
    return lists[name]
