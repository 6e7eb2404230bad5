"""Definition of a check: one class with its settings, reasons and columns, and the rules that apply it to a table.

A section of a recipe is a config dataclass. Its base classes are its checks in their usual order, and their settings
are its fields. Its rules are its checks bound to captions of one language. A rule reads some columns of the rows that
no earlier rule has dropped, may fill columns first, and returns the rows to drop. Expensive rules therefore run on few
rows.
"""

import functools
import inspect
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any, ClassVar, Protocol, TypeVar, cast

import pyarrow as pa

from data_catalog.base.errors import SettingsError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.rows.drop_reasons import Reason
from data_catalog.rows.origins import has_original
from data_catalog.rows.stages import ColumnCheck, Drop, pending_rows, reject, set_values

logger = logging.getLogger(__name__)

T = TypeVar("T")
Fill = Callable[[pa.Table], Mapping[str, Sequence[object]]]
# Returns the verdict on one row, given its cells of the columns that the check reads.
Judge = Callable[..., Drop | None]

# Stands for the column of the checked text in `reads`; each section has its own.
TEXT = "text"


def decides(default: T, reason: str) -> T:
    """Return a dataclass field for a setting that decides one of the reasons of its check, with a default."""
    return field(default=default, metadata={"decides": reason})


@dataclass(frozen=True, slots=True, kw_only=True)
class TextColumns:
    """Columns of a caption row with a text and the language that was identified for it."""

    text: str
    language: str
    probability: str
    margin: str

    @property
    def found(self) -> tuple[str, str, str]:
        """Return the columns of the identified language."""
        return (self.language, self.probability, self.margin)


SOURCE = TextColumns(
    text="clean_caption",
    language="detected_source_lang",
    probability="detected_source_probability",
    margin="source_language_margin",
)
TARGET = TextColumns(
    text="caption", language="detected_lang", probability="detected_probability", margin="language_margin"
)


class Tagger(Protocol):
    """Tagger of proper nouns in texts of one language; its result for a text does not depend on the other texts."""

    @property
    def name(self) -> str:
        """Return engine, model and version, such as "spacy:fr_core_news_sm 3.8.0", which decide the verdicts."""

    def share(self, texts: Sequence[str]) -> list[float | None]:
        """Return `cleaning.checks.proper_nouns.tagged_share` of each text, in the same order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Captions:
    """Captions of one language that checks are bound to.

    Args:
        pack: language pack of their language.
        columns: their columns: `SOURCE` or `TARGET`.
        languages: ISO 639-1 codes of other languages that the dataset's captions may be in.
        tagger: tagger of proper nouns; None: a heuristic replaces it, if the language allows.
        source_engine: engine that identified the languages of the source captions; its results are reused for captions
            that equal their source caption.
    """

    pack: LanguagePack
    columns: TextColumns = TARGET
    languages: Collection[str] = ()
    tagger: Tagger | None = None
    source_engine: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A check that is bound to captions.

    Args:
        name: name of the check.
        columns: the columns that `fill` and `check` read.
        check: returns the drops.
        fill: computes columns first.
        translations_only: skip captions without an original in another language.
    """

    name: str
    columns: tuple[str, ...]
    check: ColumnCheck
    fill: Fill | None = None
    translations_only: bool = False


class CaptionCheck:
    """Base class of checks; to add one, derive a frozen, keyword-only dataclass and add it to a section's bases.

    The first sentence of its docstring says what it drops, and is shown in the docs. Its fields, made with `setting`,
    are its settings in the recipe; the first of them switches it on.
    """

    name: ClassVar[str]
    reasons: ClassVar[Mapping[str, str]]
    reads: ClassVar[tuple[str, ...]]
    translations_only: ClassVar[bool] = False
    has_rules: ClassVar[bool]

    def __init_subclass__(
        cls,
        *,
        name: str | None = None,
        reasons: Mapping[str, str] | None = None,
        reads: Sequence[str] = (TEXT,),
        has_rules: bool = False,
    ) -> None:
        """Define a check; a class without a name is not a check but a common base or a section.

        Args:
            name: name in the recipe's `order` and in the docs.
            reasons: drop reasons, each with a sentence.
            reads: columns of a caption row; `TEXT` stands for the checked text.
            has_rules: the detail of a drop names one of several rules of the check.
        """
        if name is not None:
            cls.name, cls.reasons, cls.reads, cls.has_rules = name, dict(reasons or {}), tuple(reads), has_rules

    def bind(self, captions: Captions) -> Judge:
        """Return a function that judges one row, given its cells of `reads`; rows with an empty cell are kept."""
        raise NotImplementedError

    def rule(self, captions: Captions) -> Rule | None:
        """Return the check bound to captions; None if it does not support their language."""
        judge = self.bind(captions)

        def check(table: pa.Table) -> list[Drop | None]:
            rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
            return [None if None in cells else judge(*cells) for cells in rows]

        return self.rule_on(captions, check)

    def require(self, section: str) -> None:
        """Check that the settings fit together.

        Raises:
            SettingsError: settings that are valid by themselves contradict each other.
        """

    def rule_on(self, captions: Captions, check: ColumnCheck) -> Rule:
        """Return the rule that applies `check` to tables of the columns of `reads`, in their order."""
        columns = tuple(captions.columns.text if name == TEXT else name for name in self.reads)
        return Rule(name=self.name, columns=columns, check=check, translations_only=self.translations_only)

    @classmethod
    def switch(cls) -> str:
        """Return the name of the setting that switches the check."""
        return fields(cast(Any, cls))[0].name

    @classmethod
    def decided_by(cls, reason: str) -> list[str]:
        """Return the settings that decide a reason; the switch if there are no others."""
        others = fields(cast(Any, cls))[1:]
        return [each.name for each in others if each.metadata.get("decides", reason) == reason] or [cls.switch()]

    @classmethod
    def drops(cls) -> str:
        """Return a sentence on what the check drops."""
        return (inspect.getdoc(cls) or "").partition("\n")[0]


