"""The checks that a recipe asks for, bound to a language and put in order, and how a table of captions meets them.

A rule reads some columns of the rows that no rule before it has dropped, may fill others first, and says which rows to
drop. It never sees more than it needs, so that what is expensive is done for few rows.
"""

import functools
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from cleaning import translation_checks as check
from cleaning.boilerplate import boilerplate
from cleaning.config import CHECK_CHECKS, CLEAN_CHECKS, CheckConfig, CleanConfig
from cleaning.language import LanguageVerdict, detectable_languages, language_identifier, wrong_language
from cleaning.length import caption_length
from cleaning.proper_nouns import Tagger, proper_noun_share, tagged_proper_nouns
from cleaning.translation_quality import translation_quality
from data_catalog.language_pack import LanguagePack
from data_catalog.sources.origins import has_original
from data_catalog.stages import Check, ColumnCheck, Drop, Measure, pending_rows, reject, set_values

logger = logging.getLogger(__name__)

Fill = Callable[[pa.Table], Mapping[str, Sequence[object]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One check by name.

    Args:
        name: its name in `CLEAN_CHECKS` or `CHECK_CHECKS`.
        columns: the columns that `fill` and `check` read.
        check: what it drops.
        fill: finds out columns first.
        translations_only: captions without an original in another language are not judged.
    """

    name: str
    columns: tuple[str, ...]
    check: ColumnCheck
    fill: Fill | None = None
    translations_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _LanguageColumns:
    """Where a text and what is found of its language stand in a caption row."""

    text: str
    language: str
    probability: str
    margin: str

    @property
    def found(self) -> tuple[str, str, str]:
        return (self.language, self.probability, self.margin)


_SOURCE = _LanguageColumns(
    text="clean_caption",
    language="detected_source_lang",
    probability="detected_source_probability",
    margin="source_language_margin",
)
_TARGET = _LanguageColumns(
    text="caption", language="detected_lang", probability="detected_probability", margin="language_margin"
)


def clean_rules(config: CleanConfig, pack: LanguagePack, *, languages: Collection[str] = ()) -> list[Rule]:
    """Checks of source captions that are in the pack's language, in order.

    Args:
        languages: ISO 639-1 codes of other languages that the dataset's captions may be in.
    """
    rules = [*_length(config, _SOURCE), *_language(config, pack, _SOURCE, languages)]
    if config.boilerplate:
        rules.append(_on_text("boilerplate", _SOURCE.text, boilerplate(config.boilerplate_rules)))
    return _in_order(rules, config.order, CLEAN_CHECKS)


def check_rules(
    config: CheckConfig,
    pack: LanguagePack,
    *,
    tagger: Tagger | None = None,
    languages: Collection[str] = (),
    source_engine: str | None = None,
) -> list[Rule]:
    """Checks of captions in the pack's language and of translations into it, in order.

    Args:
        tagger: tells names; None: a rule of thumb does, where the language allows.
        languages: as in `clean_rules`.
        source_engine: what has told the languages of source captions: of captions that are these it need not again.
    """
    rules = [*_translation_rules(config, pack), *_length(config, _TARGET)]
    rules += _language(config, pack, _TARGET, languages, known=source_engine == config.language_engine)
    names = _proper_nouns(config, pack, tagger)
    if names is not None:
        rules.append(_on_text("proper_nouns", _TARGET.text, names))
    return _in_order(rules, config.order, CHECK_CHECKS)


def translation_measure(pack: LanguagePack) -> Measure:
    """The quality columns of translations into the pack's language that texts tell."""
    return translation_quality(shared_words=frozenset(pack.shared_words + pack.function_words), tens=pack.tens)


def apply_rules(table: pa.Table, rules: Sequence[Rule], *, step: str, where: pa.Array | None = None) -> pa.Table:
    """Reject, in the name of `step`, what the rules drop of the pending rows (where `where` is true); fill columns."""
    left = pending_rows(table, where)
    translated = set(pending_rows(table, has_original(table)))
    dropped: dict[int, Drop] = {}
    for rule in rules:
        rows = [row for row in left if row in translated] if rule.translations_only else left
        if rule.fill is not None:
            table = _filled(table, rule, rows)
        verdicts = rule.check(table.select(rule.columns).take(pa.array(rows, pa.int64())))
        found = {row: verdict for row, verdict in zip(rows, verdicts, strict=True) if verdict is not None}
        if found:
            dropped |= found
            left = [row for row in left if row not in found]
    return reject(table, list(dropped), list(dropped.values()), step=step)


def _filled(table: pa.Table, rule: Rule, rows: list[int]) -> pa.Table:
    assert rule.fill is not None
    found = rule.fill(table.select(rule.columns).take(pa.array(rows, pa.int64())))
    for name, values in found.items():
        table = set_values(table, name, rows, values)
    return table


def _in_order(rules: Sequence[Rule], first: Sequence[str], usual: Sequence[str]) -> list[Rule]:
    names = [*first, *(name for name in usual if name not in first)]
    return sorted(rules, key=lambda rule: names.index(rule.name))


def _on_text(name: str, column: str, judge: Check) -> Rule:
    def check(table: pa.Table) -> list[Drop | None]:
        return judge(table.column(column).to_pylist())

    return Rule(name=name, columns=(column,), check=check)


def _translation_rules(config: CheckConfig, pack: LanguagePack) -> list[Rule]:
    """Those that read a translation's quality columns."""
    max_share = config.max_copied_share if pack.shared_words else config.max_copied_share_unlisted
    both = ("clean_caption", "caption")
    ratio = check.length_ratio(
        min_ratio=config.min_length_ratio,
        max_ratio=config.max_length_ratio,
        shorter_slack_letters=config.shorter_slack_letters,
        longer_slack_letters=config.longer_slack_letters,
    )
    score = check.low_translation_score(min_score=config.min_translation_score)
    choices: list[tuple[str, bool, tuple[str, ...], ColumnCheck]] = [
        ("copied_through", config.copied_through_check, both, check.copied_through()),
        ("copied_words", config.copied_words_check, ("copied_share",), check.copied_words(max_share=max_share)),
        (
            "repetition",
            config.repetition_check,
            ("repeated_ngrams",),
            check.repeated_ngrams(max_times=config.max_repetitions),
        ),
        (
            "repetitive",
            config.repetitive_check,
            ("translation_repetitive",),
            check.flagged("translation_repetitive"),
        ),
        ("truncated", config.truncated_check, ("translation_truncated",), check.flagged("translation_truncated")),
        ("length_ratio", config.length_ratio_check, ("length_ratio", "clean_caption"), ratio),
        ("numbers_lost", config.numbers_lost_check, ("numbers_lost",), check.numbers_lost()),
        ("numbers_invented", config.numbers_invented_check, ("numbers_invented",), check.numbers_invented()),
        ("score", config.score_check, ("translation_score",), score),
        (
            "round_trip",
            config.round_trip_check,
            ("round_trip_chrf",),
            check.low_round_trip(min_chrf=config.min_round_trip_chrf),
        ),
    ]
    return [
        Rule(name=name, columns=columns, check=judge, translations_only=True)
        for name, switched_on, columns, judge in choices
        if switched_on
    ]


def _length(config: CleanConfig | CheckConfig, columns: _LanguageColumns) -> list[Rule]:
    if not config.length_check:
        return []
    judge = caption_length(
        min_words=config.min_words,
        min_chars=config.min_chars,
        max_words=config.max_words,
        max_chars=config.max_chars,
    )
    return [_on_text("length", columns.text, judge)]


def _language(
    config: CleanConfig | CheckConfig,
    pack: LanguagePack,
    columns: _LanguageColumns,
    languages: Collection[str],
    *,
    known: bool = False,
) -> list[Rule]:
    """The language check, or none where it is switched off or the engine does not know the language.

    `known`: what is found of a source caption holds for the caption too, where they are the same text.
    """
    if not config.language_check:
        return []
    engine = config.language_engine
    code = detectable_code(pack, engine)
    if code is None:
        _warn_once(f"captions in {pack.code!r} are not checked for their language: {engine} does not know it")
        return []
    candidates = {*pack.confusions, *languages}.intersection(detectable_languages())
    identify = language_identifier(code, candidates=candidates, engine=engine)
    judge = functools.partial(
        wrong_language,
        confusions=pack.confusions,
        min_probability=config.min_language_probability,
        min_other_probability=config.min_other_probability,
        min_letters=config.min_language_letters,
    )

    def fill(table: pa.Table) -> Mapping[str, Sequence[object]]:
        nothing: list[LanguageVerdict | None] = [None] * table.num_rows
        verdicts = _verdicts_of_sources(table) if known else nothing
        asked = [row for row, verdict in enumerate(verdicts) if verdict is None]
        texts = table.column(columns.text).take(pa.array(asked, pa.int64())).to_pylist()
        for row, verdict in zip(asked, identify(texts), strict=True):
            verdicts[row] = verdict
        found = [verdict for verdict in verdicts if verdict is not None]
        return {
            columns.language: [verdict.language for verdict in found],
            columns.probability: [verdict.probability for verdict in found],
            columns.margin: [verdict.margin for verdict in found],
        }

    def check(table: pa.Table) -> list[Drop | None]:
        texts, *found = (table.column(name).to_pylist() for name in (columns.text, *columns.found))
        return judge([LanguageVerdict(*cells) for cells in zip(*found, strict=True)], texts)

    read = dict.fromkeys((columns.text, *columns.found, *_OWN_COLUMNS, _SOURCE.text, *_SOURCE.found))
    return [Rule(name="language", columns=tuple(read), check=check, fill=fill)]


_OWN_COLUMNS = ("source_lang", "target_lang", "caption")


def _verdicts_of_sources(table: pa.Table) -> list[LanguageVerdict | None]:
    """What is found of the source captions that are captions as they stand; None of all others."""
    names = (*_OWN_COLUMNS, _SOURCE.text, *_SOURCE.found)
    rows = zip(*(table.column(name).to_pylist() for name in names), strict=True)
    return [
        LanguageVerdict(*found) if lang == target and caption == source and found[0] is not None else None
        for lang, target, caption, source, *found in rows
    ]


def detectable_code(pack: LanguagePack, engine: str | None = None) -> str | None:
    """The language's code, or None where the engine, or any of them, does not know it."""
    code = pack.langdetect or pack.code
    return code if code in detectable_languages(engine) else None


def _proper_nouns(config: CheckConfig, pack: LanguagePack, tagger: Tagger | None) -> Check | None:
    """The check for names by a tagger, or by capitals, where these tell; says so where they do not."""
    if not config.proper_noun_check:
        return None
    if tagger is not None:
        return tagged_proper_nouns(tagger, max_share=config.max_proper_noun_share)
    if pack.function_words and not pack.capitalises_nouns:
        return proper_noun_share(
            function_words=pack.function_words,
            common_nouns=pack.common_nouns,
            max_share=config.max_proper_noun_share,
        )
    cause = "its nouns have capitals" if pack.capitalises_nouns else "the pack has no function words"
    _warn_once(f"captions in {pack.code!r} are not checked for proper nouns: {cause}, and no tagger is installed")
    return None


@functools.cache
def _warn_once(message: str) -> None:
    """Checks are bound anew for every shard; what they lack is said once."""
    logger.warning(message)
