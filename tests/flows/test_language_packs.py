import string
from pathlib import Path

import pytest

from cleaning.duplicates.near_captions import cluster_captions
from cleaning.languages.identification import detectable_languages
from data_catalog.errors import PipelineError, SettingsError
from data_catalog.language_pack import LanguagePack, all_function_words
from flows.recipe.language_packs import available_language_packs, load_language_pack, load_language_packs


def test_the_packs_that_ship() -> None:
    packs = load_language_packs()
    assert list(packs) == available_language_packs() == ["ca", "de", "el", "en", "it"]
    for code, pack in packs.items():
        assert pack.code == code
        assert {pack.langdetect, *pack.confusions} <= set(detectable_languages())
        assert pack.langdetect not in pack.confusions
        assert len(set(pack.function_words)) == len(pack.function_words) > 50
        assert pack.text_encoder
        assert pack.prompt_templates
        assert pack.license_notes
    assert packs["it"].text_encoder == "dbmdz/bert-base-italian-xxl-cased"


def test_packs_of_other_languages_than_english_are_whole() -> None:
    for code, pack in load_language_packs().items():
        assert len(pack.tens) == 8
        assert code == "en" or len(pack.shared_words) > 50
        assert all((pack.iso639_3, pack.name, pack.argos, pack.spacy, pack.flores))
        assert {*pack.function_words}.isdisjoint(pack.shared_words)


def test_no_pack_of_that_language() -> None:
    with pytest.raises(SettingsError, match="no language pack 'xx': use one of ca, de, el, en, it"):
        load_language_pack("xx")
    with pytest.raises(SettingsError, match="no language pack"):
        load_language_pack("../languages/it")


def test_a_pack_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "eu.toml"
    path.write_text('code = "eu"\nname = "Basque"\nfunction_words = ["eta", "ñabar"]\n', encoding="utf-8")
    pack = load_language_pack(str(path))
    assert pack == LanguagePack(code="eu", name="Basque", function_words=("eta", "ñabar"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'code = "eu"\nfunction_word = []\n', "unknown key eu.toml.function_word"),
        (b"code = 7\n", "eu.toml.code must be a string"),
        (b"name = 'x'\n", "eu.toml.code is missing"),
        (b"code = \n", "is not TOML"),
        (b"code = '\xff'\n", "is not TOML"),
        (b"code = 'EU'\n", "code must be lower-case"),
        (b"code = 'eu'\nfunction_words = [\"l'\"]\n", "without apostrophe"),
        (b"code = 'eu'\nnegations = ['ez']\n", "negations must be among function_words, got 'ez'"),
        (b"code = 'eu'\nshared_words = ['bar']\n", "four letters or more"),
        (b"code = 'eu'\nshared_words = ['Hotel']\n", "lower-case words"),
        (b"code = 'eu'\nprompt_templates = ['argazkia']\n", "contain {c} once"),
        (None, "cannot read the language pack"),
    ],
)
def test_a_broken_pack(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "eu.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PipelineError, match=message.replace("{", "\\{").replace(".", "\\.")):
        load_language_pack(str(path))


def test_templates_of_a_pack_fill_in() -> None:
    for pack in load_language_packs().values():
        for template in pack.prompt_templates:
            assert [name for _, name, _, _ in string.Formatter().parse(template) if name] == ["c"]


@pytest.mark.parametrize(
    ("caption", "other"),
    [
        ("a man walking with a small dog in the park", "a man walking without a small dog in the park"),
        ("Auf dem Tisch steht eine Flasche neben dem Glas", "Auf dem Tisch steht keine Flasche neben dem Glas"),
        ("Ein Mann trägt einen Hut am Strand", "Ein Mann trägt keinen Hut am Strand"),
        ("Un uomo con cappello cammina in una strada", "Un uomo senza cappello cammina in una strada"),
        ("Un home amb barret camina pel carrer gran", "Un home sense barret camina pel carrer gran"),
        ("Ένας άντρας με καπέλο περπατά στον δρόμο", "Ένας άντρας χωρίς καπέλο περπατά στον δρόμο"),
        ("The birds aren't flying over the calm sea", "The birds are flying over the calm sea"),
    ],
)
def test_near_captions_share_their_negations(caption: str, other: str, tmp_path: Path) -> None:
    words = all_function_words(load_language_packs())
    captions = [caption, other, f"{caption}!"]
    found = cluster_captions(lambda: iter([captions]), similarity=0.8, scratch=tmp_path, function_words=words)
    assert found.tolist() == [0, 1, 0]
