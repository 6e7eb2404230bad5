"""What models are scored on: images with captions, of pair shards or of anybody's files, and images with classes."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_catalog.errors import ConfigError
from data_catalog.schema import NATIVE
from data_catalog.shards import read_json
from training.data import RowGroup, read_rows, row_groups

HUMAN, MACHINE = "human", "machine"
PLACEHOLDER = "{c}"
BARE_TEMPLATE = PLACEHOLDER
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Images with captions: each caption asks for its image among all of them, and each image for its captions.

    Args:
        name: under which scores stand.
        images: names.
        read: bytes of an image by name; raises OSError where there are none.
        captions: all of them, in any order.
        owners: the image of each caption, by its place in `images`.
        made_by: of each caption, "human" or "machine".
        seen: places of images that a model was trained on, by name of the model; none of a model that is not named.
        notes: what is to be said of the set beside its numbers.
    """

    name: str
    images: Sequence[str]
    read: Callable[[str], bytes]
    captions: Sequence[str]
    owners: Sequence[int]
    made_by: Sequence[str]
    seen: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImages:
    """Images with one class each, and what the classes are called.

    Args:
        name: under which scores stand.
        images: names.
        read: bytes of an image by name; raises OSError where there are none.
        labels: the class of each image, by its place in `class_names`.
        class_names: in the language that models are asked in.
        templates: texts with `{c}` where a class name goes.
        seen: as of a `Gallery`.
        notes: likewise.
    """

    name: str
    images: Sequence[str]
    read: Callable[[str], bytes]
    labels: Sequence[int]
    class_names: Sequence[str]
    templates: Sequence[str] = (BARE_TEMPLATE,)
    seen: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def makers_note(made_by: Sequence[str]) -> str:
    """Who made the captions of a set, in a sentence."""
    num_machine = sum(maker == MACHINE for maker in made_by)
    if num_machine == len(made_by):
        return "all captions were translated by a machine, and no person is known to have looked at them"
    if num_machine:
        return f"{num_machine:,} captions were translated by a machine, {len(made_by) - num_machine:,} are people's"
    return "captions were written or validated by people"


def pairs_gallery(name: str, paths: Sequence[Path]) -> Gallery:
    """The images of pair shards, by their ids.

    Raises:
        ConfigError: there are none.
        ShardError: a shard cannot be read.
    """
    groups = row_groups(paths)
    columns = ["sample_id", "captions", "translators"]
    rows = [row for group in groups for row in read_rows(group, columns).to_pylist()]
    if not rows:
        raise ConfigError(f"{name} has no images: hold some out (split.test above 0) and build again")
    ids = [str(row["sample_id"]) for row in rows]
    places: dict[str, tuple[int, int]] = {}
    for number, group in enumerate(groups):
        places |= {ids[len(places) + row]: (number, row) for row in range(group.num_rows)}
    reader = _ShardReader(groups, places)
    makers = [HUMAN if made == NATIVE else MACHINE for row in rows for made in row["translators"]]
    return Gallery(
        name=name,
        images=ids,
        read=reader.read,
        captions=[text for row in rows for text in row["captions"]],
        owners=[place for place, row in enumerate(rows) for _ in row["captions"]],
        made_by=makers,
        notes=(makers_note(makers),),
    )


class _ShardReader:
    """Images of pair shards by id, with one row group in memory, which is what reading in order asks for."""

    def __init__(self, groups: Sequence[RowGroup], places: Mapping[str, tuple[int, int]]) -> None:
        self._groups, self._places = groups, places
        self._held: tuple[int, list[bytes]] = (-1, [])

    def read(self, name: str) -> bytes:
        """See `Gallery.read`; may be called from several threads."""
        number, row = self._places[name]
        held, images = self._held
        if held != number:
            images = [
                image["bytes"] for image in read_rows(self._groups[number], ["image"]).column("image").to_pylist()
            ]
            self._held = number, images
        return images[row]


