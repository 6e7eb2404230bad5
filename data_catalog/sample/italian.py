"""Italian captions of scenes, with agreement of gender and number in articles, adjectives, participles and verbs."""

from data_catalog.sample.scene import Group, Scene

# Shape -> singular, plural, gender.
_NOUNS = {
    "circle": ("cerchio", "cerchi", "m"),
    "square": ("quadrato", "quadrati", "m"),
    "triangle": ("triangolo", "triangoli", "m"),
    "star": ("stella", "stelle", "f"),
    "heart": ("cuore", "cuori", "m"),
    "diamond": ("rombo", "rombi", "m"),
    "rectangle": ("rettangolo", "rettangoli", "m"),
    "cross": ("croce", "croci", "f"),
    "moon": ("luna", "lune", "f"),
    "ring": ("anello", "anelli", "m"),
    "hexagon": ("esagono", "esagoni", "m"),
    "ellipse": ("ellisse", "ellissi", "f"),
    "arrow": ("freccia", "frecce", "f"),
    "shield": ("scudo", "scudi", "m"),
}
# Adjective -> masculine and feminine singular, masculine and feminine plural.
_ADJECTIVES = {
    "red": ("rosso", "rossa", "rossi", "rosse"),
    "yellow": ("giallo", "gialla", "gialli", "gialle"),
    "green": ("verde", "verde", "verdi", "verdi"),
    "blue": ("blu", "blu", "blu", "blu"),
    "orange": ("arancione", "arancione", "arancioni", "arancioni"),
    "purple": ("viola", "viola", "viola", "viola"),
    "pink": ("rosa", "rosa", "rosa", "rosa"),
    "black": ("nero", "nera", "neri", "nere"),
    "white": ("bianco", "bianca", "bianchi", "bianche"),
    "brown": ("marrone", "marrone", "marroni", "marroni"),
    "grey": ("grigio", "grigia", "grigi", "grigie"),
    "light blue": ("azzurro", "azzurra", "azzurri", "azzurre"),
    "small": ("piccolo", "piccola", "piccoli", "piccole"),
    "large": ("grande", "grande", "grandi", "grandi"),
    "only": ("solo", "sola", "soli", "sole"),
    "drawn": ("disegnato", "disegnata", "disegnati", "disegnate"),
}
_NUMBERS = ("", "", "due", "tre", "quattro")
AND = "e"
CASES: tuple[str, ...] = ("nominative",)
# Relation -> words before the noun phrase; a final "a" or "di" contracts with a definite article.
RELATIONS = {
    "above": ("sopra", "sopra"),
    "below": ("sotto", "sotto"),
    "left": ("a sinistra di", "a sinistra di"),
    "right": ("a destra di", "a destra di"),
    "next": ("accanto a", "vicino a"),
    "between": ("tra", "tra"),
}
FURTHER = {"above": "più in basso", "below": "più in alto", "left": "più a destra", "right": "più a sinistra"}
_CONTRACTIONS = {"a": "al", "di": "del"}
TEMPLATES = {
    "plain": "{nominative}",
    "background": "{nominative} su sfondo {background}",
    "picture": "una figura con {nominative}",
    "drawing": "un disegno di {nominative} su sfondo {background}",
    "image_with": "un'immagine con {nominative}",
    "there": "{there} {nominative}",
    "there_background": "su uno sfondo {background} {there} {nominative}",
    "background_and": "lo sfondo è {background} e {there} {nominative}",
    "background_with": "lo sfondo è {background}, con {nominative}",
    "seen": "si {see} {nominative} su uno sfondo {background}",
    "drawn": "{nominative}, {drawn} su sfondo {background}",
    "only": "{only}",
    "predicate": "{colourless} {be} {colour} e lo sfondo è {background}",
    "definite": "{definite} {be} {relative_to_the}",
    "inverted": "{relative_to} {there} {first}",
    "further": "{first} e, {further}, {second}",
}


def words(scene: Scene, synonym: int) -> dict[str, str]:
    """Return the words of templates that agree with the scene."""
    first = scene.groups[0]
    gender, one = _NOUNS[first.shape][2], first.count == 1
    are_one = one and scene.relation != "list"
    # The participle of several nouns is masculine if one of them is.
    masculine = "m" in {_NOUNS[group.shape][2] for group in scene.groups}
    only = f"{'una' if gender == 'f' else 'un'} {agree('only', gender, plural=False)}" if one else "solo"
    return {
        "be": "è" if one else "sono",
        "there": "c'è" if are_one else "ci sono",
        "see": "vede" if are_one else "vedono",
        "drawn": agree("drawn", "m" if masculine else "f", plural=len(scene.groups) > 1 or not one),
        "background": agree(scene.background, "m", plural=False),
        "colour": agree(first.colour, gender, plural=not one) if first.colour else "",
        "only": f"{only} {_bare(first) if one else phrase(first, 'nominative', synonym)}",  # "una sola stella rossa"
    }


def agree(adjective: str, gender: str, *, plural: bool) -> str:
    """Return the form of an adjective, given in English, for a gender ("m" or "f") and number."""
    return _ADJECTIVES[adjective][2 * plural + (gender == "f")]


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


def phrase(group: Group, case: str, synonym: int, *, definite: bool = False) -> str:
    """Return a noun phrase: "una piccola stella rossa", "due stelle rosse", "l'anello", "le due stelle rosse"."""
    bare, is_feminine = _bare(group), _NOUNS[group.shape][2] == "f"
    if group.count > 1:
        counted = f"{_NUMBERS[group.count]} {bare}"
        return f"{'le' if is_feminine else 'i'} {counted}" if definite else counted
    if bare[0] in "aeiou" and (definite or is_feminine):
        return f"l'{bare}" if definite else f"un'{bare}"
    takes_lo = bare[0] == "z" or (bare[0] == "s" and bare[1] not in "aeiou")  # "lo" and "uno", if it is masculine
    articles = ("una", "la") if is_feminine else ("uno", "lo") if takes_lo else ("un", "il")
    return f"{articles[definite]} {bare}"


def _bare(group: Group) -> str:
    """Return noun and adjectives without article and number: "piccole stelle rosse", "stelle"."""
    singular, plural_form, gender = _NOUNS[group.shape]
    plural = group.count > 1
    words = (
        agree(group.size, gender, plural=plural) if group.size else "",
        plural_form if plural else singular,
        agree(group.colour, gender, plural=plural) if group.colour else "",
    )
    return " ".join(word for word in words if word)
