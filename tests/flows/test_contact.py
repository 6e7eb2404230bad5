"""Whose servers want to know whom to write to, and are not asked without."""

from pathlib import Path

import pytest

from data_catalog.errors import SettingsError
from flows.build.inputs import open_inputs
from flows.recipe.recipe import load_recipe

WIT_COLUMNS = (
    "language page_url image_url page_title section_title hierarchical_section_title caption_reference_description"
)
RECIPE = """
target_language = "it"
[sources.wit]
files = ["{folder}/wit.tsv"]
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    rest = "caption_attribution_description caption_alt_text_description mime_type original_height original_width"
    more = "is_main_image attribution_passes_lang_id page_changed_recently context_page_description"
    names = [*WIT_COLUMNS.split(), *rest.split(), *more.split(), "context_section_description"]
    row = dict.fromkeys(names, "") | {"language": "it", "image_url": "https://upload.wikimedia.org/wikipedia/a.jpg"}
    text = "\t".join(names) + "\n" + "\t".join(row[name] for name in names) + "\n"
    (tmp_path / "wit.tsv").write_text(text, encoding="utf-8")
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE.replace("{folder}", str(tmp_path)), encoding="utf-8")
    return str(path)


def test_wikimedia_is_not_asked_without_a_contact(recipe: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"sources\.wit fetches images from Wikimedia.*fetch\.contact"):
        open_inputs(load_recipe(recipe, root=tmp_path), tmp_path, {})


def test_with_a_contact_it_is(recipe: str, tmp_path: Path) -> None:
    loaded = load_recipe(recipe, root=tmp_path, overrides=["fetch.contact=someone@example.org"])
    assert open_inputs(loaded, tmp_path, {}).sources[0].name == "wit"
    assert loaded.fetch.limits().user_agent.endswith("someone@example.org")
