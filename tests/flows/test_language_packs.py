"""Language packs: those that ship, those that are broken, and those that a recipe or a command names."""

import hashlib
import io
import json
import re
import string
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cleaning.duplicates.near_captions import cluster_captions
from cleaning.languages.identification import detectable_languages
from data_catalog.base.errors import SettingsError
from data_catalog.base.language_pack import LanguagePack, function_word_meanings
from data_catalog.base.settings import json_values
from flows.build.inputs import Inputs, open_inputs
from flows.cli import main
from flows.models import require_ready
from flows.recipe.engines import open_engine, open_reverse_engine
from flows.recipe.language_packs import (
    available_language_packs,
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
        ("code = 7", "eu.toml.code must be a string"),
        ("name = 'x'", "eu.toml.code is missing"),
        ("code = 'EU'", "code must be lower-case"),
        ("code = 'eu'\nfunction_words = [\"l'\"]", "without apostrophe"),
        ("code = 'eu'\ncommon_nouns = ['']", "common_nouns must be lower-case letters, got ''"),
        ("code = 'eu'\nnegations = ['ez']", "negations must be among function_words, got 'ez'"),
        ("code = 'eu'\nshared_words = ['bar']", "four letters or more"),
        ("code = 'eu'\nprompt_templates = ['argazkia']", "contain {c} once"),
    ],
)
def test_a_broken_pack_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "eu.toml").write_text(content, "utf-8")
    with pytest.raises(SettingsError, match=re.escape(message)):
        load_language_pack(str(tmp_path / "eu.toml"))


def test_mirrored_images_of_a_language_without_sides_are_refused_before_any_work(tmp_path: Path) -> None:
    path, settings = tmp_path / "it.toml", ['train.augment=["mirror"]']

    def recipe(pack: str) -> Recipe:
        path.write_text(f'code = "it"\n{pack}', encoding="utf-8")
        return load_recipe("scenes", root=tmp_path, overrides=[*settings, f'language_pack="{path}"'])

    with pytest.raises(SettingsError, match=r"has mirror, but the language pack has no \[sides\]"):
        require_ready(recipe('[changes]\nsides = ["sinistra", "destra"]\n'), tmp_path)
    require_ready(recipe('[sides]\nleft = ["sinistra"]\nright = ["destra"]\n'), tmp_path)
    settings[:] = ["train.augment=[]"]
    require_ready(recipe(""), tmp_path)


def test_a_pack_with_the_words_that_changed_captions_in_earlier_versions_is_read(tmp_path: Path) -> None:
    path = tmp_path / "eu.toml"
    path.write_text('code = "eu"\n[changes]\nnumbers = ["bi"]\n[changes.roles]\nagents = ["hau"]\n', encoding="utf-8")
    assert load_language_pack(str(path)) == LanguagePack(code="eu")


def test_words_of_a_pack_may_have_marks_of_vowels_and_tones(tmp_path: Path) -> None:
    words = ("eta", "ñabar", "में", "ที่")
    listed = json.dumps(words, ensure_ascii=False)
    path = tmp_path / "eu.toml"
    path.write_text(f'code = "eu"\nfunction_words = {listed}\ncommon_nouns = {listed}\n', encoding="utf-8")
    own = LanguagePack(code="eu", function_words=words, common_nouns=words)
    assert load_language_pack(str(path)) == own


APART = [
    ("en", "a man walking {} a small dog in the park", "with", "without"),
    ("de", "Ein Mann trägt {} Hut am Strand", "einen", "keinen"),
    ("it", "Un uomo {} cappello cammina in una strada", "con", "senza"),
    ("ca", "Un home {} barret camina pel carrer gran", "amb", "sense"),
    ("el", "Ένας άντρας {} καπέλο περπατά στον δρόμο", "με", "χωρίς"),
    ("en", "The birds {} flying over the calm sea", "are", "aren't"),
    ("it", "il ragazzo è {} il tavolo", "sopra", "sotto"),
    ("en", "A dog with a red collar is jumping {} the water", "into", "out of"),
    ("en", "A young child is playing with {} small dog", "his", "her"),
    ("de", "Die kleine Katze schläft {} dem Tisch", "auf", "unter"),
    ("ca", "El gat negre dorm {} la taula de fusta", "sobre", "sota"),
    ("el", "Ένα παιδί παίζει με τον σκύλο {} στο πάρκο", "του", "της"),
]
NEAR = [
    ("it", "Un gatto nero dorme sul letto di legno", "Un gatto nero dorme sopra un letto di legno"),
    ("de", "Eine kleine Katze schläft im Garten", "Eine kleine Katze schläft in einem Garten"),
    ("en", "A brown dog is jumping on on the sofa", "A brown dog jumping onto the sofa"),
]


