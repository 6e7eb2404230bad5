"""Recipes: defaults, overrides, paths, and what belongs to a dataset; test_errors.py has what is refused."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from recipes import MINIMAL, write

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.fetch.config import FetchConfig, HostLimits
from data_catalog.fetch.consent import ConsentConfig
from data_catalog.sources.registry import SOURCE_KINDS
from data_catalog.sources.test_sets import TEST_SET_KINDS
from flows.build.inputs import open_inputs
from flows.models import require_ready
from flows.recipe.language_packs import load_language_pack
from flows.recipe.recipe import Recipe, load_recipe, override_values, recipe_names, recipe_summary, what_settings
from flows.recipe.settings import checked, schema
from training.config import TrainConfig

Load = Callable[..., Recipe]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Called with overrides, loads the minimal recipe."""

    def load(*overrides: str, text: str = MINIMAL) -> Recipe:
        return load_recipe(write(tmp_path, text), root=tmp_path, overrides=overrides)

    return load


def test_a_key_may_have_any_letters_and_is_no_comment() -> None:
    assert override_values(["sources.città.enabled=false"]) == {"sources": {"città": {"enabled": False}}}
    assert override_values(["#train.steps=3"]) == {"#train": {"steps": 3}}, "which is then an unknown key"


def test_defaults_and_overrides_with_their_types(load: Load, tmp_path: Path) -> None:
    recipe = load()
    assert (recipe.name, recipe.split.val, recipe.sources[0].config.files) == ("mine", 0.05, (f"{tmp_path}/pairs.tsv",))
    recipe = load("split.val=0.2", "sources.mine.files=other.tsv", "fetch.allow_loopback=true", "name=other")
    assert (recipe.split.val, recipe.fetch.allow_loopback, recipe.name) == (0.2, True, "other")
    assert recipe.sources[0].config.files == ("other.tsv",)


@pytest.mark.parametrize(
    "overrides",
    [
        ["build.workers=3", "train.steps=50", 'fetch.hosts."example.org".concurrency=3'],
        {"build.workers": 3, "train": {"steps": 50}, "fetch.hosts": {"example.org": {"concurrency": 3}}},
        {"build.workers": 3, "train.steps": 50, 'fetch.hosts."example.org".concurrency': 3},
        {"build": {"workers": 3}, "train": {"steps": 50}, "fetch": {"hosts": {"example.org": {"concurrency": 3}}}},
    ],
)
def test_settings_are_the_same_as_texts_and_as_tables(tmp_path: Path, overrides: Any) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL), root=tmp_path, overrides=overrides)
    assert (recipe.build.workers, recipe.train.steps) == (3, 50)
    assert recipe.fetch.hosts == {"example.org": HostLimits(concurrency=3)}


def test_what_python_fills_is_checked_as_a_recipe_is() -> None:
    assert checked(TrainConfig(epochs=3, augment=["crop"]), "train") == TrainConfig(epochs=3)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"^train\.epochs must be at least 1, got 0$"):
        checked(TrainConfig(epochs=0), "train")


def test_servers_and_editors_see_bounds_and_choices() -> None:
    found = schema(TrainConfig)["properties"]
    assert found["epochs"]["minimum"] == 1
    assert found["lr"]["exclusiveMinimum"] == 0
    assert found["precision"]["enum"] == ["auto", "fp32", "bf16"]
    assert "mirror" in found["augment"]["items"]["enum"]
    assert "consent" not in schema(FetchConfig)["properties"]


def test_consent_is_a_section_of_its_own_and_a_part_of_how_images_are_fetched(load: Load) -> None:
    text = f'{MINIMAL}[consent]\nignore = ["x-robots-tag", "train-ai"]\n[fetch]\nthreads = 3\n'
    recipe, ignoring = load(text=text), load('consent.ignore=["train-ai"]', text=text)
    assert recipe.fetch == FetchConfig(threads=3, consent=ConsentConfig(ignore=("train-ai", "x-robots-tag")))
    assert recipe.consent == recipe.fetch.consent
    assert what_settings(recipe)["fetch"]["consent"] == {"ignore": ["train-ai", "x-robots-tag"]}
    assert what_settings(ignoring) != what_settings(recipe), "other images come"


