"""Retrieval by Italian captions with a small model: python benchmarks/retrieval_quality.py [--quick].

Builds a large `scenes`, trains a model by the recipe with the changes of `--set`, and searches for images by captions
among 1,000 held-out images; each caption belongs to only one of them. The table has R@1 of all captions, of those with
a wording that no training caption has, and of those that mention colour, count, position or size. It also has the score
of a model without mistakes, because some captions are also true of other images. With --quick the model learns little,
in seconds, and nothing is claimed.
"""

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from harness import judge, options_of, print_table
from recipe import build_scenes

from data_catalog.disk.files import read_json
from data_catalog.sample import italian
from data_catalog.sample.config import FLICKR8K
from data_catalog.sample.datasets import COMMIT_FILE
from data_catalog.sample.grammar import Wording, caption, templates
from data_catalog.sample.samples import Sample, plan, url_of
from data_catalog.sample.scene import BACKGROUNDS, COLOURS, Scene
from training.data.features import image_features, text_features
from training.data.pairs import PairFiles, read_captions, read_rows, row_groups
from training.fit.clip import train
from training.scores.evaluation import chosen_captions, wording
from training.scores.metrics import bootstrap_interval, recalls, text_to_image_ranks
from training.towers.model import LoadedModel, load_model

SIZES = ("scenes.num_images=20000", "split.test=0.08", "split.val=0.03")
RUN = ("train.model=compact-96", "train.epochs=32")
QUICK_SIZES = ("scenes.num_images=500", "split.test=0.3", "split.val=0.1", "train.epochs=1")
GALLERY, RECALL, MINUTES = 1000, 0.6, 30.0
SEED = 0
_MIRRORED = {"above": "below", "below": "above", "left": "right", "right": "left"}


def _forms(*adjectives: str) -> frozenset[str]:
    return frozenset(
        italian.agree(word, gender, plural=plural) for word in adjectives for gender in "mf" for plural in (False, True)
    )


# A caption with one of these words mentions the attribute. Shapes are not listed, because every caption mentions them.
WORDS: Mapping[str, frozenset[str]] = {
    "colour": _forms(*COLOURS, *BACKGROUNDS),
    "count": _forms("only") | {"due", "tre", "quattro"},
    "position": frozenset({"sopra", "sotto", "sinistra", "destra", "alto", "basso", "tra", "fra", "accanto", "vicino"}),
    "size": _forms("small", "large"),
}


def shown(sample: Sample) -> Scene:
    """Return the scene, with sides if its captions only say that one group is beside the other."""
    scene = sample.scene()
    if scene.relation != "next":
        return scene
    shapes = sample.layout().shapes
    is_left = shapes[0].x < shapes[-1].x
    return replace(scene, relation="left" if is_left else "right")


def says(scene: Scene) -> set[str]:
    """Return the wordings of all captions that the grammar has for a scene as it was planned."""
    both = ((template, synonym) for template in templates(scene) for synonym in (0, 1))
    return {wording(caption(scene, "it", Wording(template=template, synonym=synonym))) for template, synonym in both}


def fitting(scene: Scene) -> set[str]:
    """Return the wordings of all captions that are true of an image of a scene, not only of its own captions.

    A size that is not named is the middle one: "una stella" is not true of an image of a small star.
    """
    return {text for reading in _readings(scene) for text in says(reading)}


