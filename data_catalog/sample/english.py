"""English captions of scenes, with agreement of articles, plurals and verbs."""

from data_catalog.sample.scene import Group, Scene, json_of_room

WORDS = json_of_room("words.json")["en"]


def phrase(group: Group, synonym: int, *, definite: bool = False) -> str:
    """Return a noun phrase: "a small red star", "the small red star", "two small red stars"."""
    bare = _bare(group, synonym)
    if definite:
        return f"the {bare}"
    return _indefinite(bare) if group.count == 1 else bare


def relative(words: str, definite: str) -> str:
    """Join a relation and definite noun phrases."""
    return f"{words} {definite}"


def words(scene: Scene, synonym: int) -> dict[str, str]:
    """Return the words of templates that agree with the scene."""
    first = scene.groups[0]
    bare = _bare(first, synonym)
    return {
        "be": "is" if first.count == 1 else "are",
        "background": scene.background,
        "where": f"on {_indefinite(scene.background)} background",
        "colour": first.colour,
        "counted": f"one {bare}" if first.count == 1 else bare,
    }


def _indefinite(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _bare(group: Group, synonym: int) -> str:
    """Return number, adjectives and noun without an article: "two small red stars", "red star", "star"."""
    plural = group.count > 1
    ending = ("es" if group.shape == "cross" else "s") if plural else ""
    number = WORDS["numbers"][group.count] if plural else ""
    found = (number, WORDS["sizes"][group.size][synonym], group.colour, group.shape + ending)
    return " ".join(word for word in found if word)
