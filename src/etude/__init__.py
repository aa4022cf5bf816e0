"""etude: train Transformers on text, every run exact, fast and readable."""

__version__ = "0.1.0"
