"""Loading of transformers models from config.json and weights, with the checks of both."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers.utils import logging as library_logging

from etude.errors import ConfigurationError
from etude.hub import PretrainedFiles
from etude.models.pretrained.skeleton import PretrainedSkeleton
from etude.models.pretrained.weight_files import check_names, check_tokenizer, read_safetensors
from etude.tokenization.pretrained_tokenizer import PretrainedTokenizer
from etude.tokenization.sentencepiece_files import kind_of
from etude.types import Facts

LENGTHS = (
    "max_position_embeddings",
    "max_encoder_position_embeddings",
    "max_decoder_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
)
"""Fields of a config that may limit the number of tokens in a text."""


class Loaded(NamedTuple):
    """A loaded model.

    Attributes:
        model: The module of transformers.
        weights: Tensors in the files.
        missing: Names of tensors that the files lack; they are newly drawn.
        unexpected: Names of tensors that have no place in the model.
    """

    model: Any
    weights: Mapping[str, Tensor]
    missing: set[str]
    unexpected: set[str]


def load(files: PretrainedFiles, config: Any, auto: str) -> Loaded:
    """Load a model by one of transformers' Auto classes, in float32.

    What the class itself does not train, such as MarianMT's sinusoidal positions, stays as it is: `from_pretrained` forgets
    that, and `save_pretrained` would not keep what training made of it.

    Args:
        files: The model's files.
        config: The model's config, which is not changed.
        auto: Name of the Auto class.

    Raises:
        ConfigurationError: If transformers has no such model, or tensors have another shape.
        DataError: If the weights cannot be read.
    """
    skeleton, weights = _without_weights(config, auto, files.name), read_safetensors(files)
    with quiet():
        model, report = type(skeleton).from_pretrained(
            None,
            config=copy.deepcopy(config),
            state_dict=dict(weights),
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
    for key, shape, expected in sorted(report["mismatched_keys"]):
        raise ConfigurationError(
            f"the weights of {files.name} are not its config.json's: {key} gives {list(shape)}, which should be {list(expected)}"
        )
    for key, parameter in skeleton.named_parameters():
        if not parameter.requires_grad:
            model.get_parameter(key).requires_grad_(False)
    return Loaded(model, weights, set(report["missing_keys"]), set(report["unexpected_keys"]))


def load_whole(files: PretrainedFiles, config: Any, auto: str, vocabulary: int) -> Any:
    """Load a model with its output layer, for the ids of the tokenizer.

    Embeddings may have more rows, to make a round number; rows that no text has trained are cut off.

    Args:
        files: The model's files.
        config: The model's config, which is not changed.
        auto: Name of the Auto class.
        vocabulary: Number of ids of the tokenizer.

    Raises:
        ConfigurationError: If transformers has no such model, or tensors are missing, unexpected, or of another shape.
        DataError: If the weights cannot be read.
    """
    model, _, missing, unexpected = load(files, config, auto)
    check_names(unexpected, missing, files.name)
    if model.get_input_embeddings().num_embeddings > vocabulary:
        with quiet():
            model.resize_token_embeddings(vocabulary)
    return model


def config_of(values: Mapping[str, Any], name: str, dropout: float | None) -> Any:
    """Return the config object of a config.json, without code from the files: `auto_map` is ignored.

    Args:
        values: Content of config.json.
        name: The user's name of the model, for messages.
        dropout: Rate of every dropout; None: as in config.json. Whole layers are never dropped, since ranks would wait
            for the gradients of layers that other ranks dropped.

    Raises:
        ConfigurationError: If the installed transformers has no such model.
    """
    kind, plain = values.get("model_type"), {key: value for key, value in values.items() if key != "auto_map"}
    try:
        config = type(transformers.AutoConfig.for_model(kind)).from_dict(plain)
    except (ValueError, KeyError, TypeError, StrictDataclassError) as error:
        raise _unknown(name, f"config.json of model_type = {kind!r}", error) from error
    for key, value in list(vars(config).items()):
        if key.endswith("layerdrop"):
            setattr(config, key, 0.0)
        elif "drop" in key and dropout is not None and type(value) in (int, float):
            setattr(config, key, dropout)
    return config


def _without_weights(config: Any, auto: str, name: str) -> Any:
    """Return a model of the class that an Auto class selects for a config, without memory for its weights."""
    try:
        with torch.device("meta"):
            return getattr(transformers, auto).from_config(copy.deepcopy(config))
    except (ValueError, KeyError, TypeError) as error:
        raise _unknown(name, f"{auto} of model_type = {config.model_type!r}", error) from error


def _unknown(name: str, what: str, error: Exception) -> ConfigurationError:
    reason = " ".join(str(error).split())[:120]
    return ConfigurationError(
        f"transformers {transformers.__version__} takes no {what}, which {name} has ({reason}); set another model.name"
    )


def check_vocabulary(
    facts: Facts, values: Mapping[str, Any], files: PretrainedFiles, special: Mapping[str, str]
) -> None:
    """Check that the tokenizer is the weights', whose embeddings may have more rows than their own tokenizer has ids.

    Args:
        facts: Facts of the tokenizer.
        values: Content of config.json.
        files: The model's files; a run's skeleton was checked against its tokenizer when the run began.
        special: Names of special ids, and their keys in config.json.

    Raises:
        ConfigurationError: If the number of ids or a special id differs.
    """
    if isinstance(files, PretrainedSkeleton):
        return
    rows = values.get("vocab_size")
    if isinstance(rows, int) and facts.vocabulary < rows and (files.has("tokenizer.json") or kind_of(files)):
        rows = PretrainedTokenizer(files.name).build(iter(())).vocabulary
    check_tokenizer(facts, {**values, "vocab_size": rows}, files.name, special)


def length_limit(config: Any, max_length: int | None, positions: int | None, name: str) -> int:
    """Return the largest number of tokens in a text.

    A length in config.json that is not a field of the config's class is a hint, not a limit: T5 and BLOOM have no table
    of positions but state a length nevertheless.

    Args:
        config: The model's config.
        max_length: The user's limit; None: none.
        positions: Rows of the model's table of positions; None: as in the config.
        name: The user's name of the model, for messages.

    Raises:
        ConfigurationError: If there is neither a limit nor a hint.
    """
    fields = {*inspect.signature(type(config).__init__).parameters, *config.attribute_map}
    stated = {key: getattr(config, key, None) for key in LENGTHS}
    limits = [positions] if positions is not None else [length for key, length in stated.items() if key in fields]
    for lengths in ([max_length, *limits], stated.values()):
        valid = [length for length in lengths if isinstance(length, int) and length > 0]
        if valid:
            return min(valid)
    raise ConfigurationError(f"config.json of {name} does not say how long a text may be; set model.max_length=512")


def first_module_list(model: nn.Module, depth: int | None = None) -> str:
    """Return the name of the first list of `depth` modules, or else of the first list of any length."""
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    return next((name for name, module in lists if len(module) == depth), lists[0][0])


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress transformers' own reports and progress bars: etude reports what matters in them."""
    level, bars = library_logging.get_verbosity(), library_logging.is_progress_bar_enabled()
    library_logging.set_verbosity_error()
    library_logging.disable_progress_bar()
    try:
        yield
    finally:
        library_logging.set_verbosity(level)
        if bars:
            library_logging.enable_progress_bar()
