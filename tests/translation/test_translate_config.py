"""Settings of the translate step: none that the engine would ignore is accepted."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import ConfigError
from flows.recipe.recipe import load_recipe, recipe_names
from translation.config import ENGINES, TranslateConfig
from translation.registry import reverse

OTHER_VALUES: dict[str, Any] = {
    "package": ("x",),
    "model": ("x",),
    "beam_size": 4,
    "patience": 1,
    "max_batch_tokens": 512,
    "compute_type": "int8",
    "inter_threads": 1,
    "intra_threads": 2,
    "device": "cpu",
    "max_characters": 7,
}
TAKEN = {
    "argos": OTHER_VALUES.keys() - {"model", "max_characters"},
    "ctranslate2": OTHER_VALUES.keys() - {"package", "max_characters"},
    "deepl": {"max_characters"},
    "apertium": {"inter_threads"},
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", OTHER_VALUES)
def test_a_setting_is_used_or_refused(engine: str, name: str) -> None:
    settings = {"engine": engine, name: OTHER_VALUES[name]}
    if engine == "ctranslate2":
        settings.setdefault("model", ("x",))
    if name in TAKEN[engine]:
        assert getattr(TranslateConfig(**settings), name) == OTHER_VALUES[name]
        return
    with pytest.raises(ConfigError, match=rf"translate\.{name} is for .*'{engine}' would ignore it: leave it out, or"):
        TranslateConfig(**settings)


@pytest.mark.parametrize("engine", ["deepl", "apertium"])
def test_the_advice_unsets_the_setting(engine: str) -> None:
    """Over a recipe that sets what the engine chosen by --set does not use."""
    for name in OTHER_VALUES.keys() - TAKEN[engine]:
        with pytest.raises(ConfigError) as caught:
            TranslateConfig(engine=engine, **{name: OTHER_VALUES[name]})
        override = str(caught.value).rsplit("--set ", 1)[1]
        overrides = [f"translate.engine={engine}", "translate.package=[]", override]
        recipe = load_recipe("scenes", root=Path("root"), overrides=overrides)
        assert recipe.translate == TranslateConfig(engine=engine), override


def test_an_engine_over_a_recipe_that_sets_a_beam(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('target_language = "it"\n[sources.wit]\nfiles = ["x"]\n[translate]\nbeam_size = 4\n')
    overrides = ["translate.engine=apertium"]
    with pytest.raises(ConfigError, match=r"leave it out, or --set translate\.beam_size=2$"):
        load_recipe(str(file), root=tmp_path, overrides=overrides)
    recipe = load_recipe(str(file), root=tmp_path, overrides=[*overrides, "translate.beam_size=2"])
    assert recipe.translate == TranslateConfig(engine="apertium")


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_that_ship_load(name: str, tmp_path: Path) -> None:
    assert load_recipe(name, root=tmp_path).translate.engine in ENGINES


@pytest.mark.parametrize(
    "settings", [{"reverse_package": ("x",)}, {"engine": "ctranslate2", "model": ("y",), "reverse_model": ("x",)}]
)
def test_a_model_for_a_way_back_that_is_not_gone(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"translate\.reverse_\w+ is for the way back, .*round_trip = true, or leave"):
        TranslateConfig(**settings)
    assert reverse(TranslateConfig(**settings, round_trip=True)).round_trip is False


@pytest.mark.parametrize(
    "config",
    [
        TranslateConfig(engine="deepl", round_trip=True, max_characters=7),
        TranslateConfig(engine="apertium", round_trip=True, pivot="ca", inter_threads=1),
        TranslateConfig(package=("a", "b"), reverse_package=("c", "d"), round_trip=True, pivot="ca", beam_size=1),
    ],
)
def test_the_way_back_keeps_what_the_engine_uses(config: TranslateConfig) -> None:
    back = reverse(config)
    changed = {field.name for field in fields(config) if getattr(back, field.name) != getattr(config, field.name)}
    assert changed <= {"package", "reverse_package", "round_trip"}
    assert back.package == config.reverse_package
