"""Language packs: those that ship, those that are broken, and those that a recipe or a command names."""

import io
import json
import os
import re
import stat
import string
import sys
from pathlib import Path

import pytest

from cleaning.duplicates.near_captions import cluster_captions
from cleaning.languages.identification import detectable_languages
from data_catalog.base.errors import InputError, PipelineError, SettingsError
from data_catalog.base.language_pack import ChangeWords, LanguagePack, function_word_meanings
from flows.build.inputs import Inputs, open_inputs
from flows.cli import main
from flows.models import require_ready
from flows.recipe.engines import open_engine, open_reverse_engine
from flows.recipe.language_packs import (
    available_language_packs,
    change_rules,
    load_language_pack,
    load_language_packs,
)
from flows.recipe.recipe import Recipe, load_recipe


def test_the_packs_that_ship_are_whole() -> None:
    packs = load_language_packs()
    assert list(packs) == available_language_packs() == ["ca", "de", "el", "en", "it"]
    for code, pack in packs.items():
        assert pack.code == code
        assert {pack.langdetect, *pack.confusions} <= set(detectable_languages())
        assert pack.langdetect not in pack.confusions
        assert len(set(pack.function_words)) == len(pack.function_words) > 50
        assert {*pack.function_words}.isdisjoint(pack.shared_words)
        contrasting = [word for group in pack.contrasts or () for word in group]
        assert len(set(contrasting)) == len(contrasting) > 10
        assert code == "en" or len(pack.shared_words) > 50
        assert len(pack.tens) == 8
        assert None not in (pack.text_encoder, pack.iso639_3, pack.name, pack.argos, pack.spacy, pack.flores)
        assert pack.prompt_templates
        for template in pack.prompt_templates:
            assert [name for _, name, _, _ in string.Formatter().parse(template) if name] == ["c"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'code = "eu"\nfunction_word = []\n', "unknown key eu.toml.function_word"),
        (b"code = 7\n", "eu.toml.code must be a string"),
        (b"name = 'x'\n", "eu.toml.code is missing"),
        (b"code = '\xff'\n", "is not TOML"),
        (b"code = 'EU'\n", "code must be lower-case"),
        (b"code = 'eu'\nfunction_words = [\"l'\"]\n", "without apostrophe"),
        (b"code = 'eu'\ncommon_nouns = ['']\n", "common_nouns must be lower-case letters, got ''"),
        (b"code = 'eu'\nnegations = ['ez']\n", "negations must be among function_words, got 'ez'"),
        (b"code = 'eu'\nshared_words = ['bar']\n", "four letters or more"),
        (b"code = 'eu'\nshared_words = ['Hotel']\n", "lower-case words"),
        (b"code = 'eu'\nprompt_templates = ['argazkia']\n", "contain {c} once"),
        (None, "cannot read the language pack"),
    ],
)
def test_a_broken_pack_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "eu.toml").write_bytes(content)
    with pytest.raises(PipelineError, match=re.escape(message)):
        load_language_pack(str(tmp_path / "eu.toml"))


def test_hard_negatives_of_a_language_without_rules_are_refused_before_any_work(tmp_path: Path) -> None:
    """The message names what the pack lacks."""
    path, settings = tmp_path / "it.toml", ['train.hard_negatives=["position", "count"]']

    def recipe(pack: str) -> Recipe:
        path.write_text(f'code = "it"\n{pack}', encoding="utf-8")
        return load_recipe("scenes", root=tmp_path, overrides=[*settings, f'language_pack="{path}"'])

    positions = '[changes]\npositions = [[["a sinistra"], ["a destra"]]]\n'
    with pytest.raises(SettingsError, match=r"it has no \[changes\].*or train without: train\.hard_negatives=\[\]"):
        require_ready(recipe(""), tmp_path)
    with pytest.raises(SettingsError, match=r"has count, but the language pack has no changes\.numbers"):
        require_ready(recipe(positions), tmp_path)
    require_ready(recipe(positions + 'numbers = ["due", "tre"]\n'), tmp_path)
    settings[:] = ['train.augment=["mirror"]']
    with pytest.raises(SettingsError, match=r"has mirror, but the language pack has no changes\.sides"):
        require_ready(recipe(positions), tmp_path)
    require_ready(recipe(positions + 'sides = ["sinistra", "destra"]\n'), tmp_path)
    settings[:] = ["train.hard_negatives=[]"]
    assert change_rules(recipe("")) is None