def _readings(scene: Scene) -> Iterator[Scene]:
    """Yield the scenes that the same image also shows."""
    groups = scene.groups
    yield scene
    if scene.relation in _MIRRORED:
        yield replace(scene, groups=groups[::-1], relation=_MIRRORED[scene.relation])
    if scene.relation in ("left", "right"):
        yield from (replace(scene, groups=order, relation="next") for order in permutations(groups))
    if len(groups) == 3:  # in a row or a column; the middle group is the second of a list
        middle = groups[scene.relation == "list"]
        ends = [group for group in groups if group is not middle]
        yield from (replace(scene, groups=(middle, *order), relation="between") for order in permutations(ends))
        yield from (replace(scene, groups=order, relation="list") for order in permutations(groups))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Held-out images, and the captions that belong to only one of them.

    Args:
        fitting: wordings that are true of each image.
        features: features of the images, shape (images, width).
        queries: captions.
        owners: index of each query's image.
        query_features: features of the queries, shape (queries, width).
    """

    fitting: Sequence[set[str]]
    features: Any
    queries: Sequence[str]
    owners: Any
    query_features: Any


def open_gallery(files: PairFiles, upstream: Path, model: LoadedModel) -> Gallery:
    """Return at most `GALLERY` images of the test split, chosen at random, with their features."""
    settings = read_json(upstream / COMMIT_FILE)["settings"]
    drawn = {  # samples by URL, or by file name if they have none
        Path(sample.path).stem if sample.source == FLICKR8K else url_of(sample, settings["base_url"]): sample
        for sample in plan(settings["seed"], settings["num_images"], figures=settings.get("figures", 0.0))
    }
    groups = row_groups(files.test)
    rows = [row for group in groups for row in read_rows(group, ["sample_id", "url", "captions"]).to_pylist()]
    chosen = np.random.default_rng(SEED).permutation(len(rows))[:GALLERY]
    names = [rows[at]["url"] or rows[at]["sample_id"].partition(":")[2] for at in chosen]
    captions = [rows[at]["captions"] for at in chosen]
    pairs = [(owner, text) for owner, texts in enumerate(captions) for text in texts]
    owners = np.array([owner for owner, _ in pairs])
    distinct = chosen_captions([text for _, text in pairs], owners, "distinct")
    kept = [pair for pair, is_distinct in zip(pairs, distinct, strict=True) if is_distinct]
    queries = [text for _, text in kept]
    return Gallery(
        fitting=[fitting(shown(drawn[name])) for name in names],
        features=image_features(model, files.test)[chosen],
        queries=queries,
        owners=np.array([owner for owner, _ in kept]),
        query_features=text_features(model, queries),
    )


def score_queries(gallery: Gallery, known: set[str]) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return the rows of the table, and R@1 by kind of query; `known` are the wordings of the training captions."""
    ranks = text_to_image_ranks(gallery.query_features, gallery.features, gallery.owners)
    wordings = [wording(text) for text in gallery.queries]
    fits = Counter(text for texts in gallery.fitting for text in texts)
    owned = zip(wordings, gallery.owners, strict=True)
    ceiling = np.array([1 / fits[text] if text in gallery.fitting[owner] else 0.0 for text, owner in owned])
    kinds = {
        "all": np.ones(len(wordings), dtype=bool),
        "unseen wording": np.array([text not in known for text in wordings]),
    }
    kinds["true of one image"] = ceiling == 1
    for attribute, words in WORDS.items():
        kinds[attribute] = np.array([not words.isdisjoint(text.split()) for text in wordings])
    rows, found = [], {}
    for kind, chosen in kinds.items():
        values = recalls(ranks[chosen], 1)
        found[kind] = float(values.mean()) if len(values) else 0.0
        rows.append({"queries": kind, "number": int(chosen.sum()), "R@1": f"{found[kind]:.3f}"})
        low, high = bootstrap_interval(values, gallery.owners[chosen], rounds=1000, seed=SEED)
        rows[-1]["95 % interval"] = f"{low:.3f}-{high:.3f}"
        rows[-1] |= {f"R@{k}": f"{recalls(ranks[chosen], k).mean():.3f}" for k in (5, 10)}
        rows[-1]["without mistakes"] = f"{ceiling[chosen].mean():.3f}"
    return rows, found


def main() -> int:
    """Build, train, score, print; return 1 if a claim is short."""
    parser = options_of(__doc__)
    parser.add_argument("--root", type=Path, help="catalog to build in, or that already contains the dataset")
    parser.add_argument("--out", type=Path, help="folder of the model that is trained (default: temporary)")
    parser.add_argument("--model", type=Path, help="folder of a trained model; it is only scored")
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
        gallery = open_gallery(files, root / "upstream", load_model(out))
        known = {wording(text) for texts in read_captions(files.train).to_pylist() for text in texts}
    rows, found = score_queries(gallery, known)
    print_table(rows, f"text to image, {len(gallery.fitting):,} images, distinct captions")
    if options.quick:
        return 0
    recall = f"text-to-image-R@1-of-{len(gallery.fitting)}"
    return judge({recall: found["all"], **minutes}, {recall: (">=", RECALL), "training-minutes": ("<=", MINUTES)})


if __name__ == "__main__":
    sys.exit(main())
