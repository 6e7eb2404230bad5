"""Recall of the leak guard on planted leaks, in a real build: python benchmarks/leaks.py [--quick] [--data FOLDER].

Half of eighty photographs of MSCOCO are a test set, the others are the user's own. Copies of the test images are added
to the user's photographs: re-encoded, resized, cropped, mirrored, or under their own names; and captions of the test
set with other punctuation and case. A whole build, by the command's own functions, shows which of them are found. A
second build without the test set makes a dataset that training must refuse.
"""

import io
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from itertools import islice
from pathlib import Path

from data_folder import PHOTOS, options_with_data
from harness import exit_without, judge, print_table
from near_images import Change, cropped, mirrored, scaled
from pictures import jpeg

from data_catalog.base.errors import PipelineError
from data_catalog.catalog.query import query
from flows.build.execution import LocalExecutor
from flows.datasets import build_dataset
from flows.models import train_model
from flows.recipe.recipe import Recipe, load_recipe

CAPTIONS = ("coco/captions_train2017.json", "coco/annotations/captions_train2017.json")
NUM_IMAGES = 80
MIN_FOUND, MAX_LOST = 0.95, 0.02


PIXELS: dict[str, Change] = {
    "same bytes": lambda image: b"",
    "re-encoded, quality 75": jpeg,
    "re-encoded, quality 30": lambda image: jpeg(image, 30),
    "resized to 70 %": lambda image: jpeg(scaled(image, 0.7)),
    "cropped by 3 %": lambda image: jpeg(cropped(image, 0.015, 0.015, 0.015, 0.015)),
    "cropped by 3 % at one side": lambda image: jpeg(cropped(image, 0, 0, 0.03, 0)),
    "mirrored": lambda image: jpeg(mirrored(image)),
}
# Too small a part of the image to be recognised; only the name gives it away.
NAMED = "cropped to a half, under its own name"
HALVED: dict[str, Change] = {NAMED: lambda image: jpeg(cropped(image, 0.25, 0.25, 0.25, 0.25))}
CAPTION = "caption with other punctuation"
OWN = "one's own"


def repunctuated(caption: str, draw: random.Random) -> str:
    """Return a caption with other punctuation and case."""
    words = caption.rstrip(".!? ").split()
    at = draw.randrange(1, len(words))
    joined = " ".join(words[:at]) + draw.choice((", ", " - ", "; ", "  ")) + " ".join(words[at:])
    ends = (".", "!", "...", " 🙂", "")
    return draw.choice((joined.lower(), joined.upper(), joined.capitalize())) + draw.choice(ends)


def plant(folder: Path, num_tests: int, data: Path, captions_file: Path) -> list[tuple[str, str, str]]:
    """Write photographs and the test set; return kind, file name and caption of each of the user's rows."""
    from PIL import Image

    annotations = json.loads(captions_file.read_text("utf-8"))
    captions: dict[int, list[str]] = {}
    for annotation in annotations["annotations"]:
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"].strip())
    listed = sorted(annotations["images"], key=lambda image: str(image["file_name"]))
    photos = data / PHOTOS
    images = list(islice((image for image in listed if (photos / image["file_name"]).is_file()), NUM_IMAGES))
    tests, own = images[:num_tests], images[num_tests:]
    ids = {image["id"] for image in tests}
    chosen = [row for row in annotations["annotations"] if row["image_id"] in ids]
    (folder / "test.json").write_text(json.dumps({"images": tests, "annotations": chosen}), "utf-8")
    for name in ("test", "photos"):
        (folder / name).mkdir()
    draw = random.Random(1)
    rows = []
    fresh = iter([text for image in own for text in captions[image["id"]]])
    for image in own:
        shutil.copy(photos / image["file_name"], folder / "photos" / f"own{image['id']}.jpg")
        rows.append((OWN, f"own{image['id']}.jpg", next(fresh)))
    for image in tests:
        shutil.copy(photos / image["file_name"], folder / "test")
        raw = (photos / image["file_name"]).read_bytes()
        picture = Image.open(io.BytesIO(raw)).convert("RGB")
        changed = {f"copy{number}-{image['id']}.jpg": kind for number, kind in enumerate(PIXELS)}
        for name, kind in {**changed, f"COCO_train2014_{image['id']:012}.jpg": NAMED}.items():
            (folder / "photos" / name).write_bytes((PIXELS | HALVED)[kind](picture) or raw)
            rows.append((kind, name, f"Something else that nobody has said, number {len(rows)} {kind}"))
        donor = draw.choice(own)["id"]
        rows.append((CAPTION, f"own{donor}.jpg", repunctuated(draw.choice(captions[image["id"]]), draw)))
    lines = [f"{image}\t{caption}" for _, image, caption in rows]
    (folder / "pairs.tsv").write_text("image\tcaption\n" + "\n".join(lines) + "\n", "utf-8")
    return rows


