"""German captions of scenes, with agreement of gender, number and case in articles, adjectives and nouns."""

from data_catalog.sample.scene import Group, Scene

AND = "und"
CASES: tuple[str, ...] = ("nominative", "accusative", "dative")
# Shape -> gender, singular, dative singular, plural, dative plural; the accusative equals the nominative.
_NOUNS = {
    "circle": ("m", "Kreis", "Kreis", "Kreise", "Kreisen"),
    "square": ("n", "Quadrat", "Quadrat", "Quadrate", "Quadraten"),
    "triangle": ("n", "Dreieck", "Dreieck", "Dreiecke", "Dreiecken"),
    "star": ("m", "Stern", "Stern", "Sterne", "Sternen"),
    "heart": ("n", "Herz", "Herzen", "Herzen", "Herzen"),
    "diamond": ("f", "Raute", "Raute", "Rauten", "Rauten"),
    "rectangle": ("n", "Rechteck", "Rechteck", "Rechtecke", "Rechtecken"),
    "cross": ("n", "Kreuz", "Kreuz", "Kreuze", "Kreuzen"),
    "moon": ("m", "Mond", "Mond", "Monde", "Monden"),
    "ring": ("m", "Ring", "Ring", "Ringe", "Ringen"),
    "hexagon": ("n", "Sechseck", "Sechseck", "Sechsecke", "Sechsecken"),
    "ellipse": ("f", "Ellipse", "Ellipse", "Ellipsen", "Ellipsen"),
    "arrow": ("m", "Pfeil", "Pfeil", "Pfeile", "Pfeilen"),
    "shield": ("m", "Schild", "Schild", "Schilde", "Schilden"),
}
_ADJECTIVES = {
    "red": "rot",
    "yellow": "gelb",
    "green": "grün",
    "blue": "blau",
    "orange": "orangefarben",
    "purple": "lila",
    "pink": "rosa",
    "black": "schwarz",
    "white": "weiß",
    "brown": "braun",
    "grey": "grau",
    "light blue": "hellblau",
    "small": "klein",
    "large": "groß",
}
_INVARIABLE = frozenset({"lila", "rosa"})
_NUMBERS = ("", "", "zwei", "drei", "vier")
# Case -> gender, or "p" for the plural of all genders -> article, ending of the adjectives after it.
_INDEFINITE = {
    "nominative": {"m": ("ein", "er"), "f": ("eine", "e"), "n": ("ein", "es"), "p": ("", "e")},
    "accusative": {"m": ("einen", "en"), "f": ("eine", "e"), "n": ("ein", "es"), "p": ("", "e")},
    "dative": {"m": ("einem", "en"), "f": ("einer", "en"), "n": ("einem", "en"), "p": ("", "en")},
}
_DEFINITE = {
    "nominative": {"m": ("der", "e"), "f": ("die", "e"), "n": ("das", "e"), "p": ("die", "en")},
    "accusative": {"m": ("den", "en"), "f": ("die", "e"), "n": ("das", "e"), "p": ("die", "en")},
    "dative": {"m": ("dem", "en"), "f": ("der", "en"), "n": ("dem", "en"), "p": ("den", "en")},
}
# All take the dative.
RELATIONS = {
    "above": ("über", "über"),
    "below": ("unter", "unter"),
    "left": ("links von", "links neben"),
    "right": ("rechts von", "rechts neben"),
    "next": ("neben", "neben"),
    "between": ("zwischen", "zwischen"),
}
FURTHER = {"above": "weiter unten", "below": "weiter oben", "left": "weiter rechts", "right": "weiter links"}
# {nominative}, {accusative} and {dative} are the main phrase in that case.
TEMPLATES = {
    "plain": "{nominative}",
    "background": "{nominative} {where}",
    "picture": "ein Bild von {dative}",
    "drawing": "eine Zeichnung von {dative} {where}",
    "image_with": "ein Bild mit {dative}",
    "there": "es gibt {accusative}",
    "there_background": "{where_on_one} gibt es {accusative}",
    "background_and": "der Hintergrund ist {background} und es gibt {accusative}",
    "background_with": "der Hintergrund ist {background}, mit {dative}",
    "seen": "man sieht {accusative} {where_on_one}",
    "drawn": "{nominative}, gezeichnet {where}",
    "only": "nur {nominative}",
    "predicate": "{colourless} {be} {colour} und der Hintergrund ist {background}",
    "definite": "{definite} {be} {relative_to_the}",
    "inverted": "{relative_to} {be} {first}",
    "further": "{first} und, {further}, {second}",
}


def words(scene: Scene, synonym: int) -> dict[str, str]:
    """Return the words of templates that agree with the scene."""
    first = scene.groups[0]
    return {
        "be": "ist" if first.count == 1 else "sind",
        "background": _ADJECTIVES[scene.background],
        "where": f"auf {_inflected(scene.background, 'em')} Hintergrund",
        "where_on_one": f"auf einem {_inflected(scene.background, 'en')} Hintergrund",
        "colour": _ADJECTIVES.get(first.colour, ""),
    }


def relative(words: str, definite: str) -> str:
    """Join a relation and definite noun phrases: "über dem blauen Quadrat", "links vom roten Stern"."""
    return f"{words} {definite}".replace("von dem ", "vom ")


def phrase(group: Group, case: str, synonym: int, *, definite: bool = False) -> str:
    """Return a noun phrase with article or number: "ein kleiner roter Stern", "den zwei roten Sternen"."""
    gender, *nouns = _NOUNS[group.shape]
    plural = group.count > 1
    article, ending = (_DEFINITE if definite else _INDEFINITE)[case]["p" if plural else gender]
    found = (
        article,
        _NUMBERS[group.count],
        _inflected(group.size, ending) if group.size else "",
        _inflected(group.colour, ending) if group.colour else "",
        nouns[2 * plural + (case == "dative")],
    )
    return " ".join(word for word in found if word)


def _inflected(adjective: str, ending: str) -> str:
    """Return the inflected form of an adjective, given in English: "roten", "lila"."""
    stem = _ADJECTIVES[adjective]
    return stem if stem in _INVARIABLE else stem + ending
