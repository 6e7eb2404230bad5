"""Proper nouns by Stanza's tagging models, files in its resources folder; the network is never asked."""

import functools
import hashlib
import importlib.util
import json
import os
import pickle
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cleaning.proper_nouns import tagged_share
from data_catalog.errors import ConfigError
from data_catalog.language_pack import LanguagePack

_BATCH_TEXTS = 1000
_LOADING = threading.Lock()


class StanzaTagger:
    """A `cleaning.proper_nouns.Tagger`: tokens as written, not the syntactic words within them.

    A token such as Italian "della" (di + la) is one token, and a proper noun only if all its words are.
    """

    def __init__(self, pipeline: Any, name: str) -> None:
        self.name = name
        self._pipeline = pipeline
        self._lock = threading.Lock()

    def share(self, texts: Sequence[str]) -> list[float | None]:
        """See `cleaning.proper_nouns.Tagger`."""
        shares: list[float | None] = [None] * len(texts)
        # Stanza is not made for texts without a word.
        rows = [row for row, text in enumerate(texts) if any(map(str.isalnum, text))]
        for start in range(0, len(rows), _BATCH_TEXTS):
            batch = rows[start : start + _BATCH_TEXTS]
            with self._lock:
                documents = self._pipeline.bulk_process([texts[row] for row in batch])
            for row, document in zip(batch, documents, strict=True):
                shares[row] = _share(document)
        return shares


def _share(document: Any) -> float | None:
    tokens = (token for sentence in document.sentences for token in sentence.tokens)
    return tagged_share((token.text, all(word.upos == "PROPN" for word in token.words)) for token in tokens)


def open_tagger(pack: LanguagePack) -> StanzaTagger | None:
    """The tagger by Stanza's default models for the language, loaded once a process; None where they are not on disk.

    They are looked for in the folder that STANZA_RESOURCES_DIR names, else in `~/stanza_resources`, as Stanza does.

    Raises:
        ConfigError: they are there and cannot be loaded.
    """
    if importlib.util.find_spec("stanza") is None or not _is_listed(pack.code):
        return None
    with _LOADING:
        return _loaded(pack.code, _folder())


def what_to_install(pack: LanguagePack) -> str:
    """What is missing for `open_tagger`, in a sentence."""
    if importlib.util.find_spec("stanza") is None:
        return "install Stanza (pip install stanza) and its models for the language"
    command = f"stanza.download({pack.code!r}, processors='tokenize,pos')"
    return f'{_folder()} has no models for it: python -c "import stanza; {command}", where there is network'


def _folder() -> Path:
    named = os.environ.get("STANZA_RESOURCES_DIR")
    return Path(named) if named else Path.home() / "stanza_resources"


def _is_listed(code: str) -> bool:
    """Whether the folder's list of models knows the language; read here, since importing Stanza takes seconds."""
    path = _folder() / "resources.json"
    if not path.is_file():
        return False
    try:
        return code in json.loads(path.read_bytes())
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} is not the list of models that Stanza writes: {error}") from error


@functools.cache
def _loaded(code: str, folder: Path) -> StanzaTagger | None:
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
        raise ConfigError(f"Stanza's models for {code!r} in {folder} cannot be loaded: {error}") from error
    packages = {processor: specs[0].package for processor, specs in pipeline.load_list}
    return StanzaTagger(pipeline, f"stanza:{code} {packages['pos']} {_digest(pipeline.config)}")


def _digest(config: dict[str, object]) -> str:
    """Twelve hex digits of the sha256 of all the files that the pipeline is made of: its models bear no version."""
    paths = sorted(str(value) for key, value in config.items() if key.endswith("_path"))
    digests = [hashlib.sha256(Path(path).read_bytes()).digest() for path in paths]
    return hashlib.sha256(b"".join(digests)).hexdigest()[:12]
