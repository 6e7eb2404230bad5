"""How well a small model finds pictures by Italian captions: python benchmarks/retrieval_quality.py [--quick].

Builds `scenes` large, trains a model by the recipe with the changes that `--set` names, and has captions find their
pictures among 1,000 held-out ones: captions that belong to one of them only. The table says R@1 of all these, of those
whose wording no training caption has, and of those that speak of colour, count, position, size. What a model without
mistakes would reach stands beside it, since some captions are true of other pictures too. A second table has captions
choose between their picture and one that is drawn alike but for one attribute. `--sheet` and `--plot` write pictures.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from known_scenes import ATTRIBUTES, WORDS, Foils, drawn_samples, fitting, picture, sample_of, says, shown
from quality_pictures import Found, write_curve, write_sheet

from data_catalog.images.normalise import NormaliseConfig, normalise_image
from data_catalog.plain_text import plain_table
from data_catalog.sample.samples import Sample
from data_catalog.sample.scene import Scene
from data_catalog.storage.manifest import current_snapshot_name, require_snapshot
from flows.build.execution import LocalExecutor
from flows.jobs import build_dataset
from flows.recipe.recipe import Recipe, load_recipe
from training.data.features import image_features, text_features
from training.data.images import decode, encoded_images
from training.data.pairs import PairFiles, read_captions, read_rows, row_groups
from training.fit.loop import train
from training.fit.run import METRICS_FILE
from training.scores.bootstrap import bootstrap_interval
from training.scores.evaluation import chosen_captions, wording
from training.scores.metrics import TIE_TOLERANCE, recalls, text_to_image_ranks
from training.towers.model import LoadedModel, load_model, normalise_pixels
from training.trained_models import pair_files

SIZES = ("scenes.num_images=20000", "split.test=0.08", "split.val=0.03")
RUN = ("train.model=compact-96", "train.epochs=32")
QUICK_SIZES = ("scenes.num_images=500", "split.test=0.3", "split.val=0.1", "train.epochs=1")
GALLERY, FOILS, QUICK_FOILS = 1000, 300, 30
RECALL, MINUTES = 0.6, 30.0
ROUNDS, SEED = 1000, 0
CURVE_POINTS, SHEET_CAPTIONS, SHEET_IMAGES = 8, 5, 5


def _has(scene: Scene, **wanted: Any) -> bool:
    return any(all(getattr(group, name) == value for name, value in wanted.items()) for group in scene.groups)


# Queries as no caption of the sample is worded, and what they are true of.
FREE: Mapping[str, Callable[[Scene], bool]] = {
    "stella gialla": lambda scene: _has(scene, shape="star", colour="yellow"),
    "cuori rosa": lambda scene: any(g.shape == "heart" and g.colour == "pink" and g.count > 1 for g in scene.groups),
    "forme nere su sfondo giallo": lambda scene: (
        scene.background == "yellow" and all(group.colour == "black" for group in scene.groups)
    ),
    "una stella insieme a una luna": lambda scene: (
        _has(scene, shape="star", count=1) and _has(scene, shape="moon", count=1)
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Held-out pictures, what they show, and the captions that belong to one of them only.

    Args:
        fitting: wordings that are true of each picture.
        images: encoded, as the shards have them.
        sha256: of the files that they came from.
        queries: captions.
        owners: the picture of each query.
    """

    samples: Sequence[Sample]
    scenes: Sequence[Scene]
    fitting: Sequence[set[str]]
    images: Sequence[bytes]
    sha256: Sequence[str]
    features: Any
    queries: Sequence[str]
    owners: Any
    query_features: Any


def build(root: Path, recipe: Recipe) -> PairFiles:
    """The sample's pair shards, by split; those of the root if there are any."""
    if current_snapshot_name(root, recipe.name) is None:
        with LocalExecutor() as executor:
            build_dataset(recipe, root=root, executor=executor)
    return pair_files(require_snapshot(root, recipe.name))


