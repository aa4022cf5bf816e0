"""Mixtures: several corpora as the training data of one run, by weights."""
