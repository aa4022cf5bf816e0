"""etude: train Transformers on text, every run exact, fast and readable.

    import etude

    run = etude.train("translation/demo", "model.layers=4", seed=2)
    run.scores["bleu"], run.predict(["Delete this file?"])

Nothing heavy is imported before one of these is used.
"""

import importlib

# No import from a file, `typing` included: after `python -m etude` the working directory still comes first.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from etude.api import Run, Sweep, compare, compose, load, merge, sweep, train

__version__ = "0.1.0"
__all__ = ["Run", "Sweep", "__version__", "compare", "compose", "load", "merge", "sweep", "train"]


def __getattr__(name: str) -> "Any":
    """Import a name of the Python door when it is first used."""
    if name in __all__:
        return getattr(importlib.import_module("etude.api"), name)
    raise AttributeError(f"module 'etude' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
