"""English captions of scenes: articles, plurals and verbs agree."""

from data_catalog.sample.scene import Group, Scene

_PLURALS = {"cross": "crosses"}  # all others take -s
_NUMBERS = ("", "one", "two", "three", "four")
_SIZES = {"": ("", ""), "small": ("small", "little"), "large": ("large", "big")}
_RELATIONS = {
    "above": ("above", "over"),
    "below": ("below", "under"),
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "next": ("next to", "beside"),
    "between": ("between", "in between"),
}
_FURTHER = {"above": "further down", "below": "further up", "left": "further right", "right": "further left"}
_TEMPLATES = {
    "plain": "{core}",
    "background": "{core} {where}",
    "picture": "a picture of {core}",
    "drawing": "a drawing of {core} {where}",
    "image_with": "an image with {core}",
    "there": "there {be} {core}",
    "there_background": "{where} there {be} {core}",
    "background_and": "the background is {background} and there {be} {core}",
    "background_with": "the background is {background}, with {core}",
    "seen": "you can see {core} {where}",
    "drawn": "{core}, drawn {where}",
    "only": "only {counted}",
    "predicate": "the {bare} {be} {colour} and the background is {background}",
    "definite": "the {coloured} {be} {relative_to_the}",
    "inverted": "{relative_to} there {be} {first}",
    "further": "{first} and, {further}, {second}",
}


def render(scene: Scene, template: str, synonym: int) -> str:
    """Return the caption of `scene` by a template that fits it, in lower case and without a full stop."""
    first, relation = scene.groups[0], scene.relation
    phrases = [_noun_phrase(group, synonym) for group in scene.groups]
    words = {
        "core": phrases[0],
        "be": "is" if first.count == 1 and relation != "list" else "are",
        "background": scene.background,
        "where": f"on {indefinite(scene.background)} background",
        "first": phrases[0],
        "second": phrases[-1],
        "further": _FURTHER.get(relation, ""),
        "bare": _bare(first, synonym, colour=False),
        "colour": first.colour,
        "coloured": _bare(first, synonym),
        "counted": f"one {_bare(first, synonym)}" if first.count == 1 else phrases[0],
    }
    if relation == "list":
        words["core"] = f"{phrases[0]}, {phrases[1]} and {phrases[2]}"
    elif relation:
        behind = _RELATIONS[relation][synonym]
        words["relative_to"] = f"{behind} {' and '.join(phrases[1:])}"
        words["relative_to_the"] = f"{behind} {' and '.join(f'the {_bare(g, synonym)}' for g in scene.groups[1:])}"
        words["core"] = f"{phrases[0]} {words['relative_to']}"
    return _TEMPLATES[template].format(**words)


def indefinite(phrase: str) -> str:
    """Return `phrase` behind "a" or "an"."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _noun_phrase(group: Group, synonym: int) -> str:
    bare = _bare(group, synonym)
    return indefinite(bare) if group.count == 1 else bare


def _bare(group: Group, synonym: int, *, colour: bool = True) -> str:
    """Return the noun with what stands before it, without an article: "two small red stars", "red star"."""
    plural = group.count > 1
    words = (
        _NUMBERS[group.count] if plural else "",
        _SIZES[group.size][synonym],
        group.colour if colour else "",
        _PLURALS.get(group.shape, group.shape + "s") if plural else group.shape,
    )
    return " ".join(word for word in words if word)
