"""Texts that are a date and nothing else, in seven languages.

| text | |
|---|---|
| 12 maggio 1998 | a date |
| Summer 2010 | a date, and so is "Estate 2010" |
| Mars 2020 | a date: the month, not the planet |
| im Winter 1944 | a date |
| Summer, 2010 | a date, and so are "Spring/Summer 2015" and "l'été 1998" |
| in the summer of 1944 | a date, and so are "estate del 1998" and "verano de 2010" |
| The Spring 1896 | none: with an article it may be a work's name |
| la Primavera, 1482 | none |
| Primavera, 1882 | none: after a comma only a year from 1900 on, before which it is likelier a painting |
| Estate 5 | none |
| maggio | none: a name of a month or a season alone has no number |
"""

import re
from typing import Final

_MONTHS: Final = """
january february march april may june july august september october november december
jan feb mar apr jun jul aug sep sept oct nov dec
gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre
gen mag giu lug ago sett ott dic
janvier février fevrier mars avril mai juin juillet août aout septembre octobre novembre décembre decembre
janv févr avr juil déc
januar jänner februar märz april juni juli oktober dezember jän mär okt dez
enero febrero abril mayo junio julio septiembre setiembre octubre noviembre diciembre ene abr
janeiro fevereiro março maio junho julho setembro outubro novembro dezembro fev
gener febrer març abril maig juny juliol agost setembre octubre novembre desembre
"""
_DAYS: Final = """
monday tuesday wednesday thursday friday saturday sunday
lunedì martedì mercoledì giovedì venerdì sabato domenica
lundi mardi mercredi jeudi vendredi samedi dimanche
montag dienstag mittwoch donnerstag freitag samstag sonntag
lunes martes miércoles jueves viernes sábado domingo
segunda terça quarta quinta sexta feira
dilluns dimarts dimecres dijous divendres dissabte diumenge
"""
_SEASONS: Final = """
spring summer autumn fall winter primavera estate autunno inverno printemps été automne hiver
frühling frühjahr sommer herbst verano otoño invierno verão outono estiu tardor hivern
"""
_AROUND: Final = """
the of in on at c ca circa around about early late mid year years century am pm utc cest cet
il lo l del dell nel nell di anno anni alle ore secolo primi fine inizio
le la du de en vers année années siècle à
der den dem im um am uhr jahr jahre jahrhundert
el los las año años siglo hacia a
o do da em ano anos século cerca
any anys segle cap
st nd rd th er bc ad ac dc a v chr
"""
_ARTICLES: Final = frozenset(("the", "il", "lo", "la", "l", "le", "der", "die", "das", "el", "los", "las", "o", "a"))
_NAMED: Final = frozenset((_MONTHS + _DAYS + _SEASONS).split())
_FILLING: Final = frozenset(_AROUND.split())
_WORD = re.compile(r"\d+|[^\W\d_]+")
_DIGIT = re.compile(r"\d")
_YEAR = re.compile(r"1\d{3}|20\d{2}")
_SEASON: Final = rf"\b(?:{'|'.join(_SEASONS.split())})\b"
# What follows the season can be no figure other than a year.
_YEAR_FROM_1800: Final = r"(?:1[89]\d\d|20\d\d|2100)\b"
_YEAR_FROM_1900: Final = r"(?:19\d\d|20\d\d|2100)\b"
_find_season = re.compile(_SEASON).search
# "Summer 2010", "Spring/Summer 2015"; "summer, 2010", "Summer - 2010".
_SEASON_OF_YEAR = re.compile(
    rf"{_SEASON}(?: ?[/&–-] ?{_SEASON})?(?: {_YEAR_FROM_1800}|(?:, ?| [–-] ){_YEAR_FROM_1900})"
)
# "The summer of 1944", "l'estate del 1998"; "l'été 1998", which French and Italian say of any summer.
_SEASON_WITH_ARTICLE = re.compile(
    rf"{_SEASON} (?:of|del|de|di|do) {_YEAR_FROM_1800}|\bl['’]{_SEASON} {_YEAR_FROM_1800}"
)
_MAX_CHARS = 80


def is_date(text: str) -> bool:
    """Whether a text is wholly a date, a year or a season of a year: "12 maggio 1998", "in 1998", "Summer 2010".

    It holds a number and a month, a weekday, a season with its year or, from 1000 to 2099, a year: "the - set of 4" is
    none. A season has its year behind it, an article only as the table has it: "The Spring 1896" may be a painting.
    """
    if len(text) > _MAX_CHARS or not _DIGIT.search(text):
        return False
    folded = text.casefold()
    words = _WORD.findall(folded)
    if not all(word.isdigit() or word in _NAMED or word in _FILLING for word in words):
        return False
    if _find_season(folded) and not _seasons_have_years(folded, words):
        return False
    has_number = any(map(str.isdigit, words))
    return has_number and any(word in _NAMED or _YEAR.fullmatch(word) for word in words)


def _seasons_have_years(folded: str, words: list[str]) -> bool:
    without = _SEASON_WITH_ARTICLE.sub("", folded)
    if _ARTICLES.isdisjoint(words):
        without = _SEASON_OF_YEAR.sub("", without)
    return not _find_season(without)
