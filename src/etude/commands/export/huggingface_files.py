"""The files of a transformers model: configuration, weights, tokenizer and search, none of them a pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from tokenizers import processors
from torch import Tensor

from etude.commands.export.proof import MismatchError
from etude.errors import ConfigurationError
from etude.models.generation.length_penalty import GNMT, LengthNormalized
from etude.models.generation.search import Beam, Sample, Search
from etude.models.layers.feed_forward import Activation
from etude.models.pretrained.encoder_decoder_families import ACTIVATIONS
from etude.models.wrapped.files import quiet
from etude.tokenization.base import SOURCE, Tokenizer
from etude.tokenization.chat_template import template_of
from etude.tokenization.conversation import Message
from etude.types import Facts


def write_model(folder: Path, model_type: str, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write config.json and model.safetensors.

    Args:
        folder: Folder to write into.
        model_type: Model type known to transformers' AutoConfig.
        config: Arguments of the config.
        weights: Weights by their names in the architecture.
    """
    # transformers takes most of a second to import.
    from transformers import AutoConfig

    AutoConfig.for_model(model_type, **config).save_pretrained(folder)
    save_file(
        {name: tensor.detach().contiguous() for name, tensor in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


def write_generation(folder: Path, facts: Facts, search: Search, longest: int, given: int = 0, **more: int) -> None:
    """Write generation_config.json with the run's search, as far as transformers can express it.

    Args:
        folder: Folder to write into.
        facts: Facts with the special ids.
        search: Search of the run.
        longest: Largest number of tokens that the model can generate.
        given: Number of tokens that a search is given behind the start, which `generate` counts.
        **more: Further ids that `generate` needs.
    """
    from transformers import GenerationConfig

    GenerationConfig(
        **{f"{name}_token_id": getattr(facts, name) for name in ("pad", "bos", "eos")},
        **more,
        max_new_tokens=min(search.max_length + given, longest),
        **search_options(search),
    ).save_pretrained(folder)


def search_options(search: Search) -> dict[str, Any]:
    """Return the options of `generate` for a search.

    transformers divides log-probabilities by length ** length_penalty, so `LengthNormalized` is 1 and `Unnormalized` is 0.
    `GNMT` divides by ((5 + length) / 6) ** alpha; passing alpha on gives the same ranking only where it is 0.
    """
    if isinstance(search, Sample):
        filters = {"top_k": search.top_k or 0, "top_p": search.top_p, "min_p": search.min_p}
        return {"do_sample": True, "temperature": search.temperature, **filters}
    if not isinstance(search, Beam) or search.beams == 1:
        return {"num_beams": 1}
    penalty = search.penalty
    exponent = penalty.alpha if isinstance(penalty, GNMT) else float(isinstance(penalty, LengthNormalized))
    return {"num_beams": search.beams, "length_penalty": exponent, "early_stopping": False}


def write_tokenizer(
    folder: Path,
    tokenizer: Tokenizer,
    max_length: int,
    before: Sequence[int] = (),
    after: Sequence[int] = (),
    settings: Mapping[str, Any] | None = None,
    pairs: bool = False,
    types: bool = False,
    masks: bool = False,
) -> None:
    """Write the tokenizer so that transformers' AutoTokenizer returns the run's ids, special ids included.

    A vocabulary of the sources' own is written into `source/`; a target then ends with eos.

    Args:
        folder: Folder to write into.
        tokenizer: Tokenizer of the run.
        max_length: Largest number of tokens that the model reads.
        before: Ids before a text that the model reads: bos, or a language.
        after: Ids behind it: eos, and perhaps a language.
        settings: Further entries of tokenizer_config.json.
        pairs: Whether texts come in pairs, each of which ends with eos.
        types: Whether the model takes token type ids.
        masks: Whether a text may hold the mask token, and with it, as transformers has it, any special token.
    """
    source = tokenizer.of("source")
    tokenizer.save(folder)
    if source is not tokenizer:
        write_tokenizer(folder / SOURCE, source, max_length, before, after)
        before, after = (), (tokenizer.eos,)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    special = tokenizer.special
    ids = dict.fromkeys([*before, *after, tokenizer.bos, tokenizer.eos])
    backend.post_processor = processors.TemplateProcessing(
        single=[*tokenizer.names(before), "$A", *tokenizer.names(after)],
        **({"pair": f"{special.bos} $A {special.eos} $B:1 {special.eos}:1"} if pairs else {}),
        special_tokens=list(zip(tokenizer.names(ids), ids, strict=True)),
    )
    backend.save(str(folder / "tokenizer.json"))
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_bytes()) | (settings or {})
    # Text that looks like a special token stays text, as in `Tokenizer.encode`; but chat templates write special tokens.
    split = not masks and tokenizer.chat_template is None
    config |= {"split_special_tokens": split, "model_max_length": max_length, "padding_side": "right"}
    config["model_input_names"] = ["input_ids", *(["token_type_ids"] if types else []), "attention_mask"]
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")


def activation_name(activation: Activation) -> str:
    """Return the name of an activation in config.json.

    Raises:
        ConfigurationError: If transformers has no name for it.
    """
    probe = torch.linspace(-4, 4, 97)  # functions, modules and partials may be the same activation
    for name, candidate in ACTIVATIONS.items():
        if torch.equal(activation(probe), candidate(probe)):
            return name
    raise ConfigurationError(f"only the activations {', '.join(ACTIVATIONS)} can be exported, not {activation}")


def prove_tokenizer(
    folder: Path, tokenizer: Tokenizer, texts: list[str], expected: list[list[int]], seconds: Sequence[str] = ()
) -> dict[str, int]:
    """Compare the ids and the decoded texts of AutoTokenizer with those of the run.

    Args:
        folder: Folder of the exported tokenizer.
        tokenizer: Tokenizer of the run.
        texts: Texts to encode.
        expected: The run's ids of each text or pair, special ones included.
        seconds: Second text of each pair; empty without pairs.

    Raises:
        MismatchError: If AutoTokenizer encodes or decodes a text differently.
    """
    from transformers import AutoTokenizer

    peer = AutoTokenizer.from_pretrained(folder)
    peer.split_special_tokens = True  # also of a masked language model, for a text that looks like a special token
    with quiet():  # it warns of texts that are longer than the model
        encoded = peer(texts, list(seconds) or None, truncation=False)["input_ids"]
    for text, own, ids in zip(texts, expected, encoded, strict=True):
        if ids != own:
            raise MismatchError(
                f"AutoTokenizer gives {ids[:12]} for {text[:40]!r}, not {own[:12]}; nothing was exported"
            )
    for text, decoded in zip(
        tokenizer.decode(expected), peer.batch_decode(expected, skip_special_tokens=True), strict=True
    ):
        if decoded.strip() != text:
            raise MismatchError(f"AutoTokenizer decodes {decoded[:40]!r}, not {text[:40]!r}; nothing was exported")
    return {"texts": len(texts), "equal": len(texts)}


def prove_chat_template(folder: Path, tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, int]:
    """Compare the ids of conversations by AutoTokenizer's chat template with those of the run.

    Args:
        folder: Folder of the exported tokenizer.
        tokenizer: Tokenizer of the run, with a template.
        texts: What users say, each in a conversation of its own; those with the text of a special token are left out, which
            transformers takes for the token.

    Raises:
        MismatchError: If ids differ.
    """
    from transformers import AutoTokenizer

    peer, template = AutoTokenizer.from_pretrained(folder), template_of(tokenizer)
    plain = [text for text in texts if not any(token in text for token in peer.all_special_tokens)]
    for text in plain:
        messages = [{"role": "user", "content": text}]
        # As the run renders it: a template that asks for the date gets a constant one.
        theirs = peer.apply_chat_template(
            messages, chat_template=template.rendered_source, add_generation_prompt=True, return_dict=False
        )
        own = template.prompt((Message("user", text),))
        if theirs != own:
            raise MismatchError(
                f"the chat template gives {theirs[:12]} in AutoTokenizer for {text[:40]!r}, not {own[:12]}; nothing was exported"
            )
    if peer.chat_template != template.source:
        raise MismatchError("AutoTokenizer reads another chat template than the run's; nothing was exported")
    return {"conversations": len(plain), "equal": len(plain)}


def load_peer(folder: Path, auto: str) -> torch.nn.Module:
    """Load an exported model with one of transformers' Auto classes.

    Raises:
        MismatchError: If a weight is missing, unexpected or of another shape.
    """
    import transformers

    with quiet():
        model, report = getattr(transformers, auto).from_pretrained(folder, output_loading_info=True)
    problems = [str(name) for key in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in report[key]]
    if problems:
        raise MismatchError(f"{type(model).__name__} and the exported weights differ in {', '.join(problems[:6])}")
    return model.eval()


def logits_of(outputs: Any) -> Float[Tensor, "*shape"]:
    """Return the logits of the output of a transformers model, in float32."""
    return outputs.logits.float()
