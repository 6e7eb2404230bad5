"""What chosen pictures are worth beside random ones: python benchmarks/collect_choice.py --student DIR.

Replays `vernaclip collect` with the native German captions of Flickr8k as the people. 250, 500 and 1,000 train
photographs, chosen as `collect draw` does or at random, give one caption each; the frozen towers of the model folder
`--student` (a German student of `benchmarks/languages.py`, with EfficientNet-Lite0) are aligned on them, and scored on
the dev photographs with all their German captions. Intervals are those of the mean of the seeds' differences, chosen
minus random (Student's t). `--work` keeps features. `--quick` measures 250 captions.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from data_folder import options_with_data, require_files
from harness import exit_without, judge, print_table, work_folder
from photographs import FILES, FOLDER, german_captions, photos_of

SIZES = (250, 500, 1000)
GOALS = {"chosen_minus_random_R@1": (">=", 0.005)}  # the smallest mean of all sizes
QUICK_GOALS = {"quick_chosen_minus_random_R@1": (">=", 0.0)}


def features_of(frozen: Any, data: Path, list_name: str) -> Any:
    """Return the features of an official list's photographs and of their native German captions."""
    from training.align.heads import FeaturePairs

    captions = german_captions(data, "native")
    photos = [photo for photo in photos_of(data, list_name) if captions.get(photo)]
    with ZipFile(data / FOLDER / "images.zip") as archive:
        places = {Path(name).name: name for name in archive.namelist()}
        images, _ = frozen.store.images(photos, lambda name: archive.read(places[name]))
    texts = frozen.store.texts([text for photo in photos for text in captions[photo]])
    return FeaturePairs((images,), texts, np.repeat(np.arange(len(photos)), [len(captions[each]) for each in photos]))


def one_caption_each(pairs: Any, photos: np.ndarray, seed: int) -> Any:
    """Return some photographs with one random caption each."""
    from training.align.heads import FeaturePairs

    kept = pairs.subset(photos)
    order = np.random.default_rng(seed).permutation(len(kept.owners))
    _, first = np.unique(kept.owners[order], return_index=True)
    return FeaturePairs(kept.views, kept.texts[order[first]], np.arange(len(kept)))


def score(frozen: Any, pairs: Any, dev: Any, seed: int) -> float:
    """Return text to image R@1 of heads that were aligned as `init` sets them for few photographs."""
    from training.align.align import fit_heads
    from training.config import AlignConfig
    from training.scores.metrics import text_to_image_ranks

    heads, _ = fit_heads(frozen, pairs, None, AlignConfig(ridge=10.0, seed=seed))
    images, texts = heads.encoded(dev)
    ranks = text_to_image_ranks(texts, images, dev.owners)
    return float((ranks == 1).mean())


def main(arguments: Sequence[str] | None = None) -> int:
    """Choose, align, score, and print a table and a claim."""
    from scipy.stats import t

    from flows.collect.draw import spread
    from training.align.frozen import opened_towers
    from training.config import AlignConfig, TrainConfig

    parser = options_with_data(__doc__)
    parser.add_argument("--student", type=Path, help="model folder that reads German")
    parser.add_argument("--work", type=Path, help="folder that keeps the features")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    options = parser.parse_args(arguments)
    require_files(options.data, (*FILES, f"{FOLDER}/german.csv"))
    if not options.student:
        exit_without("--student is needed: see --help")
    towers, rows, means = TrainConfig(model=str(options.student), num_threads=1), [], []
    with work_folder(options.work) as work, opened_towers(towers, AlignConfig(), cache=work) as frozen:
        dev, train = (features_of(frozen, options.data, name) for name in ("dev", "train"))
        unit = train.views[0] / np.linalg.norm(train.views[0], axis=1, keepdims=True)
        for size in SIZES[:1] if options.quick else SIZES:
            scores: dict[str, list[float]] = {"random": [], "chosen": []}
            for seed in range(options.seeds):
                order = np.random.default_rng(seed).permutation(len(unit))  # as hashes order the names
                chosen = order[[place for place, _ in zip(spread(unit[order]), range(size), strict=False)]]
                for way, photos in (("random", order[:size]), ("chosen", chosen)):
                    scores[way].append(score(frozen, one_caption_each(train, photos, seed), dev, seed))
            differences = np.subtract(scores["chosen"], scores["random"])
            half = t.ppf(0.975, options.seeds - 1) * differences.std(ddof=1) / np.sqrt(options.seeds)
            means.append(float(differences.mean()))
            ways = {way: f"{np.mean(found):.4f} ({min(found):.4f}-{max(found):.4f})" for way, found in scores.items()}
            gain = f"{means[-1]:+.4f} ({means[-1] - half:+.4f} to {means[-1] + half:+.4f})"
            rows.append({"captions": size, **ways, "chosen minus random": gain})
    print_table(rows)
    prefix, goals = ("quick_", QUICK_GOALS) if options.quick else ("", GOALS)
    return judge({f"{prefix}chosen_minus_random_R@1": min(means)}, goals)


if __name__ == "__main__":
    sys.exit(main())
