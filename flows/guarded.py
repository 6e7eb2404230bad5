"""What training asks of a dataset before it begins: that it holds nothing of what the model will be measured on."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from data_catalog.errors import InputError, SettingsError
from data_catalog.storage.manifest import Manifest, Snapshot, TestSetEntry
from data_catalog.storage.upstream_hashes import (
    FileHashes,
    entries_identity,
    file_entries,
    images_digest,
    open_hashes,
    save_hashes,
)
from flows.recipe.recipe import Recipe
from flows.recipe.sources import TestSetSettings, test_set_settings

logger = logging.getLogger(__name__)


def require_guards(recipe: Recipe) -> None:
    """Refuse a recipe with a test set whose switches would have nothing of it looked for.

    Raises:
        SettingsError: they are all off.
    """
    leaks = recipe.leaks
    if recipe.test_sets and not (leaks.by_identity or leaks.by_caption or leaks.by_pixels):
        raise SettingsError(
            f"nothing of test set {recipe.test_sets[0].name} would be looked for, and no model be trained on what may "
            "hold it: set one of leaks.by_identity, leaks.by_caption and leaks.by_pixels to true, or take it out"
        )


def require_guarded(snapshot: Snapshot, recipe: Recipe) -> None:
    """Refuse a snapshot that was not guarded against a test set that the recipe, or the snapshot itself, declares.

    Raises:
        InputError: says which test sets, and why.
    """
    root = snapshot.folder.parents[2]
    hashes = open_hashes(root)
    problems = list(_problems(snapshot.manifest, recipe, hashes))
    save_hashes(hashes, root)
    if problems:
        raise InputError(
            f"{snapshot.dataset} (snapshot {snapshot.snapshot}) may hold what the model is to be measured on: "
            f"{'; '.join(problems)}. Build it again with this recipe, or take the test set out of it"
        )


def _problems(manifest: Manifest, recipe: Recipe, hashes: FileHashes) -> Iterator[str]:
    guarded = manifest["test_sets"]
    for name, entry in sorted(guarded.items()):
        if not entry["guarded_by"]:
            yield f"nothing of test set {name} was looked for ([leaks] switches by_identity, by_caption, by_pixels off)"
    known = manifest["settings"]["test_sets"]
    for test_set in recipe.test_sets:
        if test_set.name not in guarded:
            yield f"it was built without test set {test_set.name}"
        elif _is_another(test_set, guarded[test_set.name], known[test_set.name], hashes):
            yield f"test set {test_set.name} was another one when it was built"
        elif recipe.leaks.by_pixels:
            yield from _image_problems(test_set, guarded[test_set.name], hashes)


def _is_another(
    test_set: TestSetSettings, entry: TestSetEntry, settings: Mapping[str, Any], hashes: FileHashes
) -> bool:
    """Whether settings or files differ; files that are gone since have been looked at."""
    now = test_set_settings(test_set)
    if any(now[name] != settings[name] for name in now if name != "has_images"):
        return True
    try:
        files = file_entries(test_set.upstream_files(), hashes)
    except InputError as error:
        logger.warning("test set %s is taken for the one that was guarded against: %s", test_set.name, error)
        return False
    return entries_identity(files) != entries_identity(entry["files"])


def _image_problems(test_set: TestSetSettings, entry: TestSetEntry, hashes: FileHashes) -> Iterator[str]:
    """What keeps the set's images, where the recipe has some, from being those that were looked at."""
    if test_set.config.images is None:
        return
    if entry.get("images") is None:
        yield f"no images of test set {test_set.name} were looked at when it was built"
        return
    if "pixels" not in entry["guarded_by"]:
        yield f"none of the images of test set {test_set.name} was found, or was a picture, when it was built"
        return
    try:
        now = images_digest(test_set.kind, test_set.config, hashes)
    except InputError as error:
        logger.warning("the images of test set %s are taken for those looked at: %s", test_set.name, error)
        return
    if now != entry["images"]:
        yield f"the images of test set {test_set.name} were others when it was built"