def open_gallery(files: PairFiles, upstream: Path, model: LoadedModel) -> Gallery:
    """At most `GALLERY` pictures of the test split, by lot, and their features."""
    groups = row_groups(files.test)
    rows = [row for group in groups for row in read_rows(group, ["sample_id", "url", "sha256", "captions"]).to_pylist()]
    images = [image for group in groups for image in encoded_images(group)]
    chosen = np.random.default_rng(SEED).permutation(len(rows))[:GALLERY]
    drawn = drawn_samples(upstream)
    samples = [sample_of(rows[place], drawn) for place in chosen]
    captions = [rows[place]["captions"] for place in chosen]
    pairs = [(owner, text) for owner, texts in enumerate(captions) for text in texts]
    kept = [pair for pair, is_distinct in zip(pairs, chosen_captions(captions, "distinct"), strict=True) if is_distinct]
    scenes = [shown(sample) for sample in samples]
    return Gallery(
        samples=samples,
        scenes=scenes,
        fitting=[fitting(scene) for scene in scenes],
        images=[images[place] for place in chosen],
        sha256=[rows[place]["sha256"] for place in chosen],
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
    for attribute in ATTRIBUTES:
        pictures: list[bytes] = []
        places: list[int] = []
        for place, sample in _spoken_for(gallery):
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


def _spoken_for(gallery: Gallery) -> list[tuple[int, Sample]]:
    """The first query of each picture that says all of it as its scene was planned, by place, and the sample."""
    found: dict[int, int] = {}
    for place, (text, owner) in enumerate(zip(gallery.queries, gallery.owners.tolist(), strict=True)):
        if owner not in found and wording(text) in says(gallery.samples[owner].scene()):
            found[owner] = place
    return [(place, gallery.samples[owner]) for owner, place in found.items()]


def encode_pictures(pictures: Sequence[bytes], model: LoadedModel, config: NormaliseConfig) -> Any:
    """Unit features of drawn files, normalised as a build does it."""
    pixels = [decode(normalise_image(data, config).data, model.image_size) for data in pictures]
    with torch.no_grad():
        batches = [torch.from_numpy(np.stack(pixels[start : start + 128])) for start in range(0, len(pixels), 128)]
        found = [model.module.encode_image(normalise_pixels(batch), normalize=True) for batch in batches]
    return torch.cat(found).numpy()


def check_drawings(gallery: Gallery) -> None:
    """Stop where the sample was drawn by another version: foils would differ in more than they should."""
    for sample, sha256 in list(zip(gallery.samples, gallery.sha256, strict=True))[:20]:
        if hashlib.sha256(picture(sample, sample.scene())).hexdigest() != sha256:
            raise SystemExit("the catalog's pictures are not those that this version draws: build it again")


def sheet_rows(gallery: Gallery, model: LoadedModel, known: set[str]) -> list[Found]:
    """Captions by lot whose wording is not known, then the free queries, with what is found for each."""
    unseen = [place for place, text in enumerate(gallery.queries) if wording(text) not in known]
    drawn = Random(SEED).sample(unseen, min(SHEET_CAPTIONS, len(unseen)))
    asked: list[tuple[str, list[bool]]] = [
        (gallery.queries[place], [wording(gallery.queries[place]) in texts for texts in gallery.fitting])
        for place in drawn
    ]
    asked += [(text, [is_true(scene) for scene in gallery.scenes]) for text, is_true in FREE.items()]
    cosines = text_features(model, [text for text, _ in asked]) @ gallery.features.T
    rows = []
    for (text, fits), near in zip(asked, cosines, strict=True):
        best = np.argsort(-near, kind="stable")[:SHEET_IMAGES]
        kind = "free" if text in FREE else "caption"
        note = f"{kind}, true of {sum(fits)} of {len(fits):,}"
        rows.append(Found(text, note, [gallery.images[i] for i in best], [fits[i] for i in best]))
        print(f"{text}: {note}; right in the first {len(best)}: {sum(fits[i] for i in best)}")
    return rows


def curve_rows(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Some lines of `metrics.jsonl`, evenly drawn, the first and the last among them."""
    places = sorted({round(place) for place in np.linspace(0, len(history) - 1, CURVE_POINTS)})
    names = ("epoch", "samples_seen", "train_loss", "val_loss", "val_recall@1")
    return [{name.replace("_", " "): history[place].get(name) for name in names} for place in places]


def main(arguments: Sequence[str]) -> int:
    """Build, train, score, print; 1 where a claim is short."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images, one epoch")
    parser.add_argument("--root", type=Path, help="catalog to build in, or to take the dataset from, if it is there")
    parser.add_argument("--out", type=Path, help="folder of the model that is trained (default: temporary)")
    parser.add_argument("--model", type=Path, help="folder of a trained model, which is only scored")
    parser.add_argument("--epochs", type=int, help="passes over the train split, as --set epochs=N")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of [train]")
    parser.add_argument("--sheet", type=Path, help="write queries and what is found for them, a PNG")
    parser.add_argument("--plot", type=Path, help="write the curve, a PNG")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="retrieval-quality-") as folder:
        root = options.root or Path(folder)
        epochs = [f"epochs={options.epochs}"] if options.epochs else []
        sizes = QUICK_SIZES if options.quick else (*SIZES, *RUN)
        overrides = [*sizes, *(f"train.{text}" for text in (*epochs, *options.set))]
        recipe = load_recipe("scenes", root=root, overrides=overrides)
        files = build(root, recipe)
        started = time.monotonic()
        out = options.model or options.out or Path(folder) / "model"
        if not options.model:
            train(files, recipe.train, out)
        minutes = None if options.model else (time.monotonic() - started) / 60
        return report(files, recipe, root, out, minutes, options)


def report(
    files: PairFiles, recipe: Recipe, root: Path, out: Path, minutes: float | None, options: argparse.Namespace
) -> int:
    """Score a trained model, print tables and claims."""
    model = load_model(out)
    gallery = open_gallery(files, root / "upstream", model)
    check_drawings(gallery)
    known = {wording(text) for texts in read_captions(files.train).to_pylist() for text in texts}
    rows, found = score_queries(gallery, known)
    print(f"text to image, {len(gallery.images):,} pictures, captions distinct\n{plain_table(rows)}\n")
    most = QUICK_FOILS if options.quick else FOILS
    pairs = score_foils(gallery, model, recipe.normalise, most)
    print(f"two pictures alike but for one attribute\n{plain_table(pairs)}\n")
    if (out / METRICS_FILE).is_file():
        history = [json.loads(line) for line in (out / METRICS_FILE).read_text("utf-8").splitlines()]
        print(f"{plain_table(curve_rows(history))}\n")
        if options.plot:
            write_curve(history, {f"test, {kind}": found[kind] for kind in list(found)[:3]}, options.plot)
    if options.sheet:
        write_sheet(sheet_rows(gallery, model, known), options.sheet)
    goal = 0.0 if options.quick else RECALL  # one epoch of a few images learns little
    claims = [(f"text-to-image-R@1-of-{len(gallery.images)}", found["all"], ">=", goal, found["all"] >= goal)]
    if minutes is not None:
        claims.append(("training-minutes", minutes, "<=", MINUTES, minutes <= MINUTES))
    for name, value, sign, goal, is_reached in claims:
        print(f"claim {name} {value:.3f} goal {sign}{goal:g} {'ok' if is_reached else 'short'}")
    return int(not all(is_reached for *_, is_reached in claims))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
