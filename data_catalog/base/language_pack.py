"""Language packs: codes, word lists and recommendations for one language, read from `flows/languages/*.toml`."""

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

from data_catalog.base.errors import SettingsError
from data_catalog.base.settings import ADDED

MIN_SHARED_LETTERS = 4  # shorter words coincide in many languages by chance: "a", "in", "die", "hat", "no"
_LONGEST_ERROR = 500
T = TypeVar("T")
Forms = tuple[str, ...]


def _require(name: str, things: Iterable[T], is_right: Callable[[T], bool], wanted: str) -> None:
    for thing in things:
        if not is_right(thing):
            raise SettingsError(f"{name} must {wanted}, got {thing!r}"[:_LONGEST_ERROR])


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """Words for left and right, the table `[sides]` of a language pack."""

    left: Forms
    """Phrases with "left" ("on the left", "left of")."""
    right: Forms
    """The same with "right", in the same order."""
    left_alone: Forms = ()
    """Phrases in which left or right may not be a side ("right of way"). Images with such captions are not mirrored."""

    def __post_init__(self) -> None:
        phrases = (*self.left, *self.right, *self.left_alone)
        if not self.left or len(self.left) != len(self.right) or not all(map(str.strip, phrases)):
            raise SettingsError("sides.left and sides.right must have equally many phrases, and none that is empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguagePack:
    """Codes, word lists and recommendations for one language; only `code` is required."""

    code: str
    """ISO 639-1 code, in lower case ("it"): the `source_lang` and `target_lang` of rows."""
    iso639_3: str | None = None
    """ISO 639-3 code ("ita"). Some models name languages by it."""
    name: str = ""
    """English name of the language."""
    argos: str | None = None
    """Code of the language in Argos packages. By default `code`."""
    deepl: str | None = None
    """Code of the language as a target of DeepL, including the variant ("PT-BR"). By default the usual code."""
    langdetect: str | None = None
    """Code of the language in langdetect ("zh-cn"). By default `code`, which other engines use."""
    spacy: str | None = None
    """Name of a spaCy model that tags proper nouns."""
    flores: str | None = None
    """Code of the language in FLORES-200 and NLLB ("ita_Latn")."""
    confusions: tuple[str, ...] = ()
    """Codes of languages that short captions in this language are often mistaken for. lingua chooses among these and
    the commonest languages; a verdict for one of these requires a longer text."""
    function_words: tuple[str, ...] = ()
    """Articles, prepositions, conjunctions and other function words, in lower case, without apostrophe ("dell"). The
    proper-noun check does not count them as content words."""
    negations: tuple[str, ...] = ()
    """Function words that negate ("not", "without"). Captions that differ in them are not near-duplicates. Each must
    also be in `function_words`."""
    contrasts: tuple[Forms, ...] | None = field(default=None, metadata=ADDED)
    """Function words of position, direction and person: a list for each meaning (["on", "onto"], ["under", "below"]).
    Captions that differ in these meanings are not near-duplicates."""
    common_nouns: tuple[str, ...] = ()
    """Nouns that often precede a name ("piazza", "museum"), in lower case. A capital at the start of a caption does not
    make them proper nouns."""
    shared_words: tuple[str, ...] = ()
    """Words of four letters or more with the same spelling in English ("hotel", "zebra"), in lower case. They do not
    count as words copied from the source."""
    tens: tuple[str, ...] = ()
    """Parts of the words for 20 to 29, 30 to 39 ... 90 to 99 ("vent", "trent" ...): eight texts in lower case, or none.
    With them, a number that the translation spells out does not count as missing."""
    capitalises_nouns: bool = False
    """True if common nouns are capitalised, as in German. A capital then does not mark a proper noun."""
    text_encoder: str | None = None
    """Hugging Face name of the recommended pretrained text encoder."""
    prompt_templates: tuple[str, ...] = ()
    """Zero-shot prompts in the language, each with one "{c}" for the class name."""
    class_names: tuple[str, ...] = ()
    """Names of ImageNet's 1,000 classes in the language, in the order of their indices. By default none."""
    sides: Sides | None = field(default=None, metadata=ADDED)
    """Words for left and right. With them, `train.augment` can have "mirror"."""
    test_sets: tuple[str, ...] = ()
    """Names of public test sets in the language."""
    license_notes: str = ""
    """Notes on the licenses of the above data."""

    @classmethod
    def minimal(cls, code: str) -> "LanguagePack":
        """Return a pack with only the code, which is enough to read and clean captions."""
        return cls(code=code)

    def __post_init__(self) -> None:
        if not (self.code.isascii() and self.code.isalpha() and self.code.islower()):
            raise SettingsError(f"code must be lower-case ASCII letters such as 'it', got {self.code!r}")
        known = {*self.function_words}.__contains__
        for name, words, is_right, wanted in (
            ("function_words", self.function_words, _is_spelt, "be lower-case letters without apostrophe"),
            ("negations", self.negations, known, "be among function_words"),
            ("contrasts", chain(*(self.contrasts or ())), known, "be among function_words"),
            ("common_nouns", self.common_nouns, _is_spelt, "be lower-case letters"),
            ("shared_words", self.shared_words, _is_shared, "be lower-case words of four letters or more"),
            ("prompt_templates", self.prompt_templates, _has_name, "each contain {c} once"),
        ):
            _require(name, words, is_right, wanted)
        if len(self.class_names) not in (0, 1000):
            raise SettingsError(f"class_names must be the 1,000 classes of ImageNet, got {len(self.class_names):,}")
        if len(self.tens) not in (0, 8):
            raise SettingsError(f"tens must be eight texts, for twenty to ninety, got {len(self.tens)}")


def _is_spelt(word: str) -> bool:
    """Return whether a word consists of small letters and their marks, such as the vowel signs of Hindi and Thai."""
    return word != "" and word == word.lower() and all(unicodedata.category(char)[0] in "LM" for char in word)


def _is_shared(word: str) -> bool:
    return len(word) >= MIN_SHARED_LETTERS and word == word.lower()


def _has_name(template: str) -> bool:
    return template.count("{c}") == 1


def function_word_meanings(packs: Mapping[str, LanguagePack]) -> dict[str, dict[str, str]]:
    """Return by language the function words that are no negations, each with its meaning.

    The meaning is the first word of equal meaning, or "": near-duplicates may differ in the word. A language without
    function words is left out.
    """
    return {
        code: dict.fromkeys(sorted({*pack.function_words}.difference(pack.negations)), "")
        | {word: group[0] for group in (pack.contrasts or ()) for word in group}
        for code, pack in packs.items()
        if pack.function_words
    }


def require_language(code: str, where: str) -> str:
    """Return a language code if it is valid; `where` is the setting or option that gives it."""
    try:
        return LanguagePack.minimal(code).code
    except SettingsError as error:
        raise SettingsError(f"{where} {code or repr(code)} is not a language code: {error}") from error


def language_pack_hint(pack: LanguagePack) -> str:
    """Return where to set a language's codes, for messages such as "set iso639_3 in the language pack ..."."""
    file = f"{pack.code}.toml"
    return (
        f"in the language pack {file} (write it, or copy the one that ships with vernaclip; then name it in the recipe "
        f'as language_packs = ["{file}"], or with --language-pack {file} for `vernaclip translate`)'
    )
