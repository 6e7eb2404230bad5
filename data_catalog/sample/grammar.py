"""Captions of scenes in English and Italian with equal meaning, and parallel pairs of them.

`write_pairs` writes the pairs as the TSV that `vernaclip mt train` reads.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Protocol

from data_catalog.disk.files import write_atomically
from data_catalog.sample import english, italian
from data_catalog.sample.scene import Group, Scene, pick, random_scene, shuffled

_ANY = ("plain", "background", "picture", "drawing", "image_with", "there", "there_background", "background_and")
STYLES = ("lower", "capital", "sentence", "tokenised", "tokenised_sentence")
# "The ring is left of the star" contracts articles in many ways; translators need more examples of these rare words.
_WEIGHTS = {"definite": 3}
_FIGURES = 0.05  # share of figures in parallel pairs; half of these name no colour


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """Template, synonym and style of a caption; the same wording has the same meaning in every language."""

    template: str  # one of `templates(scene)`
    synonym: int = 0  # of words for sizes and relations: 0 is above, large; 1 is over, big
    style: str = "lower"  # one of `STYLES`; English is "tokenised" in some datasets: "A star , drawn ."


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


class Grammar(Protocol):
    """The grammar of a language, a module, with the templates and words of `words.json`."""

    WORDS: Any

    def phrase(self, group: Group, synonym: int, *, definite: bool = False) -> str:
        """Return the noun phrase of a group."""

    def relative(self, words: str, definite: str) -> str:
        """Join a relation and definite noun phrases."""

    def words(self, scene: Scene, synonym: int) -> dict[str, str]:
        """Return the words of templates that agree with the scene."""


_GRAMMARS: Mapping[str, Grammar] = {"en": english, "it": italian}


def caption(scene: Scene, lang: str, wording: Wording) -> str:
    """Return the exact caption of `scene` in `lang`: "en" or "it"."""
    grammar, synonym = _GRAMMARS[lang], wording.synonym
    fixed, joint = grammar.WORDS, f" {grammar.WORDS['and']} "

    def phrases(groups: Sequence[Group], *, definite: bool = False) -> list[str]:
        return [grammar.phrase(group, synonym, definite=definite) for group in groups]

    (first, *others), relation = scene.groups, scene.relation
    words = grammar.words(scene, synonym) | {
        "first": grammar.phrase(first, synonym),
        "second": grammar.phrase(scene.groups[-1], synonym),
        "further": fixed["further"].get(relation, ""),
        "definite": grammar.phrase(first, synonym, definite=True),
        "colourless": grammar.phrase(replace(first, colour=""), synonym, definite=True),
    }
    if relation in fixed["relations"]:
        prefix = fixed["relations"][relation][synonym]
        words["relative_to"] = f"{prefix} {joint.join(phrases(others))}"
        words["relative_to_the"] = grammar.relative(prefix, joint.join(phrases(others, definite=True)))
    named = phrases(scene.groups)
    words["shown"] = f"{named[0]} {words['relative_to']}" if "relative_to" in words else named[0]
    if relation == "list":
        words["shown"] = f"{', '.join(named[:-1])}{joint}{named[-1]}"
    return _styled(fixed["templates"][wording.template].format(**words), lang, wording.style)


def _styled(text: str, lang: str, style: str) -> str:
    if lang == "en" and style.startswith("tokenised"):
        text = text.replace(",", " ,")
    if style in ("lower", "tokenised"):
        return text
    stop = {"capital": "", "sentence": ".", "tokenised_sentence": " ." if lang == "en" else "."}[style]
    return text[0].upper() + text[1:] + stop


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


def parallel_pairs(*, seed: int, num_pairs: int) -> Iterator[tuple[str, str]]:
    """Yield pairs of an English and an Italian caption with the same meaning; pairs may repeat."""
    rng = Random(f"scenes-pairs:{seed}")
    for _ in range(num_pairs):
        scene = random_scene(rng, figures=_FIGURES)
        weighted = [name for name in templates(scene) for _ in range(_WEIGHTS.get(name, 1))]
        wording = _wording(pick(rng, weighted), rng, STYLES)
        yield caption(scene, "en", wording), caption(scene, "it", wording)


def write_pairs(path: Path, *, seed: int, num_pairs: int) -> None:
    """Write parallel pairs to `path` as UTF-8 TSV without a header: English, tab, Italian."""

    def write(target: Path) -> None:
        with target.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(
                f"{source}\t{translation}\n" for source, translation in parallel_pairs(seed=seed, num_pairs=num_pairs)
            )

    write_atomically(path, write)
