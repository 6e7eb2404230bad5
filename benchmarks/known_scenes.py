"""What the pictures of the sample's catalog show, by the plan they were drawn from: captions that fit, near misses.

A caption fits all pictures of which it is true, not only its own: how many there are in a gallery says what a model
without mistakes would reach. A picture that differs from the right one in one attribute says what a model can tell.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from random import Random
from typing import Any

from data_catalog.sample import italian
from data_catalog.sample.config import FLICKR8K
from data_catalog.sample.drawing import encode, paint, place
from data_catalog.sample.grammar import templates
from data_catalog.sample.samples import Sample, plan, url_of
from data_catalog.sample.scene import BACKGROUNDS, COLOURS, SHAPES, Group, Scene, pick
from data_catalog.sample.upstream import COMMIT_FILE
from data_catalog.storage.shards import read_json
from training.scores.evaluation import wording

_MIRRORED = {"above": "below", "below": "above", "left": "right", "right": "left"}
ATTRIBUTES = ("colour", "count", "position", "size", "shape")


def _forms(*adjectives: str) -> frozenset[str]:
    return frozenset(
        italian.agree(word, gender, plural=plural) for word in adjectives for gender in "mf" for plural in (False, True)
    )


# A caption that has one of these words speaks of the attribute; of shapes, every caption does.
WORDS: Mapping[str, frozenset[str]] = {
    "colour": _forms(*COLOURS, *BACKGROUNDS),
    "count": _forms("only") | {"due", "tre", "quattro"},
    "position": frozenset({"sopra", "sotto", "sinistra", "destra", "alto", "basso", "tra", "fra", "accanto", "vicino"}),
    "size": _forms("small", "large"),
}


def drawn_samples(upstream: Path) -> dict[str, Sample]:
    """The plan of a folder that `draw_upstream` made: each image by its URL, or by its name where it has none."""
    settings = read_json(upstream / COMMIT_FILE)["settings"]
    samples = plan(settings["seed"], settings["num_images"])
    return {_identity(sample, settings["base_url"]): sample for sample in samples}


def _identity(sample: Sample, base_url: str) -> str:
    return Path(sample.path).stem if sample.source == FLICKR8K else url_of(sample, base_url)


def sample_of(row: Mapping[str, Any], drawn: Mapping[str, Sample]) -> Sample:
    """The sample that a row of a pair shard, with its `url` and `sample_id`, is of."""
    return drawn[row["url"] or row["sample_id"].partition(":")[2]]


def shown(sample: Sample) -> Scene:
    """The scene, with sides where its own captions say no more than that one group is beside the other."""
    scene = sample.scene()
    if scene.relation != "next":
        return scene
    shapes = sample.layout().shapes
    is_left = shapes[0].x < shapes[-1].x
    return replace(scene, relation="left" if is_left else "right")


def says(scene: Scene) -> set[str]:
    """The wordings of all captions that the grammar has for a scene as it was planned."""
    found = (italian.render(scene, template, synonym) for template in templates(scene) for synonym in (0, 1))
    return {wording(text) for text in found}


def fitting(scene: Scene) -> set[str]:
    """The wordings of all captions that are true of a picture of a scene, whatever its own captions are.

    A size that is not named is the middle one: "una stella" does not fit a picture of a small star.
    """
    return {text for reading in _readings(scene) for text in says(reading)}


def _readings(scene: Scene) -> Iterator[Scene]:
    """Scenes that the same picture shows as well."""
    groups = scene.groups
    yield scene
    if scene.relation in _MIRRORED:
        yield replace(scene, groups=groups[::-1], relation=_MIRRORED[scene.relation])
    if scene.relation in ("left", "right"):
        yield from (replace(scene, groups=order, relation="next") for order in permutations(groups))
    if len(groups) == 3:  # in a row or a column, the middle one being the second of a list
        middle = groups[scene.relation == "list"]
        ends = [group for group in groups if group is not middle]
        yield from (replace(scene, groups=(middle, *order), relation="between") for order in permutations(ends))
        yield from (replace(scene, groups=order, relation="list") for order in permutations(groups))


class Foils:
    """Makes pictures that differ from a sample's in one attribute, within what the sample's scenes may have."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        scenes = [sample.scene() for sample in samples]
        self._tones = {(scene.background, group.colour) for scene in scenes for group in scene.groups}
        self._crowds = {(len(s.groups), group.size, group.count) for s in scenes for group in s.groups}

    def scene(self, scene: Scene, attribute: str, rng: Random) -> Scene | None:
        """A scene of which no caption that `says` has for `scene` is true; None where there is none."""
        if attribute == "position":
            return self._moved(scene)
        changed = [
            replace(scene, groups=(*scene.groups[:index], other, *scene.groups[index + 1 :]))
            for index, group in enumerate(scene.groups)
            for other in _others(group, attribute)
        ]
        allowed = [other for other in changed if self._is_allowed(other)]
        return pick(rng, allowed) if allowed else None

    def _moved(self, scene: Scene) -> Scene | None:
        if scene.relation in _MIRRORED:
            return replace(scene, relation=_MIRRORED[scene.relation])
        first, *others = scene.groups
        return replace(scene, groups=(others[0], first, *others[1:])) if scene.relation == "between" else None

    def _is_allowed(self, scene: Scene) -> bool:
        return (
            len({(group.colour, group.shape) for group in scene.groups}) == len(scene.groups)
            and all((scene.background, group.colour) in self._tones for group in scene.groups)
            and all((len(scene.groups), group.size, group.count) in self._crowds for group in scene.groups)
        )


def _others(group: Group, attribute: str) -> Sequence[Group]:
    """The group with another value of an attribute; counts differ by one, sizes are those that captions name."""
    match attribute:
        case "colour":
            return [replace(group, colour=colour) for colour in COLOURS if colour != group.colour]
        case "count":
            return [replace(group, count=count) for count in (group.count - 1, group.count + 1)]
        case "size":
            return [replace(group, size={"small": "large", "large": "small"}[group.size])] if group.size else []
        case "shape":
            return [replace(group, shape=shape) for shape in SHAPES if shape != group.shape]
    raise KeyError(attribute)


def picture(sample: Sample, scene: Scene) -> bytes:
    """The file of a scene in the place of a sample's own: with the same chances of place, tilt and tint."""
    layout = place(scene, Random(f"scenes:{sample.seed}:{sample.original}:layout"))
    return encode(paint(layout), sample.file_format)
