"""Removal of labels of stock sites, agencies and Wikipedia, and of credits, from the ends of captions.

| caption | becomes |
|---|---|
| tabby cat lying on a sofa at home -- stock photo # | tabby cat lying on a sofa at home |
| set of labels on the topic gasoline royalty free stock vectors | set of labels on the topic gasoline |
| stock photo : happy birthday balloons in the sky | happy birthday balloons in the sky |
| Game enthusiasts in Los Angeles. (Photo by Christian Petersen/Getty Images) | Game enthusiasts in Los Angeles. |
| Ein Hund im Park. Foto: dpa | Ein Hund im Park. |
| a stock photograph of a tie and cuff links | the same: the words belong to the sentence |
| App icons: Facebook, Twitter, Flickr | the same: Flickr and Wikipedia alone are labels only after a dash or bar |
| The logo: Shutterstock | the same: after . ! ? , : stock sites alone are labels, too, unless a logo is seen |
| Parts of a plant: (a) Leaf, (b) Stem, (c) Root | the same |
| Zwei Tiere. Foto: Hund, Katze | the same: after "Foto:" only an agency tells a credit from what is seen |

Conceptual Captions has "person" for names and cuts off numbers. In doubt a label stays: that costs less than a lost
word. A text that would become empty stays whole, and `cleaning.checks.boilerplate` judges it. Where letters have no
case, names look like all other words, and credits of people stay: "Photo by 田中".
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

# These patterns have the same meaning in Python's `re` and Arrow's RE2, and are matched in any case.
STOCK_SITE: Final = (
    r"(?:getty images|istock(?:photo)?|shutterstock|adobe stock|alamy|dreamstime(?:\.com)?|depositphotos|123rf|fotolia|"
    r"bigstock(?:photo)?|can stock photo)"
)
# Sites that captions may describe: "Social icons: Facebook, Twitter, Flickr".
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
# Words that precede only makers; "Picture:" and "Source:" precede titles, too.
_CREDIT_WORD: Final = (
    r"(?:photographer|fotograf|fotògraf|(?:photo )?credits?|crédits?(?: photo)?|crédito(?: d[ea] foto(?:grafía)?)?|"
    r"bild(?:quelle|nachweis)|courtesy|copyright|cortesia|cortesía)"
)
_PICTURE: Final = rf"(?:{_PHOTO}|picture|image|pic|bild|quelle|fuente|fonte|font|source)"
# Prepositions that introduce only the maker; "di", "de" and "von" may introduce the subject.
_MADE_BY: Final = (
    r"(?:(?:taken |shot |made )?by|par|por|courtesy of(?: the)?|prise par|scattat[ao] da|realizzat[ao] da|"
    r"tomada por|tirada por|hecha por|feta per|presa per|aufgenommen von)"
)
# "Photo by", "Foto: ©", "Photo courtesy of", "Photo credit:", "© 2010".
_MAKER_OPENING: Final = (
    rf"(?:{_PICTURE} ?: ?(?:{_MADE_BY} |(?:©|\(c\)) ?)|{_CREDIT_WORD} ?: ?(?:{_MADE_BY} )?|{_PHOTO} {_MADE_BY} ?:? |"
    rf"(?:{_PHOTO}|copyright) ?\(c\) ?|(?:(?:{_PHOTO}|copyright) ?)?© ?|(?:photographed by|fotografiert von) )"
    r"(?:\d{4} ?,? ?)?"
)
# Words before the name of a maker anywhere in a text. After the last two, the name decides whether it is a credit.
CREDIT_OPENING: Final = rf"(?:{_MAKER_OPENING}|\(c\) ?\d{{4}} ?,? ?|(?P<picture>{_PICTURE} ?: ?)|(?P<c>\(c\) ?))"
# Words before the name of a maker at the start of a text.
WHOLE_CREDIT_OPENING: Final = (
    rf"(?:{CREDIT_OPENING}|(?:{_PICTURE}|{_CREDIT_WORD}) {_MADE_BY} |(?:courtesy|credit) (?:of|to) (?:the )?)"
)

# A space or hyphen that matches in one way only: with two ways, n labels in a row would take 2 to the power of n steps.
_JOIN: Final = r"(?: ?- ?| )?"
_FREE: Final = rf"(?:royalty{_JOIN}free|free|premium|lizenzfreie[srn]?)"
_STOCK_PICTURE: Final = (
    r"(?:photos?|photograph(?:s|y)?|pictures?|images?|vectors?|vector art|illustrations?|clip ?arts?|videos?|"
    r"footage(?: video)?|graphics?|icons?)"
)
_STOCK: Final = (
    rf"(?:(?:{_FREE} ){{0,3}}stock{_JOIN}{_STOCK_PICTURE}|royalty{_JOIN}free(?: {_STOCK_PICTURE})?|"
    r"foto(?:s|grafie)? (?:de )?stock|immagin[ei] stock|foto de archivo|imagen(?:es)? de stock|"
    r"(?:photos?|image) libres? de droits|imagen libre de derechos|stock-?(?:fotos?|bild(?:er)?))"
)
_NUMBER: Final = r"(?: ?# ?[\w-]{0,20}|(?<=photo) ?(?:\d{5,20}|\?))?"
_LABEL_OF_STOCK: Final = rf"(?:{_STOCK}{_NUMBER}(?: ?[-|,] ?{AGENCY})?|{STOCK_SITE} {_STOCK}{_NUMBER})"
# A whole label that is the only text, for `cleaning.checks.boilerplate`; in any case.
STOCK_LABEL: Final = rf"(?:{_LABEL_OF_STOCK}|{AGENCY}(?: {_STOCK})?{_NUMBER})"

_SEPARATOR: Final = r"(?=[ |–—·•:,.;!?-])(?: ?(?:\||[–—·•]|--) ?| - | ?[:,.;!?] )"
_DASH: Final = r"(?=[ |–—-])(?: ?(?:\||[–—]|--) ?| - )"
_ANY_CASE: Final = re.IGNORECASE | re.ASCII
# Sites that captions may describe can end a list, or be the subject: "The logo: Wikipedia".
_LABEL = re.compile(
    rf"(?:{_SEPARATOR}{_LABEL_OF_STOCK}|{_DASH}{AGENCY}{_NUMBER}| ?[.!?] {STOCK_SITE}{_NUMBER})\Z", _ANY_CASE
)
_PHOTO_LABEL = re.compile(rf"(?:{_DASH}| : )(?:free )?(?:photos?|foto){_NUMBER}\Z", _ANY_CASE)
_SITE_AFTER_COMMA = re.compile(rf" ?[,:] {STOCK_SITE}{_NUMBER}\Z", _ANY_CASE)
# Without a separator, only labels that can hardly be part of a sentence.
_LOOSE_LABEL = re.compile(
    rf" (?:(?:{_FREE} ){{0,3}}stock (?:(?:photo|image|vector|illustration)(?P<plural>s)?|footage(?: video)?)|"
    rf"royalty - free|royalty{_JOIN}free stock {_STOCK_PICTURE}){_NUMBER}\Z",
    _ANY_CASE,
)
_LOOSE_CREDIT = re.compile(r" photo(?:graph)? by person\Z", _ANY_CASE)
_BRACKETED_CREDIT = re.compile(rf" ?[(\[]{CREDIT_OPENING}(?P<name>[^()\[\]]{{1,100}})[)\]]\Z", _ANY_CASE)
_BRACKETED_AGENCY = re.compile(
    rf" ?[(\[](?P<makers>ap photo\b[^()\[\]]{{0,60}}|[^()\[\]]{{0,60}}\b{AGENCY})[)\]]\Z", _ANY_CASE
)
_CREDIT = re.compile(rf"(?:{_SEPARATOR}|(?<=[.!?]) | (?=©)){CREDIT_OPENING}(?P<name>[^:()\[\]]{{1,100}})\Z", _ANY_CASE)
_HEAD = re.compile(
    rf"(?:{_FREE} ){{0,3}}stock (?:(?:photos?|images?|vectors?|illustrations?) ?(?:#\w{{0,20}} ?)?:|photos? ?[-–—]) ",
    _ANY_CASE,
)
# In "(a) Leaf, (b) Stem, (c) Root" the "(c)" is no copyright sign.
_LETTERED = re.compile(r"\([ab]\)", _ANY_CASE)

# After these words a label is part of the sentence: "as a stock photo", "a typical stock photo".
_BINDING_WORDS: Final = """
a an the this that these those of for as in on with and or is are was were like from to by my your his her our their
some any no at into about typical classic generic free cheesy funny bad good best new always all only very many
"""
_BINDING: Final = frozenset(_BINDING_WORDS.split())
# The same for plurals, also one word earlier: "a set of beautiful stock photos", "how to take great stock photos".
_BINDING_PLURALS_WORDS: Final = """
of with for from at take takes taking make makes making use uses using find finds see sees show shows showing
"""
_BINDING_PLURALS: Final = frozenset(_BINDING_PLURALS_WORDS.split())
# Sentences with a verb of the trade, or two of its other words, are about stock photos: "our pictures stay free".
_TRADE_VERBS: Final = frozenset(("sell", "sells", "buy", "buys", "offer", "offers", "license", "licenses"))
_TRADE_WORDS: Final = """
we our you your they photographer photographers agency agencies site website photos pictures images
"""
_TRADE: Final = frozenset(_TRADE_WORDS.split())
# After these words the name is part of the image: "Logos: Alamy, Shutterstock".
_SIGNS: Final = frozenset(
    ("logo", "logos", "icon", "icons", "sign", "signs", "agencies", "sites", "firms", "companies")
)
# Before a colon these open a credit, which is removed or kept as a whole: "Photo: Getty Images".
_OPENING_WORDS: Final = """
photo photos photograph photographer foto fotos fotografia fotografía bild picture image images source quelle fuente
fonte font credit credits crédit crédits crédito copyright courtesy by via from
"""
_OPENING: Final = frozenset(_OPENING_WORDS.split())
_FEWEST_WORDS_BEFORE = 4
_FEWEST_TRADE_WORDS = 2
_TAIL_CHARS = 200
_HEAD_CHARS = 100
# Longest enumeration to search for "(a)" and "(b)".
_LETTERED_CHARS = 1_000
_LOOSE_ENDS: Final = " ,;:|-–—"
_AROUND_WORDS: Final = ".,;:!?\"'()[]"
_WORD = re.compile(r"[^\W\d_]\S*")

# Every label contains one of `_LABEL_MARKS` in small letters, every credit one of `_CREDIT_MARKS`. "oto" and ":" are in
# too many captions: the RE2 pattern that selects the texts to process has narrower patterns in their place.
_SITE_MARKS: Final = ("stock", "royalty", "libre", "getty", "alamy", "wiki", "flickr", "123rf", "dreamstime")
_LABEL_MARKS: Final = (*_SITE_MARKS, "oto")
_CREDIT_MARKS: Final = ("oto", ":", "©", "(c)")
_PHOTO_MARK: Final = r"foto de archivo|depositphotos|fotolia|ap photo|otos? ?(?:#[^#]*|[0-9]+|\?)?$"
SUFFIX_MARKS: Final = "|".join([*_SITE_MARKS, _PHOTO_MARK, CREDIT_OPENING])


def without_suffixes(text: str) -> str:
    """Remove labels of stock sites, credits of photographers and names of sites from the end of a text.

    At the start, only labels such as "stock photo :" are removed. White space must be single spaces. Removal is
    repeated until nothing changes. Only the last 200 characters are searched, and bounds move over the text, which is
    never copied: many labels take linear time.
    """
    begin, end = 0, len(text)
    first_letter: int | None = None  # start of the first remaining word, computed when it is needed
    while True:
        for cut in _cuts(text, max(begin, end - _TAIL_CHARS), end):
            if first_letter is None:
                word = _WORD.search(text, begin)
                first_letter = word.start() if word else len(text)
            if first_letter < cut:
                end = cut
                while end > first_letter and text[end - 1] in _LOOSE_ENDS:
                    end -= 1
                break
        else:
            # A label at the start of a text that has other words.
            has_head = "stock" in text[begin : begin + _HEAD_CHARS].lower()
            head = _HEAD.match(text, begin, end) if has_head else None
            if head is None or not _WORD.search(text, head.end(), end):
                return text[begin:end]
            begin, first_letter = head.end(), None


def _cuts(text: str, start: int, end: int) -> Iterator[int]:
    """Yield the positions where the last label or credit may begin, by several rules."""
    tail = text[start:end].lower()
    if _has_one(_LABEL_MARKS, tail):
        if match := _LABEL.search(text, start, end) or _PHOTO_LABEL.search(text, start, end):
            yield _cut(match)
        if match := _SITE_AFTER_COMMA.search(text, start, end):
            before = _words(text, start, match.start())
            if _SIGNS.isdisjoint(before) and _OPENING.isdisjoint(before[-1:]):
                yield match.start()
        yield from _loose(text, start, end)
    if _has_one(_CREDIT_MARKS, tail):
        match = _CREDIT.search(text, start, end)
        if match and is_credit(match) and not _is_lettered(match):
            yield _cut(match)
    if tail.endswith((")", "]")):
        match = _BRACKETED_CREDIT.search(text, start, end)
        if match and is_credit(match) and not _is_lettered(match):
            yield match.start()
        match = _BRACKETED_AGENCY.search(text, start, end)
        if match and is_agency_credit(match.group("makers")):
            yield match.start()


def _has_one(marks: Sequence[str], lowered: str) -> bool:
    for mark in marks:  # noqa: SIM110  any() takes twice as long
        if mark in lowered:
            return True
    return False


def _is_lettered(match: re.Match[str]) -> bool:
    """Return whether a "(c)" follows "(a)" or "(b)" in an enumeration."""
    before = max(0, match.start() - _LETTERED_CHARS)
    return "(c)" in match.group().lower() and _LETTERED.search(match.string, before, match.start()) is not None


def _loose(text: str, start: int, end: int) -> Iterator[int]:
    """Yield the position of a label without a separator, if the text before it is long enough."""
    match = _LOOSE_LABEL.search(text, start, end) or _LOOSE_CREDIT.search(text, start, end)
    if match is None:
        return
    before = _words(text, start, match.start())
    speaks_of_trade = not _TRADE_VERBS.isdisjoint(before) or len(_TRADE.intersection(before)) >= _FEWEST_TRADE_WORDS
    if len(before) < _FEWEST_WORDS_BEFORE or before[-1] in _BINDING or speaks_of_trade:
        return
    is_plural = bool(match.groupdict().get("plural"))
    if not (is_plural and not _BINDING_PLURALS.isdisjoint(before[-2:])):
        yield match.start()


def _words(text: str, start: int, end: int) -> list[str]:
    return [word.strip(_AROUND_WORDS).casefold() for word in _WORD.findall(text, start, end)]


def _cut(match: re.Match[str]) -> int:
    """Return the end of the remaining text; full stops, question and exclamation marks stay."""
    return match.start() + (match.group()[:1] in (".", "!", "?"))


# CC3M has "person" for every name, and some agencies are spelt in small letters.
_SMALL_NAMES: Final = frozenset(("person", "dpa", "afp", "ap", "epa", "ansa", "efe", "lusa", "me"))
_PARTICLE_WORDS: Final = """
and und et e y i de di da do dos das del della dei van von der den ter la le el al bin ibn für pour per for the of via
"""
_PARTICLES: Final = frozenset(_PARTICLE_WORDS.split())
_ARTICLES: Final = frozenset(
    ("a", "an", "un", "una", "uno", "une", "ein", "eine", "um", "uma", "il", "lo", "gli", "the")
)
_MAX_NAME_WORDS = 8
_NAME_WORD = re.compile(r"[^\s/,|()]+")
# Number of the image at an agency: ", Bild 183-1990", ", LC-USZ62-13459".
_PICTURE_NUMBER: Final = r", (?:(?:bild|image|photo|foto|nr\.?|no\.?) )?#?(?=[\w.-]{0,39}\d)[a-z\d][\w.-]{0,39}"
_is_agency = re.compile(rf"(?:{AGENCY}|{_NEWS_AGENCY})(?:{_PICTURE_NUMBER})?", re.IGNORECASE).fullmatch
_BETWEEN_MAKERS = re.compile(r" ?[/|©] ?| via ", re.IGNORECASE)


def is_credit(match: re.Match[str]) -> bool:
    """Return whether a match of one of the openings above and a group `name` names the maker of the image."""
    name = match.group("name")
    if match.group("picture") or match.group("c"):
        return is_agency_credit(name)
    return is_name(name)


def is_agency_credit(text: str) -> bool:
    """Return whether a text is an agency, at most with names: "dpa", "Art Wolfe/Getty Images"."""
    makers = [maker for maker in _BETWEEN_MAKERS.split(text.strip(" .")) if maker]
    agencies = [maker for maker in makers if _is_agency(maker)]
    return bool(agencies) and all(maker in agencies or is_name(maker) for maker in makers)


def is_name(text: str) -> bool:
    """Return whether a text reads as names of people and agencies: up to eight words, each with a capital or known.

    "John Smith/AFP", "dpa" and "person" are names; "a cat on a roof", "they run", "犬" and "" are not.
    """
    words: list[str] = []
    for match in _NAME_WORD.finditer(text):
        words.append(match.group().strip(".-–—&©"))
        if len(words) > _MAX_NAME_WORDS:
            return False
    words = [word for word in words if word]
    if not words or words[0].casefold() in _ARTICLES:
        return False
    named = [word[0].isupper() or word in _SMALL_NAMES or "." in word for word in words]
    return any(named) and all(
        own or word in _PARTICLES or word[0].isdigit() for own, word in zip(named, words, strict=True)
    )
