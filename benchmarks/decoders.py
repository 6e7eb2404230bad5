"""Our decoding of images beside img2dataset's: python benchmarks/decoders.py [--quick] [--photos FOLDER].

Decode, resize to a shorter side of 256 by area, encode as JPEG of quality 95; our whole `normalise_image` does that and
checks the header, converts profiles and hashes. They run in turn; what counts is CPU time. Photographs are those of a
folder, or drawn where there is none: once as the web has them (640 pixels wide, quality 75), once as cameras make them
(2,000 wide, quality 90).
"""

import io
import os
import random
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from data_folder import DATA, PHOTOS
from harness import Goals, judge, medians, options_of, race, tell
from photographs import drawn

from data_catalog.images.normalise import NormaliseConfig, load_decoders, normalise_image

SIDE = 256
OURS, THEIRS = "vernaclip, all of it", "img2dataset's Resizer"
# Rounds, photographs of the web's size, of a camera's.
SIZES = {"quick": (7, 40, 6), "full": (15, 80, 24)}
GOALS: Goals = {"web-cpu-to-img2dataset": (">=", 1.05), "camera-cpu-to-img2dataset": (">=", 1.5)}


def ours(files: list[bytes]) -> None:
    for raw in files:
        normalise_image(raw, NormaliseConfig())


def theirs(files: list[bytes]) -> None:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from img2dataset.resizer import Resizer

    resizer = Resizer(SIDE, "keep_ratio", True)
    for raw in files:
        if error := resizer(io.BytesIO(raw))[-1]:
            raise ValueError(error)


def web_and_camera(folder: Path, num_web: int, num_camera: int) -> dict[str, list[bytes]]:
    """JPEG files of both sizes, from the folder's photographs or from drawn ones."""
    from PIL import Image

    paths = sorted(folder.glob("*.jpg"))
    random.Random(1).shuffle(paths)
    photos = [Image.open(path).convert("RGB") for path in paths[:num_web]]
    photos = photos or [Image.fromarray(drawn(number, (640, 480))) for number in range(num_web)]
    wide = [photo.resize((2000, round(2000 * photo.height / photo.width))) for photo in photos[:num_camera]]
    return {"web": [file_of(photo, 75) for photo in photos], "camera": [file_of(photo, 90) for photo in wide]}


def file_of(image: Any, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def main() -> int:
    """Race, and judge the claims."""
    parser = options_of(__doc__)
    parser.add_argument("--photos", type=Path, default=DATA / PHOTOS, help="a folder of JPEG files")
    options = parser.parse_args()
    rounds, num_web, num_camera = SIZES["quick" if options.quick else "full"]
    sets = web_and_camera(options.photos, num_web, num_camera)
    load_decoders()  # what the decoding child does first
    ways = {OURS: ours, THEIRS: theirs}
    works = {(name, kind): lambda do=ways[name], files=sets[kind]: do(files) for kind in sets for name in ways}
    found = medians(race(works, rounds, clock=time.process_time, warm_up=True))
    ms = {(name, kind): 1000 * seconds / len(sets[kind]) for (name, kind), seconds in found.items()}
    rows = [{"ms of CPU a photograph": name, **{kind: f"{ms[name, kind]:.2f}" for kind in sets}} for name in ways]
    tell(rows, f"{rounds} rounds interleaved, medians")
    return judge({f"{kind}-cpu-to-img2dataset": ms[THEIRS, kind] / ms[OURS, kind] for kind in sets}, GOALS, "decoders-")


if __name__ == "__main__":
    sys.exit(main())
