"""Who made a picture, as captions say it: credits in seven languages, told from what the picture shows.

| after the caption, or in its place | |
|---|---|
| Photo by José Núñez | a credit |
| © 2010 John Smith | a credit |
| (c) 2010 John Smith | a credit |
| (c) Getty Images | a credit |
| Photo credit: John Smith | a credit |
| Foto: Max Mustermann/dpa | a credit |
| Source: Wikimedia Commons | a credit |
| Photo: Bundesarchiv, Bild 183-1990 | a credit |
| Foto: Schloss Neuschwanstein | none: only an agency tells it from what is seen, and so with "Foto: Max Mustermann" |
| (c) Root | none: "(a) Leaf, (b) Stem, (c) Root" |
| Photo by 田中 | none: where letters have no case, names look like all other words |
"""

import re
from typing import Final

# Patterns that Python's `re` and Arrow's RE2 read alike, to be matched in any case.
STOCK_SITE: Final = (
    r"(?:getty images|istock(?:photo)?|shutterstock|adobe stock|alamy|dreamstime(?:\.com)?|depositphotos|123rf|fotolia|"
    r"bigstock(?:photo)?|can stock photo)"
)
# Sites that captions speak of, too: "Social icons: Facebook, Twitter, Flickr".
KNOWN_SITE: Final = (
    r"(?:wikimedia commons|flickr|"
    r"wikipedia(?:, (?:the free encyclopedia|l'enciclopedia libera|la enciclopedia libre|die freie enzyklopädie))?)"
)
AGENCY: Final = rf"(?:{STOCK_SITE}|{KNOWN_SITE})"
_NEWS_AGENCY: Final = (
    r"(?:dpa|afp|ap(?: photo)?|epa|ansa|efe|lusa|reuters|picture[ -]alliance|imago(?: images)?|bundesarchiv|nasa|"
    r"(?:the )?library of congress)"
)

_PHOTO: Final = r"(?:(?:ap )?photos?|photograph(?:s|y|ed)?|foto(?:grafi[ae]|grafía|s)?)"
# What stands before makers alone; "Picture:" and "Source:" stand before titles as well.
_CREDIT: Final = (
    r"(?:photographer|fotograf|fotògraf|(?:photo )?credits?|crédits?(?: photo)?|crédito(?: d[ea] foto(?:grafía)?)?|"
    r"bild(?:quelle|nachweis)|courtesy|copyright|cortesia|cortesía)"
)
_PICTURE: Final = rf"(?:{_PHOTO}|picture|image|pic|bild|quelle|fuente|fonte|font|source)"
# Prepositions that say by whom and cannot say of what, as "di", "de" and "von" can.
_MADE_BY: Final = (
    r"(?:(?:taken |shot |made )?by|par|por|courtesy of(?: the)?|prise par|scattat[ao] da|realizzat[ao] da|"
    r"tomada por|tirada por|hecha por|feta per|presa per|aufgenommen von)"
)
# "Photo by", "Foto: ©", "Photo courtesy of", "Photo credit:", "© 2010".
_MAKER_OPENING: Final = (
    rf"(?:{_PICTURE} ?: ?(?:{_MADE_BY} |(?:©|\(c\)) ?)|{_CREDIT} ?: ?(?:{_MADE_BY} )?|{_PHOTO} {_MADE_BY} ?:? |"
    rf"(?:{_PHOTO}|copyright) ?\(c\) ?|(?:(?:{_PHOTO}|copyright) ?)?© ?|(?:photographed by|fotografiert von) )"
    r"(?:\d{4} ?,? ?)?"
)
# What stands before the name anywhere. Of the last two, only the name tells whether it is a credit.
CREDIT_OPENING: Final = rf"(?:{_MAKER_OPENING}|\(c\) ?\d{{4}} ?,? ?|(?P<picture>{_PICTURE} ?: ?)|(?P<c>\(c\) ?))"
# What stands before the name where nothing else does.
WHOLE_CREDIT_OPENING: Final = (
    rf"(?:{CREDIT_OPENING}|(?:{_PICTURE}|{_CREDIT}) {_MADE_BY} |(?:courtesy|credit) (?:of|to) (?:the )?)"
)

# CC3M writes "person" for every name, and agencies write themselves in small letters.
_SMALL_NAMES: Final = frozenset(("person", "dpa", "afp", "ap", "epa", "ansa", "efe", "lusa", "me"))
_PARTICLE_WORDS: Final = """
and und et e y i de di da do dos das del della dei van von der den ter la le el al bin ibn für pour per for the of via
"""
_PARTICLES: Final = frozenset(_PARTICLE_WORDS.split())
_ARTICLES: Final = frozenset(
    ("a", "an", "un", "una", "uno", "une", "ein", "eine", "um", "uma", "il", "lo", "gli", "the")
)
_MAX_NAME_WORDS = 8
_WORD = re.compile(r"[^\s/,|()]+")
# The number of the picture there: ", Bild 183-1990", ", LC-USZ62-13459".
_PICTURE_NUMBER: Final = r", (?:(?:bild|image|photo|foto|nr\.?|no\.?) )?#?(?=[\w.-]{0,39}\d)[a-z\d][\w.-]{0,39}"
_is_agency = re.compile(rf"(?:{AGENCY}|{_NEWS_AGENCY})(?:{_PICTURE_NUMBER})?", re.IGNORECASE).fullmatch
_BETWEEN_MAKERS = re.compile(r" ?[/|©] ?| via ", re.IGNORECASE)


def is_credit(match: re.Match[str]) -> bool:
    """Whether what was found by one of the openings above, and a group `name` after it, says who made the picture."""
    name = match.group("name")
    if match.group("picture") or match.group("c"):
        return is_agency_credit(name)
    return is_name(name)


def is_agency_credit(text: str) -> bool:
    """Whether a text is an agency, beside names at most: "dpa", "Art Wolfe/Getty Images"; no "Founder of Wikipedia"."""
    makers = [maker for maker in _BETWEEN_MAKERS.split(text.strip(" .")) if maker]
    agencies = [maker for maker in makers if _is_agency(maker)]
    return bool(agencies) and all(maker in agencies or is_name(maker) for maker in makers)


def is_name(text: str) -> bool:
    """Whether a text reads as the names of people and agencies: up to eight words, each with a capital or known.

    "John Smith/AFP", "dpa" and "person" are; "a cat on a roof", "they run", "犬" and "" are not.
    """
    words: list[str] = []
    for match in _WORD.finditer(text):
        words.append(match.group().strip(".-–—&©"))
        if len(words) > _MAX_NAME_WORDS:
            return False
    words = [word for word in words if word]
    if not words or words[0].casefold() in _ARTICLES:
        return False
    named = [_is_own_name(word) for word in words]
    return any(named) and all(
        own or word in _PARTICLES or word[0].isdigit() for own, word in zip(named, words, strict=True)
    )


def _is_own_name(word: str) -> bool:
    return word[0].isupper() or word in _SMALL_NAMES or "." in word
