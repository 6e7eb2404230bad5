"""Which column of a table is translated, and what the new columns beside it are called and hold."""

from collections.abc import Sequence
from dataclasses import dataclass

from data_catalog.errors import InputError, SettingsError
from translation.engine import Translation

Values = tuple[str | float | bool | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What is read and what is written.

    Args:
        read: the column of captions.
        write: the new column of translations.
        scores: write the columns `<write>_score`, `<write>_truncated` and `<write>_repetitive` as well; see
            `translation.engine.Translation`.
    """

    read: str
    write: str
    scores: bool = False

    @property
    def added(self) -> tuple[str, ...]:
        """Names of the new columns, in order."""
        quality = ("score", "truncated", "repetitive") if self.scores else ()
        return (self.write, *(f"{self.write}_{name}" for name in quality))

    def values(self, translation: Translation) -> Values:
        """What the new columns hold for one caption."""
        quality = (translation.score, translation.truncated, translation.repetitive)
        return (translation.text, *(quality if self.scores else ()))

    def place_among(self, existing: Sequence[str], table: str) -> int:
        """Where the column of captions stands in a table.

        Args:
            existing: names of the table's columns.
            table: what errors call it.

        Raises:
            SettingsError: it is not there, or a new column would be a second one of its name.
            InputError: it is there more than once.
        """
        if self.read not in existing:
            raise SettingsError(f"{table} has no column {self.read!r}: name one of {', '.join(existing)} (--column)")
        if existing.count(self.read) > 1:
            raise InputError(f"{table} has the column {self.read!r} more than once: rename all but one")
        for name in self.added:
            if name in existing:
                raise SettingsError(f"{table} has a column {name!r} already: choose another name (--write-column)")
        return existing.index(self.read)
