"""Models of transformers are loaded as their files say; what does not fit is one line, and the library is left as it was."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.utils import logging as library_logging

from etude.errors import ConfigurationError, DataError
from etude.hub import FolderFiles
from etude.models.pretrained.skeleton import PretrainedSkeleton
from etude.models.wrapped.files import (
    LENGTHS,
    check_vocabulary,
    config_of,
    first_module_list,
    length_limit,
    load,
    load_whole,
    quiet,
)
from etude.tokenization.trained import Bytes
from etude.types import Facts

VOCABULARY = 29
GPT2 = {"n_embd": 6, "n_layer": 3, "n_head": 2, "n_positions": 13, "vocab_size": VOCABULARY}
GPT2 |= {"bos_token_id": 1, "eos_token_id": 2}
BART: dict[str, Any] = {
    "model_type": "bart",
    "d_model": 6,
    "dropout": 0.1,
    "attention_dropout": 0.2,
    "activation_dropout": 0.0,
    "classifier_dropout": 0.4,
    "encoder_layerdrop": 0.5,
    "decoder_layerdrop": 0.6,
}
RATES = [name for name in BART if name.endswith("dropout")]
LAYER_RATES = [name for name in BART if name.endswith("layerdrop")]
SPECIAL = {"pad": "pad_token_id", "eos": "eos_token_id"}


def exactly(line: str) -> str:
    return f"^{re.escape(line)}$"


@pytest.fixture
def gpt2(tmp_path: Path) -> tuple[Any, FolderFiles]:
    """A model of random weights, and its files."""
    torch.manual_seed(2)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2))
    model.save_pretrained(tmp_path)
    return model, FolderFiles(tmp_path, "theirs")


def change_weights(files: FolderFiles, **changes: torch.Tensor | None) -> None:
    """Write the tensors again, with some changed, or left out."""
    path = files.folder / "model.safetensors"
    tensors: dict[str, Any] = {**load_file(path), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path, {"format": "pt"})


# config.json


@given(rate=st.floats(0, 1, exclude_max=True))
def test_a_rate_is_that_of_every_dropout_and_no_layer_is_dropped(rate: float) -> None:
    config, plain = config_of(BART, "theirs", rate), config_of(BART, "theirs", None)
    assert [getattr(config, name) for name in RATES] == [rate] * 4
    assert [getattr(plain, name) for name in RATES] == [BART[name] for name in RATES]
    for one in (config, plain):
        assert [getattr(one, name) for name in LAYER_RATES] == [0.0, 0.0]
        assert one.d_model == 6
    rest = [{key: value for key, value in one.to_dict().items() if key not in RATES} for one in (config, plain)]
    assert rest[0] == rest[1]


def test_a_rate_that_is_not_a_number_stays() -> None:
    """The classifier of BERT has no rate of its own, and a flag is not a rate."""
    config = config_of({"model_type": "bert", "classifier_dropout": None, "drop_path": True}, "theirs", 0.3)
    assert (config.classifier_dropout, config.drop_path, config.hidden_dropout_prob) == (None, True, 0.3)


def test_code_of_the_files_is_not_named_in_the_config() -> None:
    values = {**BART, "auto_map": {"AutoConfig": "code.Config"}}
    assert not hasattr(config_of(values, "theirs", None), "auto_map")
    assert "auto_map" in values


@pytest.mark.parametrize("values", [{}, {"model_type": "unheard-of"}, {"model_type": ["bert"]}])
def test_an_unknown_kind_of_model_is_named(values: dict[str, Any]) -> None:
    start = f"transformers {transformers.__version__} takes no config.json of model_type = {values.get('model_type')!r}"
    with pytest.raises(ConfigurationError) as caught:
        config_of(values, "theirs", None)
    assert re.fullmatch(
        rf"{re.escape(start)}, which theirs has \(.{{1,120}}\); set another model\.name", str(caught.value)
    )


def test_a_value_that_the_config_refuses_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"^transformers .* which theirs has \(.*hidden_size.*\); set another"):
        config_of({"model_type": "bert", "hidden_size": "wide"}, "theirs", None)


# Weights


def test_a_model_has_the_weights_of_its_files_in_single_precision(gpt2: tuple[Any, FolderFiles]) -> None:
    model, files = gpt2
    model.bfloat16().save_pretrained(files.folder)
    before = model.config.to_dict()
    loaded = load(files, model.config, "AutoModelForCausalLM")
    assert type(loaded.model) is transformers.GPT2LMHeadModel and not loaded.missing and not loaded.unexpected
    assert model.config.to_dict() == before
    for name, tensor in loaded.model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, model.state_dict()[name].float()), name
    assert loaded.weights["transformer.wpe.weight"].dtype == torch.bfloat16


def test_missing_and_unexpected_tensors_are_listed_and_refused_in_a_whole_model(gpt2: tuple[Any, FolderFiles]) -> None:
    model, files = gpt2
    change_weights(files, **{"transformer.h.1.ln_2.bias": None, "another": torch.ones(2)})
    loaded = load(files, model.config, "AutoModelForCausalLM")
    assert (loaded.missing, loaded.unexpected) == ({"transformer.h.1.ln_2.bias"}, {"another"})
    line = "the weights of theirs are not its config.json's; missing: transformer.h.1.ln_2.bias; extra: another"
    with pytest.raises(ConfigurationError, match=exactly(line)):
        load_whole(files, model.config, "AutoModelForCausalLM", VOCABULARY)


def test_a_tensor_of_another_shape_is_named(gpt2: tuple[Any, FolderFiles]) -> None:
    model, files = gpt2
    change_weights(files, **{"transformer.h.2.ln_1.weight": torch.ones(7), "transformer.h.2.ln_1.bias": torch.ones(5)})
    line = "the weights of theirs are not its config.json's: transformer.h.2.ln_1.bias gives [5], which should be [6]"
    with pytest.raises(ConfigurationError, match=exactly(line)):
        load(files, model.config, "AutoModelForCausalLM")


def test_a_task_that_transformers_has_no_class_for_is_named(gpt2: tuple[Any, FolderFiles]) -> None:
    model, files = gpt2
    with pytest.raises(ConfigurationError) as caught:
        load(files, model.config, "AutoModelForSeq2SeqLM")
    start = f"transformers {transformers.__version__} takes no AutoModelForSeq2SeqLM of model_type = 'gpt2', which theirs has ("
    assert str(caught.value).startswith(start) and str(caught.value).endswith("); set another model.name")
    assert "\n" not in str(caught.value)


def test_absent_weights_are_named(gpt2: tuple[Any, FolderFiles]) -> None:
    model, files = gpt2
    (files.folder / "model.safetensors").unlink()
    with pytest.raises(
        DataError, match=rf"^{re.escape(str(files.folder))} has no model\.safetensors; it has: config\.json"
    ):
        load(files, model.config, "AutoModelForCausalLM")


@pytest.mark.parametrize("vocabulary", [VOCABULARY, VOCABULARY - 1, 23])
def test_rows_without_an_id_are_cut_off(gpt2: tuple[Any, FolderFiles], vocabulary: int) -> None:
    model, files = gpt2
    whole = load_whole(files, model.config, "AutoModelForCausalLM", vocabulary)
    assert torch.equal(whole.get_input_embeddings().weight, model.transformer.wte.weight[:vocabulary])
    assert whole.get_output_embeddings().weight is whole.get_input_embeddings().weight
    tokens = torch.tensor([[3, 22, 1, 9]])
    with torch.no_grad():
        expected = model.eval()(tokens).logits[..., :vocabulary]
        torch.testing.assert_close(whole.eval()(tokens).logits, expected)
    assert model.config.vocab_size == VOCABULARY


# The tokenizer


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    facts, files = Facts(VOCABULARY, pad=0, bos=1, eos=2), FolderFiles(tmp_path, "theirs")
    check_vocabulary(facts, {"vocab_size": VOCABULARY, "pad_token_id": 0, "eos_token_id": [7, 2]}, files, SPECIAL)
    advice = "it is not their tokenizer; set tokenizer=pretrained tokenizer.name=theirs"
    for rows in (VOCABULARY - 1, VOCABULARY + 3):
        line = f"the tokenizer has 29 ids, the weights of theirs have {rows}: {advice}"
        with pytest.raises(ConfigurationError, match=exactly(line)):
            check_vocabulary(facts, {"vocab_size": rows}, files, SPECIAL)
    line = f"the tokenizer's eos is id 2, that of the weights of theirs is 3 (config.json): {advice}"
    with pytest.raises(ConfigurationError, match=exactly(line)):
        check_vocabulary(facts, {"vocab_size": VOCABULARY, "pad_token_id": 0, "eos_token_id": 3}, files, SPECIAL)


def test_only_the_special_ids_that_a_model_reads_must_agree(tmp_path: Path) -> None:
    facts, files = Facts(VOCABULARY, pad=0, bos=1, eos=2), FolderFiles(tmp_path, "theirs")
    check_vocabulary(facts, {"vocab_size": VOCABULARY, "bos_token_id": 9}, files, SPECIAL)
    with pytest.raises(ConfigurationError, match="the tokenizer's bos is id 1"):
        check_vocabulary(facts, {"vocab_size": VOCABULARY, "bos_token_id": 9}, files, {"bos": "bos_token_id"})


def test_embeddings_may_have_more_rows_than_the_models_own_tokenizer_has_ids(tmp_path: Path) -> None:
    tokenizer = Bytes().build(iter(()))
    tokenizer.save(tmp_path)
    names = {f"{name}_token": tokenizer.names([getattr(tokenizer, name)])[0] for name in ("pad", "bos", "eos")}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    files, size = FolderFiles(tmp_path, str(tmp_path)), tokenizer.vocabulary
    check_vocabulary(Facts(size, pad=0, bos=1, eos=2), {"vocab_size": size + 5}, files, {})
    with pytest.raises(ConfigurationError, match=rf"the tokenizer has {size - 1} ids, the weights of .* have {size}:"):
        check_vocabulary(Facts(size - 1, pad=0, bos=1, eos=2), {"vocab_size": size + 5}, files, {})
    with pytest.raises(ConfigurationError, match=rf"the tokenizer has {size} ids, the weights of .* have {size - 2}:"):
        check_vocabulary(Facts(size, pad=0, bos=1, eos=2), {"vocab_size": size - 2}, files, {})  # ids without a row


def test_a_run_that_is_rebuilt_has_the_tokenizer_that_it_began_with(tmp_path: Path) -> None:
    kept: dict[str, Any] = {"name": "theirs", "version": None, "sha256": {}, "config": {}, "tensors": {}}
    (tmp_path / "pretrained.json").write_text(json.dumps(kept))
    skeleton = PretrainedSkeleton(tmp_path / "pretrained.json")
    check_vocabulary(Facts(VOCABULARY, 0, 1, 2), {"vocab_size": 3, "eos_token_id": 0}, skeleton, SPECIAL)


# Lengths

LENGTH = st.integers(1, 1 << 20)


@given(asked=st.none() | LENGTH, table=st.none() | LENGTH, stated=LENGTH)
def test_a_text_is_never_longer_than_any_limit(asked: int | None, table: int | None, stated: int) -> None:
    """BERT's length is a field of its config; where the table is known, its rows count in place of it."""
    config = transformers.BertConfig(max_position_embeddings=stated)
    limits = [limit for limit in (asked, stated if table is None else table) if limit is not None]
    assert length_limit(config, asked, table, "theirs") == min(limits)


