"""Tokenizers, trained on a corpus or taken from a pretrained model, and what is computed on their ids."""
