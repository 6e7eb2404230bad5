"""Guards of honest scores: no dataset with data of its test sets, no model that has seen what it is scored on."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.catalog.manifest import Manifest, Snapshot, TestSetEntry
from data_catalog.sources.hashes import (
    FileHashes,
    entries_identity,
    file_entries,
    images_digest,
    open_hashes,
    save_hashes,
)
from flows.recipe.recipe import Recipe
from flows.recipe.sources import TestSetSettings, test_set_settings
from training.data.pairs import seen_in_training
from training.towers.trained_models import images_learned

logger = logging.getLogger(__name__)

ALIKE = "split both datasets alike, align without align.refit"  # how datasets and models are kept apart


def require_unseen(models: Sequence[Path], root: Path, snapshot: Snapshot, splits: Sequence[str], remedy: str) -> None:
    """Refuse a model that was trained on images of these splits, also through its start or its teacher.

    Folders without a model, and names on a hub, are not looked at.
    """
    images = [path for split in splits for path in snapshot.pair_files(split)]
    for model in models:
        learned = images_learned(model, root)
        found = seen_in_training(images, learned.files) if learned is not None else {}
        if found:
            raise InputError(
                f"the model {model} was trained on {len(found):,} images of the {' and '.join(splits)} "
                f"{'splits' if len(splits) > 1 else 'split'} of {snapshot.dataset}, so scores there would be too high: "
                f"{remedy}"
            )


def require_guards(recipe: Recipe) -> None:
    """Refuse a recipe with a test set if all switches of `[leaks]` are off."""
    leaks = recipe.leaks
    if recipe.test_sets and not (leaks.by_identity or leaks.by_caption or leaks.by_pixels):
        raise SettingsError(
            f"the leak guard is off, so the dataset may contain test set {recipe.test_sets[0].name} and no model is "
            "trained on it: set leaks.by_identity, leaks.by_caption or leaks.by_pixels to true, or remove the test set"
        )


def require_guarded(snapshot: Snapshot, recipe: Recipe) -> None:
    """Refuse a snapshot that was not guarded against the test sets of the recipe and of its own manifest."""
    root = snapshot.folder.parents[2]
    hashes = open_hashes(root)
    problems = list(_problems(snapshot.manifest, recipe, hashes))
    save_hashes(hashes, root)
    if problems:
        raise InputError(
            f"{snapshot.dataset} (snapshot {snapshot.snapshot}) may contain data of its test sets: "
            f"{'; '.join(problems)}. Build it again with this recipe, or remove the test set from the recipe."
        )


def _problems(manifest: Manifest, recipe: Recipe, hashes: FileHashes) -> Iterator[str]:
    """Yield the reasons for which a snapshot may contain data of a test set."""
    guarded = manifest["test_sets"]
    for name, entry in sorted(guarded.items()):
        if not entry["guarded_by"]:
            yield f"test set {name} was not looked for ([leaks] had by_identity, by_caption and by_pixels off)"
    known = manifest["settings"]["test_sets"]
    for test_set in recipe.test_sets:
        if test_set.name not in guarded:
            yield f"it was built without test set {test_set.name}"
        elif _has_changed(test_set, guarded[test_set.name], known[test_set.name], hashes):
            yield f"test set {test_set.name} has changed since the build"
        elif recipe.leaks.by_pixels:
            yield from _image_problems(test_set, guarded[test_set.name], hashes)


def _has_changed(
    test_set: TestSetSettings, entry: TestSetEntry, settings: Mapping[str, Any], hashes: FileHashes
) -> bool:
    """Return True if the settings or files of a test set have changed since the build; missing files do not count."""
    now = test_set_settings(test_set)
    if any(now[name] != settings[name] for name in now if name != "has_images"):
        return True
    try:
        files = file_entries(test_set.upstream_files(), hashes.sha256)
    except InputError as error:
        logger.warning("test set %s is assumed to be unchanged since the build: %s", test_set.name, error)
        return False
    return entries_identity(files) != entries_identity(entry["files"])


def _image_problems(test_set: TestSetSettings, entry: TestSetEntry, hashes: FileHashes) -> Iterator[str]:
    """Yield the reasons for which the images of a test set are not those that the build compared, if it has images."""
    if test_set.config.images is None:
        return
    if entry.get("images") is None:
        yield f"the build did not compare images of test set {test_set.name}"
        return
    if "pixels" not in entry["guarded_by"]:
        yield f"the build found no readable image of test set {test_set.name}"
        return
    try:
        now = images_digest(test_set.kind, test_set.config, hashes)
    except InputError as error:
        logger.warning("the images of test set %s are assumed to be unchanged: %s", test_set.name, error)
        return
    if now != entry["images"]:
        yield f"the images of test set {test_set.name} have changed since the build"
