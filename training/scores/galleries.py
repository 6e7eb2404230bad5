"""Read galleries: images with captions from pair shards or a user's files, and images with class labels."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.catalog.manifest import Snapshot
from data_catalog.disk.files import sha256_of
from data_catalog.rows.image_formats import is_image_name
from data_catalog.rows.origins import HUMAN, MACHINE, MACHINE_TRANSLATION
from data_catalog.sources.image_files import open_images
from data_catalog.sources.mscoco import origin_by_name
from data_catalog.sources.test_sets import TestSetKind
from training.data.images import encoded_reader
from training.data.pairs import read_rows, row_groups, seen_in_training
from training.scores.rows import VALIDATED, TextLanguage
from training.towers.trained_models import LearnedImages, pair_hashes

UNSTATED = "unstated"
PLACEHOLDER = "{c}"
BARE, BARE_TEMPLATE = "bare", PLACEHOLDER
FOLDER_SETTINGS = {"images", "class_names", "class_names_key", "templates", "templates_key"}
HALF = re.compile("[\ud800-\udfff]")  # surrogates, which JSON may contain but no model accepts
# Kinds of test sets whose captions were written by people. Files of other kinds do not state the origin.
_PEOPLES = frozenset({"xtd10", "karpathy", "flickr8k", "flickr30k", "crossmodal3600"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingMatch:
    """An image of a set that a model was trained on, or that looks like one of its training images.

    Args:
        why: how the match was found.
        is_sure: it is the same image. Otherwise it only looks similar and may be another one.
    """

    why: str
    is_sure: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakCheck:
    """The result of comparing a set with a model's training images.

    Args:
        seen: matches, by place in the set's `images`.
        ways: what was compared, such as "identity". Empty if nothing, or not all, was compared.
    """

    seen: Mapping[int, TrainingMatch]
    ways: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """A set of images that models are scored on.

    Args:
        name: name under which scores are listed.
        images: names of the images.
        read: returns the bytes of an image by name, and raises OSError if there are none. Threads may call it at the
            same time.
        guards: matches with training images, by model name. Nothing is known about models that are not listed.
        notes: remarks that are printed with the scores.
        files: name and sha256 of each file that the set was read from.
        of_catalog: the images belong to the catalog, where a take-down may remove them, so nothing is cached elsewhere.
        language: language of the captions or class names. None if it was not checked.
    """

    name: str
    images: Sequence[str]
    read: Callable[[str], bytes]
    guards: Mapping[str, LeakCheck] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: tuple[Mapping[str, str], ...] = ()
    of_catalog: bool = False
    language: TextLanguage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery(ImageSet):
    """Images with captions, for retrieval: each caption is a query for its image, and each image for its captions.

    Args:
        captions: all captions, in any order.
        owners: image of each caption, by its place in `images`.
        made_by: "human", "machine" or "unstated", for each caption.
        home: URL of the dataset's home page, if it is a public one.
        license: of the captions: an id, or the URL of the terms. None if it is not known.
    """

    captions: Sequence[str]
    owners: Sequence[int]
    made_by: Sequence[str]
    home: str | None = None
    license: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImages(ImageSet):
    """Images with one class each, for zero-shot classification.

    Args:
        labels: class of each image, by its place in `class_names`.
        class_names: names of the classes, in the language that models are scored in.
        templates: texts with `{c}` in place of the class name.
    """

    labels: Sequence[int]
    class_names: Sequence[str]
    templates: Sequence[str] = (BARE_TEMPLATE,)


def maker_of(origin: str) -> str:
    """Return "human" or "machine" for an origin. Translations that people corrected count as human."""
    return MACHINE if origin == MACHINE_TRANSLATION else HUMAN


def makers_note(made_by: Sequence[str]) -> str:
    """Return a sentence on who wrote the captions of a set."""
    what = {
        HUMAN: "native, or written or validated by people",
        MACHINE: "translated by a machine",
        UNSTATED: "of unstated origin",
    }
    counts = {maker: list(made_by).count(maker) for maker in what if maker in made_by}
    if len(counts) == 1:
        return f"all captions are {what[made_by[0]]}"
    return "; ".join(f"{count:,} captions are {what[maker]}" for maker, count in counts.items())


def pairs_gallery(name: str, paths: Sequence[Path]) -> Gallery:
    """Return the images and captions of pair shards as a gallery. Images are named by their sample ids.

    Raises:
        SettingsError: there are no images.
        DamagedError: a shard cannot be read.
    """
    groups = row_groups(paths)
    columns = ["sample_id", "captions", "origins"]
    rows = [row for group in groups for row in read_rows(group, columns).to_pylist()]
    if not rows:
        raise SettingsError(f"{name} has no images: set split.test above 0 and build again")
    ids = [str(row["sample_id"]) for row in rows]
    places, read = {name: place for place, name in enumerate(ids)}, encoded_reader(groups)
    makers = [maker_of(origin) for row in rows for origin in row["origins"]]
    return Gallery(
        name=name,
        images=ids,
        read=lambda name: read(places[name]),
        captions=[text for row in rows for text in row["captions"]],
        owners=[place for place, row in enumerate(rows) for _ in row["captions"]],
        made_by=makers,
        notes=(makers_note(makers),),
        of_catalog=True,
    )


def held_out_gallery(
    name: str, snapshot: Snapshot, split: str, learned: Mapping[str, LearnedImages], *, is_own: bool
) -> Gallery:
    """Return a held-out split of a snapshot as a gallery, with the images that each model was trained on.

    Args:
        name: name under which scores are listed.
        snapshot: the snapshot.
        split: name of the split.
        learned: what each model learned from, by name.
        is_own: the model whose dataset this is is among those scored.
    """
    images, hashes, guards = snapshot.pair_files(split), pair_hashes(snapshot), {}
    own = {hashes[path] for path in images}
    for model_name, model in learned.items():
        # A val split chose the kept epoch, so it counts as trained on. For the own one a note says so instead.
        others = [(path, pair_hashes(each)[path]) for each in model.snapshots for path in each.pair_files("val")]
        trained_on = [*model.files, *(path for path, sha256 in others if sha256 not in own)]
        seen = {
            place: TrainingMatch(why=why, is_sure=True) for place, why in seen_in_training(images, trained_on).items()
        }
        guards[model_name] = LeakCheck(seen=seen, ways=("sample id", "bytes") if model.is_complete else ())
    gallery = pairs_gallery(name, images)
    notes = (VALIDATED,) if split == "val" and is_own else ()
    return replace(gallery, guards=guards, notes=(*gallery.notes, *notes))


def captioned_gallery(
    name: str, kind: TestSetKind, config: Any, *, captions_by: str | None = None, notes: Sequence[str] = ()
) -> tuple[Gallery, list[frozenset[str]]]:
    """Read a test set of captioned images with an image folder.

    Args:
        name: name under which scores are listed.
        kind: kind of the set's files.
        config: settings of that kind.
        captions_by: who wrote the captions. None uses what the kind or the files state.
        notes: remarks that are printed with the scores.

    Returns:
        The gallery, which may have no captions, and all identities of each of its images.

    Raises:
        InputError: the files cannot be read.
    """
    found = list(kind.read(config))
    texts = [
        (place, text, file)
        for place, image in enumerate(found)
        for text, file in zip(image.captions, image.caption_files, strict=True)
    ]
    if captions_by is None and kind.kind == "mscoco_it":
        makers = [maker_of(origin_by_name(file).origin) for _, _, file in texts]
    else:
        makers = [captions_by or (HUMAN if kind.kind in _PEOPLES else UNSTATED)] * len(texts)
    gallery = Gallery(
        name=name,
        images=[image.name for image in found],
        read=open_images(str(config.images)).read,
        captions=[text for _, text, _ in texts],
        owners=[place for place, _, _ in texts],
        made_by=makers,
        notes=(makers_note(makers), *notes),
        files=_hashes(kind.upstream_files(config)),
        home=kind.home,
        license=kind.license,
    )
    return gallery, [image.identities for image in found]


def _hashes(files: Iterable[Path]) -> tuple[dict[str, str], ...]:
    return tuple({"name": file.name, "sha256": sha256_of(file)} for file in files)


def folders_of_classes(folder: Path) -> dict[str, list[str]]:
    """Return the images of an ImageNet-style folder, with one subfolder per class, as sorted relative names by class.

    Raises:
        InputError: it is not a folder, or has no subfolders with images.
    """
    if not folder.is_dir():
        raise InputError(f"images={folder} is not a folder: name a folder with one subfolder of images per class")
    found: dict[str, list[str]] = {}
    for place in sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        for file in sorted(place.rglob("*")):
            is_there = file.is_file() or file.is_symlink()  # a broken link counts as a missing image
            if is_there and is_image_name(file.name) and not file.name.startswith("."):
                found.setdefault(place.name, []).append(file.relative_to(folder).as_posix())
    if not found:
        raise InputError(f"{folder} has no subfolders with images: expected one subfolder per class")
    return found


def named_images(name: str, settings: Mapping[str, str], pack: LanguagePack) -> LabelledImages:
    """Read an ImageNet-style folder with the class names and templates that settings name.

    The bare template is always scored. Others come from a file or from the language pack.

    Args:
        name: name under which scores are listed.
        settings: `images`, and optionally `class_names` and `templates` (a file or "bare") with `class_names_key` and
            `templates_key`.
        pack: language pack with the class names and templates that are used if no file is named.

    Raises:
        SettingsError: a setting is unknown or missing, or a file has several lists and no key is named.
        InputError: files cannot be read, or do not match each other.
    """
    unknown = sorted(settings.keys() - FOLDER_SETTINGS)
    if unknown or "images" not in settings:
        raise SettingsError(
            f"{unknown[0] if unknown else 'images'}: a set of folders takes images=DIR, class_names=FILE.json and "
            f"templates=FILE.json (or {BARE}), with class_names_key and templates_key if a file has several lists"
        )
    names: Sequence[str] | Mapping[str, str] = pack.class_names
    if "class_names" in settings:
        names = read_names(Path(settings["class_names"]), settings.get("class_names_key"))
    if not names:
        raise SettingsError(
            f"class_names=FILE.json is missing, and the language pack of {pack.code} has no class names"
        )
    templates: Sequence[str] = pack.prompt_templates or (BARE_TEMPLATE,)
    if settings.get("templates") == BARE:
        templates = (BARE_TEMPLATE,)
    elif "templates" in settings:
        templates = read_templates(Path(settings["templates"]), settings.get("templates_key"))
    files = [Path(settings[key]) for key in ("class_names", "templates") if settings.get(key, BARE) != BARE]
    return replace(labelled_images(name, Path(settings["images"]), names, templates), files=_hashes(files))


def labelled_images(
    name: str, folder: Path, class_names: Sequence[str] | Mapping[str, str], templates: Sequence[str]
) -> LabelledImages:
    """Read an ImageNet-style folder, and assign names to its classes.

    Args:
        name: name under which scores are listed.
        folder: folder with one subfolder per class.
        class_names: names by subfolder, where classes without a subfolder count as wrong answers; or a list in the
            order of the sorted subfolders.
        templates: texts with `{c}` in place of the class name.

    Raises:
        InputError: names and subfolders do not match, or a template has no `{c}`.
    """
    found = folders_of_classes(folder)
    if not templates:
        raise InputError("there are no templates: give at least the bare one, {c}")
    for template in templates:
        if PLACEHOLDER not in template:
            raise InputError(f"the template {template!r} has no {PLACEHOLDER} in place of the class name")
    by_folder = _names_of(found, class_names, folder)
    places, names = {label: place for place, label in enumerate(by_folder)}, list(by_folder.values())
    counts = Counter(names)
    doubled = sorted(name for name, count in counts.items() if count > 1)
    notes = [
        f"{sum(counts[name] for name in doubled)} classes share their name with another ({name}). They cannot be "
        "distinguished and count as wrong"
        for name in doubled[:1]
    ]
    return LabelledImages(
        name=name,
        images=[image for label in found for image in found[label]],
        read=lambda image: (folder / image).read_bytes(),
        labels=[places[label] for label in found for _ in found[label]],
        class_names=names,
        templates=tuple(templates),
        notes=tuple(notes),
    )


def _names_of(
    found: Mapping[str, Sequence[str]], class_names: Sequence[str] | Mapping[str, str], folder: Path
) -> dict[str, str]:
    """Return the names of all classes by their subfolders."""
    if isinstance(class_names, Mapping):
        missing = sorted(set(found) - set(class_names))
        if missing:
            raise InputError(f"the class names lack the folder {missing[0]} of {folder}: add a name for it")
        return dict(class_names)
    if len(class_names) != len(found):
        raise InputError(
            f"there are {len(class_names):,} class names for {len(found):,} image folders in {folder}. A list must "
            "have one name per sorted folder: name all of them, or give a table of names by folder"
        )
    if all(label.isdecimal() for label in found) and sorted(found) != sorted(found, key=int):
        raise InputError(
            f"the folders of {folder} are numbers, which sort differently as text: give a table of names by folder"
        )
    return dict(zip(found, class_names, strict=True))


def read_names(path: Path, key: str | None) -> list[str] | dict[str, str]:
    """Read class names from a JSON file: a list or a table by folder, or one of several by its key.

    CLIP_benchmark's files have this format.

    Raises:
        SettingsError: the file has several tables, and `key` does not name one of them.
        InputError: the file is invalid, or a name is empty or not valid Unicode.
    """
    found = _entry(path, key, "class_names_key")
    if isinstance(found, dict):
        return dict(zip(found, _texts(list(found.values()), path), strict=True))
    return _texts(found, path)


def read_templates(path: Path, key: str | None) -> list[str]:
    """Read templates from a JSON file: a list, or one of several by its key.

    Raises:
        SettingsError: the file has several lists, and `key` does not name one of them.
        InputError: the file is invalid.
    """
    return _texts(_entry(path, key, "templates_key"), path)


def has_several(path: Path) -> bool:
    """Return whether a file contains several lists or tables with keys.

    Raises:
        InputError: the file cannot be read.
    """
    return _is_several(_document(path))


def _entry(path: Path, key: str | None, option: str) -> Any:
    document = _document(path)
    if not _is_several(document):
        if key is not None:
            raise SettingsError(f"{path} is a single list or table, so it has no key {key}: leave out {option}={key}")
        return document
    if key is None and len(document) == 1:
        return next(iter(document.values()))
    if key not in document:
        raise SettingsError(f"{path} has {', '.join(sorted(document))}: choose one with {option}=NAME")
    return document[key]


def _document(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error


def _is_several(document: Any) -> bool:
    return isinstance(document, dict) and not all(isinstance(value, str) for value in document.values())


def _texts(found: Any, path: Path) -> list[str]:
    if not isinstance(found, list) or not all(isinstance(text, str) and text.strip() for text in found):
        raise InputError(f"{path} must contain a list of texts, none of them empty")
    half = next((text for text in found if HALF.search(text)), None)
    if half is not None:
        raise InputError(f"{path} contains {half!r}, which is not valid Unicode (half a surrogate pair): correct it")
    return list(found)
