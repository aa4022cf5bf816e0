"""Trained models in the layouts of other libraries, and the proof that those compute the same."""
