"""Caption changes by rule: each is a caption again, differs in one thing, and doubtful words are left alone."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_catalog.base.errors import SettingsError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.base.settings import json_values
from data_catalog.sample.grammar import STYLES, Wording, caption, templates
from data_catalog.sample.scene import BACKGROUNDS, COLOURS, SHAPES, Scene, random_scene
from flows.recipe.language_packs import load_language_pack
from flows.recipe.settings import read
from training.changes import KINDS, ChangeRules

RULES = {code: ChangeRules.of(load_language_pack(code)) for code in ("it", "de", "en")}
OPPOSITE = {"above": "below", "below": "above", "left": "right", "right": "left"}


def of_kind(code: str, kind: str, text: str) -> list[str]:
    return [change.caption for change in RULES[code].changes(text) if change.kind == kind]


def neighbours(scene: Scene) -> Iterator[tuple[str, Scene]]:
    """All scenes that differ in one thing, with the kind of the change."""
    colours = (*COLOURS, *BACKGROUNDS)
    if scene.relation in OPPOSITE:
        yield "position", replace(scene, relation=OPPOSITE[scene.relation])
    yield from (("colour", replace(scene, background=colour)) for colour in colours)
    for place, group in enumerate(scene.groups):

        def with_group(place: int = place, group: Any = group, **values: Any) -> Scene:
            groups = list(scene.groups)
            groups[place] = replace(group, **values)
            return replace(scene, groups=tuple(groups))

        yield from (("colour", with_group(colour=colour)) for colour in colours)
        yield from (("noun", with_group(shape=shape)) for shape in SHAPES)
        yield from (("count", with_group(count=count)) for count in (2, 3, 4))
        yield "exchanged", replace(with_group(colour=scene.background), background=group.colour)
        for at, other in enumerate(scene.groups[:place]):
            two = list(scene.groups)
            two[place], two[at] = replace(group, colour=other.colour), replace(other, colour=group.colour)
            yield "exchanged", replace(scene, groups=tuple(two))


@pytest.mark.parametrize("code", ["it", "en", "de"])
def test_changes_of_scene_captions_are_captions_of_other_scenes(code: str) -> None:
    rng, kinds = Random(5), Counter[str]()
    drawn = [
        (scene, Wording(template=template, synonym=rng.randrange(2), style=rng.choice(STYLES)))
        for scene in (random_scene(rng) for _ in range(15))
        for template in templates(scene)
    ]
    rules = RULES[code].within(caption(scene, code, wording) for scene, wording in drawn)
    for scene, wording in drawn:
        text = caption(scene, code, wording)
        known = {(kind, caption(other, code, wording)) for kind, other in neighbours(scene)}
        for change in rules.changes(text):
            kinds[change.kind] += 1
            if change.kind == "negation":  # which the grammar lacks
                assert len(change.caption.split()) - len(text.split()) in (-1, 0, 1)
                assert any(word in text for word in ("with", "is", "are", "c", "è", "sono", "ved", "ein", "Ein"))
            else:
                assert (change.kind, change.caption) in known, text
        if scene.relation in OPPOSITE:
            assert any(change.kind == "position" for change in rules.changes(text)), text
    assert kinds.keys() == {"position", "colour", "count", "noun", "exchanged", "negation"}
    assert min(kinds.values()) > 10


@pytest.mark.parametrize("code", ["it", "en", "de"])
def test_a_mirrored_scene_has_left_and_right_exchanged(code: str) -> None:
    rng, sides = Random(3), {"left": "right", "right": "left"}
    exchanged = Counter[bool]()
    for scene in (random_scene(rng) for _ in range(60)):
        mirrored = replace(scene, relation=sides.get(scene.relation, scene.relation))
        for template in templates(scene):
            wording = Wording(template=template, synonym=rng.randrange(2), style=rng.choice(STYLES))
            text = caption(scene, code, wording)
            assert RULES[code].mirrored(text) == caption(mirrored, code, wording)
            exchanged[text == caption(mirrored, code, wording)] += 1
    assert min(exchanged[True], exchanged[False]) > 50


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("en", "a man left the house on the left"),
        ("en", "a boy right next to a dog"),
        *(("en", f"a dog in the {corner}") for corner in ("top-right corner", "left-hand side", "Bottom-Left")),
        ("en", "a dog on the left, in the top-right corner"),
        ("de", "ein Hund oben-links"),
        ("it", "un uomo guarda verso destra"),
        ("it", "A SINIsTRA un cane"),
    ],
)
def test_captions_are_not_mirrored_where_left_may_not_be_left(code: str, text: str) -> None:
    assert RULES[code].mirrored(text) is None


def test_adjectives_agree_in_italian() -> None:
    assert of_kind("it", "count", "Due stelle rosse")[:2] == ["Tre stelle rosse", "Quattro stelle rosse"]
    assert not of_kind("it", "count", "una stella rossa")
    wanted = {"una palla verde": "una palla rossa", "le borse blu": "le borse rosse", "il cane marrone": "il cane nero"}
    for text, changed in wanted.items():
        assert changed in of_kind("it", "colour", text)
    # Nothing shows whether the bags are masculine: only colours that do not show it either.
    assert set(of_kind("it", "colour", "gruppi di borse verdi")) == {
        f"gruppi di borse {colour}" for colour in ("blu", "arancioni", "viola", "rosa", "marroni")
    }
    assert of_kind("it", "exchanged", "una palla rossa e un cane bianco") == ["una palla bianca e un cane rosso"]
    assert of_kind("it", "position", "l'uomo alla sinistra della porta") == ["l'uomo alla destra della porta"]


def test_endings_stay_in_german_and_no_colour_is_named_twice() -> None:
    assert "un gatto marrone e marrone" not in of_kind("it", "colour", "un gatto marrone e nero")
    assert "a white and white dog" not in of_kind("en", "colour", "a brown and white dog")
    assert "ein blauer Ball" in of_kind("de", "colour", "ein roter Ball")
    assert "mit einem roten Hemd" in of_kind("de", "colour", "mit einem lila Hemd")
    assert of_kind("de", "colour", "ein lila Ball") == ["ein rosa Ball"]  # a Ball or a Hemd: -er or -es
    assert "Blaue Bälle" in of_kind("de", "colour", "Rote Bälle")
    assert of_kind("de", "position", "Ein Hund links von der Tür") == ["Ein Hund rechts von der Tür"]
    assert of_kind("de", "position", "eine Lampe über dem Tisch") == ["eine Lampe unter dem Tisch"]
    assert of_kind("de", "negation", "Ein Mann trägt einen Hut")[1] == "Ein Mann trägt keinen Hut"
    assert of_kind("de", "exchanged", "eine rote Katze unter einem weißen Tisch") == [
        "eine weiße Katze unter einem roten Tisch"
    ]


def test_agent_and_patient_are_exchanged() -> None:
    for code, text, changed in (
        ("en", "A dog is chasing a small cat on the grass.", "A small cat is chasing a dog on the grass."),
        ("en", "the man holding an orange ball", "an orange ball holding the man"),
        ("it", "Un cane insegue un'anatra nera.", "Un'anatra nera insegue un cane."),
        ("it", "Una donna che tiene un bambino", "Un bambino che tiene una donna"),
    ):
        assert of_kind(code, "roles", text) == [changed]


DOUBTFUL = {
    "en": [
        *("What is left of an orange", "an orange on the right track, above all at the right time", "one or two"),
        *("He left the building right now", "a black and white photo", "Mr. Brown at White House", "two of them"),
        *("twenty two hundred", "a white man and a black woman", "a glass of red wine", "", " \n\t"),
        *("A man kissing a woman's hand", "a cup of tea holding a spoon of sugar"),
    ],
    "it": [
        *("una foto in bianco e nero", "un bicchiere di vino rosso", "una rosa nel verde", "sei bella"),
        *("un uomo nero", "Un uomo che guida uno snowboard lungo un pendio"),
    ],
    "de": [
        *("das Rote Kreuz im Grünen", "ein paar Orangen", "er steigt ein", "Herr Braun geht über die Straße"),
        "\xad\u200b",
    ],
}
SAME_AFTER_EXCHANGE = {
    "en": ["a red and a blue star", "a red star next to a blue star", "a red, white and blue flag"],
    "it": ["una stella rossa e una stella blu"],
    "de": ["ein roter Stern neben einem blauen Stern", "zwei rote Sterne neben drei blauen Sternen"],
}


@pytest.mark.parametrize("code", sorted(DOUBTFUL))
def test_doubtful_words_are_left_alone_and_colours_whose_exchange_leaves_the_meaning(code: str) -> None:
    kinds = {"position", "colour", "count", "roles", "exchanged"}
    for text in DOUBTFUL[code]:
        assert [change for change in RULES[code].changes(text) if change.kind in kinds] == [], text
    for text in SAME_AFTER_EXCHANGE[code]:
        assert of_kind(code, "exchanged", text) == []
        assert of_kind(code, "colour", text)


def test_articles_and_capitals_follow() -> None:
    assert "An orange star" in of_kind("en", "colour", "A red star")
    assert "a red star" in of_kind("en", "colour", "an orange star")
    assert "AN ELLIPSE" in of_kind("en", "noun", "A STAR")
    assert "The light blue car" in of_kind("en", "colour", "The red car")
    assert "a blue car" not in of_kind("en", "colour", "a light blue car")
    assert "a gray car" not in of_kind("en", "colour", "a grey car")


def test_rules_within_captions_use_their_words_only() -> None:
    rules = RULES["it"].within(["due stelle rosse", "tre cerchi blu"])
    assert [(change.kind, change.caption) for change in rules.changes("due stelle rosse")] == [
        ("colour", "due stelle blu"),
        ("count", "tre stelle rosse"),
    ]
    assert rules.says("Tre cerchi rossi a destra") == {
        ("count", "tre"),
        ("noun", "cerchio"),
        ("colour", "rosso"),
        ("position", "a destra"),
    }
    none = RULES["it"].within([])
    assert none.changes("due stelle rosse") == ()
    pack = read(LanguagePack, {"code": "it", "changes": json_values(none.words)}, "it.toml")
    assert pack.changes == none.words


TABLES = {code: [json_values(rules.words), sorted(rules.function_words)] for code, rules in RULES.items()}
WORDS = {
    code: sorted(set(re.findall(r"[\w'-]+", json.dumps(table, ensure_ascii=False)))) for code, table in TABLES.items()
}
HOSTILE = st.text(max_size=60) | st.sampled_from(
    ["\u202e", "\x00", "’", "'", ".", ",", " - ", "ß", "İ", "\u0301", "\ud800"]
)


def jumbled(code: str) -> st.SearchStrategy[str]:
    """Texts of the words that rules know, in any order and case, and of anything else."""
    word = st.sampled_from(WORDS[code])
    some = word | word.map(str.capitalize) | word.map(str.upper) | HOSTILE
    return st.lists(some, max_size=12).map(" ".join)


@pytest.mark.parametrize("code", sorted(RULES))
def test_changes_of_any_text_differ_in_one_thing(code: str) -> None:
    rules = RULES[code]

    @settings(max_examples=60, deadline=None)
    @given(jumbled(code))
    def check(text: str) -> None:
        changes = rules.changes(text)
        assert changes == rules.changes(text)
        assert len({change.caption for change in changes} | {text}) == len(changes) + 1
        mirrored = rules.mirrored(text)
        assert mirrored is None or rules.mirrored(mirrored) == text
        for change in changes:
            assert change.kind in KINDS
            assert change.caption.strip()
            if change.kind == "position":
                assert text in [back.caption for back in rules.changes(change.caption) if back.kind == "position"]
            if change.kind in ("colour", "count", "noun", "position", "negation"):
                assert change.old != change.new
                assert (change.kind, change.old) in rules.says(text)
                assert (change.kind, change.new) in rules.says(change.caption)
            else:
                assert (
                    Counter(text.lower()) - Counter(change.caption.lower()) == Counter() or change.kind == "exchanged"
                )

    check()


def test_thousands_of_words_change_in_bounded_places() -> None:
    assert len(RULES["en"].changes("a red ball left of " * 500)) < 500


def test_tables_that_do_not_fit_are_refused() -> None:
    for values, message in (
        ({"positions": [[["left"], ["right", "below"]]]}, "equally many"),
        ({"positions": [[["left"]]]}, "changes.positions"),
        ({"positions": [[["left"], ["left"]]]}, "has 'left' twice"),
        ({"colours": [["rot", "rote"], ["blau"]], "agreement": [["die"]]}, "one form or 1"),
        ({"colours": [["red"], ["red"]]}, "has 'red' twice"),
        ({"colours": [[]]}, "one form or 0|no empty list"),
        ({"numbers": ["two", ""]}, "no empty list, and no word without"),
        ({"numbers": ["two", "!"]}, "numbers must have .* no word without letters"),
        ({"alike": [["red", "blue"]], "colours": [["red"]]}, "first forms of changes.colours, got 'blue'"),
        ({"nouns": [[["star", "stars"], ["moon"]]]}, "equally many forms"),
        ({"before_vowels": [["a"]]}, "before_vowels must be pairs"),
        ({"left_alone": ["|"]}, "left_alone"),
        ({"left_alone": ["!"]}, "left_alone"),
        (
            {"positions": [[["left of"], ["right of"]]], "sides": ["left", "lefty"]},
            "sides must be words of changes.positions, got 'lefty'",
        ),
        ({"verbs": []}, "unknown key"),
    ):
        with pytest.raises(SettingsError, match=message):
            read(LanguagePack, {"code": "xx", "changes": values}, "xx.toml")
    with pytest.raises(SettingsError, match=r"language pack xx has no \[changes\].*docs/languages.md"):
        ChangeRules.of(LanguagePack(code="xx"))
