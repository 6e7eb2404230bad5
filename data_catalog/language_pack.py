"""What the pipeline knows of one language: pure data, read from `flows/languages/*.toml`."""

from collections.abc import Mapping
from dataclasses import dataclass

from data_catalog.errors import SettingsError

MIN_SHARED_LETTERS = 4  # shorter words are the same in many languages by chance: "a", "in", "die", "hat", "no"


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguagePack:
    """A language's codes, word lists and recommendations; everything but `code` may be missing."""

    code: str
    """ISO 639-1 code, in lower case ("it"): the `source_lang` and `target_lang` of rows."""
    iso639_3: str | None = None
    """ISO 639-3 code ("ita"), by which Apertium names its modes."""
    name: str = ""
    """English name of the language."""
    argos: str | None = None
    """Code of the language in Argos packages. Left out, no package is known."""
    deepl: str | None = None
    """Code of the language as a target of DeepL, variant included ("PT-BR"). Left out, it is the usual one."""
    langdetect: str | None = None
    """Code of the language in langdetect ("zh-cn"). Left out, it is the same as `code`, by which other engines know
    it."""
    spacy: str | None = None
    """Name of a spaCy model that tags proper nouns."""
    flores: str | None = None
    """Code of the language in FLORES-200 and NLLB ("ita_Latn")."""
    confusions: tuple[str, ...] = ()
    """Codes of languages that short captions of this one are often mistaken for. lingua chooses among these, beside the
    commonest ones, and they need more letters to be believed."""
    function_words: tuple[str, ...] = ()
    """Articles, prepositions, conjunctions and the like, in lower case, without apostrophe ("dell"). The proper-noun
    check does not count them as words of content."""
    negations: tuple[str, ...] = ()
    """Function words that turn a meaning around ("not", "without"): captions that differ in them are no
    near-duplicates. They stand in `function_words` too."""
    common_nouns: tuple[str, ...] = ()
    """Nouns that often stand before a name ("piazza", "museum"), in lower case. At the start of a caption their capital
    makes no name of them."""
    shared_words: tuple[str, ...] = ()
    """Words of four letters or more that English spells alike ("hotel", "zebra"), in lower case. A translation that has
    them has not copied them."""
    tens: tuple[str, ...] = ()
    """Parts of the words for 20 to 29, 30 to 39 ... 90 to 99 ("vent", "trent" ...): eight texts in lower case, or none.
    A number of the source that the translation spells out is then not taken for lost."""
    capitalises_nouns: bool = False
    """True where common nouns have a capital, as in German: capitals then say nothing of proper nouns."""
    text_encoder: str | None = None
    """Hugging Face name of the recommended pretrained text encoder."""
    prompt_templates: tuple[str, ...] = ()
    """Zero-shot prompts in the language, each with one "{c}" for the class name."""
    class_names: tuple[str, ...] = ()
    """Names of ImageNet's 1,000 classes in the language, in the order of its indices. Left out, there are none."""
    test_sets: tuple[str, ...] = ()
    """Names of public test sets in the language."""
    license_notes: str = ""
    """Notes on the rights in the above."""

    @classmethod
    def minimal(cls, code: str) -> "LanguagePack":
        """A pack that holds nothing but the code: enough for captions to be read and cleaned."""
        return cls(code=code)

    def __post_init__(self) -> None:
        """Raise SettingsError for values that would silently disable a check."""
        if not (self.code.isascii() and self.code.isalpha() and self.code.islower()):
            raise SettingsError(f"code must be lower-case ASCII letters such as 'it', got {self.code!r}")
        for word in self.function_words:
            if not word.isalpha() or word != word.lower():
                raise SettingsError(f"function_words must be lower-case letters without apostrophe, got {word!r}")
        for word in set(self.negations).difference(self.function_words):
            raise SettingsError(f"negations must be among function_words, got {word!r}")
        for word in self.common_nouns:
            if not word.isalpha() or word != word.lower():
                raise SettingsError(f"common_nouns must be lower-case letters, got {word!r}")
        if len(self.tens) not in (0, 8):
            raise SettingsError(f"tens must be eight texts, for twenty to ninety, got {len(self.tens)}")
        for word in self.shared_words:
            if len(word) < MIN_SHARED_LETTERS or word != word.lower():
                raise SettingsError(f"shared_words must be lower-case words of four letters or more, got {word!r}")
        for template in self.prompt_templates:
            if template.count("{c}") != 1:
                raise SettingsError(f"prompt_templates must each hold {{c}} once, got {template!r}")


def all_function_words(packs: Mapping[str, LanguagePack]) -> frozenset[str]:
    """Return the function words of all languages, but those that turn a meaning around: near captions share these."""
    words = {word for pack in packs.values() for word in pack.function_words}
    return frozenset(words.difference(*(pack.negations for pack in packs.values())))


def require_language(code: str, where: str) -> str:
    """Return a code of a language, or refuse it, naming the setting or option that it is given by.

    Raises:
        SettingsError: it is none.
    """
    try:
        return LanguagePack.minimal(code).code
    except SettingsError as error:
        raise SettingsError(f"{where} {code} names no language: {error}") from error


def in_pack_of(pack: LanguagePack) -> str:
    """The place of a language's codes, for messages that say "set iso639_3" or the like before it."""
    file = f"{pack.code}.toml"
    return (
        f'in the language pack {file} (write it, or copy ours, and name it: language_packs = ["{file}"] in the '
        f"recipe, --language-pack {file} for `vernaclip translate`)"
    )
