"""Which tagger tells the proper nouns of a language: spaCy, Stanza, or none, which means the rule of thumb."""

import functools
import hashlib
import importlib.util
import json
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from data_catalog.errors import InputError, SettingsError
from data_catalog.language_pack import LanguagePack

if TYPE_CHECKING:
    from spacy.language import Language


class Tagger(Protocol):
    """Says of texts in one language how much of them is proper nouns; the same of a text whatever its neighbours."""

    @property
    def name(self) -> str:
        """Engine, model and its version, such as "spacy:fr_core_news_sm 3.8.0": what decides the verdicts."""

    def share(self, texts: Sequence[str]) -> list[float | None]:
        """`tagged_share` of each text, in the same order."""


def tagged_share(tokens: Iterable[tuple[str, bool]]) -> float | None:
    """Proper nouns by tokens, from tokens and whether each is tagged PROPN; None where no token counts.

    As in the paper every token counts, function words and numbers too: "Kim Rhodes nel 2010" has a share of a half.
    But a token must hold a letter or a digit: taggers differ in what they make of punctuation, signs and emoji, and a
    full stop should not save a name.
    """
    verdicts = [tagged for token, tagged in tokens if any(map(str.isalnum, token))]
    return sum(verdicts) / len(verdicts) if verdicts else None


# What does not decide the tags, and takes two thirds of the time.
_SPACY_NOT_NEEDED = ("parser", "senter", "ner", "entity_linker", "lemmatizer", "trainable_lemmatizer")
_SPACY_BATCH_TEXTS = 128
_LOADING = threading.Lock()


class SpacyTagger:
    """A `Tagger` by spaCy's tagging models, which are Python packages.

    Tokens are those of spaCy's tokenizer ("L'" is one, "Saint-Malo" too).
    """

    def __init__(self, nlp: "Language", name: str) -> None:
        self.name = name
        self._nlp = nlp
        self._lock = threading.Lock()  # one memory zone at a time

    def share(self, texts: Sequence[str]) -> list[float | None]:
        """See `Tagger`."""
        # Without a zone, the vocabulary keeps every word that it ever saw.
        with self._lock, self._nlp.memory_zone():
            docs = self._nlp.pipe(texts, batch_size=_SPACY_BATCH_TEXTS)
            return [tagged_share((token.text, token.pos_ == "PROPN") for token in doc) for doc in docs]


def open_spacy(pack: LanguagePack) -> SpacyTagger | None:
    """The tagger by the model that the pack names, loaded once a process; None where that or spaCy is not installed.

    Raises:
        InputError: the model is installed and cannot be loaded, or tags no proper nouns.
    """
    if pack.spacy is None or importlib.util.find_spec("spacy") is None:
        return None
    try:
        version = metadata.version(pack.spacy)
    except (metadata.PackageNotFoundError, ValueError):
        return None
    with _LOADING:
        return _load_spacy(pack.spacy, version)


def spacy_to_install(pack: LanguagePack) -> str:
    """What is missing for `open_spacy`, in a sentence."""
    if pack.spacy is None:
        return "the language pack names no model in `spacy`"
    if importlib.util.find_spec("spacy") is None:
        return f"install spaCy (pip install 'spacy>=3.8,<4'), then {_download(pack.spacy)}"
    return f"install its model: {_download(pack.spacy)}"


def _download(model: str) -> str:
    return f"{sys.executable} -m spacy download {model}"


@functools.cache
def _load_spacy(model: str, version: str) -> SpacyTagger:
    import spacy

    try:
        nlp = spacy.load(model, exclude=_SPACY_NOT_NEEDED)
    except (OSError, ValueError) as error:
        raise InputError(f"spaCy's model {model} {version} cannot be loaded: {error}") from error
    if not {"morphologizer", "tagger"} & set(nlp.pipe_names):
        parts = ", ".join(nlp.pipe_names) or "nothing"
        raise InputError(f"spaCy's model {model} {version} tags no proper nouns: it holds {parts}")
    nlp.max_length = sys.maxsize  # the limit is for parsers and entity recognisers
    return SpacyTagger(nlp, f"spacy:{model} {version}")


_STANZA_BATCH_TEXTS = 1000


class StanzaTagger:
    """A `Tagger` by Stanza's models, files in its resources folder: tokens as written, not the syntactic words within.

    The network is never asked. A token such as Italian "della" (di + la) is one token, and a proper noun only if all
    its words are.
    """

    def __init__(self, pipeline: Any, name: str) -> None:
        self.name = name
        self._pipeline = pipeline
        self._lock = threading.Lock()

    def share(self, texts: Sequence[str]) -> list[float | None]:
        """See `Tagger`."""
        shares: list[float | None] = [None] * len(texts)
        # Stanza is not made for texts without a word.
        rows = [row for row, text in enumerate(texts) if any(map(str.isalnum, text))]
        for start in range(0, len(rows), _STANZA_BATCH_TEXTS):
            batch = rows[start : start + _STANZA_BATCH_TEXTS]
            with self._lock:
                documents = self._pipeline.bulk_process([texts[row] for row in batch])
            for row, document in zip(batch, documents, strict=True):
                shares[row] = _tagged_share_of(document)
        return shares


