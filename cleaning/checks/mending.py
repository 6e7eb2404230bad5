"""Cleaning of a caption's characters without changing its meaning: mojibake, controls, markup, white space.

The transforms, composed by `clean_text`, are idempotent. They deliberately keep curly and angled quotes (which are
right in German, French and Chinese), full-width letters and punctuation (ftfy would put ASCII into Chinese and
Japanese), "a < b", and tokens such as CC12M's <PERSON>.
"""

import html
import re
import unicodedata
from collections.abc import Callable, Sequence
from html.entities import html5
from itertools import groupby, islice
from typing import Final

import ftfy
import pyarrow as pa
import pyarrow.compute as pc
from ftfy.badness import MOJIBAKE_CATEGORIES, is_bad
from ftfy.chardata import LIGATURES

from cleaning.checks.captions import CleanConfig
from cleaning.text.suffixes import SUFFIX_MARKS, without_suffixes
from data_catalog.rows.stages import Transform

Rewrite = Callable[[str], str]

_MAX_ROUNDS = 20
_MARKUP_CHARACTERS = re.compile("[&<>]")


# Characters that no rule changes in any context: printable ASCII except "&", "<" and ">", and letters of Latin, Greek,
# Cyrillic, Hebrew, Arabic, Chinese, Japanese and Korean that neither occur in mojibake nor compose with others.
_PLAIN: Final = (
    " -%'-;=?-~ß-öø-ÿăąćčďđēęěğīıłńňōőřśšşșţțťūůűźžż\u0391-\u03a1\u03a3-\u03a9\u03ac-\u03ce\u0401\u0410-\u044f\u0451"
    "\u05d0-\u05ea\u0621-\u063a\u0641-\u064a\u3001\u3002\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uac00-\ud7a3"
)
_SPARE_SPACE: Final = "  "
_is_plain = re.compile(f"(?! )[{_PLAIN}]*+(?<! )").fullmatch


def clean_text(config: CleanConfig) -> Transform:
    """Return a function that cleans texts with all rules below that the config enables.

    The rules are repeated until nothing changes, since one may expose work for another. Most captions need no change,
    which a regular expression detects.
    """
    steps: list[tuple[bool, Rewrite]] = [
        (config.fix_encoding, encoding_rewrite()),
        (True, strip_controls),
        (config.strip_markup, remove_markup),
        (True, normalise_unicode),
        (config.straighten_apostrophes, straighten_apostrophes),
        (True, collapse_whitespace),
        (config.strip_suffixes, without_suffixes),
    ]
    rules = [rule for is_on, rule in steps if is_on]
    # Matches the rows that rules may change: other than plain characters, extra spaces, or signs of a suffix.
    needs_a_look = f"[^{_PLAIN}]|{_SPARE_SPACE}|^ | $" + (f"|(?i:{SUFFIX_MARKS})" if config.strip_suffixes else "")

    def clean(text: str) -> str:
        if _is_plain(text) and _SPARE_SPACE not in text:
            return without_suffixes(text) if config.strip_suffixes else text
        for _ in range(_MAX_ROUNDS):
            before = text
            for rule in rules:
                text = rule(text)
            if text == before:
                return text
        # Markup nested this deeply is an attack or garbage, and would take quadratic time.
        return clean(_MARKUP_CHARACTERS.sub(" ", text))

    def transform(texts: Sequence[str]) -> list[str]:
        cleaned = list(texts)
        try:
            column = pa.array(texts, pa.large_string())
        except UnicodeEncodeError:  # lone surrogates, which Arrow cannot store and the rules remove
            rows: Sequence[int] = range(len(texts))
        else:
            rows = pc.indices_nonzero(pc.match_substring_regex(column, needs_a_look)).to_pylist()
        for row in rows:
            cleaned[row] = clean(cleaned[row])
        return cleaned

    return transform


# Keyboards and PDF files write "είµαι" with the micro sign of "5 µm", which NFC does not change. Before an omega, which
# NFC also makes of the ohm sign, it stays: "5 µΩ".
_MICRO_FOR_MU = re.compile("(?<=[\u0370-\u03ff\u1f00-\u1fff])\xb5|\xb5(?=[\u0370-\u03ff\u1f00-\u1fff])(?!\u03a9)")


# Unicode's stream-safe format (UAX #15) allows this many combining marks in a row, far more than any language needs.
# Python sorts the marks of a run by insertion: thousands would take minutes.
_MOST_MARKS = 30
_find_long_run = re.compile(rf"[^\w\s\x00-\x7f]{{{_MOST_MARKS + 1}}}").search  # of marks or symbols
_LONG_RUN = re.compile(rf"[^\w\s\x00-\x7f]{{{_MOST_MARKS + 1},}}")


