"""Layers of Transformers in plain PyTorch, on unpadded tokens: linear layers never see padding."""
