"""German captions of scenes: gender, number and case agree in articles, adjectives and nouns."""

from typing import Literal

from data_catalog.sample.scene import Group, Scene

Case = Literal["nominative", "accusative", "dative"]

_CASES: tuple[Case, ...] = ("nominative", "accusative", "dative")
# Shape -> gender, singular, dative singular, plural, dative plural; the accusative is as the nominative.
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
# Case -> gender, or "p" for the plural of all -> article, ending of the adjectives behind it.
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
# All with the dative.
_RELATIONS = {
    "above": ("über", "über"),
    "below": ("unter", "unter"),
    "left": ("links von", "links neben"),
    "right": ("rechts von", "rechts neben"),
    "next": ("neben", "neben"),
    "between": ("zwischen", "zwischen"),
}
_FURTHER = {"above": "weiter unten", "below": "weiter oben", "left": "weiter rechts", "right": "weiter links"}


def render(scene: Scene, template: str, synonym: int) -> str:
    """The caption of `scene` by a template that fits it, without a capital for its first word and a full stop."""
    first = scene.groups[0]
    nominative, accusative, dative = (_core(scene, case, synonym) for case in _CASES)
    be = "ist" if first.count == 1 else "sind"
    background = _ADJECTIVES[scene.background]
    on_background = f"auf {_inflected(scene.background, 'em')} Hintergrund"
    on_a_background = f"auf einem {_inflected(scene.background, 'en')} Hintergrund"
    match template:
        case "plain":
            return nominative
        case "background":
            return f"{nominative} {on_background}"
        case "picture":
            return f"ein Bild von {dative}"
        case "drawing":
            return f"eine Zeichnung von {dative} {on_background}"
        case "image_with":
            return f"ein Bild mit {dative}"
        case "there":
            return f"es gibt {accusative}"
        case "there_background":
            return f"{on_a_background} gibt es {accusative}"
        case "background_and":
            return f"der Hintergrund ist {background} und es gibt {accusative}"
        case "background_with":
            return f"der Hintergrund ist {background}, mit {dative}"
        case "seen":
            return f"man sieht {accusative} {on_a_background}"
        case "drawn":
            return f"{nominative}, gezeichnet {on_background}"
        case "only":
            return f"nur {nominative}"
        case "predicate":
            subject = _noun_phrase(first, "nominative", definite=True, colour=False)
            return f"{subject} {be} {_ADJECTIVES[first.colour]} und der Hintergrund ist {background}"
        case "definite":
            subject = _noun_phrase(first, "nominative", definite=True)
            return f"{subject} {be} {_relative_to(scene, synonym, definite=True)}"
        case "inverted":
            return f"{_relative_to(scene, synonym)} {be} {_noun_phrase(first, 'nominative')}"
        case "further":
            other = _noun_phrase(scene.groups[1], "nominative")
            return f"{_noun_phrase(first, 'nominative')} und, {_FURTHER[scene.relation]}, {other}"
    raise KeyError(template)


def _core(scene: Scene, case: Case, synonym: int) -> str:
    """All groups of the scene, in the case that stands before them: "einen roten Stern neben einem Ring"."""
    phrases = [_noun_phrase(group, case) for group in scene.groups]
    match scene.relation:
        case "":
            return phrases[0]
        case "list":
            return f"{phrases[0]}, {phrases[1]} und {phrases[2]}"
    return f"{phrases[0]} {_relative_to(scene, synonym)}"


def _relative_to(scene: Scene, synonym: int, *, definite: bool = False) -> str:
    """The relation and what stands behind it: "über einem blauen Quadrat", "links vom roten Stern"."""
    others = " und ".join(_noun_phrase(group, "dative", definite=definite) for group in scene.groups[1:])
    return f"{_RELATIONS[scene.relation][synonym]} {others}".replace("von dem ", "vom ")


def _noun_phrase(group: Group, case: Case, *, definite: bool = False, colour: bool = True) -> str:
    """Article or number, adjectives and noun: "ein kleiner roter Stern", "den zwei roten Sternen"."""
    gender, *nouns = _NOUNS[group.shape]
    plural = group.count > 1
    article, ending = (_DEFINITE if definite else _INDEFINITE)[case]["p" if plural else gender]
    words = (
        article,
        _NUMBERS[group.count],
        _inflected(group.size, ending) if group.size else "",
        _inflected(group.colour, ending) if colour else "",
        nouns[2 * plural + (case == "dative")],
    )
    return " ".join(word for word in words if word)


def _inflected(adjective: str, ending: str) -> str:
    """An adjective, named in English, before a noun: "roten", "lila"."""
    stem = _ADJECTIVES[adjective]
    return stem if stem in _INVARIABLE else stem + ending