def folders_of_classes(folder: Path) -> dict[str, list[str]]:
    """Images of an ImageNet-style folder, one folder a class, sorted: names relative to it by name of their class.

    Raises:
        ConfigError: it is no folder, or has no folders with images in it.
    """
    if not folder.is_dir():
        raise ConfigError(f"images names {folder}, which is no folder: name one that has a folder of images a class")
    found = {}
    for place in sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        files = sorted(file for file in place.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
        if files:
            found[place.name] = [file.relative_to(folder).as_posix() for file in files]
    if not found:
        raise ConfigError(f"{folder} has no folders with images in them: expected one folder a class")
    return found


def labelled_images(
    name: str, folder: Path, class_names: Sequence[str] | Mapping[str, str], templates: Sequence[str]
) -> LabelledImages:
    """An ImageNet-style folder with names for its classes.

    Args:
        name: under which scores stand.
        folder: one folder a class.
        class_names: by name of the folder, or in the order of the sorted folders.
        templates: texts with `{c}` in them.

    Raises:
        ConfigError: names and folders do not go together, or a template has no `{c}`.
    """
    found = folders_of_classes(folder)
    _require_templates(templates)
    names = _names_of(found, class_names, folder)
    classes = list(found)
    return LabelledImages(
        name=name,
        images=[image for label in classes for image in found[label]],
        read=lambda image: (folder / image).read_bytes(),
        labels=[place for place, label in enumerate(classes) for _ in found[label]],
        class_names=names,
        templates=tuple(templates),
        notes=tuple(_shared_names(names)),
    )


def _names_of(
    found: Mapping[str, Sequence[str]], class_names: Sequence[str] | Mapping[str, str], folder: Path
) -> list[str]:
    if isinstance(class_names, Mapping):
        missing = sorted(set(found) - set(class_names))
        if missing:
            raise ConfigError(f"the class names have none for the folder {missing[0]} of {folder}: add it")
        return [class_names[label] for label in found]
    if len(class_names) != len(found):
        raise ConfigError(
            f"{len(class_names):,} class names for {len(found):,} folders of images in {folder}: names that are a list "
            "go by the sorted folders, one each; name all, or give a table of names by folder"
        )
    return list(class_names)


def _shared_names(names: Sequence[str]) -> list[str]:
    doubled = sorted({name for name in names if list(names).count(name) > 1})
    if not doubled:
        return []
    count = sum(name in doubled for name in names)
    return [
        f"{count} classes share their name with another ({doubled[0]}), so nothing tells them apart: they count wrong"
    ]


def _require_templates(templates: Sequence[str]) -> None:
    if not templates:
        raise ConfigError("there are no templates: give at least the bare one, {c}")
    for template in templates:
        if PLACEHOLDER not in template:
            raise ConfigError(f"the template {template!r} has no {PLACEHOLDER}, where the class name goes")


def read_names(path: Path, key: str | None) -> list[str] | dict[str, str]:
    """Class names of a JSON file: a list, or a table by folder; or of one of several such by its key.

    Raises:
        ConfigError: it is no such file, or has several tables and `key` names none.
    """
    found = _entry(path, key)
    if isinstance(found, dict) and all(isinstance(value, str) for value in found.values()):
        return dict(found)
    return _texts(found, path)


def read_templates(path: Path, key: str | None) -> list[str]:
    """Templates of a JSON file: a list, or one of several by its key.

    Raises:
        ConfigError: it is no such file, or has several lists and `key` names none.
    """
    return _texts(_entry(path, key), path)


def _entry(path: Path, key: str | None) -> Any:
    try:
        document = read_json(path)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(document, dict) or all(isinstance(value, str) for value in document.values()):
        return document
    if key is None and len(document) == 1:
        return next(iter(document.values()))
    if key not in document:
        raise ConfigError(f"{path} has {', '.join(sorted(document))}: say which by key=NAME")
    return document[key]


def _texts(found: Any, path: Path) -> list[str]:
    if not isinstance(found, list) or not all(isinstance(text, str) and text.strip() for text in found):
        raise ConfigError(f"{path} must hold a list of texts, none of them empty")
    return list(found)
