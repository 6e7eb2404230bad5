"""Foreign text made inert: in Markdown, in spreadsheets, on a terminal."""

import re
import unicodedata

# ASCII punctuation that can mean something in Markdown or HTML; a full stop before a letter can make a link.
_MARKDOWN = re.compile(r"[!\"#$&()*+/:<=>@\[\\\]^_`{|}~]|^[-0-9]|\.(?=[^\W\d_])|www", re.IGNORECASE)
# Characters that join letters or emoji; all other format characters (direction marks among them) are blanked.
_JOINERS = "\u200c\u200d"
# What makes a spreadsheet compute, in full width as well.
_FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "'")


def one_line(text: str) -> str:
    """A text on one line: control, format and direction characters become blanks, runs of blanks one."""
    shown = "".join(" " if _is_invisible(char) else char for char in text)
    return " ".join(shown.split())


def _is_invisible(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp", "Cs") and char not in _JOINERS


def markdown_text(text: str) -> str:
    """A text that Markdown and HTML show as it is: what could open anything is a character entity."""
    return _MARKDOWN.sub(lambda match: "".join(f"&#{ord(char)};" for char in match[0]), one_line(text))


def sheet_cell(text: str | None) -> str:
    """A text as a cell that a spreadsheet shows and does not compute: a formula gets an apostrophe in front.

    None is an empty cell.
    """
    shown = one_line(text or "")
    return f"'{shown}" if shown.startswith(_FORMULA_STARTS) else shown
