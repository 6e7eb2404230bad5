"""German captions of scenes, with agreement of gender, number and case in articles, adjectives and nouns.

Of `WORDS`, nouns have gender, singular, dative singular, plural, dative plural; the accusative equals the nominative.
Articles go by case and gender, or "p" for the plural of all, with the ending of adjectives after them. Relations take
the dative.
"""

from data_catalog.sample.scene import Group, Scene, json_of_room

WORDS = json_of_room("words.json")["de"]
_INVARIABLE = frozenset({"lila", "rosa"})


def words(scene: Scene, synonym: int) -> dict[str, str]:
    """Return the words of templates that agree with the scene."""
    first = scene.groups[0]
    return {
        "be": "ist" if first.count == 1 else "sind",
        "background": WORDS["adjectives"][scene.background],
        "where": f"auf {_inflected(scene.background, 'em')} Hintergrund",
        "where_on_one": f"auf einem {_inflected(scene.background, 'en')} Hintergrund",
        "colour": WORDS["adjectives"].get(first.colour, ""),
    }


def relative(words: str, definite: str) -> str:
    """Join a relation and definite noun phrases: "über dem blauen Quadrat", "links vom roten Stern"."""
    return f"{words} {definite}".replace("von dem ", "vom ")


def phrase(group: Group, case: str, synonym: int, *, definite: bool = False) -> str:
    """Return a noun phrase with article or number: "ein kleiner roter Stern", "den zwei roten Sternen"."""
    gender, *nouns = WORDS["nouns"][group.shape]
    plural = group.count > 1
    article, ending = WORDS["definite" if definite else "indefinite"][case]["p" if plural else gender]
    found = (
        article,
        WORDS["numbers"][group.count],
        _inflected(group.size, ending) if group.size else "",
        _inflected(group.colour, ending) if group.colour else "",
        nouns[2 * plural + (case == "dative")],
    )
    return " ".join(word for word in found if word)


def _inflected(adjective: str, ending: str) -> str:
    """Return the inflected form of an adjective, given in English: "roten", "lila"."""
    stem: str = WORDS["adjectives"][adjective]
    return stem if stem in _INVARIABLE else stem + ending