def test_a_pack_is_a_file_or_one_that_ships(tmp_path: Path) -> None:
    path = tmp_path / "eu.toml"
    words = ("eta", "ñabar", "में", "ที่")  # the last two have vowel signs and tone marks, which are no letters
    listed = json.dumps(words, ensure_ascii=False)
    path.write_text(f'code = "eu"\nfunction_words = {listed}\ncommon_nouns = {listed}\n', encoding="utf-8")
    own = LanguagePack(code="eu", function_words=words, common_nouns=words)
    assert load_language_pack(str(path)) == own
    for name in ("xx", "../languages/it"):
        with pytest.raises(SettingsError, match=r"no language pack .*ca, de, el, en, it"):
            load_language_pack(name)


@pytest.fixture(scope="module")
def meanings() -> dict[str, dict[str, str]]:
    return function_word_meanings(load_language_packs())


@pytest.mark.parametrize(
    ("code", "caption", "with_", "without"),
    [
        ("en", "a man walking {} a small dog in the park", "with", "without"),
        ("de", "Ein Mann trägt {} Hut am Strand", "einen", "keinen"),
        ("it", "Un uomo {} cappello cammina in una strada", "con", "senza"),
        ("ca", "Un home {} barret camina pel carrer gran", "amb", "sense"),
        ("el", "Ένας άντρας {} καπέλο περπατά στον δρόμο", "με", "χωρίς"),
        ("en", "The birds {} flying over the calm sea", "are", "aren't"),
        ("it", "il ragazzo è {} il tavolo", "sopra", "sotto"),
        ("it", "Un cane corre {} dalla casa di legno", "fuori", "dentro"),
        ("it", "Un gatto nero dorme {} scatola di cartone", "nella", "sulla"),
        ("en", "A small cat is sleeping {} the wooden table", "on", "under"),
        ("en", "A dog with a red collar is jumping {} the water", "into", "out of"),
        ("en", "A group of people is standing {} the old church", "inside", "outside"),
        ("en", "A woman in a red coat walks {} the horse", "before", "behind"),
        ("en", "A young child is playing with {} small dog", "his", "her"),
        ("en", "A man in a hat is walking {} the station", "to", "from"),
        ("de", "Die kleine Katze schläft {} dem Tisch", "auf", "unter"),
        ("de", "Ein Mann geht mit {} Hund durch den Park", "seinem", "ihrem"),
        ("ca", "El gat negre dorm {} la taula de fusta", "sobre", "sota"),
        ("el", "Η μαύρη γάτα κοιμάται {} από το τραπέζι", "πάνω", "κάτω"),
        ("el", "Ένα παιδί παίζει με τον σκύλο {} στο πάρκο", "του", "της"),
    ],
)
def test_near_captions_share_negations_positions_and_persons(
    code: str, caption: str, with_: str, without: str, tmp_path: Path, meanings: dict[str, dict[str, str]]
) -> None:
    captions = [(text, code) for text in (caption.format(with_), caption.format(without), f"{caption.format(with_)}!")]
    found = cluster_captions(lambda: iter([captions]), similarity=0.8, scratch=tmp_path, function_words=meanings)
    assert found.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("code", "left", "right"),
    [
        ("it", "Un gatto nero dorme sul letto di legno", "Un gatto nero dorme sopra un letto di legno"),
        ("it", "Due cani giocano in un parco cittadino", "Due cani giocano nel parco cittadino"),
        ("de", "Eine kleine Katze schläft im Garten", "Eine kleine Katze schläft in einem Garten"),
        ("en", "A man is swinging on a rope above the water", "The man is swinging on a rope over water"),
        ("en", "A brown dog is jumping on on the sofa", "A brown dog jumping onto the sofa"),
        ("en", "A small boat is sailing across the blue bay", "A small boat sailing accross the blue bay"),
    ],
)
def test_function_words_of_one_meaning_are_near(
    code: str, left: str, right: str, tmp_path: Path, meanings: dict[str, dict[str, str]]
) -> None:
    captions = [(left, code), (right, code)]
    found = cluster_captions(lambda: iter([captions]), similarity=0.8, scratch=tmp_path, function_words=meanings)
    assert found.tolist() == [0, 0]


