"""Tags of directions, such as `<2de>`: special tokens before a source that say which language to write (Johnson et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tokenizers

from etude.tokenization.base import Tokenizer, TokenizerRecipe, TrainingTexts
from etude.tokenization.languages import Languages


@dataclass(frozen=True)
class TaggedRecipe:
    """A recipe whose tokenizer gets a tag for each target language, behind the vocabulary that it has otherwise.

    Attributes:
        recipe: The recipe.
        targets: The target languages.
    """

    recipe: TokenizerRecipe
    targets: tuple[str, ...]

    @property
    def key(self) -> str:
        """The recipe's key, and the tags."""
        return f"{self.recipe.key} tags {' '.join(self.targets)}"

    def build(self, texts: TrainingTexts) -> Tokenizer:
        """Return the tokenizer, trained on the texts as if there were no tags."""
        return with_tags(self.recipe.build(texts), self.targets)


def with_tags(tokenizer: Tokenizer, targets: Sequence[str]) -> Tokenizer:
    """Return a tokenizer with a tag for each target language, in the vocabulary of the sources.

    Args:
        tokenizer: A tokenizer, whose backend is changed.
        targets: The target languages.
    """
    source = tokenizer.of("source")
    tags = {language: f"<2{language}>" for language in targets}
    source.backend.add_special_tokens([tokenizers.AddedToken(tag, normalized=False) for tag in tags.values()])
    vocabulary = source.backend.get_vocab(with_added_tokens=True)
    ids = {language: vocabulary[tag] for language, tag in tags.items()}
    own = None if source is tokenizer else Tokenizer(source.backend, source.special)
    return Tokenizer(tokenizer.backend, tokenizer.special, own, Languages("target_tag", ids))
