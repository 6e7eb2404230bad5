"""Report of what a language has and lacks, with consequences and advice, for `vernaclip doctor --language xx`.

Nothing is downloaded. Only a missing language pack is an error, since no build can start without one.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from data_catalog.base.errors import DamagedError, InputError, SettingsError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.base.plain_text import command, visible_text
from flows.findings import Finding
from flows.recipe.language_packs import available_language_packs, load_language_pack, load_language_packs

ISO_639_LENGTHS = (2, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """A language and its language pack.

    Args:
        pack: the language pack, or a minimal one with only the code.
        file: name of the pack's file, or the name that it would have.
        has_pack: whether there is a language pack.
        ships: whether the pack comes with vernaclip.
    """

    pack: LanguagePack
    file: str
    has_pack: bool
    ships: bool

    @property
    def title(self) -> str:
        """Return name and code, as "Greek (el)"."""
        name = visible_text(" ".join(self.pack.name.split()))
        return f"{name} ({self.pack.code})" if name else self.pack.code

    def set_in_pack(self, field: str) -> str:
        """Return the advice to set a field of the pack."""
        return f"set {field} in {f'a copy of {self.file}' if self.ships else self.file} (docs/languages.md)"


def find_language(name: str) -> Language:
    """Return the language of a code ("el"), or of a language pack's file if the name ends in ".toml".

    Raises:
        SettingsError: the name is not a code, or is another code of a known language.
        InputError: the file cannot be loaded.
    """
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


SOURCE = "en"  # language of most caption datasets
NUM_CLASSES = 1_000  # of ImageNet


def examine(language: Language) -> list[Finding]:
    """Return all findings about a language, in the order in which a build needs these things.

    Raises:
        PipelineError: a file on this machine cannot be read.
    """
    return [replace(each, topic=topic) for topic, check in CHECKS.items() for each in check(language)]


def _pack(language: Language) -> Iterator[Finding]:
    if language.ships:
        yield Finding("found", f"{language.file} comes with vernaclip")
    elif language.has_pack:
        yield Finding("found", f"{language.file}; name it in recipes as language_pack")
    else:
        code, file = language.pack.code, language.file
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
    if language.pack.code == SOURCE:
        yield Finding("found", "not needed: most captions are English already")
        return
    from translation.packages.install import read_stored_index
    from translation.packages.package import default_packages_dir, find

    code = language.pack.argos or language.pack.code
    try:
        package = find(SOURCE, code, default_packages_dir())
    except (InputError, DamagedError):
        pass
    else:
        yield Finding("found", f"the package {package.pair} {package.package_version} is installed")
        return
    install = f"`vernaclip mt install --from {SOURCE} --to {code}`"
    train = (
        f"train one, `vernaclip mt train PAIRS.tsv --from {SOURCE} --to {code} --out {SOURCE}_{code}.argosmodel`, or "
        "set translate.engine to transformers or ctranslate2 (an NLLB or OPUS-MT model), deepl or command "
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
            pairs = {(entry.from_code, entry.to_code) for entry in entries if entry.is_readable}
            is_offered = (SOURCE, code) in pairs
            advice = install if is_offered else train
            remark = f"the stored Argos index offers {'one' if is_offered else 'none'}"
    yield Finding(
        "warning",
        f"no Argos package from English is installed; {remark}",
        "the default engine cannot translate English captions, so datasets contain native captions only",
        advice,
    )


def _apertium(language: Language) -> Iterator[Finding]:
    if language.pack.code == SOURCE:
        return
    from translation.config import TranslateConfig
    from translation.engines.apertium import open_engine

    try:
        open_engine(TranslateConfig(engine="apertium"), load_language_pack(SOURCE), language.pack, Path())
    except InputError as error:
        yield Finding(
            "warning",
            re.split(r"[;:](?![^(]*\))", str(error))[0],  # the problem without its remedy
            "no rule-based translation, which is worse than a good package, but the only engine for some languages",
            "install the Apertium pair from English, if there is one",
        )
    else:
        yield Finding("found", "a mode from English is installed")


def _engines(language: Language) -> Iterator[Finding]:
    """Yield a finding about each engine of a plug-in, whose languages are unknown."""
    if language.pack.code == SOURCE:
        return
    from translation.engines.plugins import find_plugin, find_plugins

    for name in dict.fromkeys(each.name for each in find_plugins()):
        try:
            found = find_plugin(name)
        except InputError as error:
            yield Finding("warning", str(error).partition(":")[0], f"translate.engine = {name} is refused")
        else:
            yield Finding("found", f"{found} is installed")


def _model_codes(language: Language) -> Iterator[Finding]:
    codes = {"iso639_3": language.pack.iso639_3, "flores": language.pack.flores}
    missing = [name for name, code in codes.items() if code is None]
    if not missing:
        yield Finding("found", ", ".join(f"{name} {code}" for name, code in codes.items()))
        return
    names = " and ".join(missing)
    yield Finding(
        "warning",
        f"{names} {'is' if len(missing) == 1 else 'are'} not set",
        "NLLB models (flores) and Apertium's modes (iso639_3) may not be found",
        language.set_in_pack(names),
    )


def _language_check(language: Language) -> Iterator[Finding]:
    from cleaning.languages.identification import detectable_code, detectable_languages

    code = detectable_code(language.pack, "cascade")
    if code is not None:
        confusions = ", ".join(language.pack.confusions)
        mistaken = f"; it is mistaken for {confusions}" if confusions else ""
        yield Finding("found", f"fastText and lingua can identify {code}{mistaken}")
        return
    yield Finding(
        "warning",
        f"no engine can identify {language.pack.langdetect or language.pack.code}",
        "captions and translations in other languages are not dropped, and the columns of detected languages are empty",
        f"{language.set_in_pack('langdetect')}, if it has another one of these codes: "
        f"{', '.join(detectable_languages())}; else choose sources in one language, and look at samples of the result",
    )


def _proper_nouns(language: Language) -> Iterator[Finding]:
    from cleaning.checks.proper_nouns import find_tagger

    pack = language.pack
    cost = "captions that consist mostly of names are not dropped (the paper drops a tenth of WIT for this reason)"
    install = f"pip install spacy, and its model {pack.spacy}" if pack.spacy else "install a model of spaCy or Stanza"
    tagger = find_tagger(pack, "auto")
    if tagger is not None:
        yield Finding("found", f"tagged by {tagger.name}")
    elif pack.capitalises_nouns:
        yield Finding("warning", "all nouns have capitals, so capitals do not show names", cost, install)
    elif pack.function_words:
        better = f"; better with spaCy's {pack.spacy}, which is not installed" if pack.spacy else ""
        yield Finding("found", f"found by capitals, with {len(pack.function_words)} function words{better}")
    else:
        advice = f"{language.set_in_pack('function_words')}, or {install}"
        yield Finding("warning", "the pack lists no function words", cost, advice)


def _copied_words(language: Language) -> Iterator[Finding]:
    from cleaning.checks import CheckConfig

    pack, config = language.pack, CheckConfig()
    if pack.code == SOURCE:
        yield Finding("found", "not needed: English is the language to translate from")
    elif pack.shared_words:
        yield Finding("found", f"{len(pack.shared_words)} words with the same spelling in English are listed")
    else:
        yield Finding(
            "warning",
            "the pack lists no words with the same spelling in English",
            f"translations are kept with up to {config.max_copied_share_unlisted:.0%} English words, instead of "
            f"{config.max_copied_share:.0%}",
            language.set_in_pack("shared_words"),
        )


def _letters(language: Language) -> Iterator[Finding]:
    from training.use.pictures import missing_letters

    texts = language.pack.function_words or language.pack.tens
    if not texts:
        yield Finding(
            "warning",
            "unknown, as the pack has no words of the language",
            "contact sheets may show empty boxes",
            language.set_in_pack("function_words"),
        )
        return
    lacking = missing_letters(texts)
    if not lacking:
        yield Finding("found", "contact sheets can show them")
        return
    yield Finding(
        "warning",
        f"no installed typeface has {' '.join(lacking[:8])}{' ...' if len(lacking) > 8 else ''}",
        "contact sheets show empty boxes instead",
        "install a typeface, such as Debian's fonts-dejavu-core or fonts-noto-core",
    )


def _zero_shot(language: Language) -> Iterator[Finding]:
    pack = language.pack
    have = f"{len(pack.prompt_templates)} prompt templates and {len(pack.class_names):,} of {NUM_CLASSES:,} class names"
    missing = [] if pack.prompt_templates else ["prompt_templates"]
    missing += [] if len(pack.class_names) == NUM_CLASSES else ["class_names"]
    if missing:
        yield Finding(
            "warning",
            f"the pack has {have} of ImageNet",
            "zero-shot classification needs class_names=FILE.json and templates=FILE.json of `vernaclip scoreboard`",
            language.set_in_pack(" and ".join(missing)),
        )
    else:
        yield Finding("found", f"{have}: `vernaclip scoreboard` reads them")


Check = Callable[[Language], Iterator[Finding]]


def _field(name: str, found: Callable[[LanguagePack], str], missing: str, cost: str) -> Check:
    """Return a check of a field of the language pack.

    Args:
        name: name of the field.
        found: returns the text of the finding if the field is set.
        missing: text of the finding if it is not set.
        cost: consequence if it is not set.
    """

    def check(language: Language) -> Iterator[Finding]:
        if getattr(language.pack, name):
            yield Finding("found", found(language.pack))
        else:
            yield Finding("warning", missing, cost, language.set_in_pack(name))

    return check


# Checks by topic, in the order in which a build needs these things.
CHECKS: dict[str, Check] = {
    "language pack": _pack,
    "translation": _translation,
    "Apertium": _apertium,
    "engine": _engines,
    "codes": _model_codes,
    "language check": _language_check,
    "proper nouns": _proper_nouns,
    "copied words": _copied_words,
    "numbers in words": _field(
        "tens",
        lambda pack: f"known by {', '.join(pack.tens)}",
        "the pack does not list the words for 20 to 90",
        "good translations that spell out such a number are dropped as numbers_lost",
    ),
    "letters": _letters,
    "text encoder": _field(
        "text_encoder",
        lambda pack: f"{pack.text_encoder} is recommended, for train.model=italian and train.text_encoder",
        "the pack recommends none",
        "`train.model=italian` needs train.text_encoder; `compact` trains its text tower from the captions alone",
    ),
    "changed captions": _field(
        "changes",
        lambda _: "the pack has words by which captions change",
        "the pack has no words by which captions change",
        "train.hard_negatives is refused",
    ),
    "zero-shot": _zero_shot,
    "test sets": _field(
        "test_sets",
        lambda pack: "; ".join(pack.test_sets),
        "the pack names none",
        "models can be scored only on your own held-out images, and not be compared with published models",
    ),
    "rights": _field(
        "license_notes",
        lambda pack: pack.license_notes,
        "the pack has no notes on rights",
        "you must find out yourself what the licenses of sources, test sets and models allow",
    ),
}
# Topics that matter only if captions are translated.
FOR_TRANSLATIONS = frozenset({"translation", "Apertium", "engine", "codes", "copied words", "numbers in words"})
