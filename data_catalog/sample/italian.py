"""Italian captions of scenes, with agreement of gender and number in articles, adjectives, participles and verbs.

Of `WORDS`, nouns have singular, plural and gender; adjectives masculine and feminine singular, then plural. A final "a"
or "di" of a relation contracts with a definite article.
"""

from data_catalog.sample.scene import Group, Scene, json_of_room

WORDS = json_of_room("words.json")["it"]
_CONTRACTIONS = {"a": "al", "di": "del"}


def words(scene: Scene, synonym: int) -> dict[str, str]:
    """Return the words of templates that agree with the scene."""
    first = scene.groups[0]
    gender, one = _gender(first), first.count == 1
    are_one = one and scene.relation != "list"
    # The participle of several nouns is masculine if one of them is.
    masculine = "m" in map(_gender, scene.groups)
    only = f"{'una' if gender == 'f' else 'un'} {agree('only', gender, plural=False)}" if one else "solo"
    return {
        "be": "è" if one else "sono",
        "there": "c'è" if are_one else "ci sono",
        "see": "vede" if are_one else "vedono",
        "drawn": agree("drawn", "m" if masculine else "f", plural=len(scene.groups) > 1 or not one),
        "background": agree(scene.background, "m", plural=False),
        "colour": agree(first.colour, gender, plural=not one) if first.colour else "",
        "only": f"{only} {_bare(first) if one else phrase(first, synonym)}",  # "una sola stella rossa"
    }


def agree(adjective: str, gender: str, *, plural: bool) -> str:
    """Return the form of an adjective, given in English, for a gender ("m" or "f") and number."""
    form: str = WORDS["adjectives"][adjective][2 * plural + (gender == "f")]
    return form


def relative(words: str, definite: str) -> str:
    """Join words and a definite noun phrase: a + il -> al, di + l'anello -> dell'anello, a + le -> alle."""
    start, _, preposition = words.rpartition(" ")
    root = _CONTRACTIONS.get(preposition)  # "al" or "del"
    if root is None:
        return f"{words} {definite}"
    for article, ending in (("il ", " "), ("lo ", "lo "), ("la ", "la "), ("l'", "l'"), ("le ", "le ")):
        if definite.startswith(article):
            return f"{start} {root}{ending}{definite[len(article) :]}".lstrip()
    return f"{start} {root[:-1]}{definite}".lstrip()  # "i ..." -> "ai ...", "dei ..."


def phrase(group: Group, synonym: int, *, definite: bool = False) -> str:
    """Return a noun phrase: "una piccola stella rossa", "due stelle rosse", "l'anello", "le due stelle rosse"."""
    bare, is_feminine = _bare(group), _gender(group) == "f"
    if group.count > 1:
        counted = f"{WORDS['numbers'][group.count]} {bare}"
        return f"{'le' if is_feminine else 'i'} {counted}" if definite else counted
    if bare[0] in "aeiou" and (definite or is_feminine):
        return f"l'{bare}" if definite else f"un'{bare}"
    takes_lo = bare[0] == "z" or (bare[0] == "s" and bare[1] not in "aeiou")  # "lo" and "uno", if it is masculine
    articles = ("una", "la") if is_feminine else ("uno", "lo") if takes_lo else ("un", "il")
    return f"{articles[definite]} {bare}"


def _gender(group: Group) -> str:
    gender: str = WORDS["nouns"][group.shape][2]
    return gender


def _bare(group: Group) -> str:
    """Return noun and adjectives without article and number: "piccole stelle rosse", "stelle"."""
    plural, gender = group.count > 1, _gender(group)
    words = (
        agree(group.size, gender, plural=plural) if group.size else "",
        WORDS["nouns"][group.shape][plural],
        agree(group.colour, gender, plural=plural) if group.colour else "",
    )
    return " ".join(word for word in words if word)
