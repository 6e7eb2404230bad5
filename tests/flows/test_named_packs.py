"""Packs of languages that do not ship: named by a recipe or the command, for any language that is passed through."""

import io
import os
import stat
import sys
from pathlib import Path

import pytest

from data_catalog.errors import InputError, SettingsError
from flows.build.inputs import open_inputs
from flows.cli import main
from flows.recipe.engines import open_engine, open_reverse_engine
from flows.recipe.recipe import Recipe, load_recipe

RECIPE = """
target_language = "it"
source_language = "fr"
language_packs = ["{recipe}/fr.toml", "{recipe}/oc.toml"]
[translate]
engine = "apertium"
pivot = "oc"
[sources.mine]
kind = "pairs"
files = ["{recipe}/pairs.tsv"]
url_column = "url"
caption_column = "caption"
lang = "fr"
"""
TO_FRENCH = ("target_language=fr", 'translate.pivot=""', "language_pack={recipe}/fr.toml")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe, French and Occitan packs, and programs that stand for Apertium's and write their mode's name."""
    for name, content in (("apertium", "echo Apertium 1.0"), ("apertium-wblank-mode", 'cat "$2"')):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{content}\n", encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    modes = tmp_path / "share" / "apertium" / "modes"
    modes.mkdir(parents=True)
    for mode in ("fra-oci", "oci-ita", "ita-oci", "oci-fra", "fra-ita", "xyz-ita"):
        (modes / f"{mode}.mode").write_text(f"sed -z s/^/{mode}=/", encoding="utf-8")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "fr.toml").write_text('code = "fr"\niso639_3 = "fra"\n', encoding="utf-8")
    (tmp_path / "oc.toml").write_text('code = "oc"\niso639_3 = "oci"\n', encoding="utf-8")
    (tmp_path / "pairs.tsv").write_text("url\tcaption\nhttp://example.org/a.jpg\tun chien\n", encoding="utf-8")
    (tmp_path / "mine.toml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


def recipe_in(folder: Path, *overrides: str) -> Recipe:
    return load_recipe(str(folder / "mine.toml"), root=folder / "root", overrides=overrides)


def build_key(folder: Path, *overrides: str) -> str:
    return open_inputs(recipe_in(folder, *overrides), folder / "root", {}).build_key


def test_the_source_and_the_pivot_have_packs_too(folder: Path) -> None:
    engine = open_engine(recipe_in(folder), folder / "root")
    assert engine is not None
    assert [translation.text for translation in engine.translate(["x"])] == ["oci-ita=fra-oci=x"]
    back = open_reverse_engine(recipe_in(folder, "translate.round_trip=true"), folder / "root")
    assert back is not None
    assert [translation.text for translation in back.translate(["x"])] == ["oci-fra=ita-oci=x"]


def test_a_pack_of_a_file_wins_over_one_that_ships(folder: Path) -> None:
    (folder / "it.toml").write_text('code = "it"\niso639_3 = "xyz"\n', encoding="utf-8")
    files = f'language_packs=["{folder}/fr.toml", "{folder}/it.toml"]'
    with pytest.raises(InputError, match="no mode fra-xyz"):
        open_engine(recipe_in(folder, files, 'translate.pivot=""'), folder / "root")
    inputs = open_inputs(recipe_in(folder, f"language_packs={folder}/it.toml", *TO_FRENCH), folder, {})
    assert inputs.packs["it"].iso639_3 == "xyz"


def test_captions_are_read_with_named_packs(folder: Path) -> None:
    packs = open_inputs(recipe_in(folder), folder / "root", {}).packs
    assert (packs["fr"].iso639_3, packs["it"].iso639_3) == ("fra", "ita")
    extra = folder / "eu.toml"
    extra.write_text('code = "eu"\n', encoding="utf-8")
    files = f'language_packs=["{folder}/fr.toml", "{folder}/oc.toml", "{extra}"]'
    assert "eu" in open_inputs(recipe_in(folder, files), folder / "root", {}).packs, (
        "rows may say their language themselves"
    )


@pytest.mark.parametrize("name", ["fr", "oc"])
def test_another_pack_is_another_build(name: str, folder: Path) -> None:
    first = build_key(folder)
    assert build_key(folder) == first
    with (folder / f"{name}.toml").open("a", encoding="utf-8") as file:
        file.write('argos = "xx"\n')
    assert build_key(folder) != first


def test_where_a_pack_lies_is_no_part_of_a_build(folder: Path) -> None:
    first = build_key(folder)
    (folder / "moved").mkdir()
    (folder / "fr.toml").rename(folder / "moved" / "fr.toml")
    assert build_key(folder, f'language_packs=["{folder}/moved/fr.toml", "{folder}/oc.toml"]') == first


def test_the_targets_pack_may_stand_in_either_key(folder: Path) -> None:
    reading = ("target_language=fr", "source_language=fr", 'translate.pivot=""')
    expected = open_inputs(recipe_in(folder, *reading, f"language_pack={folder}/fr.toml"), folder / "root", {}).pack
    assert open_inputs(recipe_in(folder, *reading), folder / "root", {}).pack == expected
    with pytest.raises(SettingsError, match=r"there is no language pack 'fr'.*language_pack = "):
        open_inputs(recipe_in(folder, *reading, "language_packs=[]"), folder / "root", {})


def test_packs_that_contradict_each_other_or_the_recipe(folder: Path) -> None:
    (folder / "other.toml").write_text('code = "fr"\n', encoding="utf-8")
    twice = f'language_packs=["{folder}/fr.toml", "{folder}/other.toml"]'
    with pytest.raises(SettingsError, match=r"fr\.toml and .*other\.toml are both language packs for fr: keep one"):
        open_inputs(recipe_in(folder, twice), folder / "root", {})
    with pytest.raises(SettingsError, match=r"fr\.toml is for fr, but target_language is it"):
        open_inputs(recipe_in(folder, f"language_pack={folder}/fr.toml"), folder / "root", {})
    with pytest.raises(InputError, match="cannot read the language pack"):
        open_inputs(recipe_in(folder, "language_packs=absent.toml"), folder / "root", {})


def translated(options: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(b"x\n"))))
    return main(["translate", "--engine", "apertium", "--from", "fr", "--to", "it", *options])


def test_the_command_takes_packs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    packs = ["--language-pack", str(folder / "fr.toml"), "--language-pack", str(folder / "oc.toml")]
    assert translated([*packs, "--pivot", "oc"], monkeypatch) == 0
    assert capsys.readouterr().out == "oci-ita=fra-oci=x\n"
    assert translated(packs[:2], monkeypatch) == 0
    assert capsys.readouterr().out == "fra-ita=x\n"
    assert translated([], monkeypatch) == 1
    assert "set iso639_3 in the language pack fr.toml" in capsys.readouterr().err
    assert translated(packs, monkeypatch) == 1
    assert "--language-pack is for oc, but the translation is fr - it" in capsys.readouterr().err
