"""Which settings decide what a dataset is: hashed into keys and kept in the manifest; others only how it is made."""

from typing import Any

from flows.recipe.recipe import Recipe
from flows.recipe.settings import plain
from flows.recipe.sources import SourceSettings, TestSetSettings

# Settings that change how a run goes, not what it makes: they are in the run log, in no key and no manifest.
HOW_SETTINGS = {
    "build": {"workers", "fetch_workers", "dask_address", "keep_work", "reuse_images"},
    "fetch": {
        "threads",
        "contact",
        "timeout_s",
        "deadline_s",
        "retries",
        "backoff_s",
        "max_wait_s",
        "host_concurrency",
        "host_requests_per_s",
        "hosts",
    },
    "translate": {"package", "model", "reverse_package", "reverse_model", "inter_threads", "max_characters"},
    "scenes": {"folder"},
    "sources": {"files", "images"},
    "test_sets": {"files", "images", "num_images"},
}

_WHAT_SECTIONS = (
    "build",
    "clean",
    "leaks",
    "repeats",
    "translate",
    "check",
    "fetch",
    "normalise",
    "duplicates",
    "split",
)


def what_settings(recipe: Recipe) -> dict[str, Any]:
    """The settings that decide what a dataset is, as JSON values: hashed into keys and kept in the manifest.

    Where files lie is left out (their content is hashed instead), and so is everything in `HOW_SETTINGS`.
    """
    settings: dict[str, Any] = {
        "target_language": recipe.target_language,
        "source_language": recipe.source_language,
    }
    for section in _WHAT_SECTIONS:
        settings[section] = section_settings(getattr(recipe, section), section)
    # Whether the order is that of the recipe or said explicitly changes nothing.
    del settings["duplicates"]["sources"]
    settings["source_order"] = recipe.source_order
    settings["sources"] = {source.name: source_settings(source) for source in recipe.sources}
    rights = {source.name: source.rights.stated() for source in recipe.sources if source.rights.stated()}
    if rights:  # a recipe that says nothing of rights has the key that it always had
        settings["rights"] = rights
    settings["test_sets"] = {test_set.name: test_set_settings(test_set) for test_set in recipe.test_sets}
    return settings


def section_settings(config: Any, section: str) -> dict[str, Any]:
    """The what-settings of one section."""
    values: dict[str, Any] = plain(config)
    return {name: value for name, value in values.items() if name not in HOW_SETTINGS.get(section, ())}


def source_settings(source: SourceSettings) -> dict[str, Any]:
    """The what-settings of one source; whether images are local is one of them, where they lie is not."""
    values = section_settings(source.config, "sources")
    return {"kind": source.kind.kind, "local_images": source.kind.images(source.config) is not None, **values}


def test_set_settings(test_set: TestSetSettings) -> dict[str, Any]:
    """The what-settings of one test set; whether its images are there is one of them, where they lie is not."""
    values = section_settings(test_set.config, "test_sets")
    return {"kind": test_set.kind.kind, "has_images": test_set.kind.images(test_set.config) is not None, **values}
