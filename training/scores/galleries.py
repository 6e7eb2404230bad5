"""Read galleries: images with captions from pair shards or a user's files, and images with class labels."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import ConfigDict, StringConstraints, TypeAdapter

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError, SettingsError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.catalog.manifest import Snapshot
from data_catalog.disk.files import sha256_of
from data_catalog.rows.image_formats import is_image_name
from data_catalog.rows.origins import HUMAN, MACHINE, MACHINE_TRANSLATION
from data_catalog.sources.image_files import open_images
from data_catalog.sources.mscoco import origin_by_name
from data_catalog.sources.test_sets import TestSetKind
from training.data.features import Read
from training.data.images import encoded_reader
from training.data.pairs import read_rows, row_groups, seen_in_training
from training.scores.rows import VALIDATED, TextLanguage
from training.towers.trained_models import LearnedImages, pair_hashes

UNSTATED = "unstated"
PLACEHOLDER = "{c}"
BARE, BARE_TEMPLATE = "bare", PLACEHOLDER
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


class TrainingMatch(NamedTuple):
    """Evidence that a model was trained on an image, or, if that is not sure, on one that looks like it."""

    why: str
    is_sure: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakCheck:
    """A comparison of a set with a model's training images."""

    seen: Mapping[int, TrainingMatch]  # by place in the set's `images`
    ways: tuple[str, ...]  # what was compared, such as "identity"; empty if nothing, or not all, was


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """A set of images that models are scored on."""

    name: str
    images: Sequence[str]
    read: Read  # threads may call it at the same time
    identities: Sequence[frozenset[str]] = ()  # all known ones of each image; empty if there are none
    guards: Mapping[str, LeakCheck] = field(default_factory=dict)  # by model; nothing is known about others
    notes: tuple[str, ...] = ()
    files: tuple[Mapping[str, str], ...] = ()  # name and sha256 of each file that the set was read from
    of_catalog: bool = False  # a take-down may remove the images, so nothing is cached elsewhere
    stated: str | None = None  # language of the captions or class names, by the user or the files
    language: TextLanguage | None = None  # the same, with the one that models are scored in


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery(ImageSet):
    """Images with captions, for retrieval: each caption is a query for its image, and each image for its captions."""

    captions: Sequence[str]
    owners: Sequence[int]  # place of each caption's image
    made_by: Sequence[str]  # who made each caption: "human", "machine" or "unstated"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImages(ImageSet):
    """Images with one class each, for zero-shot classification; `labels` has the place of each in `class_names`."""

    labels: Sequence[int]
    class_names: Sequence[str]
    templates: Sequence[str] = (BARE_TEMPLATE,)


def pairs_gallery(name: str, paths: Sequence[Path]) -> Gallery:
    """Return the images and captions of pair shards as a gallery. Images are named by their sample ids."""
    groups = row_groups(paths)
    rows = [row for group in groups for row in read_rows(group, ["sample_id", "captions", "origins"]).to_pylist()]
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
) -> Gallery:
    """Read a test set of captioned images with an image folder, by the settings of its kind. It may have no captions.

    Without `captions_by`, the kind or the files state who wrote the captions.
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
    return Gallery(
        name=name,
        images=[image.name for image in found],
        read=open_images(str(config.images)).read,
        identities=[image.identities for image in found],
        captions=[text for _, text, _ in texts],
        owners=[place for place, _, _ in texts],
        made_by=makers,
        notes=(_makers_note(makers), *notes),
        files=_hashes(kind.upstream_files(config)),
    )


def _hashes(files: Iterable[Path]) -> tuple[dict[str, str], ...]:
    return tuple({"name": file.name, "sha256": sha256_of(file)} for file in files)


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderSettings:
    """Settings of a test set of kind `folders`; docs/scores.md explains them."""

    images: Path
    class_names: Path | None = None
    class_names_key: str | None = None
    templates: str | None = None
    templates_key: str | None = None


def named_images(name: str, settings: FolderSettings, pack: LanguagePack) -> LabelledImages:
    """Read an ImageNet-style folder. Class names and templates come from files, else from the language pack.

    The bare template is always scored.
    """
    names: Sequence[str] | Mapping[str, str] = pack.class_names
    templates: Sequence[str] | Mapping[str, str] = pack.prompt_templates or (BARE_TEMPLATE,)
    files: list[Path] = []
    if settings.class_names is not None:
        files.append(settings.class_names)
        names = read_texts(files[-1], settings.class_names_key, "class_names_key")
    if settings.templates == BARE:
        templates = (BARE_TEMPLATE,)
    elif settings.templates is not None:
        files.append(Path(settings.templates))
        templates = read_texts(files[-1], settings.templates_key, "templates_key")
    return replace(labelled_images(name, settings.images, names, templates), files=_hashes(files))


def labelled_images(
    name: str,
    folder: Path,
    class_names: Sequence[str] | Mapping[str, str],
    templates: Sequence[str] | Mapping[str, str],
) -> LabelledImages:
    """Read an ImageNet-style folder, with one subfolder per class.

    Class names are a table by subfolder, where those without a subfolder count as wrong answers, or a list in the order
    of the sorted subfolders.
    """
    if isinstance(templates, Mapping) or not all(PLACEHOLDER in template for template in templates or ("",)):
        raise InputError(f"templates of {name} must be a list of texts, each with {PLACEHOLDER} for the class name")
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
    return found


def _names_of(found: Sequence[str], class_names: Sequence[str] | Mapping[str, str], folder: Path) -> Mapping[str, str]:
    """Return the names of all classes by their subfolders."""
    if isinstance(class_names, Mapping):
        do_fit = set(found) <= class_names.keys()
    else:  # subfolders that are numbers sort differently as text
        is_sorted = not all(label.isdecimal() for label in found) or list(found) == sorted(found, key=int)
        do_fit = len(class_names) == len(found) and is_sorted
    if not do_fit or not found:
        raise InputError(
            f"the {len(class_names):,} class names do not fit the {len(found):,} folders with images in {folder}: give "
            "a table of names by folder, or a list with one name for each folder in the order of their names as text"
        )
    return class_names if isinstance(class_names, Mapping) else dict(zip(found, class_names, strict=True))


def read_texts(path: Path, key: str | None, option: str) -> list[str] | dict[str, str]:
    """Read class names or templates from a JSON file in CLIP_benchmark's form: a list, or a table by folder.

    The file may have several by their keys. `option` is the setting that chooses the key.
    """
    with about(f"{path} is not JSON with a list or table of texts, none of them empty"):
        document = _DOCUMENT.validate_json(path.read_text(encoding="utf-8-sig"))
    found: list[str] | dict[str, str] = document
    if isinstance(document, dict) and not all(isinstance(value, str) for value in document.values()):
        key = next(iter(document)) if key is None and len(document) == 1 else key
        if key not in document:
            raise SettingsError(f"{path} has {', '.join(sorted(document))}: choose one with {option}=NAME")
        found = document[key]
    return found
