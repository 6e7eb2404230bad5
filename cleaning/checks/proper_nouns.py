"""Check for captions that consist mostly of names ("Anna Maria Mozzoni") and do not describe an image.

The paper drops captions of which at least 80 % of the tokens are tagged PROPN. `tagged_proper_nouns` does the same with
spaCy's `Tagger`, if there is a model of the language. Without a tagger, `proper_noun_share` is a heuristic:

- Content words begin with a letter and are not function words of the language: "Kim Rhodes nel 2010" is two names of
  two words.
- A content word with a capital is a proper noun. The first word of a sentence is one only if the next word is a content
  word with a capital, too ("Dora Riparia", but not "Gatto nero" or "Chiesa di San Marco"), and if it is none of the
  given common nouns ("Piazza Garibaldi").
- A caption is kept, as undecided, if it is (nearly) all capitals; if a function word inside a sentence has a capital,
  as in a title ("A Man And His Dog"); or if its script has no case.

The heuristic cannot see that "Leonardo da Vinci" is a name. German, where every noun has a capital, needs a tagger.
"""

import functools
import importlib.util
import re
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Annotated, Any, Literal, get_args

from annotated_types import Interval

from cleaning.checks.definition import CaptionCheck, Captions, Rule, Tagger, warn_once
from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError, SettingsError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.rows.stages import Check, Drop

TaggerChoice = Literal["auto", "spacy", "heuristic"]
TAGGER_CHOICES = get_args(TaggerChoice)
_WORD = re.compile(r"[^\W\d_]\w*|[.!?:;]+(?=\s)", re.UNICODE)
# Components that do not affect the tags and take two thirds of the time.
_SPACY_NOT_NEEDED = ("parser", "senter", "ner", "entity_linker", "lemmatizer", "trainable_lemmatizer")
_SPACY_BATCH_TEXTS = 128
_LOADING = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class ProperNouns(
    CaptionCheck,
    name="proper_nouns",
    reasons={"mostly_proper_nouns": "the caption consists mostly of names"},
):
    """Drop captions that consist mostly of names."""

    proper_noun_check: bool = True
    proper_noun_tagger: TaggerChoice = "auto"
    """Tagger of names: `auto` (spaCy if installed with a model of the language, else the heuristic), `spacy` or
    `heuristic`."""
    max_proper_noun_share: Annotated[float, Interval(gt=0, le=1)] = 0.8
    """Share of names among words from which on a caption is dropped."""

    def find_tagger(self, pack: LanguagePack) -> Tagger | None:
        """Return the tagger to bind the check with; None if it needs none."""
        return find_tagger(pack, self.proper_noun_tagger) if self.proper_noun_check else None

    def rule(self, captions: Captions) -> Rule | None:
        """Return the check by a tagger, or by capitals if the language allows; else log a warning and return None."""
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
    """Return a check that drops captions whose content words are proper nouns to a share of at least `max_share`.

    Reason: mostly_proper_nouns, with detail "3 of 3 words". Words are given in lower case, without apostrophe.
    """
    known, common = frozenset(function_words), frozenset(common_nouns)

    def judge(text: str) -> Drop | None:
        # Capitals mean nothing if they outnumber small letters two to one, as in "A CAKE on A TABLE".
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
    """Return a check that drops captions whose tokens are tagged as proper nouns to a share of at least `max_share`.

    Reason: mostly_proper_nouns, with detail "100 % of the tokens".
    """

    def verdict(share: float | None) -> Drop | None:
        if share is None or share < max_share:
            return None
        return Drop("mostly_proper_nouns", f"{100 * share:.0f} % of the tokens")

    return lambda texts: [verdict(share) for share in tagger.share(texts)]


def _sentences(text: str) -> Iterator[list[str]]:
    """Yield sentences as lists of words."""
    words: list[str] = []
    for token in _WORD.findall(text):
        if token[0].isalpha():
            words.append(token)
        elif words and not words[-1][0].isupper():  # else it may be an initial's stop: "G. H. Hardy"
            yield words
            words = []
    if words:
        yield words


def _proper_nouns(words: list[str], function_words: frozenset[str], common_nouns: frozenset[str]) -> list[bool]:
    """Return for each content word whether it is a proper noun."""
    capitals = [word[0].isupper() and word.lower() not in function_words for word in words]
    if len(words) == 1 or not capitals[1] or words[0].lower() in common_nouns:
        capitals[0] = False
    content = [word.lower() not in function_words for word in words]
    return [capital for capital, counts in zip(capitals, content, strict=True) if counts]


def tagged_share(tokens: Iterable[tuple[str, bool]]) -> float | None:
    """Return the share of proper nouns, given tokens and whether each is tagged PROPN; None if no token counts.

    As in the paper every token counts, function words and numbers too: "Kim Rhodes nel 2010" has a share of one half.
    But a token must have a letter or a digit. Taggers treat punctuation, signs and emoji differently, and a full stop
    should not save a name.
    """
    verdicts = [tagged for token, tagged in tokens if any(map(str.isalnum, token))]
    return sum(verdicts) / len(verdicts) if verdicts else None


class SpacyTagger:
    """`Tagger` that uses spaCy's models, which are Python packages; "L'" is a token, and so is "Saint-Malo"."""

    def __init__(self, nlp: Any, name: str) -> None:
        self.name, self._nlp = name, nlp
        self._lock = threading.Lock()  # one memory zone at a time

    def share(self, texts: Sequence[str]) -> list[float | None]:
        """Return the share of proper nouns of each text; see `Tagger`."""
        # Without a memory zone, the vocabulary grows with every new word.
        with self._lock, self._nlp.memory_zone():
            docs = self._nlp.pipe(texts, batch_size=_SPACY_BATCH_TEXTS)
            return [tagged_share((token.text, token.pos_ == "PROPN") for token in doc) for doc in docs]


def _open_spacy(pack: LanguagePack) -> SpacyTagger | str:
    """Return a tagger with the pack's model, or a text on what to install for it."""
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
    with about(f"spaCy's model {model} {version} cannot be loaded"):
        import spacy

        nlp = spacy.load(model, exclude=_SPACY_NOT_NEEDED)
    if not {"morphologizer", "tagger"} & set(nlp.pipe_names):
        parts = ", ".join(nlp.pipe_names) or "nothing"
        raise InputError(f"spaCy's model {model} {version} tags no proper nouns: its pipeline has {parts}")
    nlp.max_length = sys.maxsize  # the limit is for parsers and entity recognisers
    return SpacyTagger(nlp, f"spacy:{model} {version}")


def find_tagger(pack: LanguagePack, choice: str) -> Tagger | None:
    """Return the tagger for the pack's language; None if the heuristic of `proper_noun_share` is to be used.

    Only a model installed on this machine is considered. A tagger is loaded once a process. `choice` is one of
    `TAGGER_CHOICES`.
    """
    if choice not in TAGGER_CHOICES:
        raise SettingsError(f"a proper-noun tagger is one of {', '.join(TAGGER_CHOICES)}, got {choice!r}")
    found = None if choice == "heuristic" else _open_spacy(pack)
    if isinstance(found, str) and choice == "spacy":
        raise InputError(f"spacy cannot tag {pack.code!r} here: {found}")
    return None if isinstance(found, str) else found
