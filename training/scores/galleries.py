"""What models are scored on: images with captions, of pair shards or of anybody's files, and images with classes."""

import json
import re
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_catalog.errors import InputError, SettingsError
from data_catalog.images.formats import is_image_name
from data_catalog.language_pack import LanguagePack
from data_catalog.sources.image_files import open_images
from data_catalog.sources.mscoco import origin_by_name
from data_catalog.sources.origins import HUMAN, MACHINE, MACHINE_TRANSLATION
from data_catalog.storage.manifest import Snapshot
from data_catalog.storage.shards import sha256_of
from data_catalog.test_sets import TestSetKind
from training.data.images import encoded_images
from training.data.pairs import RowGroup, read_rows, row_groups, seen_in_training
from training.trained_models import TrainedModel

UNSTATED = "unstated"
VALIDATED = "the epoch whose weights were kept was chosen on these images, which flatters the model"
PLACEHOLDER = "{c}"
BARE, BARE_TEMPLATE = "bare", PLACEHOLDER
FOLDER_SETTINGS = {"images", "class_names", "class_names_key", "templates", "templates_key"}
_HALF = re.compile("[\ud800-\udfff]")  # which JSON may hold, and no model is asked
# Kinds of test sets whose files hold what people wrote; what others hold, their files do not say.
_PEOPLES = frozenset({"xtd10", "karpathy", "flickr8k", "flickr30k", "crossmodal3600"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """That a model was trained on an image of a set, or on one that looks like it.

    Args:
        why: how that is known.
        is_sure: whether it is that image; what merely looks like one of training may be another.
    """

    why: str
    is_sure: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What comparing a set with a model's training images came to.

    Args:
        seen: by place in the set's `images`.
        ways: by what they were compared, such as "identity"; none: not at all.
    """

    seen: Mapping[int, Seen]
    ways: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLanguage:
    """Which language the texts of a set are in, as far as that is known.

    Args:
        asked: that the models are scored in.
        stated: that the texts are in, by who named the set or by its files; None: neither says.
        looks_like: share of the texts that surely look like another language than that, by its code, the largest first.
        num_judged: texts with letters enough to tell, among those that were looked at; None: no identifier knows the
            language.
    """

    asked: str
    stated: str | None
    looks_like: Mapping[str, float]
    num_judged: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """What models are scored on.

    Args:
        name: under which scores stand.
        images: names.
        read: bytes of an image by name; raises OSError where there are none; may be called from several threads.
        guards: by name of the model; of one that is not named nothing is known.
        notes: what is to be said of the set beside its numbers.
        files: name and sha256 of each file that it was read from.
        of_catalog: its images are the catalog's, where they may be forgotten: nothing of them is kept elsewhere.
        language: that its captions or class names are in; None: nobody looked.
    """

    name: str
    images: Sequence[str]
    read: Callable[[str], bytes]
    guards: Mapping[str, Guard] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: tuple[Mapping[str, str], ...] = ()
    of_catalog: bool = False
    language: TextLanguage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery(ImageSet):
    """Images with captions: each caption asks for its image among all of them, and each image for its captions.

    Args:
        captions: all of them, in any order.
        owners: the image of each caption, by its place in `images`.
        made_by: of each caption, "human", "machine" or "unstated".
    """

    captions: Sequence[str]
    owners: Sequence[int]
    made_by: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImages(ImageSet):
    """Images with one class each, and what the classes are called.

    Args:
        labels: the class of each image, by its place in `class_names`.
        class_names: in the language that models are asked in.
        templates: texts with `{c}` where a class name goes.
    """

    labels: Sequence[int]
    class_names: Sequence[str]
    templates: Sequence[str] = (BARE_TEMPLATE,)


def maker_of(origin: str) -> str:
    """Return whether an origin is "human" or "machine"; what people corrected is theirs."""
    return MACHINE if origin == MACHINE_TRANSLATION else HUMAN


def makers_note(made_by: Sequence[str]) -> str:
    """Return who made the captions of a set, in a sentence."""
    what = {
        HUMAN: "native, or written or validated by people",
        MACHINE: "translated by a machine",
        UNSTATED: "of unstated making",
    }
    counts = {maker: list(made_by).count(maker) for maker in what if maker in made_by}
    if len(counts) == 1:
        return f"all captions are {what[made_by[0]]}"
    return "; ".join(f"{count:,} captions are {what[maker]}" for maker, count in counts.items())


def pairs_gallery(name: str, paths: Sequence[Path]) -> Gallery:
    """Return the images of pair shards, by their ids.

    Raises:
        SettingsError: there are none.
        DamagedError: a shard cannot be read.
    """
    groups = row_groups(paths)
    columns = ["sample_id", "captions", "origins"]
    rows = [row for group in groups for row in read_rows(group, columns).to_pylist()]
    if not rows:
        raise SettingsError(f"{name} has no images: hold some out (split.test above 0) and build again")
    ids = [str(row["sample_id"]) for row in rows]
    places = dict(zip(ids, ((group, row) for group in groups for row in range(group.num_rows)), strict=True))
    lock, held = threading.Lock(), deque[tuple[RowGroup, list[bytes]]](maxlen=2)

    def read(name: str) -> bytes:
        """Return an image; two row groups are in memory, which is what threads that read in order ask for."""
        group, row = places[name]
        with lock:
            found = next((encoded for other, encoded in held if other == group), None)
            if found is None:
                found = encoded_images(group)
                held.append((group, found))
            return found[row]

    makers = [maker_of(origin) for row in rows for origin in row["origins"]]
    return Gallery(
        name=name,
        images=ids,
        read=read,
        captions=[text for row in rows for text in row["captions"]],
        owners=[place for place, row in enumerate(rows) for _ in row["captions"]],
        made_by=makers,
        notes=(makers_note(makers),),
        of_catalog=True,
    )


def held_out_gallery(
    name: str, snapshot: Snapshot, split: str, trained: Mapping[str, TrainedModel], *, own: TrainedModel | None
) -> Gallery:
    """Return the images of a split of a snapshot, with what each model has seen of them.

    Args:
        name: under which scores stand.
        trained: models by name.
        own: that of them which the dataset is there for.
    """
    images, guards = snapshot.pair_files(split), {}
    for model_name, model in trained.items():
        # Validation chooses the epoch that is kept; of its own snapshot that is known, and told in a note.
        is_own_val = split == "val" and model.snapshot.snapshot == snapshot.snapshot
        splits = ("train",) if is_own_val else ("train", "val")
        trained_on = [path for each in splits for path in model.snapshot.pair_files(each)]
        seen = {place: Seen(why=why, is_sure=True) for place, why in seen_in_training(images, trained_on).items()}
        guards[model_name] = Guard(seen=seen, ways=("sample id", "bytes"))
    gallery = pairs_gallery(name, images)
    notes = (VALIDATED,) if split == "val" and own is not None else ()
    return replace(gallery, guards=guards, notes=(*gallery.notes, *notes))


def captioned_gallery(
    name: str, kind: TestSetKind, config: Any, *, captions_by: str | None = None, notes: Sequence[str] = ()
) -> tuple[Gallery, list[frozenset[str]]]:
    """Read a test set of captioned images, which has a place of its images.

    Args:
        name: under which scores stand.
        kind: of the set's files.
        config: of that kind.
        captions_by: who made the captions; None: its kind and its files say it, or nobody.
        notes: to be said of the set beside its numbers.

    Returns:
        It, which may have no captions, and all that each of its images is known by.

    Raises:
        InputError: it cannot be read.
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
    )
    return gallery, [image.identities for image in found]


def _hashes(files: Iterable[Path]) -> tuple[dict[str, str], ...]:
    return tuple({"name": file.name, "sha256": sha256_of(file)} for file in files)


def folders_of_classes(folder: Path) -> dict[str, list[str]]:
    """Return images of an ImageNet-style folder, one folder a class, sorted: names relative to it by their class.

    Raises:
        InputError: it is no folder, or has no folders with images in it.
    """
    if not folder.is_dir():
        raise InputError(f"images names {folder}, which is no folder: name one that has a folder of images a class")
    found: dict[str, list[str]] = {}
    for place in sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        for file in sorted(place.rglob("*")):
            is_there = file.is_file() or file.is_symlink()  # of a link to nothing it is said that it is not there
            if is_there and is_image_name(file.name) and not file.name.startswith("."):
                found.setdefault(place.name, []).append(file.relative_to(folder).as_posix())
    if not found:
        raise InputError(f"{folder} has no folders with images in them: expected one folder a class")
    return found


def named_images(name: str, settings: Mapping[str, str], pack: LanguagePack) -> LabelledImages:
    """Read an ImageNet-style folder, as settings name it, its class names and templates.

    The bare template is always scored; others are those of a file, or of the language pack.

    Args:
        name: under which scores stand.
        settings: `images`; and `class_names`, `templates` (or "bare") with `class_names_key` and `templates_key`.
        pack: has the class names and templates that no file is named for.

    Raises:
        SettingsError: a setting is unknown or missing, or a file has several lists and none is named.
        InputError: files cannot be read, or do not go together.
    """
    unknown = sorted(settings.keys() - FOLDER_SETTINGS)
    if unknown or "images" not in settings:
        raise SettingsError(
            f"{unknown[0] if unknown else 'images'}: a set of folders takes images=DIR, class_names=FILE.json and "
            f"templates=FILE.json (or {BARE}), with class_names_key and templates_key where a file has several"
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
    """Read an ImageNet-style folder, with names for its classes.

    Args:
        name: under which scores stand.
        folder: one folder a class.
        class_names: by name of the folder, where classes without a folder are wrong answers; or in the order of the
            sorted folders, one each.
        templates: texts with `{c}` in them.

    Raises:
        InputError: names and folders do not go together, or a template has no `{c}`.
    """
    found = folders_of_classes(folder)
    if not templates:
        raise InputError("there are no templates: give at least the bare one, {c}")
    for template in templates:
        if PLACEHOLDER not in template:
            raise InputError(f"the template {template!r} has no {PLACEHOLDER}, where the class name goes")
    by_folder = _names_of(found, class_names, folder)
    places, names = {label: place for place, label in enumerate(by_folder)}, list(by_folder.values())
    counts = Counter(names)
    doubled = sorted(name for name, count in counts.items() if count > 1)
    notes = [
        f"{sum(counts[name] for name in doubled)} classes share their name with another ({name}), so nothing tells "
        "them apart: they count wrong"
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
    """Names of all classes by their folders."""
    if isinstance(class_names, Mapping):
        missing = sorted(set(found) - set(class_names))
        if missing:
            raise InputError(f"the class names have none for the folder {missing[0]} of {folder}: add it")
        return dict(class_names)
    if len(class_names) != len(found):
        raise InputError(
            f"{len(class_names):,} class names for {len(found):,} folders of images in {folder}: names that are a list "
            "go by the sorted folders, one each; name all, or give a table of names by folder"
        )
    if all(label.isdecimal() for label in found) and sorted(found) != sorted(found, key=int):
        raise InputError(
            f"the folders of {folder} are numbers, whose order as words is another one: give a table of names by folder"
        )
    return dict(zip(found, class_names, strict=True))


def read_names(path: Path, key: str | None) -> list[str] | dict[str, str]:
    """Read class names of a JSON file: a list, or a table by folder; or of one of several such by its key.

    That is the form of CLIP_benchmark's files.

    Raises:
        SettingsError: it has several tables and `key` names none.
        InputError: it is no such file, or a name is empty or no Unicode.
    """
    found = _entry(path, key, "class_names_key")
    if isinstance(found, dict):
        return dict(zip(found, _texts(list(found.values()), path), strict=True))
    return _texts(found, path)


def read_templates(path: Path, key: str | None) -> list[str]:
    """Read templates of a JSON file: a list, or one of several by its key.

    Raises:
        SettingsError: it has several lists and `key` names none.
        InputError: it is no such file.
    """
    return _texts(_entry(path, key, "templates_key"), path)


def has_several(path: Path) -> bool:
    """Tell if a file holds several lists or tables by their keys.

    Raises:
        InputError: it cannot be read.
    """
    return _is_several(_document(path))


def _entry(path: Path, key: str | None, option: str) -> Any:
    document = _document(path)
    if not _is_several(document):
        if key is not None:
            raise SettingsError(f"{path} is one list or table, and {option}={key} names one of several: leave it out")
        return document
    if key is None and len(document) == 1:
        return next(iter(document.values()))
    if key not in document:
        raise SettingsError(f"{path} has {', '.join(sorted(document))}: say which by {option}=NAME")
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
        raise InputError(f"{path} must hold a list of texts, none of them empty")
    half = next((text for text in found if _HALF.search(text)), None)
    if half is not None:
        raise InputError(f"{path} holds {half!r}, which is no valid Unicode (half a surrogate pair): correct it")
    return list(found)
