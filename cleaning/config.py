"""What is done to captions before and after translation, in what order, and the reasons to drop that they may give."""

import functools
import logging
from dataclasses import dataclass

from cleaning import translation_checks as check
from cleaning.boilerplate import boilerplate
from cleaning.language import caption_language, detectable_languages
from cleaning.length import caption_length
from cleaning.proper_nouns import proper_noun_share
from cleaning.translation_quality import translation_quality
from data_catalog.errors import ConfigError
from data_catalog.language_pack import LanguagePack
from data_catalog.stages import Check, ColumnCheck, Measure

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
        "copied_words": "the translation left too many words as they are in its source",
        "repeated_ngrams": "the translation loops",
        "translation_repetitive": "the engine says that the translation loops, at the second try as well",
        "translation_truncated": "the translation was cut off: the engine's decoding hit its limit",
        "length_ratio": "the translation is far shorter or longer than its source",
        "numbers_lost": "the translation lacks a number of its source",
        "numbers_invented": "the translation has a number that its source lacks",
        "low_translation_score": "the engine itself thought the translation unlikely",
        "low_round_trip": "translated back, the translation has little of its source",
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
        strip_suffixes: take off what stock sites and agencies hang on captions (`cleaning.suffixes`).
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
    strip_suffixes: bool = True
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
    """Checks of captions in the target language; from copied_through_check on, of translations and their columns alone.

    The defaults follow from `benchmarks/translation_checks.py`: together they find nine in ten of the labelled defects,
    fluent texts about something else aside, and drop one in 28 of the labelled good translations, which were chosen to
    be hard, and 0.5 % of Multi30k's human German. A copied share of 0.15 is one word in six: less finds little more,
    and costs captions with one loan word that the pack does not list; without a list, 0.4 costs no more. Human German
    and French have 0.6 to 2.3 letters a letter, but very short captions, well translated, 0.3 to 5: hence the slacks.
    None repeats words three times where its source does not. Scores have each model's own scale, and tell much of
    it (`benchmarks/translation_quality.py`): of a small English-German package's 1,014 validation captions, chrF 61.6
    in all, the 1.5 % below -1.0 have 32 and none of them 60; -0.7 would find a tenth, of chrF 42. Round trips through
    Catalan tell little: a chrF below 10 have 3 % of the good Italian translations and 9 % of the fluent, wrong ones.

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
        copied_words_check: drop translations with many words of their source (`copied_share`).
        max_copied_share: largest share of them, 0 to 1, for a language whose pack lists `shared_words`.
        max_copied_share_unlisted: the same, for a language without such a list.
        repetition_check: drop translations that loop (`repeated_ngrams`).
        max_repetitions: how often the same words may stand back to back, where the source repeats less.
        length_ratio_check: drop translations far shorter or longer than their source (`length_ratio`).
        min_length_ratio: least letters of the translation per letter of the source.
        max_length_ratio: most letters of the translation per letter of the source.
        shorter_slack_letters: so many letters less than the source are never held against a translation.
        longer_slack_letters: so many letters more than the source are never held against a translation.
        numbers_lost_check: drop translations that lack a number of their source.
        numbers_invented_check: drop translations with a number that their source lacks.
        repetitive_check: drop translations that the engine flagged as loops (`translation_repetitive`).
        truncated_check: drop translations that the engine cut off (`translation_truncated`).
        score_check: drop translations that the engine thought unlikely (`translation_score`).
        min_translation_score: least mean log-probability of a target token, in nats, at most 0.
        round_trip_check: drop translations of which little comes back (`round_trip_chrf`, where it is measured).
        min_round_trip_chrf: least chrF, 0 to 100, of the translation back against the source.
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
    copied_words_check: bool = True
    max_copied_share: float = 0.15
    max_copied_share_unlisted: float = 0.4
    repetition_check: bool = True
    max_repetitions: int = 2
    length_ratio_check: bool = True
    min_length_ratio: float = 0.5
    max_length_ratio: float = 2.5
    shorter_slack_letters: int = 20
    longer_slack_letters: int = 30
    numbers_lost_check: bool = True
    numbers_invented_check: bool = True
    repetitive_check: bool = True
    truncated_check: bool = True
    score_check: bool = True
    min_translation_score: float = -1.0
    round_trip_check: bool = True
    min_round_trip_chrf: float = 10.0

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that is out of bounds."""
        _require_bounds(self, "check")
        if not 0 < self.max_proper_noun_share <= 1:
            raise ConfigError(f"check.max_proper_noun_share must be in (0, 1], got {self.max_proper_noun_share}")
        for name in ("max_copied_share", "max_copied_share_unlisted", "min_length_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"check.{name} must be between 0 and 1, got {getattr(self, name)}")
        for name in ("max_repetitions", "max_length_ratio"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"check.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("shorter_slack_letters", "longer_slack_letters"):
            if getattr(self, name) < 0:
                raise ConfigError(f"check.{name} must not be negative, got {getattr(self, name)}")
        if not self.min_translation_score <= 0:
            raise ConfigError(f"check.min_translation_score must be at most 0, got {self.min_translation_score}")
        if not 0 <= self.min_round_trip_chrf <= 100:
            raise ConfigError(f"check.min_round_trip_chrf must be between 0 and 100, got {self.min_round_trip_chrf}")


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


def translation_measure(config: CheckConfig, pack: LanguagePack) -> Measure:
    """The quality columns of translations into the pack's language; without language check, no `language_margin`."""
    shared_words = frozenset(pack.shared_words + pack.function_words)
    language = detectable_code(pack) if config.language_check else None
    return translation_quality(language, shared_words=shared_words, tens=pack.tens)


def translation_checks(config: CheckConfig, pack: LanguagePack) -> list[ColumnCheck]:
    """Checks of translations into the pack's language, which read the quality columns; not for native rows."""
    # A loop is too long as well: the rule that names the cause best goes first.
    max_share = config.max_copied_share if pack.shared_words else config.max_copied_share_unlisted
    choices = [
        (config.copied_through_check, check.copied_through()),
        (config.copied_words_check, check.copied_words(max_share=max_share)),
        (config.repetition_check, check.repeated_ngrams(max_times=config.max_repetitions)),
        (config.repetitive_check, check.flagged("translation_repetitive")),
        (config.truncated_check, check.flagged("translation_truncated")),
        (config.length_ratio_check, _length_ratio(config)),
        (config.numbers_lost_check, check.numbers_lost()),
        (config.numbers_invented_check, check.numbers_invented()),
        (config.score_check, check.low_translation_score(min_score=config.min_translation_score)),
        (config.round_trip_check, check.low_round_trip(min_chrf=config.min_round_trip_chrf)),
    ]
    return [chosen for switched_on, chosen in choices if switched_on]


def _length_ratio(config: CheckConfig) -> ColumnCheck:
    return check.length_ratio(
        min_ratio=config.min_length_ratio,
        max_ratio=config.max_length_ratio,
        shorter_slack_letters=config.shorter_slack_letters,
        longer_slack_letters=config.longer_slack_letters,
    )


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
    code = detectable_code(pack)
    if code is None:
        _warn_once(f"captions in {pack.code!r} are not checked for their language: langdetect does not know it")
        return []
    language_check = caption_language(
        code,
        confusions=pack.confusions,
        min_probability=config.min_language_probability,
        min_other_probability=config.min_other_probability,
        min_letters=config.min_language_letters,
    )
    return [language_check]


def detectable_code(pack: LanguagePack) -> str | None:
    """The language's code in langdetect, or None where that does not know it."""
    code = pack.langdetect or pack.code
    return code if code in detectable_languages() else None


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
