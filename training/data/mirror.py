"""Exchange left and right in captions, as mirrored images show them, by the words of a language pack."""

import re
from collections.abc import Callable

from data_catalog.base.language_pack import Sides

Mirror = Callable[[str], str | None]


def mirror_by(words: Sides) -> Mirror:
    """Return a function that exchanges left and right in a caption, or returns None if that is uncertain.

    It is uncertain if left or right is outside the phrases of the pack ("a man left", "its left-hand side"), in
    unexpected capitals, as in a name, or if the new caption would not change back.
    """
    opposites = dict(zip((*words.left, *words.right), (*words.right, *words.left), strict=True))
    capitals = {phrase.upper(): opposite.upper() for phrase, opposite in opposites.items()}
    at_start = {_capitalised(phrase): _capitalised(opposite) for phrase, opposite in opposites.items()}
    pattern = _pattern(opposites, words.left_alone)

    def opposite_of(match: re.Match[str]) -> str | None:
        said, caption = " ".join(match[0].split()), match.string
        if not match["phrase"] or said in opposites:
            return opposites[said] if match["phrase"] else None
        if said in at_start and not any(map(str.isalnum, caption[: match.start()])):
            return at_start[said]
        return capitals.get(said) if caption == caption.upper() else None

    def exchanged(caption: str) -> str | None:
        found = [opposite_of(match) for match in pattern.finditer(caption)]
        return None if None in found else pattern.sub(lambda _: found.pop(0) or "", caption)

    def mirrored(caption: str) -> str | None:
        found = exchanged(caption)
        return found if found is not None and exchanged(found) == caption else None

    return mirrored


def _capitalised(phrase: str) -> str:
    return phrase[0].upper() + phrase[1:]


def _pattern(opposites: dict[str, str], left_alone: tuple[str, ...]) -> re.Pattern[str]:
    """Match phrases, the longest first, and left and right outside of them."""
    words = {word for one, other in opposites.items() for word in {*one.split()}.difference(other.split())}
    texts = sorted({*opposites, *left_alone}, key=len, reverse=True)
    phrase, word = (
        "|".join(r"\s+".join(map(re.escape, text.split())) for text in each) for each in (texts, sorted(words))
    )
    return re.compile(rf"(?<![\w-])(?P<phrase>{phrase})(?![\w-])|(?<!\w)(?:{word})(?!\w)", re.IGNORECASE)
