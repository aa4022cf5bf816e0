"""Losses. Each returns its sum and its count, never a mean: a step divides once, by the whole batch's count."""
