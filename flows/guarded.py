"""What training asks of a dataset before it begins: that it holds nothing of what the model will be measured on."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from data_catalog.errors import ConfigError
from data_catalog.manifest import Snapshot
from data_catalog.shards import sha256_of
from flows.recipe import Recipe
from flows.source_settings import TestSetSettings
from flows.what_settings import test_set_settings

logger = logging.getLogger(__name__)


def require_guarded(snapshot: Snapshot, recipe: Recipe) -> None:
    """Refuse a snapshot that was not guarded against a test set that the recipe, or the snapshot itself, declares.

    Raises:
        ConfigError: says which test sets, and why.
    """
    problems = list(_problems(snapshot.manifest, recipe))
    if problems:
        raise ConfigError(
            f"{snapshot.dataset} (snapshot {snapshot.snapshot}) may hold what the model is to be measured on: "
            f"{'; '.join(problems)}. Build it again with this recipe, or take the test set out of it"
        )


def _problems(manifest: Mapping[str, Any], recipe: Recipe) -> Iterator[str]:
    guarded: Mapping[str, Any] = manifest.get("test_sets", {})
    for name, entry in sorted(guarded.items()):
        if not entry["guarded_by"]:
            yield f"nothing of test set {name} was looked for ([leaks] switches by_identity, by_caption, by_pixels off)"
    known = manifest["settings"].get("test_sets", {})
    for test_set in recipe.test_sets:
        if test_set.name not in guarded:
            yield f"it was built without test set {test_set.name}"
        elif _is_another(test_set, guarded[test_set.name], known[test_set.name]):
            yield f"test set {test_set.name} was another one when it was built"


def _is_another(test_set: TestSetSettings, entry: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether settings or files differ; files and images that are gone since have been looked at."""
    now = test_set_settings(test_set)
    if any(now[name] != settings[name] for name in now if name != "has_images"):
        return True
    try:
        files = test_set.kind.upstream_files(test_set.config)
    except ConfigError as error:
        logger.warning("test set %s is taken for the one that was guarded against: %s", test_set.name, error)
        return False
    return sorted(map(sha256_of, files)) != sorted(file["sha256"] for file in entry["files"])
