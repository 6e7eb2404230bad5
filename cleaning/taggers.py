"""Which tagger tells the proper nouns of a language: spaCy, Stanza, or none, which means the rule of thumb."""

from collections.abc import Callable

from cleaning import taggers_spacy, taggers_stanza
from cleaning.proper_nouns import Tagger
from data_catalog.errors import ConfigError
from data_catalog.language_pack import LanguagePack

# In the order in which "auto" tries them.
_ENGINES: dict[str, tuple[Callable[[LanguagePack], Tagger | None], Callable[[LanguagePack], str]]] = {
    "spacy": (taggers_spacy.open_tagger, taggers_spacy.what_to_install),
    "stanza": (taggers_stanza.open_tagger, taggers_stanza.what_to_install),
}

TAGGER_CHOICES = ("auto", *_ENGINES, "heuristic")


def find_tagger(pack: LanguagePack, choice: str) -> Tagger | None:
    """The tagger for the pack's language, or None where the heuristic of `proper_noun_share` is to do.

    What is installed is looked for on this machine only. A tagger is loaded once a process.

    Args:
        pack: the language; its `spacy` names spaCy's model, its `code` is Stanza's.
        choice: one of `TAGGER_CHOICES`; "auto" is the first engine that has a model installed, else None.

    Raises:
        ConfigError: the choice is unknown; the engine of choice has no model for the language, with what to install;
            or a model is installed and cannot be loaded, or tags no proper nouns.
    """
    if choice not in TAGGER_CHOICES:
        raise ConfigError(f"a proper-noun tagger is one of {', '.join(TAGGER_CHOICES)}, got {choice!r}")
    if choice == "heuristic":
        return None
    if choice != "auto":
        open_tagger, what_to_install = _ENGINES[choice]
        if (tagger := open_tagger(pack)) is None:
            raise ConfigError(f"{choice} cannot tag {pack.code!r} here: {what_to_install(pack)}")
        return tagger
    found = (open_tagger(pack) for open_tagger, _ in _ENGINES.values())
    return next((tagger for tagger in found if tagger is not None), None)
