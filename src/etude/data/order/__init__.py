"""The order of an epoch without a stored order: permutations that are computed, and plans made of them."""
