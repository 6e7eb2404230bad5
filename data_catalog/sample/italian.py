"""Italian captions of scenes, with agreement of gender and number in articles, adjectives, participles and verbs."""

from dataclasses import replace

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
# Relation -> words before the noun phrase; a final "a" or "di" contracts with a definite article.
_RELATIONS = {
    "above": ("sopra", "sopra"),
    "below": ("sotto", "sotto"),
    "left": ("a sinistra di", "a sinistra di"),
    "right": ("a destra di", "a destra di"),
    "next": ("accanto a", "vicino a"),
    "between": ("tra", "tra"),
}
_FURTHER = {"above": "più in basso", "below": "più in alto", "left": "più a destra", "right": "più a sinistra"}
_CONTRACTIONS = {"a": "al", "di": "del"}
_TEMPLATES = {
    "plain": "{core}",
    "background": "{core} su sfondo {background}",
    "picture": "una figura con {core}",
    "drawing": "un disegno di {core} su sfondo {background}",
    "image_with": "un'immagine con {core}",
    "there": "{there} {core}",
    "there_background": "su uno sfondo {background} {there} {core}",
    "background_and": "lo sfondo è {background} e {there} {core}",
    "background_with": "lo sfondo è {background}, con {core}",
    "seen": "si {see} {core} su uno sfondo {background}",
    "drawn": "{core}, {drawn} su sfondo {background}",
    "only": "{only}",
    "predicate": "{colourless} {be} {colour} e lo sfondo è {background}",
    "definite": "{definite} {be} {relative_to_the}",
    "inverted": "{relative_to} {there} {first}",
    "further": "{first} e, {further}, {second}",
}


def render(scene: Scene, template: str, synonym: int) -> str:
    """Return the caption of `scene` by a template that fits it, in lower case, without a full stop."""
    first, relation = scene.groups[0], scene.relation
    phrases = [_noun_phrase(group) for group in scene.groups]
    gender, one = _NOUNS[first.shape][2], first.count == 1
    are_one = one and relation != "list"
    # The participle of several nouns is masculine if one of them is.
    genders = {_NOUNS[group.shape][2] for group in scene.groups}
    words = {
        "core": phrases[0],
        "be": "è" if one else "sono",
        "there": "c'è" if are_one else "ci sono",
        "see": "vede" if are_one else "vedono",
        "drawn": agree("drawn", "f" if genders == {"f"} else "m", plural=len(phrases) > 1 or not one),
        "background": agree(scene.background, "m", plural=False),
        "first": phrases[0],
        "second": phrases[-1],
        "further": _FURTHER.get(relation, ""),
        "colour": agree(first.colour, gender, plural=not one) if first.colour else "",
        "definite": _definite(first),
        "colourless": _definite(replace(first, colour="")),
        "only": f"solo {phrases[0]}",
    }
    if one:  # "una sola stella rossa"
        words["only"] = f"{'una' if gender == 'f' else 'un'} {agree('only', gender, plural=False)} {_bare(first)}"
    if relation == "list":
        words["core"] = f"{phrases[0]}, {phrases[1]} e {phrases[2]}"
    elif relation:
        prefix = _RELATIONS[relation][synonym]
        words["relative_to"] = f"{prefix} {' e '.join(phrases[1:])}"
        words["relative_to_the"] = _contract(prefix, " e ".join(_definite(group) for group in scene.groups[1:]))
        words["core"] = f"{phrases[0]} {words['relative_to']}"
    return _TEMPLATES[template].format(**words)


def agree(adjective: str, gender: str, *, plural: bool) -> str:
    """Return the form of an adjective, given in English, for a gender ("m" or "f") and number."""
    return _ADJECTIVES[adjective][2 * plural + (gender == "f")]


def _contract(words: str, definite: str) -> str:
    """Join words and a definite noun phrase: a + il -> al, di + l'anello -> dell'anello, a + le -> alle."""
    start, _, preposition = words.rpartition(" ")
    root = _CONTRACTIONS.get(preposition)  # "al" or "del"
    if root is None:
        return f"{words} {definite}"
    for article, ending in (("il ", " "), ("lo ", "lo "), ("la ", "la "), ("l'", "l'"), ("le ", "le ")):
        if definite.startswith(article):
            return f"{start} {root}{ending}{definite[len(article) :]}".lstrip()
    return f"{start} {root[:-1]}{definite}".lstrip()  # "i ..." -> "ai ...", "dei ..."


def _noun_phrase(group: Group) -> str:
    """Return an indefinite noun phrase: "una piccola stella rossa", "due stelle rosse"."""
    bare = _bare(group)
    if group.count > 1:
        return f"{_NUMBERS[group.count]} {bare}"
    if _NOUNS[group.shape][2] == "f":
        return f"un'{bare}" if bare[0] in "aeiou" else f"una {bare}"
    return f"uno {bare}" if _takes_lo(bare) else f"un {bare}"


def _definite(group: Group) -> str:
    """Return a definite noun phrase: "la stella rossa", "l'anello", "le due stelle rosse"."""
    bare = _bare(group)
    feminine = _NOUNS[group.shape][2] == "f"
    if group.count > 1:
        return f"{'le' if feminine else 'i'} {_NUMBERS[group.count]} {bare}"
    if bare[0] in "aeiou":
        return f"l'{bare}"
    return f"{'la' if feminine else 'lo' if _takes_lo(bare) else 'il'} {bare}"


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


def _takes_lo(word: str) -> bool:
    """Return whether a masculine word takes "lo" and "uno": it starts with z, or with s and a consonant."""
    return word[0] == "z" or (word[0] == "s" and word[1] not in "aeiou")
