"""Runs on disk: their folders, the configuration and the record in them, and what they were made of."""
