"""Corpora of texts and their translations."""