def test_flows_are_loaded_and_recipes_read_without_parsing_code(tmp_path: Path) -> None:
    """A thread that parses code breaks the parsing of another in Python 3.11 (cpython #106905); Prefect has threads."""
    code = """if True:
        import sys
        from prefect import flow  # which parses while it is imported
        parsed = []
        def hear(event, told):
            if event == "compile" and told[1] == "<unknown>":  # the name that ast.parse gives
                parsed.append(told[0][:99])
        sys.addaudithook(hear)
        from flows.orchestration.prefect_flows import FLOWS
        from flows.recipe.recipe import load_recipe, recipe_names
        for name in recipe_names():
            load_recipe(name, root="catalog", overrides=['fetch.contact="me@example.org"'])
        print(len(FLOWS), parsed)
        """
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert found.stdout == "6 []\n"


def test_wikimedia_is_not_asked_without_a_contact(load: Load, tmp_path: Path) -> None:
    text = 'target_language = "it"\n[sources.wit]\nfiles = ["{recipe}/wit.tsv"]\n'
    columns = ("language", "image_url", "caption_reference_description", "caption_attribution_description")
    lines = [(*columns, "caption_alt_text_description"), ("it", "https://upload.wikimedia.org/a.jpg", "", "", "")]
    (tmp_path / "wit.tsv").write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(SettingsError, match=r"sources\.wit may fetch images from Wikimedia.*fetch\.contact"):
        open_inputs(load(text=text), tmp_path, {})
    recipe = load("fetch.contact=someone@example.org", text=text)
    assert open_inputs(recipe, tmp_path, {}).sources[0].name == "wit"
    assert recipe.fetch.full_user_agent.endswith("someone@example.org")


def test_all_that_a_build_and_a_training_lack_is_told_at_once(load: Load, tmp_path: Path) -> None:
    text = MINIMAL.replace('"en"', '"xx"', 1) + '[sources.wit]\nfiles = ["{recipe}/no.tsv"]\n'
    (tmp_path / "pairs.tsv").write_text("url\tcaption\tsplit\nhttp://example.org/a.jpg\ta dog\ttrain\n", "utf-8")
    training = ("evaluate.split=test", "split.test=0")
    recipe = load("sources.mine.split_column=split", *training, text=text)
    lacks = ["there is no language pack 'xx'", "source mine states splits", "sources.wit: ", "may fetch images from"]
    for ask, more in ((open_inputs, []), (require_ready, ["evaluate.split is test but"])):
        with pytest.raises(SettingsError) as lacking:
            ask(recipe, tmp_path, *([] if more else [{}]))
        for lack in [*lacks, *more]:
            assert str(lacking.value).count(lack) == 1, (ask, lack)


def test_every_recipe_that_ships_loads_and_says_what_it_does(tmp_path: Path) -> None:
    for name in recipe_names():
        assert load_recipe(name, root=tmp_path).name == name
        assert recipe_summary(name)


def test_places_and_workers_are_not_part_of_what_a_dataset_is(load: Load, tmp_path: Path) -> None:
    settings = what_settings(load())
    assert what_settings(load("sources.mine.files=elsewhere.tsv", "build.workers=9")) == settings
    assert str(tmp_path) not in str(settings)
    assert settings["source_order"] == ["mine"], "the order decides which of two equal images stays"
    assert what_settings(load("check.min_words=4")) != settings
    for kind in (*SOURCE_KINDS.values(), *TEST_SET_KINDS.values()):
        marked = {field.name for field in fields(kind.config_type) if field.metadata.get("how")}
        assert marked == {"files", "images", "num_images"} & {field.name for field in fields(kind.config_type)}


def test_a_limit_of_a_source_is_in_keys_and_manifests_only_where_there_is_one(load: Load) -> None:
    def settings_with(*overrides: str) -> dict[str, Any]:
        recipe = load(*(f"sources.mine.{override}" for override in overrides))
        found: dict[str, Any] = what_settings(recipe)["sources"]["mine"]
        return found

    assert "limit" not in settings_with()
    assert settings_with("limit=0", "limit_seed=3") == settings_with()
    assert settings_with("limit=10") == {**settings_with(), "limit": 10, "limit_seed": 0}


