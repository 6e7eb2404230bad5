"""Italian captions of scenes: gender and number agree in articles, adjectives, participles and verbs."""

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
# Relation -> words before the noun phrase; the last word melts with a definite article where it is "a" or "di".
_RELATIONS = {
    "above": ("sopra", "sopra"),
    "below": ("sotto", "sotto"),
    "left": ("a sinistra di", "a sinistra di"),
    "right": ("a destra di", "a destra di"),
    "next": ("accanto a", "vicino a"),
    "between": ("tra", "tra"),
}
_FURTHER = {"above": "più in basso", "below": "più in alto", "left": "più a destra", "right": "più a sinistra"}
_MELTED = {"a": "al", "di": "del"}


def render(scene: Scene, template: str, synonym: int) -> str:
    """The caption of `scene` by a template that fits it, in lower case and without a full stop."""
    first = scene.groups[0]
    core = _core(scene, synonym)
    there = "c'è" if _singular(scene) else "ci sono"
    background = agree(scene.background, "m", plural=False)
    match template:
        case "plain":
            return core
        case "background":
            return f"{core} su sfondo {background}"
        case "picture":
            return f"una figura con {core}"
        case "drawing":
            return f"un disegno di {core} su sfondo {background}"
        case "image_with":
            return f"un'immagine con {core}"
        case "there":
            return f"{there} {core}"
        case "there_background":
            return f"su uno sfondo {background} {there} {core}"
        case "background_and":
            return f"lo sfondo è {background} e {there} {core}"
        case "background_with":
            return f"lo sfondo è {background}, con {core}"
        case "seen":
            return f"si {'vede' if _singular(scene) else 'vedono'} {core} su uno sfondo {background}"
        case "drawn":
            return f"{core}, {_drawn(scene)} su sfondo {background}"
        case "only":
            return _counted(first)
        case "predicate":
            be = "è" if first.count == 1 else "sono"
            colour = agree(first.colour, _NOUNS[first.shape][2], plural=first.count > 1)
            return f"{_definite(first, colour=False)} {be} {colour} e lo sfondo è {background}"
        case "definite":
            be = "è" if first.count == 1 else "sono"
            return f"{_definite(first)} {be} {_relative_to(scene, synonym, definite=True)}"
        case "inverted":
            return f"{_relative_to(scene, synonym, definite=False)} {there} {_noun_phrase(first)}"
        case "further":
            return f"{_noun_phrase(first)} e, {_FURTHER[scene.relation]}, {_noun_phrase(scene.groups[1])}"
    raise KeyError(template)


def agree(adjective: str, gender: str, *, plural: bool) -> str:
    """The form of an adjective, named in English, for a gender ("m" or "f") and number."""
    return _ADJECTIVES[adjective][2 * plural + (gender == "f")]


def _singular(scene: Scene) -> bool:
    return scene.groups[0].count == 1 and scene.relation != "list"


def _drawn(scene: Scene) -> str:
    """The participle for everything drawn: masculine plural as soon as one of several nouns is masculine."""
    genders = {_NOUNS[group.shape][2] for group in scene.groups}
    plural = len(scene.groups) > 1 or scene.groups[0].count > 1
    return agree("drawn", "f" if genders == {"f"} else "m", plural=plural)


def _core(scene: Scene, synonym: int) -> str:
    phrases = [_noun_phrase(group) for group in scene.groups]
    match scene.relation:
        case "":
            return phrases[0]
        case "list":
            return f"{phrases[0]}, {phrases[1]} e {phrases[2]}"
    return f"{phrases[0]} {_relative_to(scene, synonym, definite=False)}"


def _relative_to(scene: Scene, synonym: int, *, definite: bool) -> str:
    """The relation and what stands behind it: "sopra un quadrato blu", "a sinistra della stella rossa"."""
    words = _RELATIONS[scene.relation][synonym]
    if not definite:
        return f"{words} {' e '.join(_noun_phrase(group) for group in scene.groups[1:])}"
    *start, preposition = words.split()
    others = " e ".join(_definite(group) for group in scene.groups[1:])
    if preposition in _MELTED:
        return " ".join([*start, _melt(preposition, others)])
    return f"{words} {others}"


def _melt(preposition: str, definite: str) -> str:
    """Preposition and definite article in one word: a + il -> al, di + l'anello -> dell'anello, a + le -> alle."""
    root = _MELTED[preposition]  # "al" or "del"
    for article, ending in (("il ", " "), ("lo ", "lo "), ("la ", "la "), ("l'", "l'"), ("le ", "le ")):
        if definite.startswith(article):
            return root + ending + definite[len(article) :]
    return f"{root[:-1]}{definite}"  # "i ..." -> "ai ...", "dei ..."


def _noun_phrase(group: Group) -> str:
    """The indefinite noun phrase: "una piccola stella rossa", "due stelle rosse"."""
    bare = _bare(group)
    if group.count > 1:
        return f"{_NUMBERS[group.count]} {bare}"
    if _NOUNS[group.shape][2] == "f":
        return f"un'{bare}" if bare[0] in "aeiou" else f"una {bare}"
    return f"uno {bare}" if _takes_lo(bare) else f"un {bare}"


def _definite(group: Group, *, colour: bool = True) -> str:
    """The definite noun phrase: "la stella rossa", "l'anello", "le due stelle rosse"."""
    bare = _bare(group, colour=colour)
    feminine = _NOUNS[group.shape][2] == "f"
    if group.count > 1:
        return f"{'le' if feminine else 'i'} {_NUMBERS[group.count]} {bare}"
    if bare[0] in "aeiou":
        return f"l'{bare}"
    return f"{'la' if feminine else 'lo' if _takes_lo(bare) else 'il'} {bare}"


def _counted(group: Group) -> str:
    """The noun phrase with "only": "una sola stella rossa", "solo due stelle rosse"."""
    if group.count > 1:
        return f"solo {_noun_phrase(group)}"
    gender = _NOUNS[group.shape][2]
    return f"{'una' if gender == 'f' else 'un'} {agree('only', gender, plural=False)} {_bare(group)}"


def _bare(group: Group, *, colour: bool = True) -> str:
    """The noun with its adjectives, without article and number: "piccole stelle rosse"."""
    singular, plural_form, gender = _NOUNS[group.shape]
    plural = group.count > 1
    words = (
        agree(group.size, gender, plural=plural) if group.size else "",
        plural_form if plural else singular,
        agree(group.colour, gender, plural=plural) if colour else "",
    )
    return " ".join(word for word in words if word)


def _takes_lo(word: str) -> bool:
    """Whether a masculine word takes "lo" and "uno": before z and before s with a consonant."""
    return word[0] == "z" or (word[0] == "s" and word[1] not in "aeiou")
