"""Checkpoints: folders that are whole or absent, are checked by hashes, and hold all that a run continues from."""
