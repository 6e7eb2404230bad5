"""What stock sites, agencies and Wikipedia hang on captions, taken off; what is seen stays, word for word.

| caption | becomes |
|---|---|
| tabby cat lying on a sofa at home -- stock photo # | tabby cat lying on a sofa at home |
| logo , golden important person on a black background -- stock vector # | logo , golden ... black background |
| a red ornament isolated on a white background : free stock photo ? | a red ornament isolated on a white background |
| biggest spider in the world ever found - photo # | biggest spider in the world ever found |
| set of labels on the topic gasoline royalty free stock vectors | set of labels on the topic gasoline |
| old man with a heart attack royalty - free | old man with a heart attack |
| parrot on a branch with flowers stock illustration | parrot on a branch with flowers |
| stock photo : happy birthday balloons in the sky | happy birthday balloons in the sky |
| a pine tree lies on the ground after a truck knocked it over photo by person | a pine tree ... knocked it over |
| after the storm © person | after the storm |
| Farmland in Washington state's Palouse region (© Art Wolfe/Getty Images) | Farmland in ... Palouse region |
| Game enthusiasts in Los Angeles. (Photo by Christian Petersen/Getty Images) | Game enthusiasts in Los Angeles. |
| Ein Hund im Park. Foto: dpa | Ein Hund im Park. |
| Il Colosseo di notte - Wikipedia | Il Colosseo di notte |
| a stock photograph of a tie and cuff links | the same: the words belong to the sentence |
| cigars in a row , may be used as a stock photo | the same |

All but the last of English rows are of Conceptual Captions, where names are "person" and numbers are cut off. A text
of which nothing would be left stays whole, for `cleaning.boilerplate` to judge.
"""

import re
from collections.abc import Sequence
from typing import Final

from cleaning.credits import CREDIT_OPENING, is_name
from data_catalog.stages import Transform

# A space or hyphen that can be matched in one way only: two ways would be 2 to the power of n for n labels in a row.
_JOIN: Final = r"(?: ?- ?| )?"
_FREE: Final = rf"(?:royalty{_JOIN}free|free|premium|lizenzfreie[srn]?)"
_PICTURE: Final = (
    r"(?:photos?|photograph(?:s|y)?|pictures?|images?|vectors?|vector art|illustrations?|clip ?arts?|videos?|"
    r"footage(?: video)?|graphics?|icons?)"
)
_STOCK: Final = (
    rf"(?:(?:{_FREE} ){{0,3}}stock{_JOIN}{_PICTURE}|royalty{_JOIN}free(?: {_PICTURE})?|"
    r"foto(?:s|grafie)? (?:de )?stock|immagin[ei] stock|foto de archivo|imagen(?:es)? de stock|"
    r"(?:photos?|image) libres? de droits|imagen libre de derechos|stock-?(?:fotos?|bild(?:er)?))"
)
_AGENCY: Final = (
    r"(?:getty images|istock(?:photo)?|shutterstock|adobe stock|alamy|dreamstime(?:\.com)?|depositphotos|123rf|fotolia|"
    r"bigstock(?:photo)?|can stock photo|wikimedia commons|flickr|"
    r"wikipedia(?:, (?:the free encyclopedia|l'enciclopedia libera|la enciclopedia libre|die freie enzyklopädie))?)"
)
_NUMBER: Final = r"(?: ?# ?[\w-]{0,20}|(?<=photo) ?(?:\d{5,20}|\?))?"
# A whole label, as `cleaning.boilerplate` judges those that stand alone; in any case.
STOCK_LABEL: Final = rf"(?:{_STOCK}{_NUMBER}(?: ?[-|,] ?{_AGENCY})?|{_AGENCY}(?: {_STOCK})?{_NUMBER})"

_SEPARATOR: Final = r"(?=[ |–—·•:,.;!?-])(?: ?(?:\||[–—·•]|--) ?| - | ?[:,.;!?] )"
_DASH: Final = r"(?=[ |–—-])(?: ?(?:\||[–—]|--) ?| [-:] )"
_ANY_CASE: Final = re.IGNORECASE | re.ASCII
_LABEL = re.compile(rf"{_SEPARATOR}{STOCK_LABEL}\Z", _ANY_CASE)
_PHOTO_LABEL = re.compile(rf"{_DASH}(?:free )?(?:photos?|foto){_NUMBER}\Z", _ANY_CASE)
_LOOSE_LABEL = re.compile(rf" {_STOCK}{_NUMBER}\Z", _ANY_CASE)
_LOOSE_CREDIT = re.compile(r" photo(?:graph)? by person\Z", _ANY_CASE)
_BRACKETED_CREDIT = re.compile(rf" ?[(\[]{CREDIT_OPENING}(?P<name>[^()\[\]]{{1,100}})[)\]]\Z", _ANY_CASE)
_BRACKETED_AGENCY = re.compile(
    rf" ?[(\[](?:ap photo\b[^()\[\]]{{0,60}}|[^()\[\]]{{0,60}}\b{_AGENCY})[)\]]\Z", _ANY_CASE
)
_CREDIT = re.compile(rf"(?:{_SEPARATOR}|(?<=[.!?]) | (?=©)){CREDIT_OPENING}(?P<name>[^:]{{1,100}})\Z", _ANY_CASE)
_HEAD = re.compile(
    rf"(?:{_FREE} ){{0,3}}stock (?:(?:photos?|images?|vectors?|illustrations?) ?(?:#\w* ?)?:|photos? ?[-–—]) ",
    _ANY_CASE,
)

