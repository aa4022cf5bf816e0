"""Tiny models of random weights with the tokenizers of their families, as transformers saves them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import sentencepiece
import tokenizers
import torch
import transformers
from tokenizers import models, pre_tokenizers
from transformers.models.mbart.tokenization_mbart import FAIRSEQ_LANGUAGE_CODES as CODES_OF_25
from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES as CODES_OF_50

WORDS = "sun moon star tree lake road bird song wind rain nus noom rats eert".split()  # noqa: SIM905
CHARACTERS = sorted(set("".join(WORDS)))
FAIRSEQ = ["<s>", "<pad>", "</s>", "<unk>"]

BART: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 17,
    "decoder_ffn_dim": 17,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "forced_eos_token_id": None,
}
T5: dict[str, Any] = {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 17,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 2,
    "n_positions": 40,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}


class Family(NamedTuple):
    """A family of models.

    Attributes:
        model_type: Name of its architecture in transformers.
        config: Sizes and special ids.
        languages: Its names of English, German and French; empty: it has none.
    """

    model_type: str
    config: dict[str, Any]
    languages: Mapping[str, str]


SHORT, WITH_SCRIPT = {"en": "en", "de": "de", "fr": "fr"}, {"en": "eng_Latn", "de": "deu_Latn", "fr": "fra_Latn"}
WITH_REGION = {"en": "en_XX", "de": "de_DE", "fr": "fr_XX"}
FAMILIES = {
    "m2m100": Family("m2m_100", {**BART, "decoder_start_token_id": 2}, SHORT),
    "nllb": Family("m2m_100", {**BART, "decoder_start_token_id": 2}, WITH_SCRIPT),
    "nllb legacy": Family("m2m_100", {**BART, "decoder_start_token_id": 2}, WITH_SCRIPT),
    "mbart50": Family("mbart", {**BART, "decoder_start_token_id": 2}, WITH_REGION),
    "mbart": Family("mbart", BART, WITH_REGION),
    "marian": Family("marian", {**BART, "decoder_start_token_id": 1}, SHORT),
    "t5": Family("t5", T5, {}),
    "mt5": Family("mt5", T5, {}),
}


def made(kind: str, folder: Path, more: int = 0) -> Any:
    """Write tokenizer and model into a folder, and return the model as transformers has it, with `more` rows than ids."""
    folder.mkdir(parents=True, exist_ok=True)
    size = write_tokenizer(kind, folder) + more
    family = FAMILIES[kind]
    config = transformers.AutoConfig.for_model(family.model_type, vocab_size=size, **family.config)
    torch.manual_seed(1)
    model = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # Attention to the source outweighs the last token, which would else be repeated for ever.
            across = parameter.dim() > 1 and any(part in name for part in ("encoder_attn.", "EncDecAttention"))
            torch.nn.init.normal_(parameter, std=2.0 if across else 0.4 if parameter.dim() > 1 else 0.1)
            if "norm" in name and name.endswith("weight"):
                parameter.data += 1
    model.save_pretrained(folder)
    return model


def write_tokenizer(kind: str, folder: Path) -> int:
    """Write a tokenizer of a family, and return its number of ids."""
    if kind.startswith("nllb"):
        vocabulary = {token: number for number, token in enumerate([*FAIRSEQ, "▁", *CHARACTERS])}
        legacy = kind == "nllb legacy"
        nllb = transformers.NllbTokenizer(vocab=vocabulary, merges=[], legacy_behaviour=legacy)
        nllb.save_pretrained(folder)
        return len(nllb)
    if kind.startswith("mbart"):
        codes, kind_of = (CODES_OF_50, "MBart50Tokenizer") if kind == "mbart50" else (CODES_OF_25, "MBartTokenizer")
        pieces = [(token, 0.0) for token in FAIRSEQ] + [("▁", -2.0), *((one, -3.0) for one in CHARACTERS)]
        pieces += [(f"▁{word}", -4.0) for word in WORDS] + [(code, 0.0) for code in codes] + [("<mask>", 0.0)]
        mbart = getattr(transformers, kind_of)(vocab=pieces)
        mbart.save_pretrained(folder)
        return len(mbart)
    if kind == "m2m100":
        m2m100 = write_m2m100(folder, WORDS, 50)
        return len(m2m100.encoder) + len(m2m100.lang_code_to_id)
    if kind == "marian":
        return len(write_marian(folder, WORDS, [word[::-1] for word in WORDS], 45))
    special = ["<pad>", "</s>", "<unk>"]
    vocabulary = {token: number for number, token in enumerate([*special, *WORDS, "into", "german", "french"])}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(special)
    backend.save(str(folder / "tokenizer.json"))
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "T5Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return backend.get_vocab_size()


def write_m2m100(folder: Path, texts: Sequence[str], pieces: int, **options: Any) -> transformers.M2M100Tokenizer:
    """Train a sentencepiece model, give its pieces ids in an order of their own, and write both as M2M100's files."""
    named = write_sentencepiece(folder / "sentencepiece.bpe.model", texts, pieces, **options)
    vocabulary = {token: number for number, token in enumerate([*FAIRSEQ, *named, "madeupword0000"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = transformers.M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "sentencepiece.bpe.model"))
    tokenizer.save_pretrained(folder)
    return tokenizer


def write_marian(
    folder: Path, sources: Sequence[str], targets: Sequence[str], pieces: int, **options: Any
) -> transformers.MarianTokenizer:
    """Train a sentencepiece model of each side, give all pieces ids, and write them as MarianMT's files."""
    options = {"model_type": "unigram", "hard_vocab_limit": False, **options}
    sides = zip((folder / "source.spm", folder / "target.spm"), (sources, targets), strict=True)
    named = {piece for path, texts in sides for piece in write_sentencepiece(path, texts, pieces, **options)}
    tokens = ["<unk>", "<pad>", "</s>", *(f">>{code}<<" for code in SHORT), *sorted(named)]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    files = [str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")]
    tokenizer = transformers.MarianTokenizer(*files)
    tokenizer.save_pretrained(folder)
    return tokenizer


def write_sentencepiece(path: Path, texts: Sequence[str], pieces: int, **options: Any) -> list[str]:
    """Train a sentencepiece model, and return its pieces in order of the alphabet."""
    model, options = io.BytesIO(), {"model_type": "bpe", "minloglevel": 2, **options}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, vocab_size=pieces, **options
    )
    path.write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return sorted(processor.id_to_piece(number) for number in range(3, len(processor)))  # not <unk>, <s> and </s>