def test_near_captions_share_negations_positions_and_persons(tmp_path: Path) -> None:
    meanings = function_word_meanings(load_language_packs())
    for code, caption, one, other in APART:
        texts = (caption.format(one), caption.format(other), f"{caption.format(one)}!")
        assert clusters(texts, code, meanings, tmp_path) == [0, 1, 0], caption
    for code, left, right in NEAR:
        assert clusters((left, right), code, meanings, tmp_path) == [0, 0], left


def clusters(texts: Sequence[str], code: str, words: Mapping[str, Mapping[str, str]], scratch: Path) -> list[int]:
    captions = [(text, code) for text in texts]
    found = cluster_captions(lambda: iter([captions]), similarity=0.8, scratch=scratch, function_words=words)
    numbers: list[int] = found.tolist()
    return numbers


# Of each language, the sha256 of its words and their meanings at commit ac61b722.
MEANINGS = {
    "ca": "db7ac6ae37036227",
    "de": "03c250349882e807",
    "el": "eb1519eea11f3001",
    "en": "7b905fa1bddc7410",
    "it": "bbf10673406a4e70",
}


def test_meanings_of_function_words_are_as_they_were() -> None:
    """They decide which captions are near-duplicates, and the keys of builds."""
    found = function_word_meanings(load_language_packs())
    digests = {code: hashlib.sha256(json.dumps(each, ensure_ascii=False).encode()) for code, each in found.items()}
    assert {code: digest.hexdigest()[:16] for code, digest in digests.items()} == MEANINGS


PROGRAM = "import sys; [print(sys.argv[1], end='=' + line) for line in sys.stdin]"  # says its languages
RECIPE = f"""
target_language = "it"
source_language = "fr"
language_packs = ["{{recipe}}/fr.toml", "{{recipe}}/oc.toml"]
[translate]
engine = "command"
command = ["{sys.executable}", "-uc", "{PROGRAM}", "{{from}}-{{to}}"]
pivot = "oc"
[sources.mine]
kind = "pairs"
files = ["{{recipe}}/pairs.tsv"]
url_column = "url"
caption_column = "caption"
lang = "fr"
"""
TO_FRENCH = ("target_language=fr", 'translate.pivot=""', "language_pack={recipe}/fr.toml")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recipe that translates French by way of Occitan, whose packs are files."""
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
    for each, expected in ((engine, "oc-it=fr-oc=x"), (back, "oc-fr=it-oc=x")):
        assert each is not None
        assert [translation.text for translation in each.translate(["x"])] == [expected]


def test_a_pack_of_a_file_wins_over_one_that_ships(folder: Path) -> None:
    (folder / "it.toml").write_text('code = "it"\niso639_3 = "xyz"\n', encoding="utf-8")
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
    with pytest.raises(SettingsError, match=r"fr\.toml and .*other\.toml are both language packs for fr"):
        inputs_in(folder, f'language_packs=["{folder}/fr.toml", "{folder}/other.toml"]')


def test_the_command_takes_packs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = f'command=["{sys.executable}", "-uc", "{PROGRAM}", "{{to}}"]'
    words = ["translate", "--engine", "command", "--set", program, "--from", "en", "--to", "fr"]
    for options, out, error in (
        (["--language-pack", str(folder / "fr.toml")], "fr=x\n", ""),
        (["--language-pack", str(folder / "oc.toml")], "", "--language-pack is for oc"),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(b"x\n"))))
        assert main([*words, *options]) == (0 if out else 1)
        told = capsys.readouterr()
        assert told.out == out
        assert error in told.err


def test_a_part_of_packs_that_came_later_is_not_in_the_keys_of_packs_without_it() -> None:
    """Else each build of an earlier version would run anew."""
    pack = load_language_pack("it")
    assert {"contrasts", "sides"} <= json_values(pack).keys()
    assert not {"contrasts", "sides"} & json_values(replace(pack, contrasts=None, sides=None)).keys()