def test_opposites_of_a_pack_tell_near_captions_apart(tmp_path: Path) -> None:
    """A pack that lists only the words that change a caption."""
    changes = ChangeWords(positions=((("super", "super ille"), ("sub", "sub ille")),))
    pack = LanguagePack(code="la", function_words=("est", "ille", "in", "sub", "super"), changes=changes)
    captions = [(f"puer parvus {word} mensam magnam est", "la") for word in ("super", "sub", "super ille", "in")]
    words = function_word_meanings({"la": pack})
    found = cluster_captions(lambda: iter([captions]), similarity=0.8, scratch=tmp_path, function_words=words)
    assert found.tolist() == [0, 1, 0, 3]


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


def inputs_in(folder: Path, *overrides: str) -> Inputs:
    return open_inputs(recipe_in(folder, *overrides), folder / "root", {})


def test_the_source_and_the_pivot_have_packs_too(folder: Path) -> None:
    engine = open_engine(recipe_in(folder), folder / "root")
    back = open_reverse_engine(recipe_in(folder, "translate.round_trip=true"), folder / "root")
    for each, expected in ((engine, "oci-ita=fra-oci=x"), (back, "oci-fra=ita-oci=x")):
        assert each is not None
        assert [translation.text for translation in each.translate(["x"])] == [expected]


def test_a_pack_of_a_file_wins_over_one_that_ships(folder: Path) -> None:
    (folder / "it.toml").write_text('code = "it"\niso639_3 = "xyz"\n', encoding="utf-8")
    files = f'language_packs=["{folder}/fr.toml", "{folder}/it.toml"]'
    with pytest.raises(InputError, match="no mode fra-xyz"):
        open_engine(recipe_in(folder, files, 'translate.pivot=""'), folder / "root")
    packs = inputs_in(folder, f"language_packs={folder}/it.toml", *TO_FRENCH).packs
    assert packs["it"].iso639_3 == "xyz"


def test_captions_are_read_with_named_packs_and_those_that_ship(folder: Path) -> None:
    (folder / "eu.toml").write_text('code = "eu"\n', encoding="utf-8")
    files = f'language_packs=["{folder}/fr.toml", "{folder}/oc.toml", "{folder}/eu.toml"]'
    packs = inputs_in(folder, files).packs
    assert (packs["fr"].iso639_3, packs["it"].iso639_3) == ("fra", "ita")
    assert "eu" in packs, "rows may say their language themselves"


def test_another_pack_is_another_build_wherever_it_lies(folder: Path) -> None:
    first = inputs_in(folder).build_key
    (folder / "moved").mkdir()
    (folder / "fr.toml").rename(folder / "moved" / "fr.toml")
    files = f'language_packs=["{folder}/moved/fr.toml", "{folder}/oc.toml"]'
    assert inputs_in(folder, files).build_key == first
    for name in ("moved/fr.toml", "oc.toml"):
        before = inputs_in(folder, files).build_key
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write('argos = "xx"\n')
        assert inputs_in(folder, files).build_key != before


def test_the_targets_pack_may_stand_in_either_key_and_none_may_contradict_the_recipe(folder: Path) -> None:
    reading = ("target_language=fr", "source_language=fr", 'translate.pivot=""')
    expected = inputs_in(folder, *reading, f"language_pack={folder}/fr.toml").pack
    assert inputs_in(folder, *reading).pack == expected
    (folder / "other.toml").write_text('code = "fr"\n', encoding="utf-8")
    for settings, said in (
        ((*reading, "language_packs=[]"), r"no language pack 'fr'.*language_pack = "),
        ((f'language_packs=["{folder}/fr.toml", "{folder}/other.toml"]',), r"fr\.toml and .*other\.toml"),
        ((f"language_pack={folder}/fr.toml",), r"fr\.toml' is for the language 'fr'"),
        (("language_packs=absent.toml",), "cannot read the language pack"),
    ):
        with pytest.raises(PipelineError, match=said):
            inputs_in(folder, *settings)


def test_the_command_takes_packs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    packs = ["--language-pack", str(folder / "fr.toml"), "--language-pack", str(folder / "oc.toml")]
    for options, out, error in (
        ([*packs, "--pivot", "oc"], "oci-ita=fra-oci=x\n", ""),
        ([], "", "set iso639_3 in the language pack fr.toml"),
        (packs, "", "--language-pack is for oc"),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(b"x\n"))))
        assert main(["translate", "--engine", "apertium", "--from", "fr", "--to", "it", *options]) == (0 if out else 1)
        told = capsys.readouterr()
        assert told.out == out
        assert error in told.err