@given(asked=st.none() | LENGTH, stated=LENGTH)
def test_a_hint_is_no_limit(asked: int | None, stated: int) -> None:
    """T5 has no table of positions, so that `n_positions` is not a field of its config."""
    config = transformers.T5Config(n_positions=stated)
    assert length_limit(config, asked, None, "theirs") == (stated if asked is None else asked)


@pytest.mark.parametrize(
    ("config", "length"),
    [
        (transformers.GPT2Config(n_positions=17), 17),
        (transformers.LEDConfig(max_encoder_position_embeddings=32, max_decoder_position_embeddings=24), 24),
        (transformers.MptConfig(max_seq_len=19), 19),
    ],
)
def test_each_name_of_a_length_is_known(config: Any, length: int) -> None:
    assert length_limit(config, None, None, "theirs") == length
    assert any(getattr(config, key, None) == length for key in LENGTHS)


@pytest.mark.parametrize("stated", [None, 0, -1, "long"])
def test_a_model_that_states_no_length_needs_one(stated: Any) -> None:
    config = transformers.T5Config(n_positions=stated)
    line = "config.json of theirs does not say how long a text may be; set model.max_length=512"
    with pytest.raises(ConfigurationError, match=exactly(line)):
        length_limit(config, None, None, "theirs")
    assert length_limit(config, 11, None, "theirs") == 11