def build(folder: Path, root: Path, *, guarded: bool) -> Recipe:
    """Build the dataset, with or without the test set; return its recipe."""
    path = folder / f"{guarded}.toml"
    guard = f'[test_sets.held]\nkind = "coco"\nfiles = ["{folder}/test.json"]\nimages = "{folder}/test"\n'
    path.write_text(
        f'name = "leaks"\ntarget_language = "en"\n[sources.own]\nkind = "pairs"\nfiles = ["{folder}/pairs.tsv"]\n'
        f'images = "{folder}/photos"\npath_column = "image"\ncaption_column = "caption"\nlang = "en"\n'
        + guard
        * guarded,
        encoding="utf-8",
    )
    recipe = load_recipe(str(path), root=root, overrides=["train.epochs=1"])
    with LocalExecutor() as executor:
        build_dataset(recipe, root=root, executor=executor)
    return recipe


def main() -> int:
    """Plant, build, count; print one line for each claim."""
    options = options_with_data(__doc__).parse_args()
    files = [options.data / name for name in CAPTIONS if (options.data / name).is_file()]
    if not files or not (options.data / PHOTOS).is_dir():
        exit_without(f"real photographs are needed, and {options.data} has no {CAPTIONS[-1]} or no {PHOTOS}")
    with tempfile.TemporaryDirectory() as name:
        folder, root, refused = Path(name), Path(name) / "catalog", ""
        rows = plant(folder, 10 if options.quick else 40, options.data, files[0])
        guarded = build(folder, root, guarded=True)
        dropped = query(root, "SELECT source_caption, drop_reason FROM captions").to_pylist()
        build(folder, root, guarded=False)
        try:
            train_model(guarded, root)
        except PipelineError as error:
            refused = str(error)
    found = {row["source_caption"]: row["drop_reason"] for row in dropped}
    table, values, goals = [], {}, {"training-refuses": (">=", 1.0)}
    for kind in dict.fromkeys(kind for kind, _, _ in rows):
        reasons = [found[caption] for other, _, caption in rows if other == kind]
        hits = Counter(reason for reason in reasons if reason in ("test_image", "test_caption", "test_pixels"))
        table.append({"planted": kind, "rows": len(reasons), "found": f"{hits.total() / len(reasons):.1%}"})
        table[-1]["found for"] = ", ".join(f"{reason} {count}" for reason, count in hits.most_common())
        name = kind.replace(",", "").replace(" %", "%").replace("'", "").replace(" ", "-")
        values[name], goals[name] = hits.total() / len(reasons), ("<=", MAX_LOST) if kind == OWN else (">=", MIN_FOUND)
    print_table(table)
    print(f"training on a dataset that was built without the test set: {refused or 'is not refused'}\n")
    return judge(values | {"training-refuses": float(bool(refused))}, goals, "leaks-")


if __name__ == "__main__":
    sys.exit(main())
