"""What a language has and lacks here, what each lack costs, and what to do: `vernaclip doctor --language xx`.

Nothing is downloaded, and nothing that is missing is an error but the language pack, without which no build can start.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from data_catalog.errors import DamagedError, InputError, SettingsError
from data_catalog.language_pack import LanguagePack
from data_catalog.plain_text import command, visible_text
from flows.recipe.language_packs import available_language_packs, load_language_pack, load_language_packs

ISO_639_LENGTHS = (2, 3)


@dataclass(frozen=True, slots=True)
class Trait:
    """One thing that a language has here, or lacks.

    Args:
        topic: what it is about, in a word or two.
        text: what was found or is missing.
        cost: what comes of it that it is missing, "" if it is not.
        advice: what to do about that, "" if there is nothing to do.
        needed: no build can start without it.
        for_translations: it matters only where captions are translated.
    """

    topic: str
    text: str
    cost: str = ""
    advice: str = ""
    needed: bool = False
    for_translations: bool = False

    @property
    def found(self) -> bool:
        """Tell if it is there: only what is missing costs something."""
        return not self.cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """A language as the pipeline knows it.

    Args:
        pack: its pack, of nothing but the code where there is none.
        file: name of the pack's file; where there is none, the one that it would have.
        has_pack: whether there is one.
        ships: whether it comes with vernaclip.
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

    def told(self, topic: str, field: str, found: str, missing: str, cost: str) -> Trait:
        """Return what a field of the pack says (`found`); or what is `missing`, its cost, and the advice to set it."""
        if getattr(self.pack, field):
            return Trait(topic, found)
        return Trait(topic, missing, cost, self.set_in_pack(field))


