"""HTML out of captions, conservatively: only known tags, only entities that end in a semicolon."""

import html
import re
from html.entities import html5

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
# Each stops at the next opening of its own kind, which keeps a row of unclosed ones from taking quadratic time.
_COMMENT = re.compile(r"<!--(?:(?!<!--).)*?-->", re.DOTALL)
_CODE = re.compile(r"<(script|style)\b[^<>]*>(?:(?!<(?:script|style)\b).)*?</\1\s*>", re.DOTALL | re.IGNORECASE)
# "&amp;amp;lt;" is resolved at once, however often it was escaped.
_ENTITY = re.compile(r"&(?:amp;)*(#[0-9]{1,7};|#[xX][0-9a-fA-F]{1,6};|[A-Za-z][A-Za-z0-9]{1,31};)")


def remove_markup(text: str) -> str:
    """The text without tags and comments, entities resolved; block tags and <br> leave a space, inline ones nothing."""
    if "<" not in text and "&" not in text:
        return text
    text = _ENTITY.sub(_resolve, text)
    text = _CODE.sub(" ", _COMMENT.sub(" ", text))
    return _BLOCK_TAG.sub(" ", _INLINE_TAG.sub("", text))


def _resolve(match: re.Match[str]) -> str:
    entity = match.group(1)
    if entity.startswith("#") or entity in html5:
        return html.unescape(f"&{entity}")
    return match.group(0)
