"""Whole models: sequence to sequence, encoder, and pretrained weights."""
