"""Language packs: codes, word lists and recommendations for one language, read from `flows/languages/*.toml`."""

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

from data_catalog.base.errors import SettingsError
from data_catalog.base.settings import ADDED

MIN_SHARED_LETTERS = 4  # shorter words coincide in many languages by chance: "a", "in", "die", "hat", "no"
_LONGEST_ERROR = 500
T = TypeVar("T")
Forms = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleWords:
    """Words of sentences whose agent and patient can be exchanged: "a dog is chasing a cat".

    Articles stand in a form that is the same for agent and patient, and that shows the singular.
    """

    agents: Forms = ()
    """Articles of the agent ("a", "un'")."""
    patients: Forms = ()
    """Articles of the patient."""
    before_verbs: Forms = ()
    """Words that may stand between the agent and the verb ("is", "che")."""
    verb_endings: Forms = ()
    """Endings of the verb ("ing"). By default any."""
    continues: Forms = ()
    """Words after the patient with which its phrase goes on ("of"): such sentences are left alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeWords:
    """Words by which one thing in a caption can be changed, the table `[changes]` of a language pack.

    Words are in lower case, except those that the language always capitalises. In a phrase, a last "*" is any word.
    """

    positions: tuple[tuple[Forms, Forms], ...] = ()
    """Pairs of opposites: phrases, and their opposites in the same order (["to the left of"], ["to the right of"])."""
    sides: Forms = ()
    """All forms of "left" and "right". Where one is not in a phrase of `positions`, its meaning is not certain."""
    negations: tuple[Forms, ...] = ()
    """Two lists or none: phrases, and their negations in the same order (["is *", "with a"], ["is not *", ...])."""
    numbers: Forms = ()
    """Numbers from two on, which leave the noun in the plural."""
    colours: tuple[Forms, ...] = ()
    """A list for each colour: its forms, in an order that is the same for all colours, or one form for all."""
    alike: tuple[Forms, ...] = ()
    """Colours, by their first forms, that may be said of the same thing ("blue", "light blue"): they are not changed
    into one another."""
    agreement: tuple[Forms, ...] = ()
    """A list for each form of the colours: words before a colour that show this form (articles, adjectives, nouns)."""
    nouns: tuple[tuple[Forms, ...], ...] = ()
    """Classes of nouns that can replace one another, with equal gender: a list of forms for each noun."""
    before_vowels: tuple[Forms, ...] = ()
    """Articles that depend on the next letter: before a consonant and before a vowel (["a", "an"]). With "" as one of
    the two, the caption is left alone."""
    roles: RoleWords = RoleWords()
    """Words of sentences whose agent and patient can be exchanged."""
    left_alone: Forms = ()
    """Phrases in which nothing is changed ("black and white"). "*" is any word, and a last "|" the end of a phrase:
    punctuation, a function word or the end of the text."""

    def __post_init__(self) -> None:
        pairs = [*self.positions, *([self.negations] if self.negations else [])]
        num_forms = len(self.agreement) or max(map(len, self.colours), default=1)
        of_pairs = "changes.positions and changes.negations"
        _require(of_pairs, pairs, _is_even_pair, "have two lists with equally many phrases")
        _require(of_pairs, chain(*pairs), lambda side: len({*side}) == len(side), "have no phrase twice in one list")
        forms_of_lists = f"have one form or {num_forms}, as many as changes.agreement has lists"
        _require("changes.colours", self.colours, lambda forms: len(forms) in (1, num_forms), forms_of_lists)
        _require("changes.nouns", self.nouns, lambda group: len({*map(len, group)}) <= 1, "have equally many forms")
        _require("changes.before_vowels", self.before_vowels, lambda pair: len(pair) == 2 and any(pair), "be pairs")
        words = {word for pair in self.positions for side in pair for phrase in side for word in phrase.split()}
        colours = {forms[0] for forms in self.colours if forms}
        _require("changes.alike", chain(*self.alike), colours.__contains__, "be first forms of changes.colours")
        _require("changes.left_alone", self.left_alone, _has_word, "name words")
        _require("changes.sides", self.sides, words.__contains__, "be words of changes.positions")
        groups: dict[str, Iterable[Forms]] = {
            "positions": [side for pair in self.positions for side in pair],
            "negations": self.negations,
            "numbers": [(number,) for number in self.numbers],
            "colours": self.colours,
            "nouns": [forms for group in self.nouns for forms in group],
        }
        wanted = "have no empty list, and no word without letters"
        for name, things in groups.items():
            seen: set[str] = set()
            for thing in things:
                _require(f"changes.{name}", thing or ("",), _has_word, wanted)
                if both := seen.intersection(thing):
                    raise SettingsError(f"changes.{name} has {min(both)!r} twice")
                seen.update(thing)


def _require(name: str, things: Iterable[T], is_right: Callable[[T], bool], wanted: str) -> None:
    for thing in things:
        if not is_right(thing):
            raise SettingsError(f"{name} must {wanted}, got {thing!r}"[:_LONGEST_ERROR])


def _is_even_pair(pair: Sequence[Forms]) -> bool:
    return len(pair) == 2 and len(pair[0]) == len(pair[1])


def _has_word(phrase: str) -> bool:
    return any(map(str.isalnum, phrase))


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguagePack:
    """Codes, word lists and recommendations for one language; only `code` is required."""

    code: str
    """ISO 639-1 code, in lower case ("it"): the `source_lang` and `target_lang` of rows."""
    iso639_3: str | None = None
    """ISO 639-3 code ("ita"). Apertium names its modes by it."""
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
    Captions that differ in these meanings are not near-duplicates. Opposites of `changes.positions` count without
    being listed."""
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
    changes: ChangeWords | None = field(default=None, metadata=ADDED)
    """Words by which one thing in a caption can be changed: position, colour, number and others."""
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
        code: dict.fromkeys(sorted({*pack.function_words}.difference(pack.negations)), "") | _contrasts(pack)
        for code, pack in packs.items()
        if pack.function_words
    }


def _contrasts(pack: LanguagePack) -> dict[str, str]:
    """Return the function words of `contrasts`, and those that one side of an opposite has alone, with a meaning."""
    pairs = pack.changes.positions if pack.changes else ()
    sides = [[{word for phrase in side for word in phrase.split()} for side in pair] for pair in pairs]
    opposites = [sorted(group & {*pack.function_words}) for one, two in sides for group in (one - two, two - one)]
    return {word: group[0] for group in (*opposites, *(pack.contrasts or ())) for word in group}


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
