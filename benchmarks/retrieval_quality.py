"""How well a small model finds pictures by Italian captions: python benchmarks/retrieval_quality.py [--quick].

Builds `scenes` large, trains a model by the recipe with the changes that `--set` names, and has captions find their
pictures among 1,000 held-out ones: captions that belong to one of them only. The table says R@1 of all these, of those
whose wording no training caption has, and of those that speak of colour, count, position, size. What a model without
mistakes would reach stands beside it, since some captions are true of other pictures too. A second table has captions
choose between their picture and one that is drawn alike but for one attribute.
"""

import hashlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from harness import judge, options_of, tell
from recipe import build_scenes

from data_catalog.images.normalise import NormaliseConfig, normalise_image
from data_catalog.sample import italian
from data_catalog.sample.config import FLICKR8K
from data_catalog.sample.drawing import encode, paint, place
from data_catalog.sample.grammar import templates
from data_catalog.sample.samples import Sample, plan, url_of
from data_catalog.sample.scene import BACKGROUNDS, COLOURS, SHAPES, Group, Scene, pick
from data_catalog.sample.upstream import COMMIT_FILE
from data_catalog.storage.shards import read_json
from training.bootstrap import bootstrap_interval
from training.data import PairFiles, read_captions, read_rows, row_groups
from training.evaluation import chosen_captions, wording
from training.features import image_features, text_features
from training.images import decode
from training.loop import train
from training.metrics import TIE_TOLERANCE, recalls, text_to_image_ranks
from training.model import LoadedModel, load_model, normalise_pixels

SIZES = ("scenes.num_images=20000", "split.test=0.08", "split.val=0.03")
RUN = ("train.model=compact-96", "train.epochs=32")
QUICK_SIZES = ("scenes.num_images=500", "split.test=0.3", "split.val=0.1", "train.epochs=1")
GALLERY, FOILS, QUICK_FOILS = 1000, 300, 30
RECALL, MINUTES = 0.6, 30.0
ROUNDS, SEED = 1000, 0
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Held-out pictures by their samples, and the captions that belong to one of them only.

    Args:
        fitting: wordings that are true of each picture.
        queries: captions.
        owners: the picture of each query.
    """

    samples: Sequence[Sample]
    fitting: Sequence[set[str]]
    features: Any
    queries: Sequence[str]
    owners: Any
    query_features: Any


def open_gallery(files: PairFiles, upstream: Path, model: LoadedModel) -> Gallery:
    """At most `GALLERY` pictures of the test split, by lot, and their features.

    Stops where the sample was drawn by another version: foils would differ in more than they should.
    """
    groups = row_groups(files.test)
    rows = [row for group in groups for row in read_rows(group, ["sample_id", "url", "sha256", "captions"]).to_pylist()]
    chosen = np.random.default_rng(SEED).permutation(len(rows))[:GALLERY]
    drawn = drawn_samples(upstream)
    samples = [sample_of(rows[place], drawn) for place in chosen]
    for sample, place in list(zip(samples, chosen, strict=True))[:20]:
        if hashlib.sha256(picture(sample, sample.scene())).hexdigest() != rows[place]["sha256"]:
            raise SystemExit("the catalog's pictures are not those that this version draws: build it again")
    captions = [rows[place]["captions"] for place in chosen]
    pairs = [(owner, text) for owner, texts in enumerate(captions) for text in texts]
    kept = [pair for pair, is_distinct in zip(pairs, chosen_captions(captions, "distinct"), strict=True) if is_distinct]
    return Gallery(
        samples=samples,
        fitting=[fitting(shown(sample)) for sample in samples],
        features=image_features(model, files.test)[chosen],
        queries=[text for _, text in kept],
        owners=np.array([owner for owner, _ in kept]),
        query_features=text_features(model, [text for _, text in kept]),
    )


def score_queries(gallery: Gallery, known: set[str]) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Rows of the table, and R@1 by kind of query; `known` are the wordings of the training captions."""
    ranks = text_to_image_ranks(gallery.query_features, gallery.features, gallery.owners)
    told = [wording(text) for text in gallery.queries]
    fits = Counter(text for texts in gallery.fitting for text in texts)
    owned = zip(told, gallery.owners, strict=True)
    ceiling = np.array([1 / fits[text] if text in gallery.fitting[owner] else 0.0 for text, owner in owned])
    kinds = {"all": np.ones(len(told), dtype=bool), "unseen wording": np.array([text not in known for text in told])}
    kinds["true of one picture"] = ceiling == 1
    for attribute, words in WORDS.items():
        kinds[attribute] = np.array([not words.isdisjoint(text.split()) for text in told])
    rows, found = [], {}
    for kind, chosen in kinds.items():
        values = recalls(ranks[chosen], 1)
        found[kind] = float(values.mean()) if len(values) else 0.0
        rows.append({"queries": kind, "number": int(chosen.sum()), "R@1": f"{found[kind]:.3f}"})
        rows[-1]["95 % interval"] = _interval(values, gallery.owners[chosen])
        rows[-1] |= {f"R@{k}": f"{recalls(ranks[chosen], k).mean():.3f}" for k in (5, 10)}
        rows[-1]["without mistakes"] = f"{ceiling[chosen].mean():.3f}"
    return rows, found


