"""Conversations, of which a model learns what the assistant has written."""
