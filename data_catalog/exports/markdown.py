"""Markdown: helpers, templates, and escaping of foreign texts for Markdown and HTML."""

import functools
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
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 0)
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


@functools.cache
def template(name: str) -> Any:
    """Return a Markdown template of this room; it escapes every text that is not marked as safe."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def shown(value: object) -> object:
        if isinstance(value, Markup):
            return value
        return f"{value:,}" if isinstance(value, int) else markdown_text(str(value))

    return Environment(
        loader=PackageLoader("data_catalog.exports"),
        autoescape=False,  # noqa: S701 - `finalize` escapes for Markdown, which has HTML
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    ).get_template(name)