def _interval(values: Any, clusters: Any) -> str:
    low, high = bootstrap_interval(values, clusters, rounds=ROUNDS, seed=SEED)
    return f"{low:.3f}-{high:.3f}"


def score_foils(gallery: Gallery, model: LoadedModel, config: NormaliseConfig, most: int) -> list[dict[str, Any]]:
    """For each attribute, how often a caption is nearer to its picture than to one that differs in that alone."""
    foils, rows = Foils(gallery.samples), []
    spoken: dict[int, int] = {}  # the first query of each picture that says all of it as its scene was planned
    for place, (text, owner) in enumerate(zip(gallery.queries, gallery.owners.tolist(), strict=True)):
        if owner not in spoken and wording(text) in says(gallery.samples[owner].scene()):
            spoken[owner] = place
    for attribute in ATTRIBUTES:
        pictures: list[bytes] = []
        places: list[int] = []
        for owner, place in spoken.items():
            sample = gallery.samples[owner]
            other = foils.scene(sample.scene(), attribute, sample.rng(f"foil:{attribute}"))
            if other is not None and len(places) < most:
                pictures.append(picture(sample, other))
                places.append(place)
        owners = gallery.owners[places]
        queries = gallery.query_features[places].astype(np.float64)
        right = (queries * gallery.features[owners]).sum(axis=1)
        wrong = (queries * encode_pictures(pictures, model, config)).sum(axis=1)
        wins = (right > wrong + TIE_TOLERANCE).astype(np.float64)
        rows.append({"only differs in": attribute, "pairs": len(wins), "right picture nearer": f"{wins.mean():.3f}"})
        rows[-1] |= {"95 % interval": _interval(wins, owners), "chance": "0.5"}
    return rows


def encode_pictures(pictures: Sequence[bytes], model: LoadedModel, config: NormaliseConfig) -> Any:
    """Unit features of drawn files, normalised as a build does it."""
    pixels = [decode(normalise_image(data, config).data, model.image_size) for data in pictures]
    with torch.no_grad():
        batches = [torch.from_numpy(np.stack(pixels[start : start + 128])) for start in range(0, len(pixels), 128)]
        found = [model.module.encode_image(normalise_pixels(batch), normalize=True) for batch in batches]
    return torch.cat(found).numpy()


def main() -> int:
    """Build, train, score, print; 1 where a claim is short."""
    parser = options_of(__doc__)
    parser.add_argument("--root", type=Path, help="catalog to build in, or to take the dataset from, if it is there")
    parser.add_argument("--out", type=Path, help="folder of the model that is trained (default: temporary)")
    parser.add_argument("--model", type=Path, help="folder of a trained model, which is only scored")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of [train]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="retrieval-quality-") as folder:
        sizes = QUICK_SIZES if options.quick else (*SIZES, *RUN)
        root, out = options.root or Path(folder), options.model or options.out or Path(folder) / "model"
        files, recipe = build_scenes(root, (*sizes, *(f"train.{text}" for text in options.set)))
        started = time.monotonic()
        if not options.model:
            train(files, recipe.train, out)
        minutes = {} if options.model else {"training-minutes": (time.monotonic() - started) / 60}
        gallery = open_gallery(files, root / "upstream", model := load_model(out))
        known = {wording(text) for texts in read_captions(files.train).to_pylist() for text in texts}
    rows, found = score_queries(gallery, known)
    tell(rows, f"text to image, {len(gallery.samples):,} pictures, captions distinct")
    most = QUICK_FOILS if options.quick else FOILS
    tell(score_foils(gallery, model, recipe.normalise, most), "two pictures alike but for one attribute")
    recall = f"text-to-image-R@1-of-{len(gallery.samples)}"
    goal = 0.0 if options.quick else RECALL  # one epoch of a few images learns little
    return judge({recall: found["all"], **minutes}, {recall: (">=", goal), "training-minutes": ("<=", MINUTES)})


if __name__ == "__main__":
    sys.exit(main())