def _cut_long_runs(match: re.Match[str]) -> str:
    """Return a run of marks and symbols with at most thirty marks in a row."""
    kept: list[str] = []
    for is_mark, run in groupby(match.group(), lambda character: unicodedata.category(character)[0] == "M"):
        kept.extend(islice(run, _MOST_MARKS if is_mark else None))
    return "".join(kept)


def normalise_unicode(text: str) -> str:
    """Convert a text to NFC, with at most thirty combining marks in a row; in Greek words a micro sign becomes mu."""
    if _find_long_run(text):
        text = _LONG_RUN.sub(_cut_long_runs, text)
    composed = unicodedata.normalize("NFC", text)
    return _MICRO_FOR_MU.sub("\u03bc", composed) if "\xb5" in composed else composed


def collapse_whitespace(text: str) -> str:
    """Replace each run of Unicode white space by one space, and remove it at the ends."""
    return " ".join(text.split())


_CURLY_APOSTROPHE = re.compile(r"(?<=[^\W\d_])\u2019(?=[^\W\d_])")


def straighten_apostrophes(text: str) -> str:
    """Write the apostrophe between two letters as "'", so that "l’albero" and "l'albero" are one word."""
    return _CURLY_APOSTROPHE.sub("'", text) if "\u2019" in text else text


_TERMINAL_ESCAPE = re.compile(r"\x1b\[[0-9;]{0,32}[A-Za-z]")
_LINE_CONTROL = re.compile(r"[\t-\r\x1c-\x1f\x85\u2028\u2029]")
_NONCHARACTERS = "".join(f"{chr(plane * 0x10000 + 0xFFFE)}{chr(plane * 0x10000 + 0xFFFF)}" for plane in range(17))
_INVISIBLE = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # C0 and C1 controls
    "\xad"  # soft hyphen
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidi marks, embeddings, isolates
    "\u180e\u200b\u2060-\u2065\u206a-\u206f\ufeff"  # zero width: space, joiner, invisible operators, BOM
    "\ufff9-\ufffb"  # interlinear annotation
    "\ud800-\udfff"  # surrogates
    "\ufdd0-\ufdef" + _NONCHARACTERS + "]"
)
_EMOJI = (
    "\u00a9\u00ae\u203c\u2049\u20e3\u2122\u2139\u2190-\u21ff\u2300-\u23ff\u25a0-\u27bf\u2934\u2935\u2b00-\u2bff\ufe0f"
    "\U0001f000-\U0001faff\U000e0020-\U000e007f"
)
_JOINING_SCRIPTS = (
    "\u0590-\u0dff\u1000-\u109f\u1780-\u17ff\u1800-\u18af\ua840-\ua87f\U00010ac0-\U00010aff\U00011000-\U00011fff"
)
_IDLE_JOINER = re.compile(
    f"(?<![{_EMOJI}{_JOINING_SCRIPTS}])[\u200c\u200d]"  # not after something that can be joined
    f"|(?<=[{_EMOJI}])(?:\u200c|\u200d(?![{_EMOJI}]))"  # emoji are joined by U+200D, to emoji
)
# The tag characters spell a region after the black flag and mean nothing elsewhere.
_IDLE_TAG = re.compile("(?<![\U0001f3f4\U000e0020-\U000e007e])[\U000e0020-\U000e007f]+|[\U000e0001]")


def strip_controls(text: str) -> str:
    """Remove invisible characters: controls, bidi marks, zero-width characters, soft hyphens, lone surrogates.

    Line breaks and tabs become spaces. The joiners U+200C and U+200D stay where they have a meaning: in scripts from
    Hebrew to Mongolian, and within emoji. Variation selectors and the tags of flag emoji stay, too.
    """
    if text.isprintable():  # none of these characters is printable in Python, nor a joiner or a tag
        return text
    text = _LINE_CONTROL.sub(" ", _TERMINAL_ESCAPE.sub("", text))
    text = _IDLE_TAG.sub("", _INVISIBLE.sub("", text))
    return _IDLE_JOINER.sub("", text)


