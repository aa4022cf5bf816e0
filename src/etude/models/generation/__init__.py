"""Greedy search, beam search and sampling, which see a model as one function from tokens to logits."""