# Modules


def test_the_list_of_layers_is_the_first_of_its_length_or_the_first_of_all() -> None:
    def linears(count: int) -> nn.ModuleList:
        return nn.ModuleList(nn.Linear(1, 1) for _ in range(count))

    model = nn.ModuleDict({"few": linears(2), "deep": nn.ModuleDict({"layers": linears(3)}), "again": linears(3)})
    found = [first_module_list(model, depth) for depth in (2, 3, 4, None)]
    assert found == ["few", "deep.layers", "few", "few"]


# The library's reports


@pytest.fixture
def reports() -> Iterator[list[str]]:
    """What transformers reports, with reports of all kinds asked for."""
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    level, handler = library_logging.get_verbosity(), Keep()
    library_logging.set_verbosity_info()
    library_logging.add_handler(handler)
    yield said
    library_logging.remove_handler(handler)
    library_logging.set_verbosity(level)


@pytest.mark.parametrize("error", [None, KeyError("inside")])
def test_the_library_is_quiet_for_a_while(reports: list[str], error: Exception | None) -> None:
    logger = library_logging.get_logger("transformers.modeling_utils")
    with pytest.raises(KeyError) if error else nullcontext(), quiet():
        assert not library_logging.is_progress_bar_enabled()
        logger.warning("within")
        if error:
            raise error
    assert library_logging.get_verbosity() == library_logging.INFO
    assert library_logging.is_progress_bar_enabled()
    logger.info("after")
    assert reports == ["after"]


def test_progress_bars_that_were_off_stay_off() -> None:
    library_logging.disable_progress_bar()
    try:
        with quiet():
            pass
        assert not library_logging.is_progress_bar_enabled()
    finally:
        library_logging.enable_progress_bar()
