"""Directions of translation: language codes, prefixes, and several pairs of languages in one run."""