def _tagged_share_of(document: Any) -> float | None:
    tokens = (token for sentence in document.sentences for token in sentence.tokens)
    return tagged_share((token.text, all(word.upos == "PROPN" for word in token.words)) for token in tokens)


def open_stanza(pack: LanguagePack) -> StanzaTagger | None:
    """The tagger by Stanza's default models for the language, loaded once a process; None where they are not on disk.

    They are looked for in the folder that STANZA_RESOURCES_DIR names, else in `~/stanza_resources`, as Stanza does.

    Raises:
        InputError: they are there and cannot be loaded.
    """
    if importlib.util.find_spec("stanza") is None or not _stanza_lists(pack.code):
        return None
    with _LOADING:
        return _load_stanza(pack.code, _stanza_folder())


def stanza_to_install(pack: LanguagePack) -> str:
    """What is missing for `open_stanza`, in a sentence."""
    if importlib.util.find_spec("stanza") is None:
        return "install Stanza (pip install stanza) and its models for the language"
    command = f"stanza.download({pack.code!r}, processors='tokenize,pos')"
    return f'{_stanza_folder()} has no models for it: python -c "import stanza; {command}", where there is network'


def _stanza_folder() -> Path:
    named = os.environ.get("STANZA_RESOURCES_DIR")
    return Path(named) if named else Path.home() / "stanza_resources"


def _stanza_lists(code: str) -> bool:
    """Whether the folder's list of models knows the language; read here, since importing Stanza takes seconds."""
    path = _stanza_folder() / "resources.json"
    if not path.is_file():
        return False
    try:
        return code in json.loads(path.read_bytes())
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is not the list of models that Stanza writes: {error}") from error


@functools.cache
def _load_stanza(code: str, folder: Path) -> StanzaTagger | None:
    import stanza

    try:
        pipeline = stanza.Pipeline(
            code,
            dir=str(folder),
            processors="tokenize,pos",
            download_method=None,
            use_gpu=False,  # tags must not depend on the device
            logging_level="ERROR",
        )
    except FileNotFoundError:  # resources.json lists all languages, downloaded or not
        return None
    except (OSError, ValueError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
        raise InputError(f"Stanza's models for {code!r} in {folder} cannot be loaded: {error}") from error
    packages = {processor: specs[0].package for processor, specs in pipeline.load_list}
    return StanzaTagger(pipeline, f"stanza:{code} {packages['pos']} {_models_digest(pipeline.config)}")


def _models_digest(config: dict[str, object]) -> str:
    """Twelve hex digits of the sha256 of all the files that the pipeline is made of: its models bear no version."""
    paths = sorted(str(value) for key, value in config.items() if key.endswith("_path"))
    digests = [hashlib.sha256(Path(path).read_bytes()).digest() for path in paths]
    return hashlib.sha256(b"".join(digests)).hexdigest()[:12]


# In the order in which "auto" tries them.
_ENGINES: dict[str, tuple[Callable[[LanguagePack], Tagger | None], Callable[[LanguagePack], str]]] = {
    "spacy": (open_spacy, spacy_to_install),
    "stanza": (open_stanza, stanza_to_install),
}

TAGGER_CHOICES = ("auto", *_ENGINES, "heuristic")


def find_tagger(pack: LanguagePack, choice: str) -> Tagger | None:
    """The tagger for the pack's language, or None where the heuristic of `proper_noun_share` is to do.

    What is installed is looked for on this machine only. A tagger is loaded once a process.

    Args:
        pack: the language; its `spacy` names spaCy's model, its `code` is Stanza's.
        choice: one of `TAGGER_CHOICES`; "auto" is the first engine that has a model installed, else None.

    Raises:
        SettingsError: the choice is unknown.
        InputError: the engine of choice has no model for the language, with what to install; or a model is installed
            and cannot be loaded, or tags no proper nouns.
    """
    if choice not in TAGGER_CHOICES:
        raise SettingsError(f"a proper-noun tagger is one of {', '.join(TAGGER_CHOICES)}, got {choice!r}")
    if choice == "heuristic":
        return None
    if choice != "auto":
        open_tagger, what_to_install = _ENGINES[choice]
        if (tagger := open_tagger(pack)) is None:
            raise InputError(f"{choice} cannot tag {pack.code!r} here: {what_to_install(pack)}")
        return tagger
    found = (open_tagger(pack) for open_tagger, _ in _ENGINES.values())
    return next((tagger for tagger in found if tagger is not None), None)
