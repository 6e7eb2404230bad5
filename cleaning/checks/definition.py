"""What a check is: settings, reasons and what it reads in one class; and how checks meet a table of captions.

A section of a recipe is a config dataclass that has its checks as base classes, in their usual order, and so their
settings as its fields. Its rules are its checks bound to captions of one language. A rule reads some columns of the
rows that no rule before it has dropped, may fill others first, and says which rows to drop. It never sees more than it
needs, so that what is expensive is done for few rows.
"""

import functools
import inspect
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any, ClassVar, Protocol, TypeVar, cast

import pyarrow as pa

from data_catalog.errors import SettingsError
from data_catalog.language_pack import LanguagePack
from data_catalog.settings import require_bounds
from data_catalog.sources.origins import has_original
from data_catalog.stages import ColumnCheck, Drop, Reason, pending_rows, reject, set_values

logger = logging.getLogger(__name__)

T = TypeVar("T")
Fill = Callable[[pa.Table], Mapping[str, Sequence[object]]]
# Judges one row by its cells of the columns that its check reads.
Judge = Callable[..., Drop | None]

# In what a check reads: the column of the text that is judged, whichever that is in its section.
TEXT = "text"


def setting(
    default: T,
    description: str | None = None,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    among: Collection[str] | None = None,
    decides: str | None = None,
) -> T:
    """Return a dataclass field that carries its description and its bounds (in its metadata, by pydantic's names).

    Args:
        description: None for a check's switch, which the check's own docstring describes.
        among: the names that it may have, or each of them if it is a tuple.
        decides: the one reason of its check that it decides, where there are several.
    """
    known = {"description": description, "ge": ge, "gt": gt, "le": le, "among": among, "decides": decides}
    return field(default=default, metadata={name: value for name, value in known.items() if value is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class TextColumns:
    """The columns of a caption row that hold a text, and what is found of its language."""

    text: str
    language: str
    probability: str
    margin: str

    @property
    def found(self) -> tuple[str, str, str]:
        """What is found of the language."""
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
    """Says of texts in one language how much of them is proper nouns; the same of a text whatever its neighbours."""

    @property
    def name(self) -> str:
        """Engine, model and its version, such as "spacy:fr_core_news_sm 3.8.0": what decides the verdicts."""

    def share(self, texts: Sequence[str]) -> list[float | None]:
        """`cleaning.checks.proper_nouns.tagged_share` of each text, in the same order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Captions:
    """The captions of one language that checks are bound to, and what helps to judge them.

    Args:
        pack: of their language.
        columns: where they are: `SOURCE` or `TARGET`.
        languages: ISO 639-1 codes of other languages that the dataset's captions may be in.
        tagger: tells names; None: a rule of thumb does, where the language allows.
        source_engine: what has told the languages of source captions: of captions that are these it need not again.
    """

    pack: LanguagePack
    columns: TextColumns = TARGET
    languages: Collection[str] = ()
    tagger: Tagger | None = None
    source_engine: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One check, bound to captions.

    Args:
        name: of the check.
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


class CaptionCheck:
    """A check of captions; to write one, derive a frozen, keyword-only dataclass and add it to a section's bases.

    Its docstring's first sentence says what it drops, and stands in the docs. Its fields, made with `setting`, are its
    settings in the recipe, and the first of them switches it on.
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
        """Define a check; a class without a name is none, but has several as its bases, or is one's base.

        Args:
            name: in the recipe's `order`, and in the docs.
            reasons: what it may drop for, each with a sentence.
            reads: columns of a caption row; `TEXT` stands for the text that is judged.
            has_rules: the detail of a drop names one of several rules within the check.
        """
        if name is not None:
            cls.name, cls.reasons, cls.reads, cls.has_rules = name, dict(reasons or {}), tuple(reads), has_rules

    def bind(self, captions: Captions) -> Judge:
        """Return what judges one row, given its cells of `reads`; rows with an empty cell are kept without it."""
        raise NotImplementedError

    def rule(self, captions: Captions) -> Rule | None:
        """Return the check bound to captions, or None where it cannot be made of their language."""
        judge = self.bind(captions)

        def check(table: pa.Table) -> list[Drop | None]:
            rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
            return [None if None in cells else judge(*cells) for cells in rows]

        return self.rule_on(captions, check)

    def require(self, section: str) -> None:
        """Raise SettingsError where settings that are right by themselves do not go together."""

    def rule_on(self, captions: Captions, check: ColumnCheck) -> Rule:
        """Return the rule that has `check` judge tables of the columns of `reads`, in their order."""
        columns = tuple(captions.columns.text if name == TEXT else name for name in self.reads)
        return Rule(name=self.name, columns=columns, check=check, translations_only=self.translations_only)

    @classmethod
    def switch(cls) -> str:
        """Return the setting that switches the check."""
        return fields(cast(Any, cls))[0].name

    @classmethod
    def decided_by(cls, reason: str) -> list[str]:
        """Return the settings that decide a reason: the switch, only where there is nothing else to set."""
        others = fields(cast(Any, cls))[1:]
        return [each.name for each in others if each.metadata.get("decides", reason) == reason] or [cls.switch()]

    @classmethod
    def drops(cls) -> str:
        """Return what the check drops, in a sentence."""
        return (inspect.getdoc(cls) or "").partition("\n")[0]


@dataclass(frozen=True, kw_only=True)
class Section:
    """The settings of a section of the recipe, whose checks are its base classes in their usual order."""

    section: ClassVar[str]
    columns: ClassVar[TextColumns]

    order: tuple[str, ...] = setting((), "Checks, by name, that go first. The others follow in their usual order.")

    def __post_init__(self) -> None:
        """Raise SettingsError naming the field that is out of bounds."""
        for each in fields(self):
            path = f"{self.section}.{each.name}"
            require_bounds(getattr(self, each.name), each.metadata, path)
            if "among" in each.metadata:
                value = getattr(self, each.name)
                _require_names(value if isinstance(value, tuple) else (value,), each.metadata["among"], path)
        _require_names(self.order, [check.name for check in self.check_types()], f"{self.section}.order")
        for check in self.checks():
            check.require(self.section)

    @classmethod
    def check_types(cls) -> tuple[type[CaptionCheck], ...]:
        """Return the checks of the section in their usual order."""
        return tuple(base for base in cls.__bases__ if issubclass(base, CaptionCheck))

    @classmethod
    def all_reasons(cls) -> dict[str, Reason]:
        """Return what the section's checks drop captions for, each reason with its sentence and its settings."""
        return {
            reason: Reason(meaning, settings=tuple(f"{cls.section}.{name}" for name in check.decided_by(reason)))
            for check in cls.check_types()
            for reason, meaning in check.reasons.items()
        }

    @classmethod
    def settings(cls) -> "list[Field[Any]]":
        """Return the fields as a reader wants them: the section's own, check by check, then `order`."""
        of_checks = {each.name: each for check in cls.check_types() for each in fields(cast(Any, check))}
        own = {each.name: each for each in fields(cls) if each.name not in of_checks}
        order = own.pop("order")
        return [*own.values(), *of_checks.values(), order]

    @classmethod
    def descriptions(cls) -> dict[str, str]:
        """Return what each setting means, by its name; a check's switch, what the check drops."""
        switches = {check.switch(): check.drops() for check in cls.check_types()}
        return {each.name: each.metadata.get("description") or switches[each.name] for each in cls.settings()}

    def checks(self) -> Iterator[CaptionCheck]:
        """Yield the checks with their settings, switched on or not, in the order that is asked for."""
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
        """Return the checks that are switched on, bound to a language, without those that it cannot have.

        Arguments are those of `Captions`.
        """
        captions = Captions(
            pack=pack, columns=self.columns, languages=languages, tagger=tagger, source_engine=source_engine
        )
        bound = (check.rule(captions) for check in self.checks() if getattr(check, check.switch()))
        return [rule for rule in bound if rule is not None]


def _require_names(given: Sequence[str], known: Collection[str], path: str) -> None:
    for name in given:
        if name not in known:
            raise SettingsError(f"{path} names {name!r}: there are {', '.join(known)}")
    if len(set(given)) < len(given):
        raise SettingsError(f"{path} names one of {', '.join(given)} twice")


def apply_rules(table: pa.Table, rules: Sequence[Rule], *, step: str, where: pa.Array | None = None) -> pa.Table:
    """Reject, in the name of `step`, what the rules drop of the pending rows (where `where` is true); fill columns."""
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
    """Log a warning; checks are bound anew for every shard, and what they lack is said once."""
    logger.warning(message)
