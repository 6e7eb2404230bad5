"""The order of a recipe's sections changes nothing where `duplicates.sources` says which source is the better one."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from data_catalog.database import sorting
from data_catalog.errors import SettingsError
from data_catalog.sources import ingest
from data_catalog.storage.shards import sha256_of
from flows.build.execution import LocalExecutor
from flows.jobs import BuildReport, build_dataset
from flows.recipe.recipe import Recipe, find_recipe, load_recipe, what_settings

AS_IT_COMES = 'duplicates.sources=["wit","mscoco","cc3m","flickr8k"]'


def reordered(folder: Path) -> str:
    """The recipe `scenes` with its sections in the opposite order."""
    text = find_recipe("scenes").read_text(encoding="utf-8").replace("{recipe}/..", "{data}")
    head, *sections = re.split(r"^(?=\[)", text, flags=re.MULTILINE)
    path = folder / "scenes.toml"
    data = find_recipe("scenes").parent.parent
    path.write_text(f'data = "{data}"\n' + head + "\n".join(reversed(sections)), encoding="utf-8")
    return str(path)


def published(root: Path) -> dict[str, str]:
    """sha256 of every file of a snapshot, and of the pointer to it."""
    datasets = root / "datasets"
    files = [*datasets.glob("*/*/manifest.json"), *datasets.glob("*/*/*/*.parquet"), *datasets.glob("*/current.json")]
    files += [*datasets.glob("*/*/README.md"), *datasets.glob("*/*/croissant.json")]
    return {path.relative_to(datasets).as_posix(): sha256_of(path) for path in files}


def test_an_order_that_is_said_holds_whatever_the_order_of_the_sections(tmp_path: Path) -> None:
    plain = load_recipe("scenes", root=tmp_path)
    said = load_recipe("scenes", root=tmp_path, overrides=[AS_IT_COMES])
    turned = load_recipe(reordered(tmp_path), root=tmp_path)
    turned_and_said = load_recipe(reordered(tmp_path), root=tmp_path, overrides=[AS_IT_COMES])
    assert turned.source_order == ["flickr8k", "cc3m", "mscoco", "wit"]
    assert what_settings(said) == what_settings(plain) == what_settings(turned_and_said)
    assert what_settings(turned) != what_settings(plain)


@pytest.mark.parametrize("sources", ['["wit","mscoco","cc3m"]', '["wit","wit","mscoco","cc3m","flickr8k"]', '["wti"]'])
def test_an_order_names_every_source_once(sources: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"duplicates.sources must name each source .*wit, mscoco, cc3m, flickr8k"):
        load_recipe("scenes", root=tmp_path, overrides=[f"duplicates.sources={sources}"])


def test_neither_order_nor_workers_nor_batch_sizes_change_a_byte(
    built: tuple[Path, BuildReport],
    english_overrides: list[str],
    english_recipe: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ingest, "ROWS_PER_STAGED_BATCH", 7)
    monkeypatch.setattr(sorting, "ROWS_PER_BATCH", 11)
    root = tmp_path / "catalog"
    recipe = load_recipe(reordered(tmp_path), root=root, overrides=[*english_overrides, AS_IT_COMES, "build.workers=3"])
    assert [source.name for source in recipe.sources] != [source.name for source in english_recipe(root).sources]
    with LocalExecutor() as executor:
        build_dataset(recipe, root=root, executor=executor)
    assert published(root) == published(built[0])
