"""What models are scored on: images with captions, of pair shards or of anybody's files, and images with classes."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_catalog.errors import InputError, SettingsError
from data_catalog.language_pack import LanguagePack
from data_catalog.sources.image_files import open_images
from data_catalog.sources.mscoco import origin_by_name
from data_catalog.sources.origins import HUMAN, MACHINE, MACHINE_TRANSLATION
from data_catalog.storage.manifest import Snapshot
from data_catalog.storage.shards import sha256_of
from data_catalog.test_sets import TestSetKind
from training.data.image_files import IMAGE_SUFFIXES
from training.data.images import encoded_images
from training.data.pairs import RowGroup, read_rows, row_groups, seen_in_training
from training.scores.class_names import read_names, read_templates
from training.trained_models import TrainedModel

UNSTATED = "unstated"
VALIDATED = "the epoch whose weights were kept was chosen on these images, which flatters the model"
PLACEHOLDER = "{c}"
BARE, BARE_TEMPLATE = "bare", PLACEHOLDER
FOLDER_SETTINGS = {"images", "class_names", "class_names_key", "templates", "templates_key"}


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
class Gallery:
    """Images with captions: each caption asks for its image among all of them, and each image for its captions.

    Args:
        name: under which scores stand.
        images: names.
        read: bytes of an image by name; raises OSError where there are none.
        captions: all of them, in any order.
        owners: the image of each caption, by its place in `images`.
        made_by: of each caption, "human", "machine" or "unstated".
        guards: by name of the model; of one that is not named nothing is known.
        notes: what is to be said of the set beside its numbers.
        files: name and sha256 of each file that it was read from.
        of_catalog: its images are the catalog's, where they may be forgotten: nothing of them is kept elsewhere.
        language: that its captions are in; None: nobody looked.
    """

    name: str
    images: Sequence[str]
    read: Callable[[str], bytes]
    captions: Sequence[str]
    owners: Sequence[int]
    made_by: Sequence[str]
    guards: Mapping[str, Guard] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: tuple[Mapping[str, str], ...] = ()
    of_catalog: bool = False
    language: TextLanguage | None = None


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
        guards: as of a `Gallery`.
        notes: likewise.
        files: likewise.
        language: likewise, of its class names.
    """

    name: str
    images: Sequence[str]
    read: Callable[[str], bytes]
    labels: Sequence[int]
    class_names: Sequence[str]
    templates: Sequence[str] = (BARE_TEMPLATE,)
    guards: Mapping[str, Guard] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: tuple[Mapping[str, str], ...] = ()
    language: TextLanguage | None = None


def maker_of(origin: str) -> str:
    """Return whether an origin is "human" or "machine"; what people corrected is theirs."""
    return MACHINE if origin == MACHINE_TRANSLATION else HUMAN


def makers_note(made_by: Sequence[str]) -> str:
    """Who made the captions of a set, in a sentence."""
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
    """The images of pair shards, by their ids.

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
    places: dict[str, tuple[int, int]] = {}
    for number, group in enumerate(groups):
        places |= {ids[len(places) + row]: (number, row) for row in range(group.num_rows)}
    reader = _ShardReader(groups, places)
    makers = [maker_of(origin) for row in rows for origin in row["origins"]]
    return Gallery(
        name=name,
        images=ids,
        read=reader.read,
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


class _ShardReader:
    """Images of pair shards by id, with two row groups in memory, which is what threads that read in order ask for."""

    def __init__(self, groups: Sequence[RowGroup], places: Mapping[str, tuple[int, int]]) -> None:
        self._groups, self._places = groups, places
        self._held: dict[int, list[bytes]] = {}
        self._lock = threading.Lock()

    def read(self, name: str) -> bytes:
        """See `Gallery.read`; may be called from several threads."""
        number, row = self._places[name]
        with self._lock:
            if number not in self._held:
                self._held = {**dict(list(self._held.items())[-1:]), number: encoded_images(self._groups[number])}
            return self._held[number][row]


# Kinds of test sets whose files hold what people wrote; what others hold, their files do not say.
_PEOPLES = frozenset({"xtd10", "karpathy", "flickr8k", "flickr30k", "crossmodal3600"})


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
    makers = [captions_by or _maker(kind.kind, file) for _, _, file in texts]
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


def _maker(kind: str, file: str) -> str:
    if kind == "mscoco_it":
        return maker_of(origin_by_name(file).origin)
    return HUMAN if kind in _PEOPLES else UNSTATED


def _hashes(files: Iterable[Path]) -> tuple[dict[str, str], ...]:
    return tuple({"name": file.name, "sha256": sha256_of(file)} for file in files)


def folders_of_classes(folder: Path) -> dict[str, list[str]]:
    """Images of an ImageNet-style folder, one folder a class, sorted: names relative to it by name of their class.

    Raises:
        InputError: it is no folder, or has no folders with images in it.
    """
    if not folder.is_dir():
        raise InputError(f"images names {folder}, which is no folder: name one that has a folder of images a class")
    found = {}
    for place in sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        files = sorted(file for file in place.rglob("*") if _is_image(file))
        if files:
            found[place.name] = [file.relative_to(folder).as_posix() for file in files]
    if not found:
        raise InputError(f"{folder} has no folders with images in them: expected one folder a class")
    return found


def _is_image(file: Path) -> bool:
    is_there = file.is_file() or file.is_symlink()  # of a link to nothing it is said that it is not there
    return is_there and file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")


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
    """An ImageNet-style folder with names for its classes.

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
    _require_templates(templates)
    names = _names_of(found, class_names, folder)
    labels = list(names)
    return LabelledImages(
        name=name,
        images=[image for label in found for image in found[label]],
        read=lambda image: (folder / image).read_bytes(),
        labels=[labels.index(label) for label in found for _ in found[label]],
        class_names=list(names.values()),
        templates=tuple(templates),
        notes=tuple(_shared_names(list(names.values()))),
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
        raise InputError("there are no templates: give at least the bare one, {c}")
    for template in templates:
        if PLACEHOLDER not in template:
            raise InputError(f"the template {template!r} has no {PLACEHOLDER}, where the class name goes")
