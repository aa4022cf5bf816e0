"""Reading of pretrained models' weights from safetensors, with checks of the tokenizer, tensor names and shapes."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from etude.errors import ConfigurationError, DataError
from etude.hub import PretrainedFiles
from etude.models.pretrained.skeleton import CONFIG, PretrainedSkeleton
from etude.safetensors_header import read_safetensors_header
from etude.types import Facts
from etude.untrusted import BrokenFileError, check_name, convert, decode_json

SPECIAL = {"pad": "pad_token_id", "bos": "bos_token_id", "eos": "eos_token_id"}
"""Names of special ids, and their keys in config.json."""

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
"""Maps each tensor to its file, if there are several files."""

_ADVICE = "fetch it again"
_log = logging.getLogger(__name__)


_Size = Annotated[int, Meta(ge=1, le=1 << 20)] | None
_Layers = Annotated[int, Meta(ge=1, le=1 << 12)] | None
_Id = int | list[int] | None


class _NativeConfig(msgspec.Struct, frozen=True):
    """The types of the keys of config.json that native models read, each in the words of its family; others are free."""

    model_type: str | None = None
    architectures: list[str] | None = None
    vocab_size: Annotated[int, Meta(ge=1, le=1 << 31)] | None = None
    hidden_size: _Size = None
    d_model: _Size = None
    dim: _Size = None
    n_embd: _Size = None
    num_hidden_layers: _Layers = None
    num_layers: _Layers = None
    n_layers: _Layers = None
    n_layer: _Layers = None
    encoder_layers: _Layers = None
    decoder_layers: _Layers = None
    num_attention_heads: _Size = None
    n_heads: _Size = None
    n_head: _Size = None
    encoder_attention_heads: _Size = None
    decoder_attention_heads: _Size = None
    intermediate_size: _Size = None
    hidden_dim: _Size = None
    n_inner: _Size = None
    encoder_ffn_dim: _Size = None
    decoder_ffn_dim: _Size = None
    max_position_embeddings: _Size = None
    n_positions: _Size = None
    type_vocab_size: Annotated[int, Meta(ge=0, le=1 << 31)] | None = None
    pad_token_id: int | None = None
    bos_token_id: _Id = None
    eos_token_id: _Id = None
    dropout: float | None = None
    attention_dropout: float | None = None
    hidden_dropout_prob: float | None = None
    attention_probs_dropout_prob: float | None = None
    layer_norm_eps: float | None = None
    layer_norm_epsilon: float | None = None
    activation: str | None = None
    activation_function: str | None = None
    hidden_act: str | None = None
    id2label: dict[Annotated[str, Meta(pattern="^[0-9]+$")], str] | None = None
    num_labels: _Size = None


class _Index(msgspec.Struct, frozen=True):
    """The file with each tensor; what else the index says is not read."""

    weight_map: dict[str, str]


def check_tokenizer(
    facts: Facts, config: Mapping[str, Any], name: str, special_ids: Mapping[str, str] = SPECIAL
) -> None:
    """Check that the tokenizer is the one that config.json describes.

    Takes what `check_special_ids` does.

    Raises:
        ConfigurationError: If the number of ids or a special id differs.
    """
    advice = f"it is not their tokenizer; set tokenizer=pretrained tokenizer.name={name}"
    if facts.vocabulary != config["vocab_size"]:
        raise ConfigurationError(
            f"the tokenizer has {facts.vocabulary} ids, the weights of {name} have {config['vocab_size']}: {advice}"
        )
    check_special_ids(facts, config, name, special_ids)


def check_special_ids(
    facts: Facts, config: Mapping[str, Any], name: str, special_ids: Mapping[str, str] = SPECIAL
) -> None:
    """Check that the tokenizer's special ids are those of config.json.

    Args:
        facts: Facts of the tokenizer.
        config: Content of config.json, which may list several values for an id.
        name: The user's name of the model.
        special_ids: Names of the ids that must agree, and their keys in config.json.

    Raises:
        ConfigurationError: If an id differs.
    """
    for special, key in special_ids.items():
        own, expected = getattr(facts, special), config.get(key)
        if expected is not None and own not in (expected if isinstance(expected, list) else [expected]):
            raise ConfigurationError(
                f"the tokenizer's {special} is id {own}, that of the weights of {name} is {expected} (config.json): it is "
                f"not their tokenizer; set tokenizer=pretrained tokenizer.name={name}"
            )


def read_safetensors(files: PretrainedFiles) -> dict[str, Tensor]:
    """Return the tensors of a pretrained model: those in model.safetensors, or in all files that its index names.

    Raises:
        DataError: If a file is missing or broken.
    """
    if isinstance(files, PretrainedSkeleton):
        return files.tensors()
    weights: dict[str, Tensor] = {}
    for path in _safetensors(files):
        with _readable(path):
            read_safetensors_header(path, _ADVICE)
            weights |= load_file(path)
    return weights


def skeleton_content(files: PretrainedFiles) -> dict[str, Any]:
    """Return the skeleton of a pretrained model, which a run saves, as plain values: `PretrainedSkeleton` reads it.

    Raises:
        DataError: If the files are missing or broken.
    """
    if isinstance(files, PretrainedSkeleton):
        return files.content
    shapes: dict[str, list[int]] = {}
    for path in _safetensors(files):
        shapes |= {name: list(tensor.shape) for name, tensor in read_safetensors_header(path, _ADVICE).items()}
    return {**files.describe(), "config": read_json(files), "tensors": shapes}


def _safetensors(files: PretrainedFiles) -> list[Path]:
    """Return the paths of the files with tensors.

    Raises:
        DataError: If there are none.
    """
    if files.has(WHOLE) or not files.has(INDEX):
        return [_path(files, WHOLE)]
    where = f"{INDEX} of {files.name}"
    named = set(decode_json(files.read(INDEX), _Index, where, _ADVICE).weight_map.values())
    if not named:
        raise BrokenFileError(where, "weight_map is empty", _ADVICE)
    for file in named:
        check_name(file, where, _ADVICE)
    return [_path(files, file) for file in sorted(named)]


def _path(files: PretrainedFiles, file: str) -> Path:
    pickles = [pickle for pickle in ("pytorch_model.bin", "pytorch_model.bin.index.json") if files.has(pickle)]
    if pickles and not files.has(file):
        raise DataError(
            f"{files.name} has its weights as pytorch_model.bin, a pickle, which may run code and is never loaded; "
            "save them again as model.safetensors, for example with transformers' save_pretrained"
        )
    return files.path(file)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot read {path} as safetensors: {error}; fetch it again") from error


def read_native_config(files: PretrainedFiles) -> dict[str, Any]:
    """Return the config.json of a model that is rebuilt natively.

    Raises:
        DataError: If there is none, it is not an object, or a key that native models read has another type.
    """
    config = read_json(files)
    convert(config, _NativeConfig, f"{CONFIG} of {files.name}", _ADVICE)
    return config


def read_json(files: PretrainedFiles, file: str = CONFIG) -> dict[str, Any]:
    """Return the object in a pretrained model's JSON file.

    Raises:
        DataError: If there is no such file, or it holds no object.
    """
    return decode_json(files.read(file), dict[str, Any], f"{file} of {files.name}", _ADVICE)


def check_names(names: Collection[str], expected: Collection[str], name: str) -> None:
    """Check that the names of tensors are those that a config.json requires.

    Raises:
        ConfigurationError: If some are missing or extra.
    """
    missing, extra = ", ".join(sorted(set(expected) - set(names))), ", ".join(sorted(set(names) - set(expected)))
    if missing or extra:
        raise ConfigurationError(
            f"the weights of {name} are not its config.json's; missing: {missing or 'none'}; extra: {extra or 'none'}"
        )


def check_shapes(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], names: Mapping[str, tuple[str, ...]], name: str
) -> None:
    """Check that the shapes of tensors are those of a module.

    Args:
        state: Tensors from the files, by the module's names.
        expected: The module's own tensors.
        names: Names in the files of the parts of each tensor; a tensor that is not listed has the module's name.
        name: Name of the pretrained model.

    Raises:
        ConfigurationError: If a shape differs.
    """
    for native, tensor in expected.items():
        if state[native].shape != tensor.shape:
            raise ConfigurationError(
                f"the weights of {name} are not its config.json's: {', '.join(names.get(native, (native,)))} give "
                f"{list(state[native].shape)}, which should be {list(tensor.shape)}"
            )


def log_unused(files: PretrainedFiles, tensors: Collection[str]) -> None:
    """Log the tensors that are not part of the encoder: poolers, and heads, which only a task with that head loads.

    Nothing is logged when a run is rebuilt.
    """
    if tensors and not isinstance(files, PretrainedSkeleton):
        _log.info("of %s, no part of the encoder: %s", files.name, ", ".join(sorted(tensors)))