# Before these a label is part of the sentence: "as a stock photo", "a typical stock photo".
_BINDING_WORDS: Final = """
a an the this that these those of for as in on with and or is are was like from to by my your his her our their some any
no typical classic generic free cheesy funny bad good best new
"""
_BINDING: Final = frozenset(_BINDING_WORDS.split())
_FEWEST_WORDS_BEFORE = 4
_TAIL_CHARS = 200
_WORD = re.compile(r"[^\W\d_]\S*")

# What each pattern above needs, in any case: first for Arrow's RE2, which goes through many texts at once; then for one
# text in small letters.
SUFFIX_MARKS: Final = (
    r"stock|royalty|libres? de|foto de archivo|getty images|alamy|dreamstime|depositphotos|123rf|fotolia|wikimedia|"
    rf"wikipedia|flickr|ap photo|otos? ?(?:#[^#]*|[0-9]+|\?)?$|{CREDIT_OPENING}"
)
_LABEL_MARKS: Final = ("stock", "royalty", "oto", "libre", "getty", "alamy", "wiki", "flickr", "123rf", "dreamstime")
_CREDIT_MARKS: Final = ("oto", ":", "©", "(c)")


def strip_suffixes() -> Transform:
    """Take labels of stock sites, credits of photographers and names of sites off the ends of texts.

    In front, only labels such as "stock photo :" are taken off. White space is expected to be single spaces. Repeated
    until nothing changes, so that doing it twice does nothing more. Of a long text only the last 200 characters count.
    """

    def transform(texts: Sequence[str]) -> list[str]:
        return [without_suffixes(text) for text in texts]

    return transform


def without_suffixes(text: str) -> str:
    """One text without labels and credits; the very same where there are none."""
    while (shorter := _without_one(text)) is not None:
        text = shorter
    return text


def _without_one(text: str) -> str | None:
    """The text without its last label or credit, or None where it has none or would be nothing without it."""
    lowered = text.lower()
    has_label = _has_one(_LABEL_MARKS, lowered)
    finders = [_labelled, _loose] if has_label else []
    if _has_one(_CREDIT_MARKS, lowered):
        finders.append(_credited)
    if text[-1:] in (")", "]"):
        finders.append(_bracketed)
    start = max(0, len(text) - _TAIL_CHARS)
    for find in finders:
        cut = find(text, start)
        if cut is not None and _WORD.search(text, 0, cut):
            return text[:cut].rstrip(" ,;:|-–—")
    head = _HEAD.match(text) if has_label else None
    return text[head.end() :] if head and _WORD.search(text, head.end()) else None


def _has_one(marks: Sequence[str], lowered: str) -> bool:
    for mark in marks:  # noqa: SIM110  any() takes twice as long
        if mark in lowered:
            return True
    return False


def _labelled(text: str, start: int) -> int | None:
    match = _LABEL.search(text, start) or _PHOTO_LABEL.search(text, start)
    return _cut(match) if match else None


def _bracketed(text: str, start: int) -> int | None:
    match = _BRACKETED_AGENCY.search(text, start)
    if match is None:
        match = _BRACKETED_CREDIT.search(text, start)
        if match is None or not is_name(match.group("name")):
            return None
    return match.start()


def _credited(text: str, start: int) -> int | None:
    match = _CREDIT.search(text, start)
    return _cut(match) if match and is_name(match.group("name")) else None


def _loose(text: str, start: int) -> int | None:
    """Where a label begins that nothing sets off, in a text long enough to go without it."""
    match = _LOOSE_LABEL.search(text, start) or _LOOSE_CREDIT.search(text, start)
    if match is None:
        return None
    before = _WORD.findall(text[: match.start()])
    if len(before) < _FEWEST_WORDS_BEFORE or before[-1].casefold() in _BINDING:
        return None
    return match.start()


def _cut(match: re.Match[str]) -> int:
    """The end of what stays: full stops, question and exclamation marks do, other separators do not."""
    return match.start() + (match.group()[:1] in (".", "!", "?"))
