"""What a recipe may say of how captions are cleaned and judged, before and after translation."""

from dataclasses import dataclass

from cleaning.boilerplate import BOILERPLATE_RULES
from cleaning.language import ENGINES
from cleaning.taggers import TAGGER_CHOICES
from data_catalog.errors import ConfigError

# The checks of each step by name, in their usual order. A loop is too long as well, and a file name is one word: the
# rule that names the cause best goes first.
CLEAN_CHECKS = ("boilerplate", "length", "language")
CHECK_CHECKS = (
    "copied_through",
    "copied_words",
    "repetition",
    "repetitive",
    "truncated",
    "length_ratio",
    "numbers_lost",
    "numbers_invented",
    "score",
    "round_trip",
    "length",
    "proper_nouns",
    "language",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanConfig:
    """How source captions are rewritten (`cleaning.text.clean_text`) and then judged.

    Control characters, Unicode's composed form and white space are always seen to.

    Args:
        fix_encoding: undo mojibake.
        strip_markup: remove HTML tags and resolve entities.
        straighten_apostrophes: write "l’albero" as "l'albero".
        strip_suffixes: take off what stock sites and agencies hang on captions (`cleaning.suffixes`).
        length_check: drop captions that are empty, too short or too long.
        min_words: fewest words, counted by `cleaning.scripts.count_words`.
        min_chars: fewest characters (code points).
        max_words: most words.
        max_chars: most characters.
        boilerplate: drop what stands where a caption should be, such as file names (`cleaning.boilerplate`).
        boilerplate_rules: which rules of that, by name.
        language_check: tell each caption's language, and drop those that are surely in another than their row says.
        language_engine: what tells it: "cascade", "fast", "lingua" or "langdetect" (`cleaning.language`). The
            thresholds are the cascade's; langdetect, as sure when wrong as when right, wants 0.1, 0.99 and 20.
        min_language_probability: a caption is kept if its language has at least this much.
        min_other_probability: a caption is dropped only if another language has at least this much.
        min_language_letters: a caption with fewer letters is not checked for its language.
        order: checks by name, of `CLEAN_CHECKS`, that go first, in this order; the others follow in their usual one.
    """

    fix_encoding: bool = True
    strip_markup: bool = True
    straighten_apostrophes: bool = True
    strip_suffixes: bool = True
    length_check: bool = True
    min_words: int = 2
    min_chars: int = 3
    max_words: int = 100
    max_chars: int = 1000
    boilerplate: bool = True
    boilerplate_rules: tuple[str, ...] = BOILERPLATE_RULES
    language_check: bool = True
    language_engine: str = "cascade"
    min_language_probability: float = 0.1
    min_other_probability: float = 0.5
    min_language_letters: int = 15
    order: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that is out of bounds."""
        _require_bounds(self, "clean")
        _require_names(self.boilerplate_rules, BOILERPLATE_RULES, "clean.boilerplate_rules")
        _require_names(self.order, CLEAN_CHECKS, "clean.order")


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
        length_check: drop captions that are empty, too short or too long.
        min_words: fewest words, counted by `cleaning.scripts.count_words`.
        min_chars: fewest characters (code points).
        max_words: most words.
        max_chars: most characters.
        language_check: tell each caption's language, and drop those that are surely not in the target language.
        language_engine: as in [clean].
        min_language_probability: a caption is kept if its language has at least this much.
        min_other_probability: a caption is dropped only if another language has at least this much.
        min_language_letters: a caption with fewer letters is not checked for its language.
        proper_noun_check: drop captions that are mostly names, as the paper does.
        proper_noun_tagger: what tells names: "auto" (spaCy, then Stanza, where there is a model of the language, else
            the rule of thumb), or one of them by name: "spacy", "stanza", "heuristic".
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
        order: checks by name, of `CHECK_CHECKS`, that go first, in this order; the others follow in their usual one.
    """

    length_check: bool = True
    min_words: int = 2
    min_chars: int = 3
    max_words: int = 100
    max_chars: int = 1000
    language_check: bool = True
    language_engine: str = "cascade"
    min_language_probability: float = 0.1
    min_other_probability: float = 0.5
    min_language_letters: int = 15
    proper_noun_check: bool = True
    proper_noun_tagger: str = "auto"
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
    order: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise ConfigError naming the field that is out of bounds."""
        _require_bounds(self, "check")
        _require_names((self.proper_noun_tagger,), TAGGER_CHOICES, "check.proper_noun_tagger")
        _require_names(self.order, CHECK_CHECKS, "check.order")
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


def _require_names(given: tuple[str, ...], known: tuple[str, ...], setting: str) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(f"{setting} names {name!r}: there are {', '.join(known)}")
    if len(set(given)) < len(given):
        raise ConfigError(f"{setting} names one of {', '.join(given)} twice")


def _require_bounds(config: CleanConfig | CheckConfig, section: str) -> None:
    _require_names((config.language_engine,), tuple(ENGINES), f"{section}.language_engine")
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
