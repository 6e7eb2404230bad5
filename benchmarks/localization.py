"""Accuracy of the hottest place for what a text names: python benchmarks/localization.py [--quick] [--model FOLDER].

New scenes with two or three groups of shapes are drawn. The text names one of the groups, whose boxes are known. The
chance level is the boxes' share of the image. The three methods of `training.localize` are compared with that of
CLIP-Italian's demo (strips left visible on grey), on the same images. Without --model, the `scenes` recipe is built and
trained, which takes ten minutes. With --quick it is too small to mean anything, and nothing is claimed.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random

import numpy as np
from harness import Goals, judge, options_of, print_table
from recipe import build_scenes

from data_catalog.sample.grammar import Wording, caption
from data_catalog.sample.scene import Scene, encode, paint, place, random_scene
from flows.models import train_model
from training.data.features import text_features
from training.data.images import decode, picture_features
from training.scores.metrics import bootstrap_interval
from training.towers.model import LoadedModel, open_model
from training.use.localize import GRID, METHODS, localize

NUM_TEXTS = {"quick": 6, "full": 150}
QUICK_RECIPE = ("scenes.num_images=300", "split.test=0.2", "split.val=0.1", "train.epochs=1")
DEMO = "strips on grey (CLIP-Italian's demo)"
STRIP_CELLS = 22  # of the demo: 224 pixels divided by 10
GOALS: Goals = {"both": (">=", 0.75), "both-over-demo": (">=", 2.0)}


@dataclass(frozen=True, slots=True)
class Question:
    """An image, a text, and the boxes of what the text names.

    Boxes are shares of width and height (left, top, right, bottom).
    """

    image: bytes
    text: str
    boxes: tuple[tuple[float, float, float, float], ...]

    def holds(self, x: float, y: float) -> bool:
        """Return whether a place, in shares of the image, is in one of the boxes."""
        return any(left <= x <= right and top <= y <= bottom for left, top, right, bottom in self.boxes)

    def share(self) -> float:
        """Return the chance level: the share of the image in the boxes."""
        middles = (np.arange(200) + 0.5) / 200
        return float(np.mean([self.holds(x, y) for x in middles for y in middles]))


def questions() -> Iterator[Question]:
    """Yield one question for each group of each scene with several groups; the scenes are not in the recipe's."""
    for number in count(1):
        scene = random_scene(Random(f"scene to localize {number}"))
        layout = place(scene, Random(f"layout to localize {number}"))
        image, shapes = encode(paint(layout), "PNG"), iter(layout.shapes)
        for group in scene.groups:
            own = [next(shapes) for _ in range(group.count)]
            alone = Scene(groups=(group,), relation="", background=scene.background)
            radius = [shape.diameter / 2 for shape in own]
            sides = [(shape.x - r, shape.y - r, shape.x + r, shape.y + r) for shape, r in zip(own, radius, strict=True)]
            size = np.array([layout.width, layout.height] * 2)
            boxes = tuple(tuple(np.array(box) / size) for box in sides)
            if len(scene.groups) > 1:
                yield Question(image, caption(alone, "it", Wording(template="plain")), boxes)


def demo_peak(model: LoadedModel, image: bytes, text: str) -> tuple[float, float]:
    """Return the maximum of the demo's map; `training.localize` describes the algorithm, here on the model's square."""
    pixels = decode(image, model.preprocessing)
    cell_of = np.arange(model.image_size) * STRIP_CELLS // model.image_size
    spans = [(i, j) for i in range(STRIP_CELLS) for j in range(i + 1, STRIP_CELLS + 1)]
    rows = np.stack([(np.arange(STRIP_CELLS) >= i) & (np.arange(STRIP_CELLS) < j) for i, j in spans])
    strips = np.concatenate([np.repeat(rows[:, :, None], STRIP_CELLS, 2), np.repeat(rows[:, None, :], STRIP_CELLS, 1)])
    wanted = text_features(model, [text])[0]
    whole = picture_features(model, np.stack([pixels]))[0] @ wanted
    shown = strips[:, cell_of][:, :, cell_of][..., None]
    cosines = np.concatenate(
        [picture_features(model, np.where(some, pixels, np.uint8(128))) @ wanted for some in np.array_split(shown, 8)]
    )
    # The demo multiplies before it subtracts. The result is the same for cosines above 0, as large models have.
    heat = (np.clip(cosines - whole, 0, None)[:, None, None] * strips).mean(axis=0)
    for _ in range(3):
        heat = np.clip(heat - heat.mean(), 0, None)
    row, column = divmod(int(heat.argmax()), STRIP_CELLS)
    return (column + 0.5) / STRIP_CELLS, (row + 0.5) / STRIP_CELLS


def ask(model: LoadedModel, asked: Sequence[Question], folder: Path) -> tuple[dict[str, list[bool]], dict[str, float]]:
    """Return whether each method's hottest place is right, for each question, and each method's total seconds."""
    right: dict[str, list[bool]] = {name: [] for name in (*METHODS, DEMO)}
    seconds = dict.fromkeys(right, 0.0)
    path = folder / "picture.png"
    for question in asked:
        path.write_bytes(question.image)
        for name in right:
            started = time.perf_counter()
            if name == DEMO:
                x, y = demo_peak(model, question.image, question.text)
            else:
                found = localize(path, question.text, model, method=name)
                x, y = found.peak[0] / found.width, found.peak[1] / found.height
            seconds[name] += time.perf_counter() - started
            right[name].append(question.holds(x, y))

    return right, seconds


def main() -> int:
    """Draw, localize, print; return 1 if a claim is short."""
    parser = options_of(__doc__)
    parser.add_argument("--model", type=Path, help="folder of a model that was trained on the scenes")
    options = parser.parse_args()
    stream = questions()
    asked = [next(stream) for _ in range(NUM_TEXTS["quick" if options.quick else "full"])]
    with tempfile.TemporaryDirectory(prefix="localization-") as name:
        folder, root = options.model, Path(name) / "root"
        if not folder:
            _, recipe = build_scenes(root, QUICK_RECIPE if options.quick else ())
            folder = train_model(recipe, root).folder
        right, seconds = ask(open_model(folder), asked, Path(name))
    rows = []
    for name, values in right.items():
        low, high = bootstrap_interval(np.array(values, dtype=float), np.arange(len(values)), rounds=1000, seed=0)
        rows.append({"method": name, "hottest place is right": f"{np.mean(values):.1%}"})
        rows[-1] |= {"95 % interval": f"{low:.1%}-{high:.1%}", "s an image": f"{seconds[name] / len(values):.2f}"}
    chance = statistics.mean(question.share() for question in asked)
    print_table(
        rows, f"{len(asked)} texts, each for one group of several; chance level {chance:.1%}; {GRID}x{GRID} cells"
    )
    if options.quick:
        return 0
    both, demo = (float(np.mean(right[name])) for name in ("both", DEMO))
    return judge({"both": both, "both-over-demo": both / max(demo, 1e-9)}, GOALS, "hottest-place-")


if __name__ == "__main__":
    sys.exit(main())
