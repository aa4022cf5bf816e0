"""Sweeps: many runs from one search space, in one folder, that can be killed and given again."""
