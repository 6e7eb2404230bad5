"""Build datasets, train and score models, translate captions, and open the results from Python.

Importing this package is fast: each name loads its own dependencies on first use.

>>> import vernaclip
>>> pairs = vernaclip.open_dataset("catalog", "scenes", "train")
>>> image, captions = pairs[0]

Expected failures raise a `PipelineError`. Its message says what is wrong and how to fix it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_catalog.base.errors import PipelineError
    from vernaclip.catalog import Catalog
    from vernaclip.dataset import Pair, PairDataset, open_dataset
    from vernaclip.jobs import align, build, distil, score, search, train, translate
    from vernaclip.model import Model, open_model

    __version__: str

__all__ = [
    "Catalog",
    "Model",
    "Pair",
    "PairDataset",
    "PipelineError",
    "__version__",
    "align",
    "build",
    "distil",
    "open_dataset",
    "open_model",
    "score",
    "search",
    "train",
    "translate",
]

_MODULES = {
    "data_catalog.base.errors": ("PipelineError",),
    "vernaclip.catalog": ("Catalog",),
    "vernaclip.dataset": ("Pair", "PairDataset", "open_dataset"),
    "vernaclip.model": ("Model", "open_model"),
    "vernaclip.jobs": ("align", "build", "distil", "score", "search", "train", "translate"),
}

if not TYPE_CHECKING:  # type checkers would assume that `__getattr__` provides every name

    def __getattr__(name: str) -> object:
        """Load a public name from its module on first use (https://peps.python.org/pep-0562)."""
        if name == "__version__":
            from importlib.metadata import version

            return version("vernaclip")
        for module, names in _MODULES.items():
            if name in names:
                return getattr(import_module(module), name)
        raise AttributeError(f"module 'vernaclip' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
