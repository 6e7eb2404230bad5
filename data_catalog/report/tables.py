"""Tables of figures: rows of cells that are formatted by column, with escaped texts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from data_catalog.report.texts import decimal, duration, language_name, linked, number, percent, size, text

# A column: its heading, the key of its values, their format (`number` by default), and for a share the whole, which is
# a number or another key.
Column = Sequence[Any]
Rows = Sequence[Mapping[str, Any]]

_BARS = ("first", "second", "third")  # shares with a bar in this colour
_FORMATS: dict[str, Callable[[Any], str]] = {
    "number": number,
    "text": text,
    "words": text,
    "linked": linked,
    "code": lambda value: Markup("<code>{}</code>").format(text(value)),
    "language": lambda value: text(language_name(value)),
    "size": size,
    "duration": duration,
    "decimal": decimal,
}
_CLASSES = {"text": "word", "code": "word", "language": "word", "words": "words", "linked": "words"}


def heading(column: Column) -> Markup:
    """Return the heading of a column."""
    kind = _kind(column)
    shown = "wide" if kind in _BARS else _CLASSES.get(kind, "")
    return Markup('<th scope="col" class="{}">{}</th>').format(shown, column[0])


def table_rows(rows: Rows, columns: Sequence[Column], limit: int | None = None) -> Iterator[Markup]:
    """Yield the rows of a table; those after the limit are summed up in one. A row that `is_odd` is marked."""
    classes = [_CLASSES.get(_kind(column), "") for column in columns]
    for row in rows[:limit]:
        first, *others = (_cell(row, column) for column in columns)
        cells = map(Markup('<td class="{}">{}</td>').format, classes[1:], others)
        line = Markup('<tr class="{}"><th scope="row">{}</th>{}</tr>')
        yield line.format("odd-one" if row.get("is_odd") else "", first, Markup("").join(cells))
    rest = rows[limit:] if limit is not None else ()
    if rest:
        sums = {name: sum(row[name] or 0 for row in rest) for name, value in rest[0].items() if isinstance(value, int)}
        others = [_cell(sums, column) if column[1] in sums else "" for column in columns[1:]]
        cells = map(Markup("<td>{}</td>").format, others)
        name = f"{len(rest):,} other{'s' * (len(rest) > 1)}"
        yield Markup('<tr><th scope="row">{}</th>{}</tr>').format(name, Markup("").join(cells))


def bar(part: float, whole: float, colour: str = "first") -> Markup:
    """Return a bar for a share."""
    filled = (
        Markup('<span class="{}" style="width: {:.2f}%"></span>').format(colour, 100 * part / whole) if part else ""
    )
    return Markup('<span class="bar" aria-hidden="true">{}</span>').format(filled)


def _kind(column: Column) -> str:
    return column[2] if len(column) > 2 else "number"


def _cell(row: Mapping[str, Any], column: Column) -> str:
    kind, value = _kind(column), row[column[1]]
    if value is None:
        return Markup('<span class="nothing">–</span>')
    if kind in _FORMATS:
        return _FORMATS[kind](value)
    whole = row[column[3]] if isinstance(column[3], str) else column[3]
    return (bar(value, whole, kind) if kind in _BARS else Markup("")) + percent(value, whole)
