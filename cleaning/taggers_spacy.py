"""Proper nouns by spaCy's tagging models, which are Python packages."""

import functools
import importlib.util
import sys
import threading
from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING

from cleaning.proper_nouns import tagged_share
from data_catalog.errors import ConfigError
from data_catalog.language_pack import LanguagePack

if TYPE_CHECKING:
    from spacy.language import Language

# What does not decide the tags, and takes two thirds of the time.
_NOT_NEEDED = ("parser", "senter", "ner", "entity_linker", "lemmatizer", "trainable_lemmatizer")
_BATCH_TEXTS = 128
_LOADING = threading.Lock()


class SpacyTagger:
    """A `cleaning.proper_nouns.Tagger`: tokens are those of spaCy's tokenizer ("L'" is one, "Saint-Malo" too)."""

    def __init__(self, nlp: "Language", name: str) -> None:
        self.name = name
        self._nlp = nlp
        self._lock = threading.Lock()  # one memory zone at a time

    def share(self, texts: Sequence[str]) -> list[float | None]:
        """See `cleaning.proper_nouns.Tagger`."""
        # Without a zone, the vocabulary keeps every word that it ever saw.
        with self._lock, self._nlp.memory_zone():
            docs = self._nlp.pipe(texts, batch_size=_BATCH_TEXTS)
            return [tagged_share((token.text, token.pos_ == "PROPN") for token in doc) for doc in docs]


def open_tagger(pack: LanguagePack) -> SpacyTagger | None:
    """The tagger by the model that the pack names, loaded once a process; None where that or spaCy is not installed.

    Raises:
        ConfigError: the model is installed and cannot be loaded, or tags no proper nouns.
    """
    if pack.spacy is None or importlib.util.find_spec("spacy") is None:
        return None
    try:
        version = metadata.version(pack.spacy)
    except (metadata.PackageNotFoundError, ValueError):
        return None
    with _LOADING:
        return _loaded(pack.spacy, version)


def what_to_install(pack: LanguagePack) -> str:
    """What is missing for `open_tagger`, in a sentence."""
    if pack.spacy is None:
        return "the language pack names no model in `spacy`"
    if importlib.util.find_spec("spacy") is None:
        return f"install spaCy (pip install 'spacy>=3.8,<4'), then {_download(pack.spacy)}"
    return f"install its model: {_download(pack.spacy)}"


def _download(model: str) -> str:
    return f"{sys.executable} -m spacy download {model}"


@functools.cache
def _loaded(model: str, version: str) -> SpacyTagger:
    import spacy

    try:
        nlp = spacy.load(model, exclude=_NOT_NEEDED)
    except (OSError, ValueError) as error:
        raise ConfigError(f"spaCy's model {model} {version} cannot be loaded: {error}") from error
    if not {"morphologizer", "tagger"} & set(nlp.pipe_names):
        parts = ", ".join(nlp.pipe_names) or "nothing"
        raise ConfigError(f"spaCy's model {model} {version} tags no proper nouns: it holds {parts}")
    nlp.max_length = sys.maxsize  # the limit is for parsers and entity recognisers
    return SpacyTagger(nlp, f"spacy:{model} {version}")
