"""Names in place of captions are dropped, by capitals or by a tagger of spaCy."""

import json
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from cleaning.checks.definition import Tagger
from cleaning.checks.proper_nouns import find_tagger, proper_noun_share, tagged_proper_nouns, tagged_share
from data_catalog.base.errors import InputError, SettingsError
from data_catalog.base.language_pack import LanguagePack
from flows.recipe.language_packs import load_language_packs

PACKS = load_language_packs()
FRENCH = LanguagePack(code="fr", spacy="fr_core_news_sm")
ITALIAN = LanguagePack(code="it", spacy="a_model_that_is_not_installed")
AWKWARD = ["", "🙂 !", "E\u0301mile Zola", "مارسيليا، ميناء قديم", "東京タワーの夜景", "x" * 10_000, "un chat " * 200]


def test_captions_of_words_with_capitals_are_names() -> None:
    for lang, caption, detail in (
        ("it", "Dora Riparia", "2 of 2 words"),
        ("it", "G. H. Hardy", "3 of 3 words"),
        ("el", "Εκκλησία στη Θεσσαλονίκη", None),
        ("el", "Ένας Άντρας Και Ο Σκύλος Του", None),
        ("el", "Τι κάνει; Ο Νίκος τρέχει", None),
        ("it", "Gatto nero", None),
        ("it", "VISTA DI ROMA", None),
        ("it", "A MAN HOLDING A CAKE To EAT", None),
        ("it", "\u0301", None),
        ("it", "", None),
        ("it", "Roma " * 2000, "2000 of 2000 words"),
        ("it", "\u200fSamantha Cristoforetti 🚀", "2 of 2 words"),
    ):
        (verdict,) = proper_noun_share(function_words=PACKS[lang].function_words)([caption])
        assert (verdict.detail if verdict else None) == detail
        assert verdict is None or verdict.reason == "mostly_proper_nouns"


def test_a_common_noun_at_the_start_is_no_name() -> None:
    names = {"Piazza Garibaldi": None, "Chiesa Santa Lucia": "2 of 3 words", "Un uomo. Piazza Garibaldi": None}
    names["Joey Ramone Piazza"] = "3 of 3 words"  # within a caption a capital is a name's
    words, nouns = PACKS["it"].function_words, {"piazza", "chiesa"}
    verdicts = proper_noun_share(function_words=words, common_nouns=nouns, max_share=0.6)(list(names))
    assert [verdict.detail if verdict else None for verdict in verdicts] == list(names.values())


def test_a_tagger_s_shares_are_held_against_the_limit() -> None:
    shares = {"all": 1.0, "four of five": 4 / 5, "seven of nine": 7 / 9, "no word": None, "none": 0.0}
    tagger = SimpleNamespace(name="given", share=lambda texts: [shares[text] for text in texts])
    verdicts = tagged_proper_nouns(tagger)(list(shares))
    details = [verdict and verdict.detail for verdict in verdicts]
    assert details == ["100 % of the tokens", "80 % of the tokens", None, None, None]
    assert {verdict.reason for verdict in verdicts if verdict} == {"mostly_proper_nouns"}
    assert all(tagged_proper_nouns(tagger, max_share=0.75)(["all", "seven of nine"]))


def test_tokens_with_a_letter_or_digit_count() -> None:
    assert tagged_share([("Kim", True), ("Rhodes", True), ("nel", False), ("2010", False)]) == 0.5
    assert tagged_share([("«", True), ("Roma", True), ("»", False), (".", False), (" ", False)]) == 1.0
    assert tagged_share([("🙂", True), ("gatto", False)]) == 0.0
    assert tagged_share([("\u0301", True), ("!", False)]) is None
    assert tagged_share([("東京", True), ("إيفل", True)]) == 1.0


def found(pack: LanguagePack, choice: str) -> Tagger:
    tagger = find_tagger(pack, choice)
    assert tagger is not None
    return tagger


def check_that_neighbours_do_not_matter(tagger: Tagger, captions: list[str]) -> None:
    alone = [tagger.share([caption])[0] for caption in captions]
    assert tagger.share(captions[::-1]) == alone[::-1]
    assert tagger.share([]) == []
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(tagger.share, [captions[:6]] * 8)) == [alone[:6]] * 8


def test_spacy_drops_names_whatever_the_other_captions() -> None:
    tagger = found(FRENCH, "spacy")
    assert tagger.name == f"spacy:fr_core_news_sm {metadata.version('fr_core_news_sm')}"
    assert find_tagger(FRENCH, "auto") is tagger, "it is loaded once"
    names = ["Dora Riparia", "Jean-Paul Sartre.", "Clermont-Ferrand", "Dora Riparia " * 100]
    captions = ["Émile Zola vers 1890", "Vue de Paris", "Un Homme Et Son Chien", "🙂 !", "", "un chat " * 200]
    details = [verdict and verdict.detail for verdict in tagged_proper_nouns(tagger)([*names, *captions])]
    assert details == ["100 % of the tokens"] * len(names) + [None] * len(captions)
    check_that_neighbours_do_not_matter(tagger, ["Kim Rhodes", "un chat noir", "Vue de Paris", *AWKWARD])


def test_without_a_model_auto_means_the_heuristic_and_a_choice_says_what_to_install() -> None:
    assert find_tagger(ITALIAN, "auto") is None
    assert find_tagger(LanguagePack(code="it"), "auto") is None
    assert find_tagger(FRENCH, "heuristic") is None
    for error, pack, choice, told in (
        (InputError, ITALIAN, "spacy", "-m spacy download a_model_that_is_not"),
        (InputError, LanguagePack(code="it"), "spacy", "`spacy`"),
        (SettingsError, FRENCH, "nltk", "nltk"),
    ):
        with pytest.raises(error, match=told):
            find_tagger(pack, choice)


@pytest.mark.parametrize(("kind", "told"), [("blank", "tags no proper nouns"), ("damaged", "cannot be loaded")])
def test_a_model_that_tags_nothing_or_is_damaged_is_refused(
    kind: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import spacy

    name = f"fr_{kind}_test"
    package, information = tmp_path / name, tmp_path / f"{name}-1.0.0.dist-info"
    package.mkdir()
    information.mkdir()
    loading = "from spacy.util import load_model_from_init_py as init\nload = lambda **o: init(__file__, **o)"
    package.joinpath("__init__.py").write_text(loading)
    nlp = spacy.blank("fr", meta={"name": name.removeprefix("fr_"), "version": "1.0.0"})
    nlp.to_disk(package / f"{name}-1.0.0")
    package.joinpath("meta.json").write_text(json.dumps(nlp.meta))
    information.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\n")
    if kind == "damaged":
        package.joinpath(f"{name}-1.0.0", "config.cfg").unlink()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=rf"{name} 1\.0\.0 {told}"):
        find_tagger(LanguagePack(code="fr", spacy=name), "auto" if kind == "blank" else "spacy")
