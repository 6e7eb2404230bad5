"""Check: a caption that is little but names ("Anna Maria Mozzoni") says nothing of what is seen.

The paper drops captions of which at least 80 % of the tokens are tagged PROPN: so does `tagged_proper_nouns`, with
spaCy's or Stanza's `Tagger`, where there is a model of the language. Without a tagger, `proper_noun_share` is a rule of
thumb:

- Words of content are those that begin with a letter and are no function words of the language; unlike with a tagger,
  nothing else counts: "Kim Rhodes nel 2010" is two names of two words.
- A word of content with a capital is a proper noun. At the start of a sentence the capital says so only if the next
  word is a word of content with a capital, too: "Dora Riparia", but not "Gatto nero" or "Chiesa di San Marco"; and
  only if the word is not among the common nouns that are given: "Piazza Garibaldi".
- A caption is kept, as undecided, if it is (nearly) all capitals; if a function word inside a sentence has a capital
  (then it is a title: "A Man And His Dog"); or if its script has no case.

It can't see that "Leonardo da Vinci" is a name, nor that "Man Riding Horse" is none; German, where every noun has a
capital, needs a tagger.
"""

import functools
import hashlib
import importlib.util
import json
import os
import pickle
import re
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cleaning.checks.definition import CaptionCheck, Captions, Rule, Tagger, setting, warn_once
from data_catalog.errors import InputError, SettingsError
from data_catalog.language_pack import LanguagePack
from data_catalog.stages import Check, Drop

if TYPE_CHECKING:
    from spacy.language import Language

TAGGER_CHOICES = ("auto", "spacy", "stanza", "heuristic")
_WORD = re.compile(r"[^\W\d_]\w*|[.!?:;]+(?=\s)", re.UNICODE)
# What does not decide the tags, and takes two thirds of the time.
_SPACY_NOT_NEEDED = ("parser", "senter", "ner", "entity_linker", "lemmatizer", "trainable_lemmatizer")
_SPACY_BATCH_TEXTS = 128
_STANZA_BATCH_TEXTS = 1000
_LOADING = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class ProperNouns(
    CaptionCheck,
    name="proper_nouns",
    reasons={"mostly_proper_nouns": "the caption is little but names"},
):
    """Drop captions that are mostly names: those of which nothing can be seen."""

    proper_noun_check: bool = setting(True)
    proper_noun_tagger: str = setting(
        "auto",
        "Tagger that tells names: `auto` (spaCy, then Stanza, where there is a model of the language, else the rule of "
        "thumb), `spacy`, `stanza` or `heuristic`.",
        among=TAGGER_CHOICES,
    )
    max_proper_noun_share: float = setting(
        0.8,
        "Share of names among words, above 0 and at most 1, from which on a caption is dropped. 0.8 in the paper.",
        gt=0,
        le=1,
    )

    def find_tagger(self, pack: LanguagePack) -> Tagger | None:
        """Return the tagger to bind the check with: None where it needs none.

        Raises:
            SettingsError, InputError: as `find_tagger` does.
        """
        return find_tagger(pack, self.proper_noun_tagger) if self.proper_noun_check else None

    def rule(self, captions: Captions) -> Rule | None:
        """Return the check by a tagger, or by capitals where these tell; say so where they do not."""
        pack = captions.pack
        if captions.tagger is not None:
            judge = tagged_proper_nouns(captions.tagger, max_share=self.max_proper_noun_share)
        elif pack.function_words and not pack.capitalises_nouns:
            judge = proper_noun_share(
                function_words=pack.function_words,
                common_nouns=pack.common_nouns,
                max_share=self.max_proper_noun_share,
            )
        else:
            cause = "its nouns have capitals" if pack.capitalises_nouns else "the pack has no function words"
            warn_once(
                f"captions in {pack.code!r} are not checked for proper nouns: {cause}, and no tagger is installed"
            )
            return None
        return self.rule_on(captions, lambda table: judge(table.column(0).to_pylist()))


def proper_noun_share(
    *, function_words: Collection[str], common_nouns: Collection[str] = (), max_share: float = 0.8
) -> Check:
    """Drop captions whose words of content are proper nouns to at least `max_share` (0 to 1).

    Function words and common nouns are lower-case, without apostrophe; the latter are no names at the start of a
    sentence. Reason: mostly_proper_nouns, with detail "3 of 3 words".
    """
    known, common = frozenset(function_words), frozenset(common_nouns)

    def judge(text: str) -> Drop | None:
        # Where capitals outnumber small letters two to one, as in "A CAKE on A TABLE", they tell nothing.
        if text.islower() or sum(map(str.isupper, text)) > 2 * sum(map(str.islower, text)):
            return None
        sentences = list(_sentences(text))
        inner = (word for words in sentences for word in words[1:])
        if any(word[0].isupper() and len(word) > 1 and word.lower() in known for word in inner):  # a title
            return None
        verdicts = [verdict for words in sentences for verdict in _proper_nouns(words, known, common)]
        if verdicts and sum(verdicts) >= max_share * len(verdicts):
            return Drop("mostly_proper_nouns", f"{sum(verdicts)} of {len(verdicts)} words")
        return None

    return lambda texts: [judge(text) for text in texts]


