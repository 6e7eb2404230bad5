"""German captions of scenes agree: judged by a checker that knows tables of forms and nothing of the generator."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from data_catalog.sample.config import ScenesConfig
from data_catalog.sample.datasets import draw_upstream
from data_catalog.sample.grammar import Wording, caption, parallel_pairs, templates
from data_catalog.sample.scene import BACKGROUNDS, COLOURS, SHAPES, Group, Scene, random_scene
from data_catalog.sources.rows import UpstreamRow
from data_catalog.sources.wit import WitConfig, read_wit

# Form of a noun -> what it may be: gender or "p" for the plural, and case.
ALL_CASES = ("nom", "acc", "dat")
NOUNS: dict[str, set[tuple[str, str]]] = {}
for gender, singular, plural, plural_dative in (
    *(("m", "Kreis", "Kreise", "Kreisen"), ("m", "Stern", "Sterne", "Sternen"), ("m", "Mond", "Monde", "Monden")),
    *(("m", "Ring", "Ringe", "Ringen"), ("m", "Pfeil", "Pfeile", "Pfeilen"), ("m", "Schild", "Schilde", "Schilden")),
    *(("n", "Quadrat", "Quadrate", "Quadraten"), ("n", "Dreieck", "Dreiecke", "Dreiecken")),
    *(("n", "Rechteck", "Rechtecke", "Rechtecken"), ("n", "Sechseck", "Sechsecke", "Sechsecken")),
    *(
        ("n", "Kreuz", "Kreuze", "Kreuzen"),
        ("f", "Raute", "Rauten", "Rauten"),
        ("f", "Ellipse", "Ellipsen", "Ellipsen"),
    ),
):
    NOUNS.setdefault(singular, set()).update((gender, case) for case in ALL_CASES)
    NOUNS.setdefault(plural, set()).update((("p", "nom"), ("p", "acc")))
    NOUNS.setdefault(plural_dative, set()).add(("p", "dat"))
NOUNS["Herz"] = {("n", "nom"), ("n", "acc")}
NOUNS["Herzen"] = {("n", "dat"), ("p", "nom"), ("p", "acc"), ("p", "dat")}

# Word before the adjectives -> what it may stand for, and the ending that adjectives take behind it.
DETERMINERS = {
    "ein": {("m", "nom"): "er", ("n", "nom"): "es", ("n", "acc"): "es"},
    "eine": {("f", "nom"): "e", ("f", "acc"): "e"},
    "einen": {("m", "acc"): "en"},
    "einem": {("m", "dat"): "en", ("n", "dat"): "en"},
    "einer": {("f", "dat"): "en"},
    "der": {("m", "nom"): "e", ("f", "dat"): "en"},
    "die": {("f", "nom"): "e", ("f", "acc"): "e", ("p", "nom"): "en", ("p", "acc"): "en"},
    "das": {("n", "nom"): "e", ("n", "acc"): "e"},
    "dem": {("m", "dat"): "en", ("n", "dat"): "en"},
    "vom": {("m", "dat"): "en", ("n", "dat"): "en"},
    "den": {("m", "acc"): "en", ("p", "dat"): "en"},
    "": {("p", "nom"): "e", ("p", "acc"): "e", ("p", "dat"): "en"},
}
COUNTS = ("zwei", "drei", "vier")
STEMS = ("rot", "gelb", "grün", "blau", "orangefarben", "schwarz", "weiß", "braun", "grau", "hellblau", "klein", "groß")
INVARIABLE = ("lila", "rosa")
# What decides the case of the noun phrases behind it.
GOVERNORS = {
    **dict.fromkeys(("über", "unter", "von", "vom", "neben", "zwischen", "mit", "auf"), "dat"),
    **dict.fromkeys(("gibt", "sieht"), "acc"),
    **dict.fromkeys(("ist", "sind"), "nom"),
}
ADJECTIVE = re.compile(rf"(?:{'|'.join(STEMS)})(?:e|en|er|es|em|)|{'|'.join(INVARIABLE)}")


def phrases(text: str) -> Iterator[tuple[str, str, list[str], str]]:
    """Case, determiner, adjectives and noun of every shape in a caption."""
    case, words = "nom", re.findall(r"\w+", text[0].lower() + text[1:] if text.split()[0] not in NOUNS else text)
    for index, word in enumerate(words):
        case = GOVERNORS.get(word, case)
        if word not in NOUNS:
            continue
        start = index
        while start and ADJECTIVE.fullmatch(words[start - 1]):
            start -= 1
        adjectives = words[start:index]
        counted = start > 0 and words[start - 1] in COUNTS
        before = words[start - 1 - counted] if start > counted else ""
        plural_determiner = before if before in ("die", "den") else ""
        yield case, plural_determiner if counted else before, adjectives, word


def complaints(text: str) -> list[str]:
    """What is wrong with the noun phrases of a German caption."""
    wrong = []
    for case, determiner, adjectives, noun in phrases(text):
        readings = {form for form in NOUNS[noun] if form[1] == case and form in DETERMINERS.get(determiner, {})}
        endings = {DETERMINERS[determiner][form] for form in readings}
        fitting = any(
            all(word in INVARIABLE or any(word == stem + ending for stem in STEMS) for word in adjectives)
            for ending in endings
        )
        if not fitting:
            wrong.append(f"{case}: {determiner} {' '.join(adjectives)} {noun}")
    if " von dem " in text:
        wrong.append("von dem")
    return wrong


def wrong_verbs(text: str, scene: Scene) -> list[str]:
    """Forms of "to be" that do not agree with the shapes, which are the subject wherever the background is not."""
    verbs = re.findall(r"(?<!Hintergrund )\b(?:ist|sind)\b", text)
    return [verb for verb in verbs if (verb == "ist") != (scene.groups[0].count == 1)]


def test_german_agrees_in_thousands_of_scenes() -> None:
    rng = Random(11)
    for scene in (random_scene(rng) for _ in range(3000)):
        for template in templates(scene):
            for synonym in (0, 1):
                text = caption(scene, "de", Wording(template=template, synonym=synonym, style="sentence"))
                assert len(list(phrases(text))) == len(scene.groups), text
                assert complaints(text) == [], text
                assert wrong_verbs(text, scene) == [], text
                assert text[0].isupper(), text
                assert "  " not in text, text


@pytest.mark.parametrize(
    "wrong",
    [
        "ein rote Stern",
        "eine roter Stern",
        "ein roter Sterne",
        "zwei roten Sterne",
        "zwei rote Sternen",
        "ein Bild von zwei rote Sterne",
        "ein Bild mit ein roter Stern",
        "es gibt ein roter Stern",
        "es gibt einen roten Quadrat",
        "man sieht eine lilae Raute",
        "der roter Stern ist über dem blauen Quadrat",
        "der rote Stern ist über das blaue Quadrat",
        "der rote Stern ist links von dem blauen Quadrat",
        "die zwei kleine Monde sind neben der Raute",
        "ein roter Stern neben einem gelben Herz",
        "ein roter Stern zwischen einem Ring und eine Ellipse",
    ],
)
def test_the_checker_sees_mistakes(wrong: str) -> None:
    assert complaints(wrong)


RED_STARS = Group(count=2, colour="red", shape="star")
BLUE_SQUARE = Group(count=1, colour="blue", shape="square")
ELLIPSE = Group(count=1, colour="green", shape="ellipse")
SMALL_SHIELD = Group(count=1, colour="purple", shape="shield", size="small")
HEART = Group(count=1, colour="pink", shape="heart")
RINGS = Group(count=3, colour="orange", shape="ring", size="large")


@pytest.mark.parametrize(
    ("groups", "relation", "template", "synonym", "english", "german"),
    [
        ([RED_STARS, BLUE_SQUARE], "above", "plain", 0,
         "two red stars above a blue square", "zwei rote Sterne über einem blauen Quadrat"),
        ([BLUE_SQUARE, HEART], "below", "picture", 1,
         "a picture of a blue square under a pink heart", "ein Bild von einem blauen Quadrat unter einem rosa Herzen"),
        ([ELLIPSE, RINGS], "next", "drawing", 0,
         "a drawing of a green ellipse next to three large orange rings on a grey background",
         "eine Zeichnung von einer grünen Ellipse neben drei großen orangefarbenen Ringen auf grauem Hintergrund"),
        ([RED_STARS, BLUE_SQUARE], "left", "definite", 0,
         "the two red stars are to the left of the blue square", "die zwei roten Sterne sind links vom blauen Quadrat"),
        ([BLUE_SQUARE, RED_STARS], "right", "definite", 0,
         "the blue square is to the right of the two red stars",
         "das blaue Quadrat ist rechts von den zwei roten Sternen"),
        ([SMALL_SHIELD, ELLIPSE], "left", "definite", 1,
         "the little purple shield is left of the green ellipse",
         "der kleine lila Schild ist links neben der grünen Ellipse"),
        ([SMALL_SHIELD, BLUE_SQUARE], "above", "inverted", 0,
         "above a blue square there is a small purple shield",
         "über einem blauen Quadrat ist ein kleiner lila Schild"),
        ([ELLIPSE], "", "only", 0, "only one green ellipse", "nur eine grüne Ellipse"),
        ([SMALL_SHIELD], "", "there", 0, "there is a small purple shield", "es gibt einen kleinen lila Schild"),
        ([SMALL_SHIELD], "", "predicate", 0,
         "the small shield is purple and the background is grey",
         "der kleine Schild ist lila und der Hintergrund ist grau"),
        ([RED_STARS], "", "drawn", 0,
         "two red stars, drawn on a grey background", "zwei rote Sterne, gezeichnet auf grauem Hintergrund"),
        ([ELLIPSE, BLUE_SQUARE], "below", "further", 0,
         "a green ellipse and, further up, a blue square", "eine grüne Ellipse und, weiter oben, ein blaues Quadrat"),
        ([SMALL_SHIELD, RED_STARS, ELLIPSE], "list", "seen", 0,
         "you can see a small purple shield, two red stars and a green ellipse on a grey background",
         "man sieht einen kleinen lila Schild, zwei rote Sterne und eine grüne Ellipse auf einem grauen Hintergrund"),
        ([ELLIPSE, RED_STARS, HEART], "between", "definite", 0,
         "the green ellipse is between the two red stars and the pink heart",
         "die grüne Ellipse ist zwischen den zwei roten Sternen und dem rosa Herzen"),
    ],
)  # fmt: skip
def test_exact_captions(
    groups: list[Group], relation: str, template: str, synonym: int, english: str, german: str
) -> None:
    scene = Scene(groups=tuple(groups), relation=relation, background="grey")
    wording = Wording(template=template, synonym=synonym)
    assert caption(scene, "en", wording) == english
    assert caption(scene, "de", wording) == german


def test_every_word_is_covered_by_the_parallel_pairs() -> None:
    pairs = list(parallel_pairs(seed=2, num_pairs=3000, lang="de"))
    english = " ".join(pair[0].lower() for pair in pairs)
    german = " ".join(pair[1] for pair in pairs)
    assert all(word in english for word in (*SHAPES, *COLOURS, *BACKGROUNDS, "small", "little", "large", "big"))
    assert all(re.search(rf"\b{word}\b", german) for word in (*NOUNS, *INVARIABLE, *COUNTS, *DETERMINERS))
    assert all(re.search(rf"\b{stem}(e|en|er|es|em)\b", german) for stem in STEMS)


def test_a_seed_gives_the_same_english_whatever_the_other_language() -> None:
    italian, german = (list(parallel_pairs(seed=8, num_pairs=500, lang=lang)) for lang in ("it", "de"))
    assert [english for english, _ in italian] == [english for english, _ in german]
    numbers = {"two": "zwei", "three": "drei", "four": "vier"}
    for english, other in german:
        counts = [numbers[word] for word in re.findall(r"\b(?:two|three|four)\b", english.lower())]
        assert counts == re.findall(r"\b(?:zwei|drei|vier)\b", other.lower())
        assert english.endswith(".") == other.endswith(".")


def test_the_sample_has_german_native_captions(tmp_path: Path) -> None:
    config = ScenesConfig(
        folder=tmp_path / "sample", base_url="http://127.0.0.1:8765", num_images=200, target_language="de", seed=7
    )
    assert draw_upstream(config)
    wit = WitConfig(files=(str(tmp_path / "sample/wit/wit.tsv.gz"),), languages=("de",))
    captions = [row.caption for row in read_wit(wit) if isinstance(row, UpstreamRow)]
    faults = json.loads((tmp_path / "sample" / "faults.json").read_text("utf-8"))["faults"]
    faulty = {entry["caption"] for entry in faults if entry["source"] == "wit" and "caption" in entry}
    good = [text for text in captions if text not in faulty]
    assert len(good) > 40
    assert all(list(phrases(text)) and not complaints(text) for text in good)
    assert all(
        entry["lang"] != "de" for entry in faults if entry["kind"] == "wrong_language" and entry["source"] == "wit"
    )
    repaired = [entry["repaired"] for entry in faults if entry["kind"] == "mojibake"]
    assert repaired
    assert all(re.search("[äöüßÄÖÜ–]", text) for text in repaired)