_INLINE = (
    "a abbr acronym b bdi bdo big cite code del dfn em font i ins kbd mark q s small span strike strong sub sup tt u "
    "var"
)
_BLOCK = (
    "address article aside audio blockquote body br caption center dd div dl dt embed figcaption figure footer form h1 "
    "h2 h3 h4 h5 h6 head header hr html iframe img input li link main meta nav noscript object ol p picture pre ref "
    "script section source style svg table tbody td tfoot th thead title tr ul video"
)
# An attribute has an "=", so that "a<b and c>d" is no tag.
_ATTRIBUTES = r"""(?:\s+[\w:.-]+\s*=\s*(?:"[^"<]*"|'[^'<]*'|[^\s"'<>]+))*\s*/?>"""
_INLINE_TAG = re.compile(rf"</?(?:{'|'.join(_INLINE.split())}){_ATTRIBUTES}", re.IGNORECASE)
_BLOCK_TAG = re.compile(rf"</?(?:{'|'.join(_BLOCK.split())}){_ATTRIBUTES}", re.IGNORECASE)
# Each stops at the next opening of its own kind, so that a row of unclosed ones does not take quadratic time.
_COMMENT = re.compile(r"<!--(?:(?!<!--).)*?-->", re.DOTALL)
_CODE = re.compile(r"<(script|style)\b[^<>]*>(?:(?!<(?:script|style)\b).)*?</\1\s*>", re.DOTALL | re.IGNORECASE)
# "&amp;amp;lt;" is resolved at once, however often it was escaped.
_ENTITY = re.compile(r"&(?:amp;)*(#[0-9]{1,7};|#[xX][0-9a-fA-F]{1,6};|[A-Za-z][A-Za-z0-9]{1,31};)")


def remove_markup(text: str) -> str:
    """Remove one layer of HTML from a text: known tags, comments, and entities that end in a semicolon.

    Block tags and <br> leave a space, inline tags nothing.
    """
    if "<" not in text and "&" not in text:
        return text
    text = _ENTITY.sub(
        lambda match: html.unescape(f"&{match[1]}") if match[1].startswith("#") or match[1] in html5 else match[0], text
    )
    text = _CODE.sub(" ", _COMMENT.sub(" ", text))
    return _BLOCK_TAG.sub(" ", _INLINE_TAG.sub("", text))


# Every match of ftfy's pattern of bad sequences has a character of one of these categories, or one of four others.
_TELLTALE_WORDS: Final = "c1 bad law currency start_punctuation end_punctuation numeric upper_accented box"
_TELLTALE_CATEGORIES: Final = tuple(_TELLTALE_WORDS.split())
_TELLTALE_LETTERS: Final = "œÙЂ°"
_SURROGATES: Final = "\ud800-\udfff"
# Length of the longest alternative of ftfy's pattern: a match is within this distance of each of its characters.
_REACH: Final = 7
# ftfy cuts longer texts anywhere, and its pattern treats a cut as the start of a text.
_MAX_UNCUT: Final = 1_000_000


def ftfy_settings() -> ftfy.TextFixerConfig:
    """Return settings with which ftfy fixes mojibake, Latin ligatures and surrogates only; other rules do the rest."""
    return ftfy.TextFixerConfig(
        unescape_html=False,  # our rule recognises a "<" that is no tag
        remove_terminal_escapes=False,  # our rule: the check for suspicious characters would skip them
        fix_character_width=False,  # "，！" is right in Chinese and Japanese
        uncurl_quotes=False,  # “ ” are right in most languages
        fix_line_breaks=False,  # white space is collapsed anyway
        remove_control_chars=False,  # our rule removes more
        normalization=None,
        explain=False,
    )


def encoding_rewrite() -> Callable[[str], str]:
    """Return a function that fixes mojibake ("perchÃ©"), splits Latin ligatures ("ﬁ") and joins surrogate pairs.

    It has the results of `ftfy.fix_text` with `ftfy_settings`, and is many times faster on texts without such defects.

    With these settings ftfy changes a text only if a line of it, newline included, has mojibake by `ftfy.badness`, a C1
    control (which counts as mojibake), a Latin ligature or a surrogate. Each of the 37 alternatives of its pattern for
    mojibake needs a telltale character, and none is longer than seven characters. So only the seven characters around
    telltales, ligatures and surrogates matter. If they look bad there, or a line begins there, ftfy decides.
    """
    ligatures = "".join(map(chr, LIGATURES))
    telltales = "".join(map(MOJIBAKE_CATEGORIES.__getitem__, _TELLTALE_CATEGORIES)) + _TELLTALE_LETTERS
    telltale = re.compile(f"[{telltales}{ligatures}{_SURROGATES}]+")
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
