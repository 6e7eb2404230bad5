"""Draw the pictures that teach most, deal them to people, and write a form for each, with the pictures inside."""

import base64
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data_catalog.base.boundary import about
from data_catalog.base.errors import DiskError, InputError, SettingsError
from data_catalog.disk.files import digest, unit_interval, write_bytes
from data_catalog.fetch.workers import ImageWorkers
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.report.forms import render_form, sheet_text
from data_catalog.rows.image_formats import is_image_name
from flows.options import CollectConfig

if TYPE_CHECKING:
    import torch

    from training.towers.preprocessing import Preprocessing

SHEET_FILE = "collect.csv"
SHEET_COLUMNS = ("collect_id", "row_id", "image", "language", "forms")
# Columns of the CSV that a form saves, one row for each picture.
CAPTION_COLUMNS = tuple(f"caption_{number}" for number in range(1, 6))
ANSWER_COLUMNS = ("collect_id", "row_id", *CAPTION_COLUMNS, "mark", "saved", "person")
CANNOT_SAY, NOT_SHOWN = "cannot say", "should not be shown"
_FORM_BYTES = 20_000_000
_PICTURE = NormaliseConfig(
    image_size=640, resize_mode="keep_ratio_largest", encode_format="webp", encode_quality=70, animated="first"
)


class Picture(NamedTuple):
    """A picture to caption: its name below the folder, an id by its bytes, and the bytes to show."""

    image: str
    row_id: str
    shown: bytes


def draw_pictures(folder: Path, config: CollectConfig) -> tuple[list[Picture], Counter[str]]:
    """Return distinct pictures of a folder, those that teach most first, and how many files could not be used, by why.

    Equal folders give the same pictures.
    """
    paths = (path.relative_to(folder) for path in folder.rglob("*") if is_image_name(path.name) and path.is_file())
    every = [path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)]
    names = [name for name in every if name.isprintable()]  # others have no place in a table
    names.sort(key=lambda name: unit_interval(name, "collect"))
    left_out, found = Counter({"unprintable name": len(every) - len(names)}), dict[tuple[str, bytes], Picture]()
    with ImageWorkers() as workers:
        if not config.random:
            names = _spread_names(workers, folder, names, config.model)
        with closing(workers.normalise_local(str(folder), names, _PICTURE)) as rows:
            for row in rows:
                if reason := row["drop_reason"]:
                    left_out[reason] += 1
                elif (look := (row["phash"], row["thumbnail"])) in found:
                    left_out["copy of another picture"] += 1
                else:
                    found[look] = Picture(row["sample_id"], f"r{row['sha256'][:12]}", row["bytes"])
                if len(found) == config.num_pictures:
                    break
    if not found:
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in left_out.items() if count)
        raise InputError(f"{folder} has no picture to caption ({reasons or 'no file with the suffix of an image'})")
    return list(found.values()), +left_out


def _spread_names(workers: ImageWorkers, folder: Path, names: Sequence[str], model: str) -> list[str]:
    """Return the names of pictures, each as far as possible from all before it in features of the model."""
    import torch

    from training.data.images import decode

    preprocessing, encode = _image_encoder(model)
    torch.set_num_threads(1)  # for one picture at a time, more threads wait for each other
    features = dict[str, np.ndarray]()
    for row in workers.normalise_local(str(folder), names, _PICTURE):
        if not row["drop_reason"]:
            pixels = torch.from_numpy(np.stack([decode(row["bytes"], preprocessing)]))
            with torch.no_grad():
                feature = encode(preprocessing.normalised(pixels))
            features[row["sample_id"]] = torch.nn.functional.normalize(feature, dim=-1).numpy()[0]
    good = [*features]
    chosen = [good[place] for place in spread(np.stack([*features.values()]))] if good else []
    return [*chosen, *(name for name in names if name not in features)]  # those are counted by their reasons


def _image_encoder(model: str) -> "tuple[Preprocessing, Callable[[torch.Tensor], torch.Tensor]]":
    """Return preprocessing and encoder of a packaged image tower, or of a model folder."""
    from training.runs.processes import prepare_for_torch

    prepare_for_torch()
    import timm

    from training.towers.model import open_model
    from training.towers.packaged import PACKAGED, image_tensors
    from training.towers.preprocessing import Preprocessing

    tower = PACKAGED.get(model)
    if tower is None or not tower.architecture:
        loaded = open_model(Path(model))
        return loaded.preprocessing, loaded.encode_pixels
    network = timm.create_model(tower.architecture, num_classes=0).eval()
    network.load_state_dict(image_tensors(model))
    return Preprocessing(size=tower.size, mean=(tower.mean,) * 3, std=(tower.std,) * 3), network


