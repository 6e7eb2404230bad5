"""Cells of the report's tables, formatted by the heading of their column or the type of their value."""

from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup

from data_catalog.report.texts import caption, decimal, duration, language_name, linked, number, percent, size, text


def _bar(share: float, colour: str = "first") -> Markup:
    """Return a share as a bar and as a percentage."""
    filled = Markup('<span class="{}" style="width: {:.2f}%"></span>').format(colour, 100 * share) if share else ""
    return Markup('<span class="bar" aria-hidden="true">{}</span>{}').format(filled, percent(share, 1))


def _loss(dropped: int, seen: int) -> Markup:
    """Return what a step drops; the larger its share, the stronger the tint."""
    if not dropped:
        return Markup('<span class="nothing">0</span>')
    loss = Markup('<span class="heat" style="--heat: {:.0f}%">−{} <small>{}</small></span>')
    return loss.format(100 * (dropped / seen) ** 0.5, number(dropped), percent(dropped, seen))


_BY_HEADING: Mapping[str, Callable[[Any], str]] = {
    **dict.fromkeys(("Language", "Expected", "Detected", "Original language"), lambda code: text(language_name(code))),
    **dict.fromkeys(("Size", "Mean size"), size),
    **dict.fromkeys(("License", "Detail"), linked),
    "sha256": lambda value: Markup("<code>{}</code>").format(text(value)),
    "Duration": duration,
    "Share": _bar,
    "Share good": lambda share: _bar(share, "third"),
    **dict.fromkeys(("Share kept", "Share of all read"), lambda share: percent(share, 1)),
}
_BY_TYPE: Mapping[type, Callable[[Any], str]] = {
    int: number,
    float: decimal,
    str: text,
    list: lambda counts: _loss(*counts),
    dict: lambda words: caption(words["text"], words["lang"]),
}
_CLASSES = {
    **dict.fromkeys(("Meaning", "Decided by", "License"), "words"),
    **dict.fromkeys(("Share", "Share good"), "wide"),
    **dict.fromkeys(("Row", "Flags"), "place"),
    "Score": "narrow",
}


def look(value: object, heading: str) -> str:
    """Return the CSS class of a cell, and of the heading of a column with such cells."""
    return _CLASSES.get(heading, "word" if isinstance(value, str) else "")


def cell(value: Any, heading: str) -> str:
    """Return the content of a cell; a dash for None."""
    if value is None:
        return Markup('<span class="nothing">–</span>')
    return (_BY_HEADING.get(heading) or _BY_TYPE[type(value)])(value)
