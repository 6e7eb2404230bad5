"""Text output for people: aligned tables, and text that is safe in terminals, spreadsheets and Markdown."""

import re
import shlex
import unicodedata
from collections.abc import Mapping, Sequence

# Prefect's UI renders cells as Markdown: these characters could start a tag, a link, an image, code or a new cell.
_MARKDOWN = re.compile(r"[<>&\\\[\]()|`]")

# Unicode categories of characters that a terminal may interpret instead of showing them.
_CONTROL_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Characters that start a formula in spreadsheets, including full-width forms.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_JOINERS = "\u200c\u200d"


def plain_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows with equal keys as an aligned table, numbers to the right; "(no rows)" if there are none."""
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
    """Return a value as one line of `visible_text`; integers get thousands separators, None is empty."""
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
    """Return a number and a noun, such as "1 box" or "1,200 boxes"."""
    plural = f"{noun}es" if noun.endswith("x") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def deciding_settings_text(settings: Mapping[str, object]) -> str:
    """Return the settings that decide a drop reason, such as `clean.min_words = 3`; lists and tables by name only."""
    return ", ".join(
        path if value is None or isinstance(value, list | Mapping) else f"{path} = {cell_text(value)}"
        for path, value in settings.items()
    )


def command(*words: object) -> str:
    """Return a `vernaclip` command line, quoted for a shell."""
    return shlex.join(["vernaclip", *map(str, words)])


def visible_text(text: str) -> str:
    r"""Return a text that is safe to print to a terminal: control characters become escapes, such as `\x1b`.

    Escaped are control characters, line ends, marks of writing direction, characters without width and lone
    surrogates. Joiners stay, since scripts and emoji need them.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_visible, text))


def visible_lines(text: str) -> str:
    """Return lines as `visible_text` does each: they may quote data, servers or file names."""
    return "\n".join(map(visible_text, text.split("\n")))


def _visible(char: str) -> str:
    if unicodedata.category(char) not in _CONTROL_CATEGORIES or char in _JOINERS:
        return char
    return char.encode("unicode_escape").decode("ascii")


def spreadsheet_text(text: str) -> str:
    r"""Return the text of a CSV cell that no spreadsheet evaluates and no terminal interprets.

    A text that would be a formula gets an apostrophe in front. Control characters become escapes, except tabs and line
    ends.
    """
    if not text.isprintable():
        controls = {char for char in text if char not in "\t\r\n" and unicodedata.category(char) in ("Cc", "Cs")}
        text = "".join(_visible(char) if char in controls else char for char in text)
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA_STARTS) else text


def escaped_json(text: str) -> str:
    r"""Return a line of JSON that is safe to print: control characters become `\uXXXX`, which parses to the same."""
    return text if text.isascii() and text.isprintable() else "".join(map(_json_escape, text))


def _json_escape(char: str) -> str:
    if unicodedata.category(char) not in _CONTROL_CATEGORIES:
        return char
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[place : place + 2].hex()}" for place in range(0, len(units), 2))


def text_width(text: str) -> int:
    """Return how many terminal columns a text takes: two for a wide character, none for a combining one."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def markdown_safe(value: object) -> object:
    """Return a cell for Prefect's UI: numbers unchanged, Markdown characters of a text as character entities."""
    if value is None or isinstance(value, int | float):
        return value
    return _MARKDOWN.sub(lambda match: f"&#{ord(match[0])};", cell_text(value))
