"""Report of what a language has and lacks, with consequences and advice, for `vernaclip doctor --language xx`.

Nothing is downloaded. Only a missing language pack is an error, since no build can start without one.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from data_catalog.base.errors import DamagedError, InputError, SettingsError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.base.plain_text import command, visible_text
from flows.findings import Finding
from flows.recipe.language_packs import available_language_packs, load_language_pack, load_language_packs

ISO_639_LENGTHS = (2, 3)
SOURCE = "en"  # language of most caption datasets

_found = partial(Finding, "found")
_lacks = partial(Finding, "warning")  # text, cost, advice


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """A language, its pack or a minimal one, the pack's file or the one that it would have, and where the pack is."""

    pack: LanguagePack
    file: str
    has_pack: bool
    ships: bool  # the pack comes with vernaclip

    @property
    def title(self) -> str:
        """Return name and code, as "Greek (el)"."""
        name = visible_text(" ".join(self.pack.name.split()))
        return f"{name} ({self.pack.code})" if name else self.pack.code

    def set_in_pack(self, field: str) -> str:
        """Return the advice to set a field of the pack."""
        return f"set {field} in {f'a copy of {self.file}' if self.ships else self.file} (docs/languages.md)"


def find_language(name: str) -> Language:
    """Return the language of a code ("el"), or of a language pack's file if the name ends in ".toml"."""
    if name.endswith(".toml"):
        return Language(pack=load_language_pack(name), file=Path(name).name, has_pack=True, ships=False)
    file = f"{name}.toml"
    if name in available_language_packs():
        return Language(pack=load_language_pack(name), file=file, has_pack=True, ships=True)
    if len(name) not in ISO_639_LENGTHS:
        raise SettingsError(
            f"--language takes an ISO 639 code such as el, or a language pack's TOML file, got {name!r}"
        )
    from cleaning.languages.engines import language_names

    shipped = {pack.code: (pack.name, pack.iso639_3) for pack in load_language_packs().values()}
    for code, (title, iso639_3) in {**language_names(), **shipped}.items():
        if iso639_3 == name:
            raise SettingsError(f"{title} has the code {code} here: use --language {code}")
    return Language(pack=LanguagePack.minimal(name), file=file, has_pack=False, ships=False)


def examine(language: Language) -> list[Finding]:
    """Return all findings about a language, in the order in which a build needs these things."""
    unneeded = _FROM_SOURCE if language.pack.code == SOURCE else ()
    checks = {topic: check for topic, check in CHECKS.items() if topic not in unneeded}
    return [replace(each, topic=topic) for topic, check in checks.items() for each in check(language)]


def _pack(language: Language) -> Iterator[Finding]:
    code, file = language.pack.code, language.file
    if language.has_pack:
        yield _found(
            f"{file} comes with vernaclip" if language.ships else f"{file}; name it in recipes as language_pack"
        )
        return
    yield Finding(
        "broken",
        f"no language pack for {code} comes with vernaclip",
        f"{code} cannot be the target_language of a recipe; captions in {code} can still be read, cleaned and "
        "translated into other languages",
        f"run `vernaclip init NAME --language {code}`, which writes {file} and a recipe; or write {file} yourself "
        f'(to start with, the line code = "{code}" is enough, see docs/languages.md), name it in the recipe with '
        f'language_pack = "{file}", and check it with `{command("doctor", "--language", file)}`',
    )


def _translation(language: Language) -> Iterator[Finding]:
    """Yield a finding about Argos packages from English, the language of most captions."""
    from translation.packages.install import read_stored_index
    from translation.packages.package import default_packages_dir, find

    code = language.pack.argos or language.pack.code
    with suppress(InputError, DamagedError):
        package = find(SOURCE, code, default_packages_dir())
        yield _found(f"the package {package.pair} {package.package_version} is installed")
        return
    install = f"`vernaclip mt install --from {SOURCE} --to {code}`"
    train = (
        f"train one, `vernaclip mt train PAIRS.tsv --from {SOURCE} --to {code} --out {SOURCE}_{code}.argosmodel`, or "
        "set translate.engine to ctranslate2 (an NLLB or OPUS-MT model), deepl, openai or command "
        "(docs/translation.md)"
    )
    advice = f"{install}, if `vernaclip mt packages --to {code}` lists it; else {train}"
    remark = "the Argos index is not stored on this machine, so it is unknown whether it offers one"
    try:
        entries = read_stored_index()
    except InputError as error:
        remark = str(error)
    else:
        if entries is not None:
            is_offered = (SOURCE, code) in {(each.from_code, each.to_code) for each in entries if each.is_readable}
            advice = install if is_offered else train
            remark = f"the stored Argos index offers {'one' if is_offered else 'none'}"
    cost = "the default engine cannot translate English captions, so datasets contain native captions only"
    yield _lacks(f"no Argos package from English is installed; {remark}", cost, advice)


