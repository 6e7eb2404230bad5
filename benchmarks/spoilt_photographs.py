"""What a check that looks at the image is worth: python benchmarks/spoilt_photographs.py --image-weights F ...

A tenth of a dataset's photographs get the captions of another one. `vernaclip ablate --align` builds the dataset with
and without `image_text.min_score`, aligns models of both, and scores them on Flickr8k's 1,000 dev photographs, whose
captions are as they are. The judging model is aligned on one half of the 6,000 train photographs, the dataset is the
other half. Towers and options are those of `benchmarks/photographs.py`. `--quick` takes 300 train photographs.
"""

import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_folder import options_with_data, require_files
from harness import exit_without, judge, print_table, work_folder
from photographs import FILES, FOLDER, photos_of, write_towers

SPOILT = 0.1  # share of the photographs of train and val split whose captions are exchanged
MIN_SCORE = 1.0  # standard deviations above random captions
GOALS = {"worth_R@1": (">", 0.0)}
QUICK_GOALS = {"quick_found": (">=", 0.3)}  # of the exchanged captions; too few photographs to tell what that is worth


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, align and ablate; print what the check dropped and what it is worth."""
    parser = options_with_data(__doc__)
    parser.add_argument("--image-weights", type=Path, help="weights of EfficientNet-Lite0, a .pth file")
    parser.add_argument("--text-encoder", type=Path, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--work", type=Path, help="folder that keeps everything")
    options = parser.parse_args(arguments)
    require_files(options.data, FILES)
    if options.image_weights is None or options.text_encoder is None:
        exit_without("--image-weights and --text-encoder are needed: see --help")
    from data_catalog.database.catalog import query
    from flows import jobs
    from flows.ablation import AblationConfig, run_ablation, variants_of
    from flows.build.execution import LocalExecutor
    from flows.recipe.recipe import load_recipe
    from flows.recipe.toggles import toggles_of

    with work_folder(options.work) as work:
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
        with LocalExecutor() as executor:

            def do(name: str, overrides: Sequence[str]) -> Any:
                return getattr(jobs, name)("flickr8k", root=root, overrides=list(overrides), executor=executor)

            mine = [*settings, 'name="judging"', f'data="{work / "judging"}"']
            do("build", mine)
            model = do("align", mine).folder
            mine = [*settings, 'name="spoilt"', f'data="{work / "spoilt"}"', f'image_text.model="{model}"']
            recipe = load_recipe("flickr8k", root=root, overrides=mine)
            toggles = toggles_of([f"image_text.min_score={MIN_SCORE}"], recipe)
            variants = variants_of("flickr8k", root=root, overrides=mine, toggles=toggles)
            do("build", mine)
            config = AblationConfig(toggles=toggles, align=True, split="test", seeds=1 if options.quick else 3)
            found = run_ablation(recipe, variants, config, root=root, do=do)
        dropped = query(
            root,
            f"SELECT sample_id, count(*) AS n FROM rejects WHERE dataset = '{variants[1].recipe.name}' "
            "AND drop_reason = 'caption_does_not_fit' GROUP BY sample_id",
        ).to_pylist()
        counts = {row["sample_id"].rpartition(":")[2]: row["n"] for row in dropped}
        kinds = {"exchanged": chosen, "as they are": [photo for photo in own if photo not in spoilt]}
        shares = {
            kind: sum(counts.get(Path(photo).stem, 0) for photo in some) / (5 * len(some))
            for kind, some in kinds.items()
        }
        rows = [
            {"captions of train and val": kind, "number": 5 * len(some), "dropped": f"{shares[kind]:.3f}"}
            for kind, some in kinds.items()
        ]
        print_table(rows, f"image_text.min_score = {MIN_SCORE}")
        print_table(found.rows(), f"{len(found.seeds)} seeds; the gallery has {found.num_images:,} photographs")
        for note in found.notes():
            print(note)
        worth = found.compared[0].differences["text_to_image_R@1"].value
    if options.quick:
        return judge({"quick_found": shares["exchanged"]}, QUICK_GOALS)
    return judge({"worth_R@1": worth}, GOALS)


if __name__ == "__main__":
    sys.exit(main())
