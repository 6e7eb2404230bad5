"""Which settings an ablation may switch, by which names, and what is refused."""

import re
from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import SettingsError
from flows.ablation import variants_of
from flows.recipe.recipe import Recipe, load_recipe
from flows.recipe.toggles import switches, toggle_of, toggles_of


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """The sample's, with one filter that it lacks."""
    return load_recipe("scenes", root=tmp_path, overrides=["repeats.common_captions=false"])


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("check.proper_noun_check", {"check.proper_noun_check": (True, False)}),
        ("cleaning.proper_nouns", {"check.proper_noun_check": (True, False)}),  # as the checks are called
        ("proper_nouns", {"check.proper_noun_check": (True, False)}),
        ("clean.language", {"clean.language_check": (True, False)}),
        ("cleaning.near_captions", {"repeats.near_captions": (True, False)}),
        ("near_images", {"duplicates.near_images": (True, False)}),
        ("leaks.by_pixels", {"leaks.by_pixels": (True, False)}),
        ("common_captions", {"repeats.common_captions": (False, True)}),
        ("check.min_words=0", {"check.min_words": (2, 0)}),
        ("check.proper_noun_check=false", {"check.proper_noun_check": (True, False)}),
        ("clean.boilerplate_rules=file_name", {"clean.boilerplate_rules": (..., ("file_name",))}),
        (
            "clean.language + check.language",
            {"clean.language_check": (True, False), "check.language_check": (True, False)},
        ),
    ],
)
def test_names_find_settings(recipe: Recipe, text: str, settings: dict[str, tuple[Any, Any]]) -> None:
    found = toggle_of(text, recipe).settings
    assert list(found) == list(settings)
    for path, (now, instead) in settings.items():
        assert found[path][1] == instead
        assert now is ... or found[path][0] == now


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cleaning.blub", "there is no filter 'cleaning.blub': use one of clean.fix_encoding, "),
        ("train.epochs", "there is no filter 'train.epochs'"),
        ("", "there is no filter ''"),
        ("cleaning.", "there is no filter 'cleaning.'"),
        (
            "language",
            "may be clean.language_check or check.language_check: use one, or switch all with clean.language_",
        ),
        ("check.min_words", "is not an on/off setting: give the other value, as in --toggle check.min_words=VALUE"),
        ("check.min_words=2", "changes nothing: in the recipe, check.min_words is 2 already"),
        ("check.proper_noun_check=true", "changes nothing"),
        ("check.min_words=many", "check.min_words must be a whole number, got 'many'"),
        ("clean.boilerplate+clean.boilerplate", "clean.boilerplate is named twice"),
        ("duplicates.split_guard", "cannot be switched: it keeps images of the test split out of training"),
    ],
)
def test_what_cannot_be_switched_is_said(recipe: Recipe, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        toggle_of(text, recipe)


def test_toggles_are_some_and_different(recipe: Recipe) -> None:
    with pytest.raises(SettingsError, match="--list shows all filters"):
        toggles_of([], recipe)
    with pytest.raises(SettingsError, match=r"check\.proper_noun_check is given twice"):
        toggles_of(["proper_nouns", "check.proper_noun_check"], recipe)


def test_every_switch_can_be_switched_and_switches_nothing_else(recipe: Recipe, tmp_path: Path) -> None:
    found = switches(recipe)
    assert found["check.proper_noun_check"] is True
    assert found["repeats.common_captions"] is False
    assert "duplicates.split_guard" not in found
    toggles = toggles_of(list(found), recipe)
    given = ["repeats.common_captions=false", "name=mine"]
    variants = variants_of("scenes", root=tmp_path, overrides=given, toggles=toggles)
    assert len({variant.recipe.name for variant in variants}) == len(found) + 1
    assert variants[0].recipe.name == "mine-ablation"
    for path, variant in zip(found, variants[1:], strict=True):
        assert switches(variant.recipe) == {**found, path: not found[path]}
        assert variant.recipe.train == recipe.train


def test_a_filter_that_the_recipe_lacks_is_added(recipe: Recipe) -> None:
    assert toggle_of("common_captions", recipe).adds
    assert toggle_of("common_captions", recipe).slug == "with-repeats-common_captions"
    assert not toggle_of("near_captions", recipe).adds
    with pytest.raises(SettingsError, match="one filter is on and another is off"):
        toggle_of("near_captions+common_captions", recipe)


def test_names_of_datasets_are_names_of_folders(recipe: Recipe) -> None:
    slugs = [toggle_of(text, recipe).slug for text in ("repeats.min_similarity=0.5", "repeats.min_similarity=0.55")]
    assert len(set(slugs)) == 2
    every = toggle_of("+".join(path for path, is_on in switches(recipe).items() if is_on), recipe).slug
    for slug in (*slugs, every):
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,80}", slug), slug


def test_a_value_that_the_recipe_refuses_is_refused_before_any_work(tmp_path: Path, recipe: Recipe) -> None:
    toggle = toggle_of("check.max_proper_noun_share=7.0", recipe)
    with pytest.raises(SettingsError, match=re.escape("check.max_proper_noun_share must be in (0, 1], got 7.0")):
        variants_of("scenes", root=tmp_path, overrides=[], toggles=[toggle])
    assert list(tmp_path.iterdir()) == []


def test_a_mistyped_section_is_refused(recipe: Recipe) -> None:
    with pytest.raises(SettingsError, match=r"there is no filter 'clena\.min_words'"):
        toggle_of("clena.min_words=3", recipe)
