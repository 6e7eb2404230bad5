"""Markdown helpers, and escaping of foreign texts for Markdown and HTML."""

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; cells are Markdown already, and integers get thousands separators."""
    lines = [columns, ["---"] * len(columns), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def fenced_json(value: Any) -> str:
    """Return a Markdown code block of JSON; its fence is longer than any run of backticks in it."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}json\n{text}\n{fence}"


def bullets(lines: Iterable[str]) -> str:
    """Return a Markdown list."""
    return "\n".join(f"- {line}" for line in lines)


# ASCII punctuation with a meaning in Markdown or HTML; a full stop before a letter can make a link. An underscore
# between letters or digits has none.
_MARKDOWN = re.compile(
    r"[!\"#$&()*+/:<=>@\[\\\]^`{|}~]|(?<![^\W_])_|_(?![^\W_])|^[-0-9]|\.(?=[^\W\d_])|www", re.IGNORECASE
)
# Characters that join letters or emoji; all other format characters, direction marks included, become blanks.
_JOINERS = "\u200c\u200d"


def one_line(text: str) -> str:
    """Return a text on one line: control, format and direction characters become blanks, runs of blanks become one."""
    shown = "".join(" " if _is_invisible(char) else char for char in text)
    return " ".join(shown.split())


def _is_invisible(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp", "Cs") and char not in _JOINERS


def markdown_text(text: str) -> str:
    """Return a text that Markdown and HTML show unchanged: special characters become character entities."""
    return _MARKDOWN.sub(lambda match: "".join(f"&#{ord(char)};" for char in match[0]), one_line(text))
