"""Who made a picture, as captions say it: credits in seven languages, told from what the picture shows."""

import re
from typing import Final

_PHOTO: Final = r"(?:(?:ap )?photos?|photograph(?:s|y|ed|er)?|photo credits?|foto(?:grafi[ae]|grafía|graf|s)?)"
_ANY_PICTURE: Final = (
    rf"(?:{_PHOTO}|picture|image|pic|credits?|fotògraf|crédits?(?: photo)?|crédito(?: d[ea] foto(?:grafía)?)?|"
    r"bild(?:quelle|nachweis)?|quelle|fuente|fonte|font|source|courtesy|copyright|cortesia|cortesía)"
)
# Prepositions that say by whom and cannot say of what, as "di", "de" and "von" can.
_MADE_BY: Final = (
    r"(?:(?:taken |shot |made )?by|par|por|courtesy of(?: the)?|prise par|scattat[ao] da|realizzat[ao] da|"
    r"tomada por|tirada por|hecha por|feta per|presa per|aufgenommen von)"
)
# Patterns that Python's `re` and Arrow's RE2 read alike, to be matched in any case.
# What stands before the name, anywhere: "Photo by", "Foto:", "Photo courtesy of", "Quelle:", "©", "(c) 2010".
CREDIT_OPENING: Final = (
    rf"(?:{_ANY_PICTURE} ?: ?(?:{_MADE_BY} )?|{_PHOTO} {_MADE_BY} ?:? |(?:(?:{_PHOTO}|copyright) ?)?(?:©|\(c\)) ?"
    r"(?:\d{4} ?,? ?)?|(?:photographed by|fotografiert von) )"
)
# What stands before the name where nothing else does.
WHOLE_CREDIT_OPENING: Final = (
    rf"(?:{CREDIT_OPENING}|{_ANY_PICTURE} {_MADE_BY} |(?:courtesy|credit) (?:of|to) (?:the )?)"
)
# CC3M writes "person" for every name, and agencies write themselves in small letters.
_SMALL_NAMES: Final = """
person dpa afp ap epa ansa efe lusa me via and und et e y i de di da do dos das del della dei van von der den ter la le
el al bin ibn für pour per for the of
"""
_SMALL: Final = frozenset(_SMALL_NAMES.split())
_ARTICLES: Final = frozenset(
    ("a", "an", "un", "una", "uno", "une", "ein", "eine", "um", "uma", "il", "lo", "gli", "the")
)
_MAX_NAME_WORDS = 8
_WORD = re.compile(r"[^\s/,|()]+")


def is_name(text: str) -> bool:
    """Whether a text reads as the names of people and agencies: up to eight words, none of them small, none an article.

    "John Smith/AFP", "dpa" and "person" are; "a cat on a roof", "they run" and "" are not. Where a script has no
    capitals, only the number of words tells.
    """
    words: list[str] = []
    for match in _WORD.finditer(text):
        words.append(match.group().strip(".-–—&©"))
        if len(words) > _MAX_NAME_WORDS:
            return False
    words = [word for word in words if word]
    if not words or words[0].casefold() in _ARTICLES:
        return False
    return all(not word[0].islower() or word in _SMALL or "." in word for word in words)