def find_language(name: str) -> Language:
    """Return the language of a code ("el"), or of a pack's file if the name ends in ".toml".

    Raises:
        SettingsError: it is no code, or that of a pack we have under another code.
        InputError: a file that cannot be loaded.
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
            raise SettingsError(f"{title} is called {code} here: use --language {code}")
    return Language(pack=LanguagePack.minimal(name), file=file, has_pack=False, ships=False)


SOURCE = "en"  # what most caption sets are written in
NUM_CLASSES = 1_000  # of ImageNet


def examine(language: Language) -> list[Trait]:
    """Return everything that a language has and lacks, in the order in which a build comes to it.

    Raises:
        PipelineError: what lies on this machine cannot be read.
    """
    return [
        _pack(language),
        *(replace(trait, for_translations=True) for trait in [*_engines(language), _model_codes(language)]),
        _language_check(language),
        _proper_nouns(language),
        *(replace(trait, for_translations=True) for trait in _translated_words(language)),
        _letters(language),
        *_recommended(language),
    ]


def _pack(language: Language) -> Trait:
    if language.ships:
        return Trait("language pack", f"{language.file} comes with vernaclip")
    if language.has_pack:
        return Trait("language pack", f"{language.file} is a pack; recipes name it as language_pack")
    code, file = language.pack.code, language.file
    return Trait(
        "language pack",
        f"no pack of {code} comes with vernaclip",
        f"{code} cannot be a recipe's target_language; captions in it are read, cleaned and translated into other "
        "languages all the same",
        f"`vernaclip init NAME --language {code}` writes {file} and a recipe; or write {file}, of which the line "
        f'code = "{code}" is enough to start with (docs/languages.md), name it in the recipe, '
        f'language_pack = "{file}", and examine it with `{command("doctor", "--language", file)}`',
        needed=True,
    )


def _engines(language: Language) -> Iterator[Trait]:
    """Yield what translates into the language; which languages the engines of packages know is for them to say."""
    if language.pack.code == SOURCE:
        yield Trait("translation", "not needed: most captions are English already")
        return
    from translation.config import TranslateConfig
    from translation.engines.apertium import open_engine
    from translation.engines.plugins import announcements, find_announcement

    yield _argos(language)
    try:
        open_engine(TranslateConfig(engine="apertium"), load_language_pack(SOURCE), language.pack, Path())
    except InputError as error:
        yield Trait(
            "Apertium",
            re.split("[;:]", str(error))[0],
            "no translation by rules: worse than a good package's, but all that some small languages have",
            "install the pair from English, if Apertium has one",
        )
    else:
        yield Trait("Apertium", "a mode from English is installed")
    for name in dict.fromkeys(each.name for each in announcements()):
        try:
            found = find_announcement(name)
        except InputError as error:
            yield Trait("engine", str(error).partition(":")[0], f"translate.engine = {name} is refused")
        else:
            yield Trait("engine", f"{found} is installed")


def _argos(language: Language) -> Trait:
    from translation.packages.install import read_stored_index
    from translation.packages.package import default_packages_dir, find

    code = language.pack.argos or language.pack.code
    try:
        package = find(SOURCE, code, default_packages_dir())
    except (InputError, DamagedError):
        pass
    else:
        return Trait("translation", f"the package {package.pair} {package.package_version} is installed")
    install = f"`vernaclip mt install --from {SOURCE} --to {code}`"
    train = (
        f"train one, `vernaclip mt train PAIRS.tsv --from {SOURCE} --to {code} --out {SOURCE}_{code}.argosmodel`, or "
        "set translate.engine to transformers or ctranslate2 (an NLLB or OPUS-MT model), deepl or command "
        "(docs/engines.md)"
    )
    advice = f"{install}, if `vernaclip mt packages --to {code}` lists it; else {train}"
    remark = "Argos' index is not stored here, so that nothing is known of what it offers"
    try:
        entries = read_stored_index()
    except InputError as error:
        remark = str(error)
    else:
        if entries is not None:
            pairs = {(entry.from_code, entry.to_code) for entry in entries if entry.is_readable}
            is_offered = (SOURCE, code) in pairs
            advice = install if is_offered else train
            remark = f"Argos' index, as stored here, offers {'one' if is_offered else 'none'}"
    return Trait(
        "translation",
        f"no Argos package from English is installed; {remark}",
        "the default engine cannot translate English captions, and only native ones make a dataset",
        advice,
    )


def _model_codes(language: Language) -> Trait:
    codes = {"iso639_3": language.pack.iso639_3, "flores": language.pack.flores}
    missing = [name for name, code in codes.items() if code is None]
    if not missing:
        return Trait("codes", ", ".join(f"{name} {code}" for name, code in codes.items()))
    names = " and ".join(missing)
    return Trait(
        "codes",
        f"{names} {'is' if len(missing) == 1 else 'are'} not set",
        "NLLB models (flores) and Apertium's modes (iso639_3) may not be found",
        language.set_in_pack(names),
    )


def _language_check(language: Language) -> Trait:
    from cleaning.languages.identification import detectable_code, detectable_languages

    code = detectable_code(language.pack, "cascade")
    if code is not None:
        confusions = ", ".join(language.pack.confusions)
        mistaken = f"; it is mistaken for {confusions}" if confusions else ""
        return Trait("language check", f"fastText and lingua tell {code}{mistaken}")
    return Trait(
        "language check",
        f"no engine tells {language.pack.langdetect or language.pack.code}",
        "captions and translations in other languages stay in, and the columns that tell languages are empty",
        f"{language.set_in_pack('langdetect')}, if it has another code: {', '.join(detectable_languages())}; else "
        "choose sources that are in one language, and look at samples of the result",
    )


def _proper_nouns(language: Language) -> Trait:
    from cleaning.checks.proper_nouns import find_tagger

    pack = language.pack
    tagger = find_tagger(pack, "auto")
    if tagger is not None:
        return Trait("proper nouns", f"tagged by {tagger.name}")
    if pack.function_words and not pack.capitalises_nouns:
        better = f"; better with spaCy's {pack.spacy}, which is not installed" if pack.spacy else ""
        return Trait("proper nouns", f"told by capitals, with {len(pack.function_words)} function words{better}")
    cost = "captions that are little but names stay in (the paper drops a tenth of WIT for it)"
    install = f"pip install spacy, and its model {pack.spacy}" if pack.spacy else "install a model of spaCy or Stanza"
    if pack.capitalises_nouns:
        return Trait("proper nouns", "capitals tell nothing, where every noun has one", cost, install)
    advice = f"{language.set_in_pack('function_words')}, or {install}"
    return Trait("proper nouns", "the pack lists no function words", cost, advice)


def _translated_words(language: Language) -> Iterator[Trait]:
    from cleaning.checks import CheckConfig

    pack, config = language.pack, CheckConfig()
    if pack.code == SOURCE:
        yield Trait("copied words", "not needed: English is what is translated from")
    else:
        yield language.told(
            "copied words",
            "shared_words",
            f"{len(pack.shared_words)} words that English shares are known",
            "the pack lists no words that English spells alike",
            f"translations stay in that leave up to {config.max_copied_share_unlisted:.0%} of their words in English, "
            f"instead of {config.max_copied_share:.0%}",
        )
    yield language.told(
        "numbers in words",
        "tens",
        f"known by {', '.join(pack.tens)}",
        "the pack does not say how 20 to 90 are called",
        "good translations that spell out such a number are dropped as numbers_lost",
    )


def _letters(language: Language) -> Trait:
    from training.use.pictures import lettering_for

    texts = language.pack.function_words or language.pack.tens
    if not texts:
        return Trait(
            "letters",
            "which ones are needed is not known without words of the language",
            "contact sheets may show empty boxes",
            language.set_in_pack("function_words"),
        )
    lettering = lettering_for(texts)
    lacking = sorted({char for word in texts for char in word if not lettering.has(char)})
    if not lacking:
        return Trait("letters", "contact sheets can show them")
    return Trait(
        "letters",
        f"no typeface here has {' '.join(lacking[:8])}{' ...' if len(lacking) > 8 else ''}",
        "contact sheets show empty boxes instead",
        "install a typeface, such as Debian's fonts-dejavu-core or fonts-noto-core",
    )


def _recommended(language: Language) -> Iterator[Trait]:
    """Yield what the pack knows for training, scoring and passing on."""
    pack = language.pack
    yield language.told(
        "text encoder",
        "text_encoder",
        f"{pack.text_encoder} is recommended, for train.model=italian and train.text_encoder",
        "the pack recommends none",
        "`train.model=italian` wants train.text_encoder; `compact` learns its text tower from the captions alone",
    )
    have = f"{len(pack.prompt_templates)} prompt templates and {len(pack.class_names):,} of {NUM_CLASSES:,} class names"
    missing = [] if pack.prompt_templates else ["prompt_templates"]
    missing += [] if len(pack.class_names) == NUM_CLASSES else ["class_names"]
    if missing:
        yield Trait(
            "zero-shot",
            f"the pack has {have} of ImageNet",
            "zero-shot classification wants class_names=FILE.json and templates=FILE.json of `vernaclip scoreboard`",
            language.set_in_pack(" and ".join(missing)),
        )
    else:
        yield Trait("zero-shot", f"{have}: `vernaclip scoreboard` reads them")
    yield language.told(
        "test sets",
        "test_sets",
        "; ".join(pack.test_sets),
        "the pack names none",
        "a model can be scored on your own held-out images alone, and compared with no published one",
    )
    yield language.told(
        "rights",
        "license_notes",
        pack.license_notes,
        "the pack says nothing of rights",
        "you must look up yourself what sources, test sets and models allow",
    )
