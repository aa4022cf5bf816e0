"""Scores that are reported: of texts, classes, numbers, answers and language models, with intervals and significance."""
