"""Models of transformers from their files: config.json, weights, and what of both is refused."""

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
from etude.types import Facts

LENGTHS = (
    "max_position_embeddings",
    "max_encoder_position_embeddings",
    "max_decoder_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
)
"""Where a config may say how many tokens a text may have."""


class Loaded(NamedTuple):
    """A model as it was read.

    Attributes:
        model: The module of transformers.
        weights: What the files hold.
        missing: Tensors that the files do not have; they are drawn.
        unexpected: Tensors that have no place in the model.
    """

    model: Any
    weights: Mapping[str, Tensor]
    missing: set[str]
    unexpected: set[str]


def load(files: PretrainedFiles, config: Any, auto: str) -> Loaded:
    """Load a model by one of transformers' Auto classes, in float32.

    Args:
        files: With the weights.
        config: The model's, which is not changed.
        auto: The Auto class's name.

    Raises:
        ConfigurationError: If transformers has no such model, or tensors are of another shape.
        DataError: If the weights cannot be read.
    """
    kind, weights = _class_of(config, auto, files.name), read_safetensors(files)
    with quiet():
        model, report = kind.from_pretrained(
            None,
            config=copy.deepcopy(config),
            state_dict=dict(weights),
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
    for key, given, wanted in sorted(report["mismatched_keys"]):
        raise ConfigurationError(
            f"the weights of {files.name} are not its config.json's: {key} gives {list(given)}, which should be {list(wanted)}"
        )
    return Loaded(model, weights, set(report["missing_keys"]), set(report["unexpected_keys"]))


def load_whole(files: PretrainedFiles, config: Any, auto: str, vocabulary: int) -> Any:
    """Load a model with its output layer, over the ids that the tokenizer has.

    Embeddings may have more rows than that, to make a round number; what no text has trained is cut off.

    Args:
        files: With the weights.
        config: The model's, which is not changed.
        auto: The Auto class's name.
        vocabulary: Ids of the tokenizer.

    Raises:
        ConfigurationError: If transformers has no such model, or tensors are missing, left over, or of another shape.
        DataError: If the weights cannot be read.
    """
    model, _, missing, unexpected = load(files, config, auto)
    check_names(unexpected, missing, files.name)
    if model.get_input_embeddings().num_embeddings > vocabulary:
        with quiet():
            model.resize_token_embeddings(vocabulary)
    return model


def config_of(values: Mapping[str, Any], name: str, dropout: float | None) -> Any:
    """Return the config of a config.json, without code from the files (`auto_map` is of no account).

    Args:
        values: What config.json says.
        name: What the user called the model, for messages.
        dropout: Takes the place of every dropout; None: as config.json says. Whole layers are never dropped: ranks would
            wait for the gradients of those that others left out.

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


def _class_of(config: Any, auto: str, name: str) -> Any:
    """Return the class that an Auto class chooses for a config."""
    try:
        with torch.device("meta"):
            return type(getattr(transformers, auto).from_config(copy.deepcopy(config)))
    except (ValueError, KeyError, TypeError) as error:
        raise _unknown(name, f"{auto} of model_type = {config.model_type!r}", error) from error


def _unknown(name: str, what: str, error: Exception) -> ConfigurationError:
    said = " ".join(str(error).split())[:120]
    return ConfigurationError(
        f"transformers {transformers.__version__} takes no {what}, which {name} has ({said}); set another model.name"
    )


def check_vocabulary(
    facts: Facts, values: Mapping[str, Any], files: PretrainedFiles, special: Mapping[str, str]
) -> None:
    """Hold the tokenizer against the weights, whose embeddings may have more rows than their own tokenizer has ids.

    Args:
        facts: Of the tokenizer.
        values: What config.json says.
        files: The model's; what a run keeps of them was held against its tokenizer when it began.
        special: Special ids of the facts, and the keys of config.json that name them.

    Raises:
        ConfigurationError: If the number of ids or a special id differs.
    """
    if isinstance(files, PretrainedSkeleton):
        return
    rows = values.get("vocab_size")
    if isinstance(rows, int) and facts.vocabulary < rows and files.has("tokenizer.json"):
        rows = PretrainedTokenizer(files.name).build(iter(())).vocabulary
    check_tokenizer(facts, {**values, "vocab_size": rows}, files.name, special)


def most_tokens(config: Any, asked: int | None, positions: int | None, name: str) -> int:
    """Return how many tokens a text may have.

    What a config.json says besides the fields that its class has is a hint, and no limit: T5 and BLOOM have no table of
    positions, and name a length nevertheless.

    Args:
        config: The model's.
        asked: What the user asks for; None: as many as there are.
        positions: Rows of the model's table of positions; None: as the config says.
        name: What the user called the model, for messages.

    Raises:
        ConfigurationError: If nobody says it.
    """
    fields = {*inspect.signature(type(config).__init__).parameters, *config.attribute_map}
    said = {key: getattr(config, key, None) for key in LENGTHS}
    limits = [positions] if positions is not None else [length for key, length in said.items() if key in fields]
    for lengths in ([asked, *limits], said.values()):
        known = [length for length in lengths if isinstance(length, int) and length > 0]
        if known:
            return min(known)
    raise ConfigurationError(f"config.json of {name} does not say how long a text may be; set model.max_length=512")


def first_list(model: nn.Module, depth: int | None = None) -> str:
    """Return the name of the first list of modules with so many, or, where none has, of the first at all."""
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    return next((name for name, module in lists if len(module) == depth), lists[0][0])


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' own reports and progress bars back: what matters of them is said in etude's words."""
    level = library_logging.get_verbosity()
    library_logging.set_verbosity_error()
    library_logging.disable_progress_bar()
    try:
        yield
    finally:
        library_logging.set_verbosity(level)
        library_logging.enable_progress_bar()
