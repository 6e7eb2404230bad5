"""What the demo learns, with three seeds, and how long it trains: python benchmarks/demo.py.

Builds the recipe `scenes` once, then trains and scores it with three seeds, and searches "due cerchi rossi" among all
images: how many of the first eight show two red circles, by the drawn layouts. `--quick` takes 600 images and two
epochs, and claims nothing.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from harness import judge, options_of, print_table, work_folder

SEEDS = (0, 1, 2)
QUERY, FIRST = "due cerchi rossi", 8
GOALS = {"mean_R@1": (">=", 0.80), "fewest_circles_of_8": (">=", 7.0), "longest_training_minutes": ("<=", 3.0)}
QUICK = ("scenes.num_images=600", "train.epochs=2")


def drawn(recipe: Any) -> dict[str, Any]:
    """Return the plan of each drawn image by its URL, or by its name where a source has files."""
    from data_catalog.sample.samples import plan, url_of

    scenes = recipe.scenes
    samples = plan(scenes.seed, scenes.num_images, scenes.fault_rates, figures=scenes.figures)
    return {Path(s.path).stem if s.source == "flickr8k" else url_of(s, scenes.base_url): s for s in samples}


def shows_query(sample: Any) -> bool:
    """Return whether an image shows two red circles."""
    return any((each.count, each.shape, each.colour) == (2, "circle", "red") for each in sample.scene().groups)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, train, search, and print a table and claims."""
    import vernaclip
    from flows.recipe.recipe import load_recipe

    parser = options_of(__doc__)
    parser.add_argument("--work", type=Path, help="folder that keeps the root")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    with work_folder(options.work) as work:
        root, general = work / "root", QUICK if options.quick else ()
        sample = drawn(load_recipe("scenes", root=root, overrides=general))
        settings = load_settings(general)
        vernaclip.build("scenes", root, settings=settings)
        for seed in SEEDS:
            own = settings | {"train.seed": seed}
            started = time.monotonic()
            model = vernaclip.train("scenes", root, settings=own)
            minutes = (time.monotonic() - started) / 60
            scores = vernaclip.score("scenes", root, settings=own).scores
            found = vernaclip.search(QUERY, root, dataset="scenes", num_hits=FIRST)
            right = [shows_query(sample[hit.url or hit.name.partition(":")[2]]) for hit in found.hits]
            rows.append(
                {
                    "seed": seed,
                    "minutes": round(minutes, 2),
                    "R@1": round(scores.get("text_to_image_R@1", "distinct").value, 4),
                    f"right of {FIRST}": sum(right),
                    "model": model.folder.name,
                }
            )
    print_table(rows, f"{QUERY}, and R@1 of distinct captions among the test images")
    if options.quick:
        return 0
    values = {
        "mean_R@1": mean(row["R@1"] for row in rows),
        "fewest_circles_of_8": float(min(row[f"right of {FIRST}"] for row in rows)),
        "longest_training_minutes": max(row["minutes"] for row in rows),
    }
    return judge(values, GOALS)


def load_settings(overrides: Sequence[str]) -> dict[str, Any]:
    """Return overrides as the settings of the Python API."""
    from flows.recipe.recipe import override_values

    return {
        f"{section}.{name}": value for section, own in override_values(overrides).items() for name, value in own.items()
    }


if __name__ == "__main__":
    sys.exit(main())
