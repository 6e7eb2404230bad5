"""Mojibake undone by ftfy, which is asked only about texts that it might change."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import ftfy

# Those of ftfy's categories of which its pattern of bad sequences needs a character, and four characters by themselves.
_TELLTALE_CATEGORIES: Final = (
    "c1",
    "bad",
    "law",
    "currency",
    "start_punctuation",
    "end_punctuation",
    "numeric",
    "upper_accented",
    "box",
)
_TELLTALE_LETTERS: Final = "œÙЂ°"
_SURROGATES: Final = "\ud800-\udfff"
# No alternative of ftfy's pattern is longer, so that each match lies within so many characters of each of its own.
_REACH: Final = 7
# ftfy cuts longer texts at any place, and a cut is the start of a text to its pattern.
_MAX_UNCUT: Final = 1_000_000


def telltales() -> str:
    """The inside of a character class: each match of `ftfy.badness.BADNESS_RE` holds one of these characters."""
    from ftfy.badness import MOJIBAKE_CATEGORIES

    return "".join(map(MOJIBAKE_CATEGORIES.__getitem__, _TELLTALE_CATEGORIES)) + _TELLTALE_LETTERS


def ftfy_settings() -> "ftfy.TextFixerConfig":
    """What ftfy does here: mojibake, Latin ligatures and surrogates, and nothing of what other rules see to."""
    import ftfy

    return ftfy.TextFixerConfig(
        unescape_html=False,  # ours knows where "<" is no tag
        remove_terminal_escapes=False,  # ours: the guard would skip them
        fix_character_width=False,  # "，！" is right in Chinese and Japanese
        uncurl_quotes=False,  # “ ” are right in most languages
        fix_line_breaks=False,  # white space is collapsed anyway
        remove_control_chars=False,  # ours removes more
        normalization=None,
        explain=False,
    )


def encoding_rewrite() -> Callable[[str], str]:
    """Return what undoes mojibake ("perchÃ©"), splits Latin ligatures ("ﬁ") and joins surrogate pairs.

    It is `ftfy.fix_text` with `ftfy_settings`, many times faster where it has nothing to do.

    With these settings ftfy changes a text only if a line of it, newline included, holds mojibake by `ftfy.badness`,
    a C1 control (which is mojibake by that), a Latin ligature or a surrogate. Its pattern for mojibake has 37
    alternatives; every one of them needs a character of `telltales`, and none is longer than seven characters. So a
    text without telltales, ligatures and surrogates stays as it is, and in any other it is enough to look at what is
    seven characters around them. What looks bad there may be good in its line; ftfy itself decides then. The start of
    a line is the only other thing that the pattern asks for: where a line break is near, ftfy decides as well.
    """
    import ftfy
    from ftfy.badness import is_bad
    from ftfy.chardata import LIGATURES

    ligatures = "".join(map(chr, LIGATURES))
    telltale = re.compile(f"[{telltales()}{ligatures}{_SURROGATES}]+")
    changed_anyway = re.compile(f"[{ligatures}{_SURROGATES}\n]")
    settings = ftfy_settings()

    def suspicious(text: str, first: re.Match[str]) -> bool:
        for match in telltale.finditer(text, first.start()):
            nearby = text[max(0, match.start() - _REACH) : match.end() + _REACH]
            if changed_anyway.search(nearby) or is_bad(nearby):
                return True
        return len(text) > _MAX_UNCUT

    def rewrite(text: str) -> str:
        if text.isascii():
            return text
        first = telltale.search(text)
        if first is None or not suspicious(text, first):
            return text
        return ftfy.fix_text(text, settings)

    return rewrite
