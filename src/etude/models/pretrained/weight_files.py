"""The weights of pretrained models: read from safetensors, and held against the tokenizer and the names they should have."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from etude.errors import ConfigurationError, DataError
from etude.hub import PretrainedFiles
from etude.models.pretrained.skeleton import CONFIG, PretrainedSkeleton
from etude.types import Facts

SPECIAL = {"pad": "pad_token_id", "bos": "bos_token_id", "eos": "eos_token_id"}
"""Special ids, and what config.json calls them."""

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
"""Says which file has which tensor, where there are several."""

_log = logging.getLogger(__name__)


def check_tokenizer(
    facts: Facts, config: Mapping[str, Any], name: str, special_ids: Mapping[str, str] = SPECIAL
) -> None:
    """Hold the tokenizer against what config.json says of its own.

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
    """Hold the tokenizer's special ids against those that config.json names.

    Args:
        facts: Of the tokenizer.
        config: What config.json says; of an id it may name several.
        name: What the user called the model.
        special_ids: The ids that must agree, and what config.json calls them.

    Raises:
        ConfigurationError: If one differs.
    """
    for special, key in special_ids.items():
        ours, theirs = getattr(facts, special), config.get(key)
        if theirs is not None and ours not in (theirs if isinstance(theirs, list) else [theirs]):
            raise ConfigurationError(
                f"the tokenizer's {special} is id {ours}, that of the weights of {name} is {theirs} (config.json): it is "
                f"not their tokenizer; set tokenizer=pretrained tokenizer.name={name}"
            )


def read_safetensors(files: PretrainedFiles) -> dict[str, Tensor]:
    """Return the tensors of a pretrained model: of model.safetensors, or of all the files that its index names.

    Raises:
        DataError: If there is none, or it is broken.
    """
    if isinstance(files, PretrainedSkeleton):
        return files.tensors()
    found: dict[str, Tensor] = {}
    for path in _safetensors(files):
        with _readable(path):
            found |= load_file(path)
    return found


def kept(files: PretrainedFiles) -> dict[str, Any]:
    """Return what a run keeps of a pretrained model's files, as plain values: `PretrainedSkeleton` reads it.

    Raises:
        DataError: If the files are missing or broken.
    """
    if isinstance(files, PretrainedSkeleton):
        return files.content
    shapes: dict[str, list[int]] = {}
    for path in _safetensors(files):
        with _readable(path), safe_open(path, "pt") as tensors:
            shapes |= {name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    return {**files.describe(), "config": read_json(files), "tensors": shapes}


def _safetensors(files: PretrainedFiles) -> list[Path]:
    """Return the paths of the files that have the tensors.

    Raises:
        DataError: If there are none.
    """
    if files.has(WHOLE) or not files.has(INDEX):
        return [_path(files, WHOLE)]
    named = read_json(files, INDEX).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise DataError(f"{INDEX} of {files.name} has no weight_map; fetch it again")
    return [_path(files, file) for file in sorted(set(named.values()))]


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


def read_json(files: PretrainedFiles, file: str = CONFIG) -> dict[str, Any]:
    """Return the object in a pretrained model's JSON file.

    Raises:
        DataError: If there is none, or it is no object.
    """
    try:
        config = json.loads(files.read(file))
    except ValueError as error:
        raise DataError(f"{file} of {files.name} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise DataError(f"{file} of {files.name} is not an object but {type(config).__name__}")
    return config


def check_names(given: Collection[str], expected: Collection[str], name: str) -> None:
    """Hold the names of tensors against those that a config.json asks for.

    Raises:
        ConfigurationError: If some are missing or left over.
    """
    missing, extra = ", ".join(sorted(set(expected) - set(given))), ", ".join(sorted(set(given) - set(expected)))
    if missing or extra:
        raise ConfigurationError(
            f"the weights of {name} are not its config.json's; missing: {missing or 'none'}; extra: {extra or 'none'}"
        )


def check_shapes(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], names: Mapping[str, tuple[str, ...]], name: str
) -> None:
    """Hold the shapes of tensors against those of a module.

    Args:
        state: What was read, by the module's names.
        wanted: The module's own.
        names: The files' names of each.
        name: Of the pretrained model.

    Raises:
        ConfigurationError: If one differs.
    """
    for ours, tensor in wanted.items():
        if state[ours].shape != tensor.shape:
            raise ConfigurationError(
                f"the weights of {name} are not its config.json's: {', '.join(names[ours])} give "
                f"{list(state[ours].shape)}, which should be {list(tensor.shape)}"
            )


def say_left_out(files: PretrainedFiles, tensors: Collection[str]) -> None:
    """Log the tensors that are no part of the encoder: heads, which only a task with the same head takes, and poolers.

    Where a run is built again, that has been said.
    """
    if tensors and not isinstance(files, PretrainedSkeleton):
        _log.info("of %s, no part of the encoder: %s", files.name, ", ".join(sorted(tensors)))
