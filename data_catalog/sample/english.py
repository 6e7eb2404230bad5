"""English captions of scenes, with agreement of articles, plurals and verbs."""

from data_catalog.sample.scene import Group, Scene

AND = "and"
CASES: tuple[str, ...] = ("nominative",)
RELATIONS = {
    "above": ("above", "over"),
    "below": ("below", "under"),
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "next": ("next to", "beside"),
    "between": ("between", "in between"),
}
FURTHER = {"above": "further down", "below": "further up", "left": "further right", "right": "further left"}
TEMPLATES = {
    "plain": "{nominative}",
    "background": "{nominative} {where}",
    "picture": "a picture of {nominative}",
    "drawing": "a drawing of {nominative} {where}",
    "image_with": "an image with {nominative}",
    "there": "there {be} {nominative}",
    "there_background": "{where} there {be} {nominative}",
    "background_and": "the background is {background} and there {be} {nominative}",
    "background_with": "the background is {background}, with {nominative}",
    "seen": "you can see {nominative} {where}",
    "drawn": "{nominative}, drawn {where}",
    "only": "only {counted}",
    "predicate": "{colourless} {be} {colour} and the background is {background}",
    "definite": "{definite} {be} {relative_to_the}",
    "inverted": "{relative_to} there {be} {first}",
    "further": "{first} and, {further}, {second}",
}
_NUMBERS = ("", "one", "two", "three", "four")
_SIZES = {"": ("", ""), "small": ("small", "little"), "large": ("large", "big")}


def phrase(group: Group, case: str, synonym: int, *, definite: bool = False) -> str:
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
    found = (_NUMBERS[group.count] if plural else "", _SIZES[group.size][synonym], group.colour, group.shape + ending)
    return " ".join(word for word in found if word)
