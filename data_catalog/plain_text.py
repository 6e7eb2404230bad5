"""Rows as text that people read: aligned columns for a terminal, cells that stay plain text in a browser."""

import re
import shlex
import unicodedata
from collections.abc import Mapping, Sequence

# Prefect's UI renders the cells of artifacts as Markdown: these could open a tag, a link, an image, code or a new cell.
_MARKDOWN = re.compile(r"[<>&\\\[\]()|`]")

# Categories of characters that a terminal obeys rather than shows.
_STEERING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# What spreadsheets begin formulas with, full-width forms included.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_JOINERS = "\u200c\u200d"


def plain_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows with equal keys as aligned text, numbers to the right; "(no rows)" where there are none."""
    if not rows:
        return "(no rows)"
    names = list(rows[0])
    heads = [cell_text(name) for name in names]
    cells = [[cell_text(row[name]) for name in names] for row in rows]
    widths = [max(map(text_width, column)) for column in zip(heads, *cells, strict=True)]
    right = [all(isinstance(row[name], int | float | None) for row in rows) for name in names]
    lines = []
    for line in (heads, ["-" * width for width in widths], *cells):
        blanks = [" " * (width - text_width(cell)) for cell, width in zip(line, widths, strict=True)]
        padded = zip(line, blanks, right, strict=True)
        lines.append("  ".join(blank + cell if to_right else cell + blank for cell, blank, to_right in padded).rstrip())
    return "\n".join(lines)


def cell_text(value: object) -> str:
    """One value on one line, as `visible_text` has it; integers get separators, None is empty."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return visible_text(str(value))


def counted(count: int, noun: str) -> str:
    """Return a number with what it counts, such as "1 box" and "1,200 boxes"."""
    plural = f"{noun}es" if noun.endswith("x") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def decided_text(settings: Mapping[str, object]) -> str:
    """Return the settings that decide a reason, such as `clean.min_words = 3`; of lists and tables only the names."""
    return ", ".join(
        path if value is None or isinstance(value, list | Mapping) else f"{path} = {cell_text(value)}"
        for path, value in settings.items()
    )


def command(*words: object) -> str:
    """Return a command of ours as it can be typed into a shell."""
    return shlex.join(["vernaclip", *map(str, words)])


def visible_text(text: str) -> str:
    r"""A text that does nothing to a terminal: what steers one is shown as its code, such as `\x1b` or `\u202e`.

    Control characters and line ends, directions of writing, characters without width, halves of characters. Joiners
    stay: scripts and emoji are written with them.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_visible, text))


def _visible(char: str) -> str:
    if unicodedata.category(char) not in _STEERING or char in _JOINERS:
        return char
    return char.encode("unicode_escape").decode("ascii")


def spreadsheet_text(text: str) -> str:
    r"""A text of a CSV cell that a spreadsheet does not calculate, and that does nothing to a terminal.

    What would be a formula gets an apostrophe in front; control characters but tabs and line ends are shown as codes.
    """
    if not text.isprintable():
        steering = {char for char in text if char not in "\t\r\n" and unicodedata.category(char) in ("Cc", "Cs")}
        text = "".join(_visible(char) if char in steering else char for char in text)
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA_STARTS) else text


def escaped_json(text: str) -> str:
    r"""A line of JSON that does nothing to a terminal: what steers one becomes `\uXXXX`, and reads back as it was."""
    return text if text.isascii() and text.isprintable() else "".join(map(_json_escape, text))


def _json_escape(char: str) -> str:
    if unicodedata.category(char) not in _STEERING:
        return char
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[place : place + 2].hex()}" for place in range(0, len(units), 2))


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
