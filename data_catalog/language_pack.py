"""What the pipeline knows of one language: pure data, read from `flows/languages/*.toml`."""

from dataclasses import dataclass

from data_catalog.errors import SettingsError

MIN_SHARED_LETTERS = 4  # shorter words are the same in many languages by chance: "a", "in", "die", "hat", "no"


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguagePack:
    """A language's codes, word lists and recommendations; everything but `code` may be missing.

    Args:
        code: ISO 639-1 code, lower case ("it"); the `source_lang` and `target_lang` of rows.
        iso639_3: its ISO 639-3 code ("ita"), by which Apertium names its modes, or None.
        name: English name of the language.
        argos: its code in Argos packages; None: no package is known.
        deepl: its code as a target of DeepL, variant included ("PT-BR"); None: the usual one.
        langdetect: its code in langdetect ("zh-cn"); None: the same as `code`. Other engines know it by `code`.
        spacy: a spaCy model that tags proper nouns, or None.
        flores: its code in FLORES-200 and NLLB ("ita_Latn"), or None.
        confusions: codes of languages that short captions of this one are often mistaken for; lingua chooses among
            these, beside the commonest ones, and they need more letters to be believed.
        function_words: lower-case articles, prepositions, conjunctions and the like, without apostrophe ("dell");
            the proper-noun check does not count them as words of content.
        negations: those of the function words that turn a meaning around ("not", "without"): captions that differ in
            them are no near-duplicates.
        common_nouns: lower-case nouns that often stand before a name ("piazza", "museum"): at the start of a caption
            their capital makes no name of them.
        tens: eight lower-case texts, parts of the words for 20 to 29, 30 to 39 ... 90 to 99 ("vent", "trent" ...): a
            number of the source that the translation spells out is then not taken for lost.
        shared_words: lower-case words of four letters or more that English spells alike ("hotel", "zebra"): where a
            translation has them, it has not copied them.
        capitalises_nouns: common nouns have a capital (German): capitals then say nothing of proper nouns.
        text_encoder: Hugging Face name of the recommended pretrained text encoder, or None.
        prompt_templates: zero-shot prompts with one "{c}" for the class name, in the language.
        class_names: ImageNet's 1,000 class names in the language, in the order of its indices; may be empty.
        test_sets: names of public test sets in the language.
        license_notes: what to know of the rights in the above.
    """

    code: str
    iso639_3: str | None = None
    name: str = ""
    argos: str | None = None
    deepl: str | None = None
    langdetect: str | None = None
    spacy: str | None = None
    flores: str | None = None
    confusions: tuple[str, ...] = ()
    function_words: tuple[str, ...] = ()
    negations: tuple[str, ...] = ()
    common_nouns: tuple[str, ...] = ()
    shared_words: tuple[str, ...] = ()
    tens: tuple[str, ...] = ()
    capitalises_nouns: bool = False
    text_encoder: str | None = None
    prompt_templates: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    test_sets: tuple[str, ...] = ()
    license_notes: str = ""

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
