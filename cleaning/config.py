"""What is done to captions before and after translation, in what order, and the reasons to drop that they may give."""

import functools
import logging
from dataclasses import dataclass

from cleaning.boilerplate import boilerplate
from cleaning.language import caption_language, detectable_languages
from cleaning.length import caption_length
from cleaning.proper_nouns import proper_noun_share
from cleaning.translation_checks import copied_through, length_ratio, numbers_lost, repeated_ngrams
from data_catalog.errors import ConfigError
from data_catalog.language_pack import LanguagePack
from data_catalog.stages import Check, PairCheck

logger = logging.getLogger(__name__)

_CAPTION_REASONS = {
    "caption_empty": "nothing is left of the caption",
    "caption_too_short": "fewer words or characters than asked for",
    "caption_too_long": "more words or characters than allowed",
    "wrong_language": "the caption is surely in another language than its row says",
}

# Every reason that a step may give, with what it means: closed, so that a report can explain each number.
REASONS: dict[str, dict[str, str]] = {
    "clean": {
        **_CAPTION_REASONS,
        "caption_boilerplate": "a file name, an address or a number stands where a caption should be",
    },
    "check": {
        **_CAPTION_REASONS,
        "mostly_proper_nouns": "the caption is little but names",
        "copied_through": "the translation equals its source",
        "repeated_ngrams": "the translation loops",
        "length_ratio": "the translation is far shorter or longer than its source",
        "numbers_lost": "the translation lacks a number of its source",
    },
    "deduplicate": {
        "duplicate_caption": "an earlier caption of the same image says the same",
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanConfig:
    """How source captions are rewritten (`cleaning.text.clean_text`) and then judged.

    Control characters, Unicode's composed form and white space are always seen to.

    Args:
        fix_encoding: undo mojibake.
        strip_markup: remove HTML tags and resolve entities.
        straighten_apostrophes: write "l’albero" as "l'albero".
        min_words: fewest words, counted by `cleaning.scripts.count_words`.
        min_chars: fewest characters (code points).
        max_words: most words.
        max_chars: most characters.
        boilerplate: drop file names, addresses and texts without letters.
        language_check: drop captions that are surely in another language than their row says.
        min_language_probability: a caption is kept if langdetect gives its language at least this much.
        min_other_probability: a caption is dropped only if langdetect gives another language at least this much.
        min_language_letters: a caption with fewer letters is not checked for its language.
    """

    fix_encoding: bool = True
    strip_markup: bool = True
    straighten_apostrophes: bool = True
    min_words: int = 2
    min_chars: int = 3
    max_words: int = 100
    max_chars: int = 1000
    boilerplate: bool = True
    language_check: bool = True
    min_language_probability: float = 0.1
    min_other_probability: float = 0.99
    min_language_letters: int = 20

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that is out of bounds."""
        _require_bounds(self, "clean")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckConfig:
    """Checks of captions in the target language, translated or native; the last six only of translated ones.

    Args:
        min_words: fewest words, counted by `cleaning.scripts.count_words`.
        min_chars: fewest characters (code points).
        max_words: most words.
        max_chars: most characters.
        language_check: drop captions that are surely not in the target language.
        min_language_probability: a caption is kept if langdetect gives its language at least this much.
        min_other_probability: a caption is dropped only if langdetect gives another language at least this much.
        min_language_letters: a caption with fewer letters is not checked for its language.
        proper_noun_check: drop captions that are mostly names, as the paper does.
        max_proper_noun_share: share of proper nouns among words of content from which on a caption is dropped.
        copied_through_check: drop translations that equal their source.
        repetition_check: drop translations that loop.
        length_ratio_check: drop translations far shorter or longer than their source.
        min_length_ratio: least letters of the translation per letter of the source.
        max_length_ratio: most letters of the translation per letter of the source.
        numbers_check: drop translations that lack a number of their source.
    """

    min_words: int = 2
    min_chars: int = 3
    max_words: int = 100
    max_chars: int = 1000
    language_check: bool = True
    min_language_probability: float = 0.1
    min_other_probability: float = 0.99
    min_language_letters: int = 20
    proper_noun_check: bool = True
    max_proper_noun_share: float = 0.8
    copied_through_check: bool = True
    repetition_check: bool = True
    length_ratio_check: bool = True
    min_length_ratio: float = 0.4
    max_length_ratio: float = 2.5
    numbers_check: bool = True

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that is out of bounds."""
        _require_bounds(self, "check")
        if not 0 < self.max_proper_noun_share <= 1:
            raise ConfigError(f"check.max_proper_noun_share must be in (0, 1], got {self.max_proper_noun_share}")
        if not 0 <= self.min_length_ratio <= 1:
            raise ConfigError(f"check.min_length_ratio must be between 0 and 1, got {self.min_length_ratio}")
        if self.max_length_ratio < 1:
            raise ConfigError(f"check.max_length_ratio must be at least 1, got {self.max_length_ratio}")


def source_checks(config: CleanConfig, pack: LanguagePack) -> list[Check]:
    """Checks of source captions that are in the pack's language, in the order in which they are applied."""
    # A file name is one word, too: the rule that names the cause best goes first.
    checks = [boilerplate()] if config.boilerplate else []
    return [*checks, _length(config), *_language(config, pack)]


def target_checks(config: CheckConfig, pack: LanguagePack) -> list[Check]:
    """Checks of captions in the pack's language, translated or native, the cheapest first."""
    checks = [_length(config)]
    if config.proper_noun_check and _tells_proper_nouns(pack):
        checks.append(proper_noun_share(function_words=pack.function_words, max_share=config.max_proper_noun_share))
    return checks + _language(config, pack)


def translation_checks(config: CheckConfig) -> list[PairCheck]:
    """Checks of a translation beside its source, in the order in which they are applied; not for native rows."""
    # All are cheap. A loop is too long as well: the rule that names the cause best goes first.
    checks: list[PairCheck] = []
    if config.copied_through_check:
        checks.append(copied_through())
    if config.repetition_check:
        checks.append(repeated_ngrams())
    if config.length_ratio_check:
        checks.append(length_ratio(min_ratio=config.min_length_ratio, max_ratio=config.max_length_ratio))
    if config.numbers_check:
        checks.append(numbers_lost())
    return checks


def _length(config: CleanConfig | CheckConfig) -> Check:
    return caption_length(
        min_words=config.min_words,
        min_chars=config.min_chars,
        max_words=config.max_words,
        max_chars=config.max_chars,
    )


def _language(config: CleanConfig | CheckConfig, pack: LanguagePack) -> list[Check]:
    """The language check, or none where it is switched off or langdetect does not know the language."""
    if not config.language_check:
        return []
    code = pack.langdetect or pack.code
    if code not in detectable_languages():
        _warn_once(f"captions in {pack.code!r} are not checked for their language: langdetect does not know it")
        return []
    check = caption_language(
        code,
        confusions=pack.confusions,
        min_probability=config.min_language_probability,
        min_other_probability=config.min_other_probability,
        min_letters=config.min_language_letters,
    )
    return [check]


def _tells_proper_nouns(pack: LanguagePack) -> bool:
    """Whether capitals tell proper nouns in the language; says so where they do not."""
    if pack.function_words and not pack.capitalises_nouns:
        return True
    cause = "its nouns have capitals" if pack.capitalises_nouns else "the pack has no function words"
    _warn_once(f"captions in {pack.code!r} are not checked for proper nouns: {cause}")
    return False


@functools.cache
def _warn_once(message: str) -> None:
    """Checks are bound anew for every shard; what they lack is said once."""
    logger.warning(message)


def _require_bounds(config: CleanConfig | CheckConfig, section: str) -> None:
    for unit in ("words", "chars"):
        least, most = getattr(config, f"min_{unit}"), getattr(config, f"max_{unit}")
        if least < 0:
            raise ConfigError(f"{section}.min_{unit} must not be negative, got {least}")
        if most < max(1, least):
            raise ConfigError(f"{section}.max_{unit} must be at least {max(1, least)}, got {most}")
    for name in ("min_language_probability", "min_other_probability"):
        if not 0 <= getattr(config, name) <= 1:
            raise ConfigError(f"{section}.{name} must be between 0 and 1, got {getattr(config, name)}")
    if config.min_language_letters < 0:
        raise ConfigError(f"{section}.min_language_letters must not be negative, got {config.min_language_letters}")