def test_a_file_that_is_missing_is_told_with_its_table_and_how_to_do_without(load: Load) -> None:
    for section, kind in (("sources", "mscoco"), ("test_sets", "coco")):
        recipe = load(text=f'{MINIMAL}\n[{section}.own]\nkind = "{kind}"\nfiles = ["no.json"]')
        table = getattr(recipe, section)[-1]
        for ask in (table.check, table.upstream_files):
            with pytest.raises(InputError, match=rf"{section}\.own: .*no\.json.*--set {section}\.own\.enabled=false"):
                ask()


PATHS = """
target_language = "en"
data = "files"
language_packs = ["el.toml", "/packs/el.toml"]
[sources.mine]
kind = "pairs"
files = ["a.tsv", "{data}/*.csv", "{root}/b.tsv", "~/c.tsv"]
images = "photos"
path_column = "image"
caption_column = "caption"
lang = "en"
[sources.flickr8k]
files = ["a.tsv"]
images = "s3://bucket/photos"
[test_sets.dev]
kind = "list"
files = ["dev.txt"]
[translate]
engine = "ctranslate2"
model = ["mymodel"]
reverse_model = ["org/theirs"]
round_trip = true
[train]
text_encoder = "dbmdz/bert-base-italian-xxl-cased"
"""


def test_the_mark_that_some_editors_write_first_is_no_part_of_a_recipe_or_pack(load: Load, tmp_path: Path) -> None:
    """Windows' Notepad writes a byte order mark."""
    assert load(text=f"\ufeff{MINIMAL}").target_language == "en"
    (tmp_path / "eu.toml").write_text('code = "eu"\n', encoding="utf-8-sig")
    assert load_language_pack(str(tmp_path / "eu.toml")).code == "eu"


def test_paths_of_a_recipe_file_are_relative_to_it_and_those_of_overrides_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "mymodel").mkdir(parents=True)
    write(tmp_path / "mine", PATHS)
    folder = str(tmp_path / "mine")
    recipe = load_recipe("mine/mine.toml", root=Path("catalog"))
    assert recipe.language_packs == (f"{folder}/el.toml", "/packs/el.toml")
    assert recipe.sources[0].config.files == (f"{folder}/a.tsv", f"{folder}/files/*.csv", "catalog/b.tsv", "~/c.tsv")
    assert [source.config.images for source in recipe.sources] == [f"{folder}/photos", "s3://bucket/photos"]
    assert recipe.test_sets[0].config.files == (f"{folder}/dev.txt",)
    assert recipe.translate.model == (f"{folder}/mymodel",), "a name that is a folder beside the recipe"
    assert recipe.translate.reverse_model == ("org/theirs",), "a name on the hub"
    assert recipe.train.text_encoder == "dbmdz/bert-base-italian-xxl-cased"
    moved = load_recipe("mine/mine.toml", root=Path("catalog"), overrides=["data=here", "sources.mine.files={data}/c"])
    assert moved.sources[0].config.files == ("here/c",)
    write(tmp_path / "mine", PATHS.replace('data = "files"', ""))
    assert load_recipe("mine/mine.toml", root=Path("catalog")).sources[0].config.files[1] == f"{folder}/data/*.csv"


def test_the_folder_of_a_recipe_is_no_pattern_and_no_model(tmp_path: Path) -> None:
    folder = tmp_path / "d [2024]"
    (folder / "compact").mkdir(parents=True)
    (folder / "a-1.tsv").write_text("url\tcaption\nhttp://example.org/1.jpg\tA red box\n", "utf-8")
    (folder / "mine.json").write_text("{}", "utf-8")
    path = write(folder, MINIMAL.replace("{recipe}/pairs.tsv", "a-*.tsv") + '[train]\nmodel = "compact"\n')
    recipe = load_recipe(path, root=tmp_path)
    assert [file.name for file in recipe.sources[0].upstream_files()] == ["a-1.tsv"]
    assert recipe.train.model == "compact", "the model that ships, not the folder"
    write(folder, MINIMAL + '[train]\nmodel = "mine.json"\n')
    own = load_recipe(path, root=tmp_path).train
    assert own.model == f"{folder}/mine.json"
    assert own.what()["model"] == "mine.json", "a project that moves has the same models"
