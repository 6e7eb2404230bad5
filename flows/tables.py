"""Rows as text that people read: aligned columns for a terminal, cells that stay plain text in a browser."""

import re
import unicodedata
from collections.abc import Mapping, Sequence

# Prefect's UI renders the cells of artifacts as Markdown: these could open a tag, a link, an image, code or a new cell.
_MARKDOWN = re.compile(r"[<>&\\\[\]()|`]")


def plain_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows with equal keys as aligned text, numbers to the right; "(no rows)" where there are none."""
    if not rows:
        return "(no rows)"
    names = list(rows[0])
    cells = [[cell_text(row[name]) for name in names] for row in rows]
    widths = [max(map(text_width, column)) for column in zip(names, *cells, strict=True)]
    right = [all(isinstance(row[name], int | float | None) for row in rows) for name in names]
    lines = [names, ["-" * width for width in widths], *cells]
    return "\n".join(_line(line, widths, right) for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = []
    for cell, width, to_the_right in zip(cells, widths, right, strict=True):
        blanks = " " * (width - text_width(cell))
        padded.append(blanks + cell if to_the_right else cell + blanks)
    return "  ".join(padded).rstrip()


def cell_text(value: object) -> str:
    """One value on one line: control characters become blanks, integers get separators, None is empty."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "".join(" " if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp") else char for char in str(value))


def text_width(text: str) -> int:
    """Columns that a text takes in a terminal: two for wide characters, none for combining ones."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def markdown_safe(value: object) -> object:
    """A cell for Prefect's UI: numbers as they are, text with what could open a tag or a link as character entities."""
    if value is None or isinstance(value, int | float):
        return value
    return _MARKDOWN.sub(lambda match: f"&#{ord(match[0])};", cell_text(value))