def tagged_proper_nouns(tagger: Tagger, *, max_share: float = 0.8) -> Check:
    """Drop captions whose tokens are proper nouns to at least `max_share` (0 to 1), as the tagger has it.

    Reason: mostly_proper_nouns, with detail "100 % of the tokens".
    """

    def verdict(share: float | None) -> Drop | None:
        if share is None or share < max_share:
            return None
        return Drop("mostly_proper_nouns", f"{100 * share:.0f} % of the tokens")

    return lambda texts: [verdict(share) for share in tagger.share(texts)]


def _sentences(text: str) -> Iterator[list[str]]:
    """Yield sentences as words; a stop after a capital ends none, since it may be an initial ("G. H. Hardy")."""
    words: list[str] = []
    for token in _WORD.findall(text):
        if token[0].isalpha():
            words.append(token)
        elif words and not words[-1][0].isupper():
            yield words
            words = []
    if words:
        yield words


def _proper_nouns(words: list[str], function_words: frozenset[str], common_nouns: frozenset[str]) -> list[bool]:
    """Return one verdict per word of content."""
    capitals = [word[0].isupper() and word.lower() not in function_words for word in words]
    if len(words) == 1 or not capitals[1] or words[0].lower() in common_nouns:
        capitals[0] = False
    content = [word.lower() not in function_words for word in words]
    return [capital for capital, counts in zip(capitals, content, strict=True) if counts]


def tagged_share(tokens: Iterable[tuple[str, bool]]) -> float | None:
    """Return proper nouns by tokens, from tokens and whether each is tagged PROPN; None where no token counts.

    As in the paper every token counts, function words and numbers too: "Kim Rhodes nel 2010" has a share of a half.
    But a token must hold a letter or a digit: taggers differ in what they make of punctuation, signs and emoji, and a
    full stop should not save a name.
    """
    verdicts = [tagged for token, tagged in tokens if any(map(str.isalnum, token))]
    return sum(verdicts) / len(verdicts) if verdicts else None


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


def _open_spacy(pack: LanguagePack) -> SpacyTagger | str:
    """Return the tagger by the model that the pack names, or what is to be installed for it.

    Raises:
        InputError: the model is installed and cannot be loaded, or tags no proper nouns.
    """
    if pack.spacy is None:
        return "the language pack names no model in `spacy`"
    download = f"{sys.executable} -m spacy download {pack.spacy}"
    if importlib.util.find_spec("spacy") is None:
        return f"install spaCy (pip install 'spacy>=3.8,<4'), then {download}"
    try:
        version = metadata.version(pack.spacy)
    except (metadata.PackageNotFoundError, ValueError):
        return f"install its model: {download}"
    with _LOADING:
        return _load_spacy(pack.spacy, version)


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
                tokens = (token for sentence in document.sentences for token in sentence.tokens)
                tags = ((token.text, all(word.upos == "PROPN" for word in token.words)) for token in tokens)
                shares[row] = tagged_share(tags)
        return shares


def _open_stanza(pack: LanguagePack) -> StanzaTagger | str:
    """Return the tagger by Stanza's default models for the language, or what is to be installed for it.

    They are looked for in the folder that STANZA_RESOURCES_DIR names, else in `~/stanza_resources`, as Stanza does.

    Raises:
        InputError: they are there and cannot be loaded.
    """
    if importlib.util.find_spec("stanza") is None:
        return "install Stanza (pip install stanza) and its models for the language"
    folder = Path(os.environ.get("STANZA_RESOURCES_DIR") or Path.home() / "stanza_resources")
    listed = folder / "resources.json"  # read here, since importing Stanza takes seconds
    try:
        is_listed = listed.is_file() and pack.code in json.loads(listed.read_bytes())
    except (ValueError, TypeError) as error:
        raise InputError(f"{listed} is not the list of models that Stanza writes: {error}") from error
    with _LOADING:
        found = _load_stanza(pack.code, folder) if is_listed else None
    command = f"stanza.download({pack.code!r}, processors='tokenize,pos')"
    return found or f'{folder} has no models for it: python -c "import stanza; {command}", where there is network'


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
    # The models bear no version: the files that the pipeline is made of stand for it.
    paths = sorted(str(value) for key, value in pipeline.config.items() if key.endswith("_path"))
    digests = [hashlib.sha256(Path(path).read_bytes()).digest() for path in paths]
    version = hashlib.sha256(b"".join(digests)).hexdigest()[:12]
    return StanzaTagger(pipeline, f"stanza:{code} {packages['pos']} {version}")


# In the order in which "auto" tries them.
_ENGINES: dict[str, Callable[[LanguagePack], Tagger | str]] = {"spacy": _open_spacy, "stanza": _open_stanza}


def find_tagger(pack: LanguagePack, choice: str) -> Tagger | None:
    """Return the tagger for the pack's language, or None where the heuristic of `proper_noun_share` is to do.

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
        found = _ENGINES[choice](pack)
        if isinstance(found, str):
            raise InputError(f"{choice} cannot tag {pack.code!r} here: {found}")
        return found
    taggers = (open_tagger(pack) for open_tagger in _ENGINES.values())
    return next((tagger for tagger in taggers if not isinstance(tagger, str)), None)