def _language_check(language: Language) -> Iterator[Finding]:
    from cleaning.languages.identification import detectable_code, detectable_languages

    code = detectable_code(language.pack, "cascade")
    if code is not None:
        confusions = ", ".join(language.pack.confusions)
        mistaken = f"; it is mistaken for {confusions}" if confusions else ""
        yield _found(f"fastText and lingua can identify {code}{mistaken}")
        return
    yield _lacks(
        f"no engine can identify {language.pack.langdetect or language.pack.code}",
        "captions and translations in other languages are not dropped, and the columns of detected languages are empty",
        f"{language.set_in_pack('langdetect')}, if it has another one of these codes: "
        f"{', '.join(detectable_languages())}; else choose sources in one language, and look at samples of the result",
    )


def _proper_nouns(language: Language) -> Iterator[Finding]:
    from cleaning.checks.proper_nouns import find_tagger

    pack = language.pack
    cost = "captions that consist mostly of names are not dropped (the paper drops a tenth of WIT for this reason)"
    install = f"pip install spacy, and its model {pack.spacy}" if pack.spacy else "install a model of spaCy"
    tagger = find_tagger(pack, "auto")
    if tagger is not None:
        yield _found(f"tagged by {tagger.name}")
    elif pack.capitalises_nouns:
        yield _lacks("all nouns have capitals, so capitals do not show names", cost, install)
    elif pack.function_words:
        better = f"; better with spaCy's {pack.spacy}, which is not installed" if pack.spacy else ""
        yield _found(f"found by capitals, with {len(pack.function_words)} function words{better}")
    else:
        advice = f"{language.set_in_pack('function_words')}, or {install}"
        yield _lacks("the pack lists no function words", cost, advice)


def _letters(language: Language) -> Iterator[Finding]:
    from training.use.pictures import missing_letters

    texts = language.pack.function_words or language.pack.tens
    lacking = missing_letters(texts) if texts else ""
    if not texts:
        advice = language.set_in_pack("function_words")
        yield _lacks("unknown, as the pack has no words of the language", "contact sheets may show empty boxes", advice)
    elif lacking:
        yield _lacks(
            f"no installed typeface has {' '.join(lacking[:8])}{' ...' if len(lacking) > 8 else ''}",
            "contact sheets show empty boxes instead",
            "install a typeface, such as Debian's fonts-dejavu-core or fonts-noto-core",
        )
    else:
        yield _found("contact sheets can show them")


Check = Callable[[Language], Iterator[Finding]]


def _fields(names: str, what: str, cost: str) -> Check:
    """Return a check of fields of the language pack, with what they have in words, and what their lack costs."""

    def check(language: Language) -> Iterator[Finding]:
        missing = " and ".join(name for name in names.split() if not getattr(language.pack, name))
        if missing:
            yield _lacks(f"the pack lacks {what}", cost, language.set_in_pack(missing))
        else:
            yield _found(f"the pack has {what}")

    return check


# Checks by topic, in the order in which a build needs these things.
CHECKS: dict[str, Check] = {
    "language pack": _pack,
    "translation": _translation,
    "codes": _fields(
        "iso639_3 flores",
        "the codes of other engines",
        "the language may not be found in NLLB (flores) and OPUS-MT models (iso639_3)",
    ),
    "language check": _language_check,
    "proper nouns": _proper_nouns,
    "copied words": _fields(
        "shared_words",
        "words with the same spelling in English",
        "translations with more English words are kept (check.max_copied_share_unlisted)",
    ),
    "numbers in words": _fields(
        "tens",
        "the words for 20 to 90",
        "good translations that spell out such a number are dropped as numbers_lost",
    ),
    "letters": _letters,
    "text encoder": _fields(
        "text_encoder",
        "a text encoder to recommend, for train.model=italian and train.text_encoder",
        "`train.model=italian` needs train.text_encoder; `compact` trains its text tower from the captions alone",
    ),
    "mirrored images": _fields("sides", "words for left and right", 'train.augment = "mirror" is refused'),
    "zero-shot": _fields(
        "prompt_templates class_names",
        "prompts and class names of ImageNet, which `vernaclip scoreboard` reads",
        "zero-shot classification needs class_names=FILE.json and templates=FILE.json of `vernaclip scoreboard`",
    ),
    "test sets": _fields(
        "test_sets",
        "names of test sets",
        "models can be scored only on your own held-out images, and not be compared with published models",
    ),
    "rights": _fields(
        "license_notes",
        "notes on rights",
        "you must find out yourself what the licenses of sources, test sets and models allow",
    ),
}
# Topics that matter only if captions are translated.
FOR_TRANSLATIONS = frozenset({"translation", "codes", "copied words", "numbers in words"})
_FROM_SOURCE = ("translation", "copied words")  # not needed for English
