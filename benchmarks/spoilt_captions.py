"""What a check that looks at the image is worth, by `vernaclip ablate` with and without it.

python benchmarks/spoilt_captions.py --image-weights FILE --text-encoder DIR
python benchmarks/spoilt_captions.py --scenes-model DIR

Photographs: a tenth of them get the captions of another one. The dataset is one half of Flickr8k's 6,000 train
photographs, and the judging model is aligned on the other half. `image_text.min_score` is one standard deviation above
random captions. Aligned models are scored on the 1,000 dev photographs, whose captions are as they are. Towers and
options are those of `benchmarks/photographs.py`.

Scenes: in a third of the translations one thing is changed by rule, which makes most of them false (position,
colour, number, noun, exchanged colours). The judging model is an Italian one of the built-in sample of seed 1, such as
`with` of `benchmarks/positions.py --out`; the dataset is of another seed. `image_text.min_score` is that which 2 % of
the right captions do not reach. Models are trained, and scored on the test split, whose captions are right.

`--quick` takes 300 photographs or scenes, and one seed.
"""

import json
import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from data_folder import options_with_data, require_files
from harness import exit_without, judge, print_table, work_folder
from photographs import FILES, FOLDER, photos_of, write_towers
from recipe import PLAIN

if TYPE_CHECKING:
    from training.scores.ablation import Ablation

SPOILT = 0.1  # share of the photographs of train and val split whose captions are exchanged
MIN_SCORE = 1.0  # standard deviations above random captions
SPOILT_TRANSLATIONS, DROPPED = 1 / 3, 0.02
KINDS = ("position", "colour", "count", "noun", "exchanged")
SCENES = (*PLAIN, "scenes.seed=2", "scenes.num_images=3000", "train.epochs=12", "split.test=0.15", "split.val=0.05")
GOALS = {"worth_R@1": (">", 0.0), "scenes_worth_R@1": (">", 0.0)}
# Too few images to tell what the check is worth: share of the spoilt captions that it drops.
QUICK_GOALS = {"quick_found": (">=", 0.3), "quick_scenes_found": (">=", 0.3)}
# Prints a translation for each line, from a file of tab-separated pairs.
ENGINE = """
import sys
from pathlib import Path

lines = Path(sys.argv[1]).read_text("utf-8").splitlines()
known = dict(line.split("\\t") for line in lines)
for line in sys.stdin:
    print(known[line.rstrip("\\n")], flush=True)
"""


