"""A recipe's settings as Prefect's nested form: the same words as --set, checked by the same dataclasses."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from data_catalog.errors import ConfigError
from flows.recipe.parameters import Settings, argument_texts, overrides_of, section_model, settings_of
from flows.recipe.recipe import load_recipe, override_values


def test_overrides_survive_the_way_through_the_form() -> None:
    overrides = [
        "build.shard_size=7",
        "normalise.keep_original=true",
        'target_language="de"',
        "split.val=0.25",
        'sources.pairs.files=["a b.csv", "è.csv"]',
        'fetch.hosts."example.org".requests_per_s=5.0',
        "fetch.hosts.localhost.concurrency=3",
        'test_sets.dev.kind="coco"',
        'clean.order=["length", "language"]',
    ]
    assert override_values(overrides_of(settings_of(overrides))) == override_values(overrides)


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cs",))))
def test_any_text_survives(text: str) -> None:
    settings = Settings.model_validate({"data": text})
    assert override_values(overrides_of(settings)) == {"data": text}


def test_a_recipe_is_the_same_by_form_and_by_command_line(tmp_path: Path) -> None:
    overrides = ["build.workers=3", "scenes.num_images=50"]
    through_form = load_recipe("scenes", root=tmp_path, overrides=overrides_of(settings_of(overrides)))
    assert through_form == load_recipe("scenes", root=tmp_path, overrides=overrides)


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("build.shards=7", "build.shards"),
        ("nonsense.x=1", "nonsense"),
        ("build.workers=many", "build.workers"),
        ('fetch.hosts."example.org".speed=1', r"fetch.hosts.example\.org.speed"),
        ("workers", "section.key=value"),
    ],
)
def test_wrong_settings_are_named_with_their_path(override: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        settings_of([override])


@dataclass(frozen=True, slots=True, kw_only=True)
class KettleConfig:
    """How water is boiled.

    Args:
        temperature_c: at which it is
            poured.
        places: where kettles stand.
        maker: who made it.
    """

    temperature_c: float = 96.0
    places: tuple[Path, ...] = ()
    maker: str | None = None


def test_a_dataclass_becomes_a_described_form() -> None:
    model = section_model("Kettle", KettleConfig)
    properties = model.model_json_schema()["properties"]
    assert properties["temperature_c"]["description"] == "at which it is poured (default: 96.0)"
    assert argument_texts(KettleConfig)["places"] == "where kettles stand."
    one, many = model.model_validate({"places": "a"}), model.model_validate({"places": ["a", "b"], "maker": None})
    assert (one.model_dump(exclude_unset=True), many.model_dump()["places"]) == ({"places": "a"}, ["a", "b"])
    with pytest.raises(ValidationError):
        model.model_validate({"colour": "red"})
