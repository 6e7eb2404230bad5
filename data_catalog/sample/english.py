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


def render(scene: Scene, template: str, synonym: int) -> str:
    """The caption of `scene` by a template that fits it, in lower case and without a full stop."""
    first, background = scene.groups[0], scene.background
    core = _core(scene, synonym)
    be = _be(scene)
    where = f"on {indefinite(background)} background"
    match template:
        case "plain":
            return core
        case "background":
            return f"{core} {where}"
        case "picture":
            return f"a picture of {core}"
        case "drawing":
            return f"a drawing of {core} {where}"
        case "image_with":
            return f"an image with {core}"
        case "there":
            return f"there {be} {core}"
        case "there_background":
            return f"{where} there {be} {core}"
        case "background_and":
            return f"the background is {background} and there {be} {core}"
        case "background_with":
            return f"the background is {background}, with {core}"
        case "seen":
            return f"you can see {core} {where}"
        case "drawn":
            return f"{core}, drawn {where}"
        case "only":
            return f"only {_counted(first, synonym)}"
        case "predicate":
            return f"the {_bare(first, synonym, colour=False)} {be} {first.colour} and the background is {background}"
        case "definite":
            return f"the {_bare(first, synonym)} {be} {_relative_to(scene, synonym, definite=True)}"
        case "inverted":
            return f"{_relative_to(scene, synonym, definite=False)} there {be} {_noun_phrase(first, synonym)}"
        case "further":
            other = _noun_phrase(scene.groups[1], synonym)
            return f"{_noun_phrase(first, synonym)} and, {_FURTHER[scene.relation]}, {other}"
    raise KeyError(template)


def indefinite(phrase: str) -> str:
    """`phrase` behind "a" or "an"."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _be(scene: Scene) -> str:
    return "is" if scene.groups[0].count == 1 and scene.relation != "list" else "are"


def _core(scene: Scene, synonym: int) -> str:
    phrases = [_noun_phrase(group, synonym) for group in scene.groups]
    match scene.relation:
        case "":
            return phrases[0]
        case "list":
            return f"{phrases[0]}, {phrases[1]} and {phrases[2]}"
    return f"{phrases[0]} {_relative_to(scene, synonym, definite=False)}"


def _relative_to(scene: Scene, synonym: int, *, definite: bool) -> str:
    """The relation and what stands behind it: "above a blue square", "between the red star and the two rings"."""
    others = [f"the {_bare(g, synonym)}" if definite else _noun_phrase(g, synonym) for g in scene.groups[1:]]
    return f"{_RELATIONS[scene.relation][synonym]} {' and '.join(others)}"


def _noun_phrase(group: Group, synonym: int) -> str:
    bare = _bare(group, synonym)
    return indefinite(bare) if group.count == 1 else bare


def _counted(group: Group, synonym: int) -> str:
    bare = _bare(group, synonym)
    return f"one {bare}" if group.count == 1 else bare


def _bare(group: Group, synonym: int, *, colour: bool = True) -> str:
    """The noun with what stands before it, without an article: "two small red stars", "red star"."""
    plural = group.count > 1
    words = (
        _NUMBERS[group.count] if plural else "",
        _SIZES[group.size][synonym],
        group.colour if colour else "",
        _PLURALS.get(group.shape, group.shape + "s") if plural else group.shape,
    )
    return " ".join(word for word in words if word)
