"""Read galleries: images with captions from pair shards or a user's files, and images with class labels."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, StringConstraints, TypeAdapter, ValidationError

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
# Kinds of test sets whose captions were written by people. Files of other kinds do not state the origin.
_PEOPLES = frozenset({"xtd10", "karpathy", "flickr8k", "flickr30k", "crossmodal3600"})
_MAKERS = {
    HUMAN: "native, or written or validated by people",
    MACHINE: "translated by a machine",
    UNSTATED: "of unstated origin",
}

_Text = Annotated[str, StringConstraints(pattern=r"\S")]
_Texts = list[_Text] | dict[str, _Text]
# JSON may contain half of a surrogate pair, which pydantic refuses, as models do.
_DOCUMENT: TypeAdapter[Any] = TypeAdapter(_Texts | dict[str, _Texts], config=ConfigDict(strict=True))


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


def pairs_gallery(name: str, paths: Sequence[Path]) -> Gallery:
    """Return the images and captions of pair shards as a gallery. Images are named by their sample ids."""
    groups = row_groups(paths)
    rows = [row for group in groups for row in read_rows(group, ["sample_id", "captions", "origins"]).to_pylist()]
    if not rows:
        raise SettingsError(f"{name} has no images: set split.test above 0 and build again")
    places = {str(row["sample_id"]): place for place, row in enumerate(rows)}
    read, makers = encoded_reader(groups), [_maker_of(origin) for row in rows for origin in row["origins"]]
    return Gallery(
        name=name,
        images=[str(row["sample_id"]) for row in rows],
        read=lambda name: read(places[name]),
        captions=[text for row in rows for text in row["captions"]],
        owners=[place for place, row in enumerate(rows) for _ in row["captions"]],
        made_by=makers,
        notes=(_makers_note(makers),),
        of_catalog=True,
    )


def _maker_of(origin: str) -> str:
    """Return who made a caption. Translations that people corrected count as human."""
    return MACHINE if origin == MACHINE_TRANSLATION else HUMAN


def _makers_note(made_by: Sequence[str]) -> str:
    counts = {what: list(made_by).count(maker) for maker, what in _MAKERS.items() if maker in made_by}
    if len(counts) == 1:
        return f"all captions are {next(iter(counts))}"
    return "; ".join(f"{count:,} captions are {what}" for what, count in counts.items())


def held_out_gallery(
    name: str, snapshot: Snapshot, split: str, learned: Mapping[str, LearnedImages], *, is_own: bool
) -> Gallery:
    """Return a held-out split of a snapshot as a gallery, with the images that each model was trained on.

    `learned` has what each model learned from, by its name. `is_own`: the dataset's own model is among those scored.
    """
    images, hashes, guards = snapshot.pair_files(split), pair_hashes(snapshot), {}
    own = {hashes[path] for path in images}
    for model_name, model in learned.items():
        # A val split chose the kept epoch, so it counts as trained on. For the own one a note says so instead.
        others = [(path, pair_hashes(each)[path]) for each in model.snapshots for path in each.pair_files("val")]
        trained_on = [*model.files, *(path for path, sha256 in others if sha256 not in own)]
        matches = seen_in_training(images, trained_on).items()
        guards[model_name] = LeakCheck(
            seen={place: TrainingMatch(why=why, is_sure=True) for place, why in matches},
            ways=("sample id", "bytes") if model.is_complete else (),
        )
    gallery = pairs_gallery(name, images)
    notes = (VALIDATED,) if split == "val" and is_own else ()
    return replace(gallery, guards=guards, notes=(*gallery.notes, *notes))


def captioned_gallery(
    name: str, kind: TestSetKind, config: Any, *, captions_by: str | None = None, notes: Sequence[str] = ()
) -> tuple[Gallery, list[frozenset[str]]]:
    """Read a test set of captioned images with an image folder, by the settings of its kind.

    Without `captions_by`, the kind or the files state who wrote the captions.

    Returns:
        The gallery, which may have no captions, and all identities of each of its images.
    """
    found = list(kind.read(config))
    texts = [
        (place, text, file)
        for place, image in enumerate(found)
        for text, file in zip(image.captions, image.caption_files, strict=True)
    ]
    if captions_by is None and kind.kind == "mscoco_it":
        makers = [_maker_of(origin_by_name(file).origin) for _, _, file in texts]
    else:
        makers = [captions_by or (HUMAN if kind.kind in _PEOPLES else UNSTATED)] * len(texts)
    gallery = Gallery(
        name=name,
        images=[image.name for image in found],
        read=open_images(str(config.images)).read,
        captions=[text for _, text, _ in texts],
        owners=[place for place, _, _ in texts],
        made_by=makers,
        notes=(_makers_note(makers), *notes),
        files=_hashes(kind.upstream_files(config)),
        home=kind.home,
        license=kind.license,
    )
    return gallery, [image.identities for image in found]


def _hashes(files: Iterable[Path]) -> tuple[dict[str, str], ...]:
    return tuple({"name": file.name, "sha256": sha256_of(file)} for file in files)


def named_images(name: str, settings: Mapping[str, str], pack: LanguagePack) -> LabelledImages:
    """Read an ImageNet-style folder with the class names and templates that settings name.

    The bare template is always scored. Class names and other templates come from files or from the language pack.
    """
    unknown = sorted(settings.keys() - FOLDER_SETTINGS)
    if unknown or "images" not in settings:
        raise SettingsError(
            f"{unknown[0] if unknown else 'images'}: a set of folders takes images=DIR, class_names=FILE.json and "
            f"templates=FILE.json (or {BARE}), with class_names_key and templates_key if a file has several lists"
        )
    files = {key: Path(settings[key]) for key in ("class_names", "templates") if settings.get(key, BARE) != BARE}
    names: Sequence[str] | Mapping[str, str] = pack.class_names
    templates: Sequence[str] | Mapping[str, str] = pack.prompt_templates or (BARE_TEMPLATE,)
    if "class_names" in files:
        names = read_texts(files["class_names"], settings.get("class_names_key"), "class_names_key")
    if not names:
        raise SettingsError(
            f"class_names=FILE.json is missing, and the language pack of {pack.code} has no class names"
        )
    if "templates" in files:
        templates = read_texts(files["templates"], settings.get("templates_key"), "templates_key")
    elif "templates" in settings:
        templates = (BARE_TEMPLATE,)
    if not templates or isinstance(templates, Mapping):
        raise InputError(f"templates={files.get('templates')} must be a list of templates with {PLACEHOLDER}")
    found = labelled_images(name, Path(settings["images"]), names, templates)
    return replace(found, files=_hashes(files.values()))


def labelled_images(
    name: str, folder: Path, class_names: Sequence[str] | Mapping[str, str], templates: Sequence[str]
) -> LabelledImages:
    """Read an ImageNet-style folder, with one subfolder per class.

    Class names are a table by subfolder, where those without a subfolder count as wrong answers, or a list in the order
    of the sorted subfolders.
    """
    for template in templates:
        if PLACEHOLDER not in template:
            raise InputError(f"the template {template!r} has no {PLACEHOLDER} in place of the class name")
    labels = _labels(folder)
    by_folder = _names_of(list(dict.fromkeys(labels.values())), class_names, folder)
    places, names = {label: place for place, label in enumerate(by_folder)}, list(by_folder.values())
    doubled = {name: count for name, count in Counter(names).items() if count > 1}
    shared = f"classes share their name with another ({', '.join(sorted(doubled)[:1])})"
    note = f"{sum(doubled.values())} {shared}. They cannot be distinguished and count as wrong"
    return LabelledImages(
        name=name,
        images=list(labels),
        read=lambda image: (folder / image).read_bytes(),
        labels=[places[label] for label in labels.values()],
        class_names=names,
        templates=tuple(templates),
        notes=(note,) if doubled else (),
    )


def _labels(folder: Path) -> dict[str, str]:
    """Return the subfolder of each image of a folder, by its relative name, sorted."""
    found = {}
    for file in sorted(folder.glob("*/**/*")):
        name = file.relative_to(folder)
        is_there = file.is_file() or file.is_symlink()  # a broken link counts as a missing image
        if is_there and is_image_name(name.name) and not name.name.startswith(".") and name.parts[0][0] != ".":
            found[name.as_posix()] = name.parts[0]
    if not found:
        raise InputError(f"images={folder} has no subfolders with images: name a folder with one subfolder per class")
    return found


def _names_of(found: Sequence[str], class_names: Sequence[str] | Mapping[str, str], folder: Path) -> Mapping[str, str]:
    """Return the names of all classes by their subfolders."""
    if isinstance(class_names, Mapping):
        missing = sorted(set(found) - set(class_names))
        if missing:
            raise InputError(f"the class names lack the folder {missing[0]} of {folder}: add a name for it")
        return class_names
    if len(class_names) != len(found):
        raise InputError(
            f"there are {len(class_names):,} class names for {len(found):,} image folders in {folder}. A list must "
            "have one name per sorted folder: name all of them, or give a table of names by folder"
        )
    if all(label.isdecimal() for label in found) and list(found) != sorted(found, key=int):
        raise InputError(
            f"the folders of {folder} are numbers, which sort differently as text: give a table of names by folder"
        )
    return dict(zip(found, class_names, strict=True))


def read_texts(path: Path, key: str | None, option: str) -> list[str] | dict[str, str]:
    """Read class names or templates from a JSON file in CLIP_benchmark's form: a list, or a table by folder.

    The file may have several by their keys. `option` is the setting that chooses the key.
    """
    try:
        document = _DOCUMENT.validate_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        problem = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else error
        raise InputError(
            f"{path} cannot be read as JSON with a list or table of texts, none of them empty: {problem}"
        ) from error
    if isinstance(document, list) or all(isinstance(value, str) for value in document.values()):
        document = {key: document}
    key = next(iter(document)) if key is None and len(document) == 1 else key
    if key not in document:
        raise SettingsError(f"{path} has {', '.join(sorted(document))}: choose one with {option}=NAME")
    found: list[str] | dict[str, str] = document[key]
    return found
