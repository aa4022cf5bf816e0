from __future__ import annotations

import math

import pytest

from etude.errors import DataError
from etude.metrics.language_modeling import bits_per_byte, perplexity


def test_a_uniform_guess_is_as_uncertain_as_its_choices() -> None:
    assert perplexity(math.log(17)) == pytest.approx(17)
    assert perplexity(0.0) == 1.0
    assert perplexity(1e6) == math.inf


def test_guessing_bytes_uniformly_costs_eight_bits_each() -> None:
    assert bits_per_byte(loss_sum=13 * math.log(256), byte_count=13) == pytest.approx(8)


def test_bits_per_byte_do_not_depend_on_the_cut_into_tokens() -> None:
    """Text of 6 bytes as 2 tokens of 9 bits, or as 3 tokens of 6 bits: the same 3 bits a byte."""
    assert bits_per_byte(2 * 9 * math.log(2), 6) == pytest.approx(3)
    assert bits_per_byte(3 * 6 * math.log(2), 6) == pytest.approx(3)


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(DataError, match="0 bytes"):
        bits_per_byte(1.0, 0)
