"""Captions of scenes in English, Italian and German with equal meaning, and parallel pairs of them.

`write_pairs` writes the pairs as the TSV that `vernaclip mt train` reads.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from data_catalog.errors import DiskError, SettingsError
from data_catalog.sample import german, italian
from data_catalog.sample.config import LANGUAGES
from data_catalog.sample.scene import Group, Scene, pick, random_scene, shuffled
from data_catalog.storage.shards import write_atomically

_ANY = ("plain", "background", "picture", "drawing", "image_with", "there", "there_background", "background_and")
STYLES = ("lower", "capital", "sentence", "tokenised", "tokenised_sentence")
# "The ring is left of the star" contracts articles in many ways; translators need more examples of these rare words.
_WEIGHTS = {"definite": 3}
_FIGURES = 0.05  # share of figures in parallel pairs; half of these name no colour


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """Template, synonym and style of a caption; the same wording has the same meaning in every language.

    Args:
        template: name of the sentence, one of `templates(scene)`.
        synonym: index of the word for sizes and relations (0: above, large; 1: over, big).
        style: "lower" ("two red stars"), "capital" ("Two red stars"), "sentence" ("Two red stars."), or for English, as
            in some datasets, "tokenised" ("a star , drawn") and "tokenised_sentence" ("A star , drawn .").
    """

    template: str
    synonym: int = 0
    style: str = "lower"


def templates(scene: Scene) -> tuple[str, ...]:
    """Return the names of the templates for a scene, by its number of groups, its relation and whether it is in ink."""
    if not scene.groups[0].colour:
        return ("plain", "picture", "image_with", "there", "definite", "inverted", "further")
    match scene.relation:
        case "":
            return (*_ANY, "background_with", "seen", "drawn", "only", "predicate")
        case "list":
            return ("plain", "background", "picture", "drawing", "image_with", "background_with", "seen", "drawn")
        case "next":
            return (*_ANY, "seen", "drawn", "definite")
        case "between":
            return (*_ANY, "seen", "definite", "inverted")
    return (*_ANY, "seen", "drawn", "definite", "inverted", "further")


def caption(scene: Scene, lang: str, wording: Wording) -> str:
    """Return the exact caption of `scene` in `lang`. Raises `SettingsError` for others than `LANGUAGES`."""
    if lang not in _RENDER:
        raise SettingsError(f"scenes have captions in {', '.join(LANGUAGES)}, not in {lang}")
    return _styled(_RENDER[lang](scene, wording.template, wording.synonym), lang, wording.style)


def captions(scene: Scene, lang: str, *, num: int, rng: Random, styles: Sequence[str] = STYLES) -> list[str]:
    """Return `num` distinct captions of `scene` in `lang`, each by another of its templates, at least 7 per scene."""
    chosen = shuffled(rng, templates(scene))[:num]
    return [caption(_told(scene, rng), lang, _wording(template, rng, styles)) for template in chosen]


def _told(scene: Scene, rng: Random) -> Scene:
    """Return the scene with either of two figures in ink named first, as different people would."""
    if scene.groups[0].colour or rng.random() < 0.5:
        return scene
    return replace(scene, groups=scene.groups[::-1], relation="right" if scene.relation == "left" else "left")


def _wording(template: str, rng: Random, styles: Sequence[str]) -> Wording:
    return Wording(template=template, synonym=int(rng.random() < 0.35), style=pick(rng, styles))


def _styled(text: str, lang: str, style: str) -> str:
    if lang == "en" and style.startswith("tokenised"):
        text = text.replace(",", " ,")
    if style in ("lower", "tokenised"):
        return text
    stop = {"capital": "", "sentence": ".", "tokenised_sentence": " ." if lang == "en" else "."}[style]
    return text[0].upper() + text[1:] + stop


def parallel_pairs(*, seed: int, num_pairs: int, lang: str = "it") -> Iterator[tuple[str, str]]:
    """Yield pairs of an English caption and one in `lang` with the same meaning; pairs may repeat."""
    rng = Random(f"scenes-pairs:{seed}")
    for _ in range(num_pairs):
        scene = random_scene(rng, figures=_FIGURES)
        weighted = [name for name in templates(scene) for _ in range(_WEIGHTS.get(name, 1))]
        wording = _wording(pick(rng, weighted), rng, STYLES)
        yield caption(scene, "en", wording), caption(scene, lang, wording)


def write_pairs(path: Path, *, seed: int, num_pairs: int, lang: str = "it") -> None:
    """Write parallel pairs to `path` as UTF-8 TSV: English, tab, the caption in `lang`; one pair per line, no header.

    Raises:
        SettingsError: there are no captions in `lang`, or `num_pairs` is less than 1.
        DiskError: the file cannot be written.
    """
    others = [known for known in LANGUAGES if known != "en"]
    if lang not in others:
        raise SettingsError(f"the sample has pairs of English and {' or '.join(others)}, not of English and {lang}")
    if num_pairs < 1:
        raise SettingsError(f"the number of pairs must be at least 1, got {num_pairs}")

    def write(target: Path) -> None:
        with target.open("w", encoding="utf-8", newline="\n") as file:
            pairs = parallel_pairs(seed=seed, num_pairs=num_pairs, lang=lang)
            file.writelines(f"{source}\t{translation}\n" for source, translation in pairs)

    try:
        write_atomically(path, write)
    except OSError as error:
        raise DiskError(f"{path} cannot be written: {error.strerror}") from error


# --- English, with agreement of articles, plurals and verbs ---------------------------------------------------------

_PLURALS = {"cross": "crosses"}  # all others add -s
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


def _english(scene: Scene, template: str, synonym: int) -> str:
    """Return the English caption of `scene` by a template that fits it, in lower case, without a full stop."""
    first, relation = scene.groups[0], scene.relation
    phrases = [_noun_phrase(group, synonym) for group in scene.groups]
    words = {
        "core": phrases[0],
        "be": "is" if first.count == 1 and relation != "list" else "are",
        "background": scene.background,
        "where": f"on {_indefinite(scene.background)} background",
        "first": phrases[0],
        "second": phrases[-1],
        "further": _FURTHER.get(relation, ""),
        "bare": _bare(replace(first, colour=""), synonym),
        "colour": first.colour,
        "coloured": _bare(first, synonym),
        "counted": f"one {_bare(first, synonym)}" if first.count == 1 else phrases[0],
    }
    if relation == "list":
        words["core"] = f"{phrases[0]}, {phrases[1]} and {phrases[2]}"
    elif relation:
        prefix = _RELATIONS[relation][synonym]
        words["relative_to"] = f"{prefix} {' and '.join(phrases[1:])}"
        words["relative_to_the"] = f"{prefix} {' and '.join(f'the {_bare(g, synonym)}' for g in scene.groups[1:])}"
        words["core"] = f"{phrases[0]} {words['relative_to']}"
    return _TEMPLATES[template].format(**words)


def _indefinite(phrase: str) -> str:
    """Return `phrase` with "a" or "an" before it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _noun_phrase(group: Group, synonym: int) -> str:
    bare = _bare(group, synonym)
    return _indefinite(bare) if group.count == 1 else bare


def _bare(group: Group, synonym: int) -> str:
    """Return number, adjectives and noun without an article: "two small red stars", "red star", "star"."""
    plural = group.count > 1
    words = (
        _NUMBERS[group.count] if plural else "",
        _SIZES[group.size][synonym],
        group.colour,
        _PLURALS.get(group.shape, group.shape + "s") if plural else group.shape,
    )
    return " ".join(word for word in words if word)


# Language -> function that returns the caption of a scene, by template and synonym.
_RENDER: dict[str, Callable[[Scene, str, int], str]] = {"en": _english, "it": italian.render, "de": german.render}