@dataclass(frozen=True, kw_only=True)
class Section:
    """Settings of a section of the recipe, whose checks are its base classes in their usual order."""

    section: ClassVar[str]
    columns: ClassVar[TextColumns]

    order: tuple[str, ...] = ()
    """Checks that run first. The others follow in their usual order."""

    def __post_init__(self) -> None:
        """Check the names in `order`, and that the settings of each check fit together."""
        known = [check.name for check in self.check_types()]
        for name in self.order:
            if name not in known:
                raise SettingsError(f"{self.section}.order must name some of {', '.join(known)}, got {name!r}")
        for check in self.checks():
            check.require(self.section)

    @classmethod
    def check_types(cls) -> tuple[type[CaptionCheck], ...]:
        """Return the checks of the section in their usual order."""
        return tuple(base for base in cls.__bases__ if issubclass(base, CaptionCheck))

    @classmethod
    def all_reasons(cls) -> dict[str, Reason]:
        """Return the drop reasons of the section's checks, each with its sentence and its settings."""
        return {
            reason: Reason(meaning, settings=tuple(f"{cls.section}.{name}" for name in check.decided_by(reason)))
            for check in cls.check_types()
            for reason, meaning in check.reasons.items()
        }

    @classmethod
    def settings(cls) -> "list[Field[Any]]":
        """Return the fields in the order of the docs: the section's own, those of each check, then `order`."""
        of_checks = {each.name: each for check in cls.check_types() for each in fields(cast(Any, check))}
        own = {each.name: each for each in fields(cls) if each.name not in of_checks}
        order = own.pop("order")
        return [*own.values(), *of_checks.values(), order]

    @classmethod
    def switches(cls) -> dict[str, str]:
        """Return the descriptions of the settings that switch checks, by name: what the check drops."""
        return {check.switch(): check.drops() for check in cls.check_types()}

    def checks(self) -> Iterator[CaptionCheck]:
        """Yield the checks with their settings, switched on or not, in the recipe's order."""
        usual = [check.name for check in self.check_types()]
        names = [*self.order, *(name for name in usual if name not in self.order)]
        for check in sorted(self.check_types(), key=lambda check: names.index(check.name)):
            settings = {each.name: getattr(self, each.name) for each in fields(cast(Any, check))}
            yield check(**settings)

    def rules(
        self,
        pack: LanguagePack,
        *,
        languages: Collection[str] = (),
        tagger: Tagger | None = None,
        source_engine: str | None = None,
    ) -> list[Rule]:
        """Return the enabled checks bound to a language, without those that do not support it.

        Arguments are those of `Captions`.
        """
        captions = Captions(
            pack=pack, columns=self.columns, languages=languages, tagger=tagger, source_engine=source_engine
        )
        bound = (check.rule(captions) for check in self.checks() if getattr(check, check.switch()))
        return [rule for rule in bound if rule is not None]


def apply_rules(table: pa.Table, rules: Sequence[Rule], *, step: str, where: pa.Array | None = None) -> pa.Table:
    """Reject the pending rows (where `where` is true) that the rules drop, under the step's name, and fill columns."""
    left = pending_rows(table, where)
    translated = set(pending_rows(table, has_original(table)))
    dropped: dict[int, Drop] = {}
    for rule in rules:
        rows = [row for row in left if row in translated] if rule.translations_only else left
        if rule.fill is not None:
            found = rule.fill(table.select(rule.columns).take(pa.array(rows, pa.int64())))
            for name, values in found.items():
                table = set_values(table, name, rows, values)
        verdicts = rule.check(table.select(rule.columns).take(pa.array(rows, pa.int64())))
        drops = {row: verdict for row, verdict in zip(rows, verdicts, strict=True) if verdict is not None}
        if drops:
            dropped |= drops
            left = [row for row in left if row not in drops]
    return reject(table, list(dropped), list(dropped.values()), step=step)


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning once; checks are bound again for every shard."""
    logger.warning(message)