def spread(features: np.ndarray) -> Iterator[int]:
    """Yield the places of all rows: the first, then always the one that is farthest from all before."""
    distances = np.full(len(features), np.inf)
    place = 0
    for _ in features:
        yield place
        distances = np.minimum(distances, ((features - features[place]) ** 2).sum(axis=1))
        distances[place] = -1
        place = int(distances.argmax())


def deal(num_pictures: int, num_people: int, overlap: float) -> list[tuple[int, ...]]:
    """Return the people, from 1, of each picture: two for the share `overlap`, which come first, one for the others."""
    loads, dealt = Counter[int](), list[tuple[int, ...]]()
    for place in range(num_pictures):
        first = min(range(num_people), key=lambda person: (loads[person], person))
        people = [first]
        if num_people > 1 and place < round(overlap * num_pictures):
            people.append((first + 1 + place // num_people % (num_people - 1)) % num_people)  # each with each in turn
        loads.update(people)
        dealt.append(tuple(person + 1 for person in people))
    return dealt


def read_words(chosen: str | None, language: str) -> dict[str, str]:
    """Return the words of the page: of a TOML file, or built-in ones of a language; English where one lacks."""
    shipped = files("flows.collect") / "page"
    english, own = shipped / "en.toml", shipped / f"{chosen or language}.toml"
    if chosen and chosen.endswith(".toml"):
        own = Path(chosen)
    elif not chosen and not own.is_file():
        own = english
    with about(f"the words of the form, {own}", kind=SettingsError, remedy="start from flows/collect/page/en.toml"):
        found = {**tomllib.loads(english.read_text("utf-8")), **tomllib.loads(own.read_text("utf-8"))}
    return {name: str(text) for name, text in found.items()}


def write_forms(
    pictures: Sequence[Picture], out: Path, config: CollectConfig, *, language: str, words: dict[str, str]
) -> list[dict[str, object]]:
    """Write the forms and, last, the sheet that says who got what; return a row of a table for each form."""
    dealt = deal(len(pictures), config.num_people, config.overlap)
    collect_id = f"c{digest([[picture.row_id, *people] for picture, people in zip(pictures, dealt, strict=True)])[:12]}"
    forms = dict[str, list[Picture]]()
    for person in range(1, config.num_people + 1):
        own = (picture for picture, people in zip(pictures, dealt, strict=True) if person in people)
        parts = list(_parts(own))
        forms |= {f"{person}.{number}" if parts[1:] else f"{person}": part for number, part in enumerate(parts, 1)}
    same = {"collect_id": collect_id, "language": language}
    rows = [
        {**picture._asdict(), **same, "forms": [name for name, part in forms.items() if picture in part]}
        for picture in pictures
    ]
    sheet, table = sheet_text(SHEET_COLUMNS, rows).encode(), list[dict[str, object]]()
    with about(f"--out {out} cannot be written to", kind=DiskError):
        path = out / SHEET_FILE
        if path.is_file() and path.read_bytes() != sheet:
            raise SettingsError(f"{path} belongs to other forms, which may have answers: choose another --out")
        for name, part in forms.items():
            content = _form(part, collect_id, name, language, words).encode()
            write_bytes(out / f"captions-{name}.html", content)
            table.append({"form": f"captions-{name}.html", "pictures": len(part), "MB": round(len(content) / 1e6, 1)})
        write_bytes(path, sheet)
    return table


def _parts(pictures: Iterable[Picture]) -> Iterator[list[Picture]]:
    """Yield a person's pictures in parts that fit a file."""
    part, size = list[Picture](), 0
    for picture in pictures:
        length = len(picture.shown) * 4 // 3 + 200  # as base64, with its row
        if part and size + length > _FORM_BYTES - 100_000:
            yield part
            part, size = [], 0
        part.append(picture)
        size += length
    if part:
        yield part


def _form(pictures: Sequence[Picture], collect_id: str, name: str, language: str, words: dict[str, str]) -> str:
    """Return a form of some pictures as the text of one HTML file."""
    data = {
        "kind": "collect",
        "id": f"{collect_id}-{name}",
        "file": f"{words['file']}-{name}",
        "language": language,
        "columns": ANSWER_COLUMNS,
        "id_column": "collect_id",
        "person_column": "person",
        "fields": [*CAPTION_COLUMNS, "mark"],
        "choices": {"mark": [CANNOT_SAY, NOT_SHOWN]},
        "rows": [{"row_id": each.row_id, "picture": base64.b64encode(each.shown).decode()} for each in pictures],
    }
    return render_form(files("flows.collect") / "page", {**words, "title": words["heading"]}, data, pictures=True)
