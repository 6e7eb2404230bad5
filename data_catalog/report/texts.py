"""Texts of the page: dataset text with visible control characters, numbers, names of languages, and cells of tables.

A cell is formatted by the heading of its column, or by the type of its value.
"""

import functools
import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from markupsafe import Markup, escape

MAX_TEXT = 400
# Characters that are invisible or change how others are displayed. Joiners, which many scripts need, are left out.
_SPECIAL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]"
)
_URL = re.compile(r"(https?://[^\s<>\"'()\[\]{}|\\^`]+)", re.IGNORECASE)
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")


def text(value: object) -> Markup:
    """Return a text as an isolated element, cut at `MAX_TEXT` characters; "" for None."""
    return Markup("") if value is None else Markup("<bdi>{}</bdi>").format(_cut(str(value)))


def caption(value: object, language: str | None = None) -> Markup:
    """Return a caption as `text` does, with the `lang` attribute; it is empty if `language` is not a language code."""
    code = language if language and _LANGUAGE.fullmatch(language) else ""
    return Markup("") if value is None else Markup('<bdi lang="{}">{}</bdi>').format(code, _cut(str(value)))


def linked(value: object) -> Markup:
    """Return a text as `text` does, with http and https URLs as links."""
    return Markup("") if value is None else Markup("<bdi>{}</bdi>").format(_cut(str(value), links=True))


def _cut(value: str, *, links: bool = False) -> Markup:
    """Return the first `MAX_TEXT` characters, made visible, and the number of further ones."""
    parts = _URL.split(value[:MAX_TEXT]) if links else [value[:MAX_TEXT]]  # URLs have odd numbers
    shown = [_link(part) if number % 2 else _visible(part) for number, part in enumerate(parts)]
    if len(value) > MAX_TEXT:
        shown.append(Markup('<span class="unseen">… {:,} more characters</span>').format(len(value) - MAX_TEXT))
    return Markup("").join(shown)


def plain(value: object, limit: int = MAX_TEXT) -> str:
    """Return a text for an attribute, such as `alt`: on one line, without invisible characters."""
    found = " ".join(_SPECIAL.sub(" ", str(value)).split())
    return found if len(found) <= limit else f"{found[: limit - 1]}…"


def _link(url: str) -> Markup:
    try:
        is_safe = bool(urlsplit(url).hostname) and not _SPECIAL.search(url)
    except ValueError:
        is_safe = False
    if not is_safe:
        return _visible(url)
    return Markup('<a href="{}" rel="noopener noreferrer nofollow">{}</a>').format(url, url)


def _visible(value: str) -> Markup:
    """Return escaped text, with a code in place of each invisible character."""

    def named(match: re.Match[str]) -> str:
        code = ord(match[0])
        symbol = ascii(match[0])[1:-1] if code < 0x20 else f"U+{code:04X}"
        name = unicodedata.name(match[0], "control")
        return Markup('<span class="unseen" title="{}">{}</span>').format(name, symbol)

    return Markup(_SPECIAL.sub(named, escape(value)))  # noqa: S704 - escaped before


def number(value: Any) -> str:
    """Return a count with thousands separators; "" for None."""
    return "" if value is None else f"{value:,}"


def decimal(value: float | None) -> str:
    """Return a number with a minus sign instead of a hyphen; a dash for None."""
    return "–" if value is None else f"{value:,.2f}".replace("-", "−")


def percent(part: float, whole: float) -> str:
    """Return a share as a percentage. Only a share of 0 is shown as 0 %, and only a share of 1 as 100 %."""
    share = part / whole if whole else 0.0
    if 0 < share < 0.001:
        return "< 0.1%"
    return "> 99.9%" if 0.999 < share < 1 else f"{share:.1%}"


def size(num_bytes: float) -> str:
    """Return a number of bytes with a suitable unit."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:,.0f} {unit}" if unit == "bytes" or num_bytes >= 100 else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} TB"


def duration(seconds: float) -> str:
    """Return a time span for people: "8.2 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


@functools.cache
def _names() -> dict[str, str]:
    """Return the languages that detectors know by code; many of them have no language pack."""
    names: dict[str, str] = json.loads((resources.files("data_catalog.report") / "languages.json").read_text())
    return names


def language_name(code: str | None) -> str:
    """Return the English name of a language; the code itself if its name is unknown."""
    return "no language given" if code is None else _names().get(code, code)


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
