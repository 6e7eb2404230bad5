"""The public Python API: open a dataset or a trained model, build, train, translate, score.

Importing this package loads nothing heavy: each name loads what it needs when it is first used.

>>> import vernaclip
>>> pairs = vernaclip.open_dataset("catalog", "scenes", "train")
>>> image, captions = pairs[0]

What can be mended is raised as a `PipelineError`, whose text says in one sentence what to do.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_catalog.errors import PipelineError
    from vernaclip.catalog import Catalog
    from vernaclip.dataset import Pair, PairDataset, open_dataset
    from vernaclip.jobs import build, score, train, translate
    from vernaclip.model import Model, open_model

    __version__: str

__all__ = [
    "Catalog",
    "Model",
    "Pair",
    "PairDataset",
    "PipelineError",
    "__version__",
    "build",
    "open_dataset",
    "open_model",
    "score",
    "train",
    "translate",
]

_MODULES = {
    "Catalog": "vernaclip.catalog",
    "Model": "vernaclip.model",
    "Pair": "vernaclip.dataset",
    "PairDataset": "vernaclip.dataset",
    "PipelineError": "data_catalog.errors",
    "build": "vernaclip.jobs",
    "open_dataset": "vernaclip.dataset",
    "open_model": "vernaclip.model",
    "score": "vernaclip.jobs",
    "train": "vernaclip.jobs",
    "translate": "vernaclip.jobs",
}

if not TYPE_CHECKING:  # a type checker would take every name for one of ours

    def __getattr__(name: str) -> object:
        """Load a public name from its module (https://peps.python.org/pep-0562)."""
        if name == "__version__":
            from importlib.metadata import version

            found = version("vernaclip")
        elif name in _MODULES:
            found = getattr(import_module(_MODULES[name]), name)
        else:
            raise AttributeError(f"module 'vernaclip' has no attribute {name!r}")
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
