"""Sets as `vernaclip scoreboard` names them: the dataset's own split, test sets of a recipe, others by KEY=VALUE."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_catalog.errors import ConfigError
from data_catalog.language_pack import LanguagePack
from data_catalog.sources.image_files import open_images
from flows.recipe import override_values
from flows.source_settings import TestSetSettings, read_test_sets
from training.galleries import (
    BARE_TEMPLATE,
    HUMAN,
    MACHINE,
    Gallery,
    LabelledImages,
    labelled_images,
    makers_note,
    read_names,
    read_templates,
)
from training.protocols import PROTOCOLS, Protocol, require_classes, require_gallery

logger = logging.getLogger(__name__)

FOLDERS = "folders"
BARE = "bare"
IMAGENET = "imagenet1k"  # the key of ImageNet's names in files that have several lists
# MSCOCO-IT's files say by their names which captions people went over.
_UNVALIDATED = "unvalidated"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSet:
    """A set, and by what its images are known.

    Args:
        identities: of each image of the gallery, in its order; empty where nothing is known but pixels.
        protocol: whose numbers stand beside its scores, if any.
    """

    test_set: Gallery | LabelledImages
    identities: Sequence[frozenset[str]]
    protocol: Protocol | None = None


def recipe_sets(test_sets: Sequence[TestSetSettings]) -> list[ScoredSet]:
    """The test sets of a recipe whose images are here; others are logged.

    Raises:
        ConfigError: one cannot be read.
    """
    found = []
    for test_set in test_sets:
        if test_set.kind.images(test_set.config) is None:
            logger.warning("test set %s is not scored: the recipe names no place of its images", test_set.name)
        else:
            found.append(_captioned(test_set))
    return found


def named_sets(named: Sequence[Sequence[str]], language: str, pack: LanguagePack) -> list[ScoredSet]:
    """Sets as `--test-set NAME KEY=VALUE ...` names them.

    Args:
        language: of captions that are looked for, where files have several.
        pack: has class names and templates.

    Raises:
        ConfigError: settings are wrong, no images are named, or files cannot be read.
    """
    found = []
    for name, *words in named:
        try:
            found.append(_named(name, override_values(words), language, pack))
        except ConfigError as error:
            raise ConfigError(f"--test-set {name}: {error}") from error
    return found


def protocol_sets(words: Sequence[str] | None, language: str, pack: LanguagePack) -> list[ScoredSet]:
    """The sets of `--protocol NAME captions=FILE images=DIR imagenet=DIR class_names=FILE`: one task or both.

    Raises:
        ConfigError: there is no such protocol, or files are not those it is about.
    """
    if not words:
        return []
    name, *settings = words
    if name not in PROTOCOLS:
        raise ConfigError(f"--protocol {name}: there is {', '.join(sorted(PROTOCOLS))}")
    protocol, values = PROTOCOLS[name], override_values(settings)
    known = {"captions", "images", "imagenet", "class_names"}
    unknown = sorted(set(values) - known)
    if unknown or not ({"captions", "images"} <= set(values) or {"imagenet", "class_names"} <= set(values)):
        raise ConfigError(
            f"--protocol {name} takes captions=FILE images=DIR for retrieval, imagenet=DIR class_names=FILE for "
            f"zero-shot classification, or all four{f', not {unknown[0]}' if unknown else ''}"
        )
    found = []
    if "captions" in values:
        coco = {"kind": "mscoco_it", "files": [values["captions"]], "images": values["images"]}
        gallery = _named(f"{_plain(name)}_retrieval", coco, language, pack)
        require_gallery(protocol, gallery.test_set)
        found.append(replace(gallery, protocol=protocol))
    if "imagenet" in values:
        names = {"class_names": values["class_names"], "class_names_key": IMAGENET}
        folders = {"kind": FOLDERS, "images": values["imagenet"], **names, "templates": BARE}
        classes = _named(f"{_plain(name)}_imagenet", folders, language, pack)
        require_classes(protocol, classes.test_set)
        found.append(replace(classes, protocol=protocol))
    return found


def _plain(name: str) -> str:
    return name.replace("-", "_")


def _named(name: str, values: dict[str, Any], language: str, pack: LanguagePack) -> ScoredSet:
    if values.get("kind") == FOLDERS:
        return _labelled(name, values, pack)
    made_by = values.pop("captions_by", None)
    if made_by not in (None, HUMAN, MACHINE):
        raise ConfigError(f"captions_by must be {HUMAN} or {MACHINE}, got {made_by!r}")
    (test_set,) = read_test_sets({name: values}, language) or (None,)
    if test_set is None:
        raise ConfigError("it is switched off by enabled=false: leave it out")
    if test_set.kind.images(test_set.config) is None:
        raise ConfigError("images=... is missing: without pixels there is nothing to score")
    return _captioned(test_set, made_by)


def _captioned(test_set: TestSetSettings, made_by: str | None = None) -> ScoredSet:
    """A test set of captioned images; who made a caption is told by `made_by`, or else by the name of its file."""
    test_set.check()
    found = list(test_set.kind.read(test_set.config))
    texts = [(place, text, file) for place, image in enumerate(found) for text, file in _told(image)]
    if not texts:
        raise ConfigError(f"{test_set.name} has no captions: it can guard training data, but not be scored on")
    location = test_set.kind.images(test_set.config)
    assert location is not None
    images = open_images(location)
    makers = [made_by or _maker(file) for _, _, file in texts]
    gallery = Gallery(
        name=test_set.name,
        images=[image.name for image in found],
        read=images.read,
        captions=[text for _, text, _ in texts],
        owners=[place for place, _, _ in texts],
        made_by=makers,
        notes=(makers_note(makers),),
    )
    return ScoredSet(test_set=gallery, identities=[image.identities for image in found])


def _told(image: Any) -> Sequence[tuple[str, str]]:
    return list(zip(image.captions, image.caption_files, strict=True))


def _maker(file: str) -> str:
    return MACHINE if _UNVALIDATED in Path(file).name else HUMAN


def _labelled(name: str, values: Mapping[str, Any], pack: LanguagePack) -> ScoredSet:
    known = {"kind", "images", "class_names", "class_names_key", "templates", "templates_key"}
    unknown = sorted(set(values) - known)
    if unknown or "images" not in values:
        raise ConfigError(
            f"{unknown[0] if unknown else 'images'}: a set of folders takes images=DIR, class_names=FILE.json and "
            f"templates=FILE.json (or {BARE}), with class_names_key and templates_key where a file has several"
        )
    names = _class_names(values, pack)
    found = labelled_images(name, Path(values["images"]), names, _templates(values, pack))
    return ScoredSet(test_set=found, identities=[frozenset()] * len(found.images))


def _class_names(values: Mapping[str, Any], pack: LanguagePack) -> Sequence[str] | Mapping[str, str]:
    if "class_names" in values:
        return read_names(Path(values["class_names"]), values.get("class_names_key"))
    if not pack.class_names:
        raise ConfigError(f"class_names=FILE.json is missing, and the language pack of {pack.code} has no class names")
    return pack.class_names


def _templates(values: Mapping[str, Any], pack: LanguagePack) -> Sequence[str]:
    """The bare template is always scored; others are those of a file, or of the language pack."""
    if values.get("templates") == BARE:
        return (BARE_TEMPLATE,)
    if "templates" in values:
        return read_templates(Path(values["templates"]), values.get("templates_key"))
    return pack.prompt_templates or (BARE_TEMPLATE,)