def write_half(data: Path, folder: Path, photos: Sequence[str], test: Sequence[str], spoilt: Mapping[str, str]) -> None:
    """Write Flickr8k's files of some photographs, of which a tenth is the dev list; `spoilt` exchanges captions.

    Args:
        data: folder of all data.
        folder: where the files are written.
        photos: photographs of the train and the dev list.
        test: photographs of the test list.
        spoilt: photograph whose captions a photograph gets.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held_out = len(photos) // 10
    lists = {"dev": photos[:held_out], "train": photos[held_out:]} | ({"test": test} if test else {})
    for name, some in lists.items():
        (folder / f"Flickr_8k.{name}Images.txt").write_text("".join(f"{photo}\n" for photo in sorted(some)))
    captions: dict[str, list[str]] = {}
    for line in (data / FOLDER / "Flickr8k.token.txt").read_text().splitlines():
        place, _, caption = line.partition("\t")
        captions.setdefault(place.partition("#")[0], []).append(caption)
    with (folder / "Flickr8k.token.txt").open("w") as file:
        for photo in (*photos, *test):
            for number, caption in enumerate(captions[spoilt.get(photo, photo)]):
                file.write(f"{photo}#{number}\t{caption}\n")


def ablated(
    recipe_name: str, root: Path, settings: Sequence[str], min_score: float, **config: Any
) -> "tuple[Ablation, str]":
    """Build a recipe's dataset and ablate `image_text.min_score`; return the result and the filtered dataset's name."""
    from flows.ablation import run_ablation, variants_of
    from flows.options import AblationConfig
    from flows.recipe.recipe import load_recipe

    recipe = load_recipe(recipe_name, root=root, overrides=list(settings))
    toggles = (f"image_text.min_score={min_score}",)
    variants = variants_of(recipe_name, root=root, overrides=settings, toggles=toggles)
    do(recipe_name, root, "build", settings)
    found = run_ablation(
        recipe,
        variants,
        AblationConfig(**config),
        root=root,
        do=lambda name, overrides: do(recipe_name, root, name, overrides),
    )
    return found, variants[1].recipe.name


def do(recipe: str, root: Path, name: str, overrides: Sequence[str]) -> Any:
    """Do a job of a recipe."""
    from flows.jobs import call
    from flows.recipe.recipe import load_recipe

    return call(name, load_recipe(recipe, root=root, overrides=overrides), root)


def dropped(root: Path, dataset: str) -> list[dict[str, Any]]:
    """Return the captions of a dataset that do not fit their image, by the check."""
    from data_catalog.catalog.query import query

    return query(root, f"FROM rejects WHERE dataset = '{dataset}' AND drop_reason = 'caption_does_not_fit'").to_pylist()


def show(found: "Ablation", shares: Mapping[str, tuple[int, float]], min_score: float) -> float:
    """Print what was dropped and what that is worth; return the difference in R@1."""
    rows = [
        {"captions of train and val": kind, "number": number, "dropped": f"{share:.3f}"}
        for kind, (number, share) in shares.items()
    ]
    print_table(rows, f"image_text.min_score = {min_score:.2f}")
    print_table(found.rows(), f"{len(found.seeds)} seeds; the gallery has {found.board.sets[0].num_images:,} images")
    for note in found.notes():
        print(note)
    delta = found.board.where(metric="text_to_image_R@1").rows[-1]  # of the only filter
    return delta.value


def on_photographs(options: Any, work: Path) -> tuple[float, float]:
    """Exchange captions of photographs; return the share of them that was dropped, and what that is worth."""
    photos = photos_of(options.data, "train")
    random.Random(0).shuffle(photos)
    photos = photos[: 300 if options.quick else None]
    test = photos_of(options.data, "dev")[: 100 if options.quick else None]
    half = len(photos) // 2
    judging, own = photos[:half], photos[half:]
    chosen = random.Random(1).sample(own, round(SPOILT * len(own)))
    spoilt = dict(zip(chosen, (*chosen[1:], chosen[0]), strict=True))
    write_half(options.data, work / "judging" / "flickr8k", judging, [], {})
    write_half(options.data, work / "spoilt" / "flickr8k", own, test, spoilt)
    towers = write_towers(work, options.image_weights, options.text_encoder, None)
    settings = [
        f'sources.flickr8k.images="{options.data / FOLDER / "images.zip"}"',
        f'train.model="{towers}"',
        f'train.image_weights="{work / "image.safetensors"}"',
        *(f'train.{name}=""' for name in ("image_tower", "text_encoder", "text_pooler")),
    ]
    root = work / "root"
    mine = [*settings, 'name="judging"', f'data="{work / "judging"}"']
    do("flickr8k", root, "build", mine)
    model = do("flickr8k", root, "align", mine).folder
    mine = [*settings, 'name="spoilt"', f'data="{work / "spoilt"}"', f'image_text.model="{model}"']
    seeds = 1 if options.quick else 3
    found, dataset = ablated("flickr8k", root, mine, MIN_SCORE, align=True, split="test", seeds=seeds)
    counts = Counter(row["sample_id"].rpartition(":")[2] for row in dropped(root, dataset))
    kinds = {"exchanged": chosen, "as they are": [photo for photo in own if photo not in spoilt]}
    shares = {
        kind: (5 * len(some), sum(counts[Path(photo).stem] for photo in some) / (5 * len(some)))
        for kind, some in kinds.items()
    }
    return shares["exchanged"][1], show(found, shares, MIN_SCORE)


def on_scenes(options: Any, work: Path) -> tuple[float, float]:
    """Change a third of the translations of scenes; return the share of them that was dropped, and its worth."""
    from data_catalog.catalog.query import query
    from flows.recipe.language_packs import language_pack
    from training.changes import ChangeRules

    root, judge_model = work / "scenes", f'image_text.model="{options.scenes_model.resolve()}"'
    settings = [*SCENES, f"train.precision={options.precision}", judge_model]
    settings += ["scenes.num_images=300", "train.epochs=2", "train.batch_size=32"] if options.quick else []
    do("scenes", root, "build", [*settings, 'name="right"'])
    rows = query(
        root,
        "SELECT clean_caption, caption, split, image_text_score FROM captions LEFT JOIN images "
        "USING (dataset, snapshot, sample_id) WHERE dataset = 'right' AND caption <> '' AND translator IS NOT NULL "
        "ORDER BY caption_id",
    ).to_pylist()
    right = {row["clean_caption"]: row["caption"] for row in rows}
    kept = {row["clean_caption"] for row in rows if row["split"] == "test"}  # queries stay right
    rules, draws = ChangeRules.of(language_pack("it")), random.Random(0)
    wrong = dict[str, str]()
    for source, caption in sorted(right.items()):
        if source not in kept and draws.random() < SPOILT_TRANSLATIONS:
            changes = rules.changes(caption, [draws.choice(KINDS)]) or rules.changes(caption, KINDS)
            wrong |= {source: draws.choice(changes).caption} if changes else {}
    (work / "translations.tsv").write_text(
        "".join(f"{source}\t{caption}\n" for source, caption in {**right, **wrong}.items()), "utf-8"
    )
    (work / "engine.py").write_text(ENGINE, "utf-8")
    engine = [sys.executable, str(work / "engine.py"), str(work / "translations.tsv")]
    spoilt = [*settings, 'name="spoilt"', 'translate.engine="command"', f"translate.command={json.dumps(engine)}"]
    spoilt += ["translate.package=[]"]
    scores = [row["image_text_score"] for row in rows if row["image_text_score"] is not None]
    min_score = round(float(np.quantile(scores, DROPPED)), 3)
    found, dataset = ablated("scenes", root, spoilt, min_score, split="test", seeds=1 if options.quick else 3)
    judged = query(
        root,
        "SELECT clean_caption, captions.drop_reason FROM captions "
        "LEFT JOIN images USING (dataset, snapshot, sample_id) "
        f"WHERE dataset = '{dataset}' AND split <> 'test' AND image_text_score IS NOT NULL",
    ).to_pylist()
    kinds = {
        kind: [row["drop_reason"] for row in judged if (row["clean_caption"] in wrong) == is_wrong]
        for kind, is_wrong in (("changed", True), ("as they are", False))
    }
    shares = {kind: (len(some), some.count("caption_does_not_fit") / len(some)) for kind, some in kinds.items()}
    return shares["changed"][1], show(found, shares, min_score)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, align or train, and ablate; print what the check dropped and what it is worth."""
    parser = options_with_data(__doc__)
    parser.add_argument("--image-weights", type=Path, help="weights of EfficientNet-Lite0, a .pth file")
    parser.add_argument("--text-encoder", type=Path, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--scenes-model", type=Path, help="folder of an Italian model of the plain sample")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"), help="of training on scenes")
    parser.add_argument("--work", type=Path, help="folder that keeps everything")
    options = parser.parse_args(arguments)
    found = dict[str, float]()
    with work_folder(options.work) as work:
        if options.image_weights and options.text_encoder:
            require_files(options.data, FILES)
            found["quick_found"], found["worth_R@1"] = on_photographs(options, work)
        if options.scenes_model:
            found["quick_scenes_found"], found["scenes_worth_R@1"] = on_scenes(options, work)
    if not found:
        exit_without("--image-weights and --text-encoder are needed, or --scenes-model: see --help")
    goals = QUICK_GOALS if options.quick else GOALS
    return judge({name: found[name] for name in goals if name in found}, goals)


if __name__ == "__main__":
    sys.exit(main())
