"""Hard negatives on drawn scenes, where left is left: python benchmarks/positions.py [--quick].

Builds 60,000 scenes and trains `compact-96` without hard negatives. From its weights, another one is trained with them,
on images of which half are mirrored. For captions of held-out images, the table has the share that the model prefers to
a caption that differs in one thing and is false of the image, as the drawn scene shows; chance is 0.5. It also has R@1
among 1,000 images. A model that is finished in `--out` is not trained again. The claim about minutes is of the second
training.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from harness import judge, options_of, print_table
from recipe import PLAIN, build_scenes
from retrieval_quality import QUICK_SIZES, SEED, Gallery, open_gallery

from flows.recipe.language_packs import load_language_pack
from flows.recipe.recipe import Recipe, load_recipe
from training.changes import ChangeRules
from training.data.features import text_features
from training.data.pairs import Floats, Integers, PairFiles
from training.fit.clip import train
from training.fit.hard_negatives import changed_caption
from training.runs.attempts import read_attempts
from training.scores.evaluation import wording
from training.scores.metrics import bootstrap_interval, recalls, text_to_image_ranks
from training.towers.model import LoadedModel, load_model
from training.towers.trained_models import EFFORT_FILE

POSITION, OTHERS = "position", ("colour", "count", "noun", "exchanged")
HARD = (
    'train.hard_negatives=["position", "colour", "count", "noun", "exchanged"]',
    "train.hard_negative_weight=2",
    'train.augment=["crop", "mirror"]',
)
# With 20,000 scenes, positions of held-out images stop at 0.89 when those of training images are at 0.96.
SIZES = ("scenes.num_images=60000", "split.test=0.027", "split.val=0.017")
RUN = ("train.model=compact-96", "train.epochs=9")
HARD_RUN = ("train.epochs=10", "train.lr=5e-4")
WITHOUT, WITH = "without", "with"
GOALS = {
    "position_accuracy": (">=", 0.95),
    "largest_loss_of_other_kinds": ("<=", 0.01),
    "text_to_image_R@1": (">=", 0.945),
    "training_minutes": ("<=", 45.0),
}
QUICK_GOALS = {"training_minutes": ("<=", 1.0)}  # the models learn too little to compare


def preferred(model: LoadedModel, gallery: Gallery, kind: str, rules: ChangeRules) -> tuple[Floats, Integers]:
    """Return whether each caption is nearer to its image than a false one that differs in this kind of thing.

    Returns:
        1, 0, or 0.5 for a tie, for each caption that the rules can change; and the image of each.
    """
    # `fitting` has all true captions, so that nothing need be concluded from what some of them say.
    pairs, draws = [], np.random.default_rng(SEED).random((len(gallery.queries), 2))
    for place, (caption, drawn) in enumerate(zip(gallery.queries, draws, strict=True)):
        is_true = gallery.fitting[gallery.owners[place]]
        changed = changed_caption(caption, is_true, rules.changes, lambda _: frozenset(), kinds=[kind], drawn=drawn)
        if changed is not None and wording(caption) in is_true:
            pairs.append((place, changed.caption))
    places = np.array([place for place, _ in pairs], dtype=np.int64)
    owners = gallery.owners[places]
    others = text_features(model, [changed for _, changed in pairs])
    gaps = (gallery.features[owners] * (gallery.query_features[places] - others)).sum(axis=1)
    return (np.sign(gaps) + 1) / 2, owners


def scores_of(files: PairFiles, upstream: Path, folder: Path, rules: ChangeRules) -> dict[str, tuple[Floats, Integers]]:
    """Return the outcome of each caption and its image, by kind of change, and R@1."""
    model = load_model(folder)
    gallery = open_gallery(files, upstream, model)
    found = {kind: preferred(model, gallery, kind, rules) for kind in (POSITION, *OTHERS)}
    ranks = text_to_image_ranks(gallery.query_features, gallery.features, gallery.owners)
    return {**found, "R@1": (recalls(ranks, 1), gallery.owners)}


def train_both(root: Path, out: Path, settings: list[str], options: Any) -> tuple[PairFiles, ChangeRules]:
    """Build the dataset, and train the models that `out` does not have yet; the second starts from the first."""
    sizes = (*(QUICK_SIZES if options.quick else (*SIZES, *RUN)), f"train.precision={options.precision}")
    files, recipe = build_scenes(root, sizes)
    rules = ChangeRules.of(load_language_pack("it"))
    train(files, recipe.train, out / WITHOUT)
    run = () if options.quick else HARD_RUN
    start = f"train.model={(out / WITHOUT).resolve()}"
    hard: Recipe = load_recipe("scenes", root=root, overrides=[*PLAIN, *sizes, *run, *HARD, start, *settings])
    train(files, hard.train, out / WITH, rules=rules)
    return files, rules


def minutes_of(folder: Path) -> float:
    """Return how long a model was trained, in all attempts."""
    return sum(attempt.seconds for attempt in read_attempts(folder / EFFORT_FILE)) / 60


def main() -> int:
    """Build, train, score, print; return 1 if a claim is short."""
    parser = options_of(__doc__)
    parser.add_argument("--root", type=Path, help="catalog to build in, or that already contains the dataset")
    parser.add_argument("--out", type=Path, help="folder of both models (default: temporary)")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"), help="of both trainings")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of [train] with hard negatives"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="positions-") as folder:
        root, out = options.root or Path(folder), options.out or Path(folder) / "models"
        files, rules = train_both(root, out, [f"train.{text}" for text in options.set], options)
        scores = {name: scores_of(files, root / "upstream", out / name, rules) for name in (WITHOUT, WITH)}
        minutes = {name: minutes_of(out / name) for name in (WITHOUT, WITH)}
    rows: list[dict[str, Any]] = []
    for kind, (values, owners) in scores[WITH].items():
        rows.append({"captions that differ in": kind, "number": len(values)})
        for name in (WITHOUT, WITH):
            low, high = bootstrap_interval(scores[name][kind][0], owners, rounds=1000, seed=SEED)
            rows[-1][name] = f"{scores[name][kind][0].mean():.3f} ({low:.3f}-{high:.3f})"
    print_table(rows, "share of captions preferred to a false one, and R@1, with 95 % intervals")
    print_table([{"trained": f"{name} hard negatives", "minutes": f"{minutes[name]:.1f}"} for name in minutes])
    means = {name: {kind: float(values.mean()) for kind, (values, _) in scores[name].items()} for name in scores}
    found = {
        "position_accuracy": means[WITH][POSITION],
        "largest_loss_of_other_kinds": max(means[WITHOUT][kind] - means[WITH][kind] for kind in OTHERS),
        "text_to_image_R@1": means[WITH]["R@1"],
        "training_minutes": minutes[WITH],
    }
    goals = QUICK_GOALS if options.quick else GOALS
    return judge({name: found[name] for name in goals}, goals)


if __name__ == "__main__":
    sys.exit(main())
