"""Callbacks of a training: averaged weights, samples, progress, cost."""
